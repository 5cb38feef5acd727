"""What on a host spoils a measurement, and what to do about it. Said before the first number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["Hazard", "hazards"]

#: More of the processors' time than this makes a p99 the hypervisor's.
_STEAL = 0.005


class Hazard(NamedTuple):
    """One finding. ``key`` is stable, for files and tests."""

    key: str
    finding: str
    remedy: str

    def to_json(self) -> dict[str, str]:
        """As stored."""
        return self._asdict()


def hazards(host: dict[str, Any], *, transport: str, end: str = "this host") -> list[Hazard]:
    """Findings about ``host`` (``host_facts``), worst first."""
    found = [*_processors(host, end), *_machine(host, end)]
    if transport == "rdma":
        found += _devices(host, end)
    return found


def _processors(host: dict[str, Any], end: str) -> Iterator[Hazard]:
    pinned = host["pinned"]
    numbers = ",".join(str(each["cpu"]) for each in pinned)
    if (
        len(pinned) == 2
        and pinned[0]["core"]
        and pinned[0]["core"] == pinned[1]["core"]
        and (pinned[0]["socket"] == pinned[1]["socket"] and not host["hypervisor"])
    ):
        yield Hazard(
            "shared_core",
            f"processors {numbers} are two threads of one core: they take turns in it",
            "choose threads of two cores (lscpu -e)",
        )
    if len({each["numa_node"] for each in pinned}) > 1:
        yield Hazard(
            "numa",
            f"processors {numbers} are on different NUMA nodes",
            "choose two of one node, unless that is what you measure (lscpu -e)",
        )
    slow = [each for each in pinned if each["governor"] not in ("performance", "not exposed")]
    if slow:
        yield Hazard(
            "governor",
            f"the frequency governor of processor {slow[0]['cpu']} is {slow[0]['governor']}",
            "cpupower frequency-set -g performance",
        )
    sleepy = [each for each in pinned if _deep(each["c_states"])]
    if sleepy:
        yield Hazard(
            "c_states",
            f"processor {sleepy[0]['cpu']} may enter {sleepy[0]['c_states'].split(', ')[-1]}: "
            "paced orders after a pause pay for waking the neighbours and the uncore",
            "cpupower idle-set -D 1, or processor.max_cstate=1 on the kernel's command line",
        )
    isolated = _numbers(host["isolated"])
    open_to_all = [each["cpu"] for each in pinned if each["cpu"] not in isolated]
    if open_to_all:
        yield Hazard(
            "isolation",
            f"processors {','.join(map(str, open_to_all))} are not isolated on {end}: the kernel "
            "runs other things there",
            f"boot with isolcpus={numbers} nohz_full={numbers} rcu_nocbs={numbers}",
        )


def _machine(host: dict[str, Any], end: str) -> Iterator[Hazard]:
    if host["hypervisor"]:
        yield Hazard(
            "hypervisor",
            f"{end} is a virtual machine: the hypervisor takes time away unseen and moves the "
            "processors about; only the ratio to the floor travels",
            "measure on bare metal, or trust ratios and p50/p99 alone",
        )
    if host["steal_since_boot"] > _STEAL:
        yield Hazard(
            "steal",
            f"the hypervisor has taken {host['steal_since_boot']:.1%} of the processors' time from "
            f"{end} since it was booted",
            "use dedicated processors, or trust p50 alone; the share of this run stands at its end",
        )
    if host["cpu_count"] and host["cpu_count"] <= 2:
        yield Hazard(
            "few_cpus",
            f"{end} has {host['cpu_count']} processors and the two ends spin on them: everything "
            "else that runs, this program too, takes its time from the measurement",
            "leave the machine alone meanwhile, or use one with more processors",
        )
    busy = host["load_average"][0] / max(1, host["cpu_count"] or 1)
    if busy > 0.5:
        yield Hazard(
            "load",
            f"{end} is busy: load {host['load_average'][0]:.1f} on {host['cpu_count']} processors",
            "stop what else runs (top), or measure later",
        )
    if not host["invariant_tsc"] and host["machine"] == "x86_64":
        yield Hazard(
            "tsc",
            f"the cycle counter of {end} may change its rate",
            "do not trust nanoseconds here",
        )
    if not host["huge_pages"]:
        yield Hazard(
            "huge_pages",
            f"{end} has no huge pages reserved: windows lie in 4 KiB pages",
            "sysctl vm.nr_hugepages=64",
        )


def _devices(host: dict[str, Any], end: str) -> Iterator[Hazard]:
    for device in host["devices"]:
        if device["soft"] == "True":
            yield Hazard(
                "soft_roce",
                f"{device['name']} on {end} is soft-RoCE: the kernel's network stack, some 100 "
                "times slower than a NIC",
                "compare with ib_write_lat on the same device only (--reference ib_write_lat)",
            )
    nodes = {each["numa_node"] for each in host["pinned"]}
    for device in host["devices"]:
        node = device["numa_node"]
        if node not in ("", "-1") and int(node) not in nodes:
            yield Hazard(
                "device_numa",
                f"{device['name']} is on NUMA node {node} of {end}, the pinned processor is not",
                f"choose a processor of node {node} (lscpu -e)",
            )


def _deep(states: str) -> bool:
    names = [name for name in states.split(", ") if name not in ("POLL", "C1", "C1_ACPI", "")]
    return bool(names) and states not in ("none", "not exposed")


def _numbers(text: str) -> set[int]:
    """``1-3,8`` as numbers."""
    found: set[int] = set()
    for part in text.split(","):
        low, _, high = part.partition("-")
        if low.strip().isdigit():
            found |= set(range(int(low), int(high or low) + 1))
    return found


def steal_share(before: dict[str, int], after: dict[str, int], elapsed_s: float) -> float:
    """Fraction of all processors' time that the hypervisor says it took."""
    ticks = after["steal_ticks"] - before["steal_ticks"]
    total = elapsed_s * os.sysconf("SC_CLK_TCK") * (os.cpu_count() or 1)
    return ticks / total if total > 0 else 0.0

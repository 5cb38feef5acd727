"""Two results: did it get worse? A verdict with an interval, for people and for CI."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdmaorder.errors import InputError
from rdmaorder.pingpong.results import FLOORS, QS, dict_in, list_in, load, value_at
from rdmaorder.pingpong.statistics import change_of

__all__ = ["Change", "Comparison", "compare", "load_sides", "one_sided", "percent", "unlike"]

#: Of fewer runs on a side no 95 % interval exists.
RUNS_MIN = 4
#: What of a host has to be alike on either end.
_HOST = (
    ("cpu", "processor"),
    ("kernel", "kernel"),
    ("hypervisor", "virtual machine"),
    ("command_line", "command line of the kernel"),
    ("isolated", "isolated processors"),
    ("nohz_full", "processors without a tick"),
    ("cpu_count", "number of processors"),
    ("smt", "simultaneous multithreading"),
    ("clocksource", "clock source"),
    ("huge_pages", "huge pages"),
    ("transparent_huge_pages", "transparent huge pages"),
)
#: And of the processors that either end was pinned to.
_PINNED = (("governor", "governor"), ("c_states", "C-states"), ("numa_node", "NUMA node"))
#: What a level's ends say of themselves that differs from call to call, or tells nothing of a time.
_OWN = {"gid", "gid_index", "journal", "server", "verbs", "why"}
#: (path in the file, what it is): where these differ the files are not about the same thing.
_SAME = (
    ("plan.transport", "transport"),
    ("plan.size", "payload size"),
    ("plan.loop", "loop"),
    ("plan.rate_per_s", "rate"),
    ("plan.replay", "replayed file"),
    ("plan.speed", "speed of the replay"),
    ("plan.iterations", "orders a run"),
    ("plan.duration_s", "seconds a run"),
    ("plan.warm_up", "orders of the warm-up"),
    ("plan.waterfall", "stamping of stages"),
    *((f"environment.{key}", what) for key, what in _HOST),
    *((f"server_environment.{key}", f"{what} of the server") for key, what in _HOST),
    ("environment.python", "Python"),
    ("environment.build.build_flags", "build flags"),
    ("environment.build.compiler", "compiler"),
    ("environment.build.sanitized", "sanitizers"),
)


@dataclass(frozen=True)
class Change:
    """One number of one level, before and after. ``measure``: what was compared."""

    level: str
    quantile: str
    measure: str  #: "÷ floor" or "ns"
    before: float
    after: float
    change: float
    low: float
    high: float
    verdict: str  #: "same", "slower", "faster", "SLOWER" (beyond what is allowed)

    def to_json(self) -> dict[str, Any]:
        """As printed with --json."""
        return {key: getattr(self, key) for key in self.__dataclass_fields__}


@dataclass(frozen=True)
class Comparison:
    """What came out."""

    changes: list[Change]
    differences: list[str]
    missing: list[str]  #: levels that one side alone has
    failed: bool

    def to_json(self) -> dict[str, Any]:
        """As written with --json."""
        return {
            "failed": self.failed,
            "differences": self.differences,
            "missing": self.missing,
            "changes": [each.to_json() for each in self.changes],
        }


def percent(text: str) -> float:
    """``5%`` or ``0.05`` as a fraction."""
    number = text.strip()
    try:
        value = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10:
        raise ValueError(f"{text!r} is not a share such as 5% or 0.05")
    if value >= 1 and not number.endswith("%"):
        raise ValueError(
            f"{text!r} is not a share such as 5% or 0.05: it would mean {value * 100:g}%, write "
            f"that or {number}%"
        )
    return value


def load_sides(before: Path, after: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two result files; or two folders of them, each as one result in which every file is a run.

    Runs of one call share its memory and its minutes; calls that took turns with those of the other
    side share neither, so the interval of folders holds what differs from call to call as well.
    """
    folders = [path for path in (before, after) if _is_folder(path)]
    if len(folders) == 1:
        file = after if folders == [before] else before
        raise InputError(
            f"is a folder and {file} is none: give two of a kind", path=str(folders[0])
        )
    read = _load_folder if folders else load
    return read(before), read(after)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # reading it as a file says why
        return False


def _load_folder(path: Path) -> dict[str, Any]:
    files = sorted(path.glob("*.json"))
    if not files:
        raise InputError("has no result: no file ends in .json", path=str(path))
    calls = [load(each) for each in files]
    for file, content in zip(files[1:], calls[1:], strict=True):
        differences = unlike(calls[0], content) + one_sided(calls[0], content)
        if differences:
            raise InputError(
                f"is not of what {files[0].name} is of: {'; '.join(differences)}; a folder holds "
                "calls of one command on one host",
                path=str(file),
            )
    return {
        **calls[0],
        "levels": {
            name: {**level, "runs": [_median_run(each["levels"][name]) for each in calls]}
            for name, level in calls[0]["levels"].items()
        },
    }


def _median_run(level: dict[str, Any]) -> dict[str, Any]:
    """What a call says of a level, in the shape of a run: the medians of the runs that count."""
    kept = [run for run in level["runs"] if run["kept"]]
    to_floor = bool(kept) and _has_floor(level)
    floors = {name: statistics.median(run[name] for run in kept) for name in FLOORS if to_floor}
    scale = sum(floors.values()) if to_floor else 1.0
    times = {name: _values(level, name, to_floor=to_floor) for name, _ in QS}
    return {
        "kept": bool(kept),
        "rtt_ns": {name: statistics.median(of) * scale for name, of in times.items() if of},
        **floors,
    }


def _pinned(content: dict[str, Any], host: str, key: str) -> str:
    found = (dict_in(each).get(key) for each in list_in(value_at(content, f"{host}.pinned")))
    return "; ".join(str(each) for each in found if each is not None)


def _devices(content: dict[str, Any], host: str) -> str:
    """Firmware and place of the RDMA devices, where orders went through one."""
    if value_at(content, "plan.transport") != "rdma":
        return ""
    keys = ("name", "firmware", "numa_node")
    devices = list_in(value_at(content, f"{host}.devices"))
    return "; ".join(", ".join(f"{key} {value_at(each, key)}" for key in keys) for each in devices)


def _end_facts(level: dict[str, Any]) -> dict[str, Any]:
    """What a level's ends were granted: windows, slots, the queue pair, the journal's folder."""
    granted = {**dict_in(value_at(level, "ends")), **dict_in(value_at(level, "ends.verbs"))}
    facts = {key: value for key, value in granted.items() if key not in _OWN}
    if "journal" in granted:  # in a folder that is new for each measurement
        facts["journal"] = str(Path(str(granted["journal"])).parent.parent)
    return facts


def _end_pairs(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in before["levels"]:
        if name in after["levels"]:
            a, b = (_end_facts(content["levels"][name]) for content in (before, after))
            yield from ((f"{key} of {name}", a.get(key), b.get(key)) for key in {**a, **b})


def unlike(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two measurements that should not."""
    pairs = [(what, value_at(before, path), value_at(after, path)) for path, what in _SAME]
    for host, whose in (("environment", ""), ("server_environment", " of the server")):
        for key, what in _PINNED:
            a, b = (_pinned(content, host, key) for content in (before, after))
            pairs.append((f"{what} of the pinned processors{whose}", a, b))
        a, b = (_devices(content, host) for content in (before, after))
        pairs.append((f"RDMA devices{whose}", a, b))
    what = "placement of the two processors"
    pairs.append((what, before.get("placement"), after.get("placement")))
    pairs += _end_pairs(before, after)
    return [f"{what}: {a} and {b}" for what, a, b in pairs if a != b]


def one_sided(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Levels that nothing can be said of: they were measured on one side alone."""
    a, b = before["levels"], after["levels"]
    found = [f"level {name}: before alone" for name in a if name not in b]
    return found + [f"level {name}: after alone" for name in b if name not in a]


def _values(level: dict[str, Any], quantile: str, *, to_floor: bool) -> list[float]:
    values = []
    for run in level["runs"]:
        if not run["kept"] or quantile not in run["rtt_ns"]:
            continue
        value = run["rtt_ns"][quantile]
        if to_floor:
            value /= sum(run[name] for name in FLOORS)
        values.append(value)
    return values


def _has_floor(level: dict[str, Any]) -> bool:
    return all(FLOORS[0] in run for run in level["runs"] if run["kept"])


def compare(
    before: dict[str, Any],
    after: dict[str, Any],
    *,
    fail_above: float | None,
    quantiles: Sequence[str] = ("p50", "p99"),
) -> Comparison:
    """Every level that both have. Slower means: the whole interval lies above no change.

    With ``fail_above``, failed when the whole interval of one lies above it: what noise may explain
    fails nobody.
    """
    changes = []
    common = [name for name in before["levels"] if name in after["levels"]]
    if not common:
        raise InputError(
            f"have no level in common: {', '.join(before['levels'])} and "
            f"{', '.join(after['levels'])}"
        )
    for name in common:
        levels = (before["levels"][name], after["levels"][name])
        to_floor = all(_has_floor(level) for level in levels)
        for quantile in quantiles:
            a, b = (_values(level, quantile, to_floor=to_floor) for level in levels)
            if min(len(a), len(b)) < RUNS_MIN:
                raise InputError(
                    f"{name}: {len(a)} and {len(b)} runs that count, {RUNS_MIN} are needed on each "
                    "side for an interval; measure with more --repeats, or call more often for a "
                    "folder"
                )
            changes.append(_change(name, quantile, to_floor, a, b, fail_above))
    failed = any(each.verdict == "SLOWER" for each in changes)
    return Comparison(changes, unlike(before, after), one_sided(before, after), failed)


def _change(
    name: str, quantile: str, to_floor: bool, a: list[float], b: list[float], limit: float | None
) -> Change:
    import numpy as np

    change, low, high = change_of(a, b)
    verdict = "slower" if low > 0 else "faster" if high < 0 else "same"
    if limit is not None and low > limit:
        verdict = "SLOWER"
    return Change(
        name,
        quantile,
        "÷ floor" if to_floor else "ns",
        round(float(np.median(a)), 3),
        round(float(np.median(b)), 3),
        round(change, 4),
        round(low, 4),
        round(high, 4),
        verdict,
    )

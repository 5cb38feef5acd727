"""Two result files: did it get worse? A verdict with an interval, for people and for CI."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdmaorder.errors import InputError
from rdmaorder.pingpong.files import FORMAT
from rdmaorder.pingpong.statistics import change_of

__all__ = ["Change", "Comparison", "compare", "load", "one_sided", "percent", "unlike"]

_PYTEST_RUNS = 10
_QS = (("p50", 0.5), ("p99", 0.99))
_FLOORS = ("floor_before_ns", "floor_after_ns")
#: Of fewer runs on a side no 95 % interval exists.
RUNS_MIN = 4
#: A time beyond these is a mistake in the file, and a ratio of two within them is finite.
_NS_MIN, _NS_MAX = 1e-3, 1e18
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


def load(path: Path) -> dict[str, Any]:
    """A result file. InputError when it is none, or of a run that was cut short."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=str(path)) from None
    except ValueError as error:
        raise InputError(f"is no JSON: {error}", path=str(path)) from None
    except RecursionError:
        raise InputError("is no result: nested too deeply", path=str(path)) from None
    try:
        if isinstance(content, dict) and {"machine_info", "benchmarks"} <= set(content):
            content = _from_pytest_benchmark(content)
        else:
            _check_kind(content)
        _check_levels(content["levels"])
    except _Wrong as error:
        raise InputError(str(error), path=str(path)) from None
    result: dict[str, Any] = content
    return result


class _Wrong(Exception):
    """What is wrong with a file."""


def _no_number(text: str) -> float:
    raise ValueError(f"it holds {text}")


def _check_kind(content: Any) -> None:
    if not isinstance(content, dict) or content.get("tool") != "rdmaorder pingpong":
        raise _Wrong("is no result of rdmaorder pingpong --json")
    if content.get("format") != FORMAT:
        raise _Wrong(
            f"has format {content.get('format')!r}, this version reads {FORMAT}: measure again"
        )
    if content.get("complete") is not True:
        raise _Wrong(f"is of a run that was cut short ({content.get('ending')}): measure again")
    for name in ("plan", "environment", "levels"):
        if not isinstance(content.get(name), dict):
            raise _Wrong(f"is damaged: {name} is no object")


def _check_levels(levels: dict[str, Any]) -> None:
    """Whatever is compared is a time; anything else could pass for one that did not get worse."""
    for name, level in levels.items():
        runs = level.get("runs") if isinstance(level, dict) else None
        if not isinstance(runs, list):
            raise _Wrong(f"is damaged: level {name} has no list of runs")
        for number, run in enumerate(runs):
            where = f"is damaged: level {name}, run {number + 1}"
            if not isinstance(run, dict) or not isinstance(run.get("kept"), bool):
                raise _Wrong(f"{where} does not say whether it counts")
            if not isinstance(run.get("rtt_ns"), dict):
                raise _Wrong(f"{where} has no round trips")
            floors = {key: run[key] for key in _FLOORS if key in run}
            if len(floors) == 1:
                raise _Wrong(f"{where} has {next(iter(floors))} alone")
            times = {key: run["rtt_ns"][key] for key, _ in _QS if key in run["rtt_ns"]}
            for key, value in (floors | times if run["kept"] else {}).items():
                if not _is_time(value):
                    raise _Wrong(f"{where}: {key} is no time: {value!r:.40}")


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and _NS_MIN <= value <= _NS_MAX


def _from_pytest_benchmark(content: dict[str, Any]) -> dict[str, Any]:
    """The same shape: a benchmark a level, its rounds in ten runs, one after the other."""
    import numpy as np

    levels: dict[str, Any] = {}
    for each in _list(content["benchmarks"]):
        name, rounds = _at(each, "name"), _list(_at(each, "stats.data"))
        calls = _at(each, "extra_info.calls")
        calls = 1 if calls is None else calls
        if not isinstance(name, str):
            raise _Wrong("is damaged: a benchmark has no name")
        if not rounds:
            raise _Wrong("has no single rounds: run pytest with --benchmark-save-data")
        if not all(_is_number(value) for value in [calls, *rounds]):
            raise _Wrong(f"is damaged: rounds or calls of {name} are no numbers above 0")
        ns = np.asarray(rounds, np.float64) * 1e9 / calls
        levels[name.removeprefix("test_")] = {
            "runs": [
                {"kept": True, "rtt_ns": {name: float(np.quantile(part, q)) for name, q in _QS}}
                for part in np.array_split(ns, min(_PYTEST_RUNS, len(ns)))
            ]
        }
    machine = content["machine_info"]
    return {
        "levels": levels,
        "plan": {"transport": "pytest-benchmark"},
        "environment": {
            "cpu": _at(machine, "cpu.brand_raw") or str(_at(machine, "cpu")),
            "kernel": _at(machine, "release"),
            "python": _at(machine, "python_version"),
        },
    }


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= _NS_MAX


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _at(content: Any, path: str) -> Any:
    value = content
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _pinned(content: dict[str, Any], host: str, key: str) -> str:
    found = (_dict(each).get(key) for each in _list(_at(content, f"{host}.pinned")))
    return "; ".join(str(each) for each in found if each is not None)


def _devices(content: dict[str, Any], host: str) -> str:
    """Firmware and place of the RDMA devices, where orders went through one."""
    if _at(content, "plan.transport") != "rdma":
        return ""
    keys = ("name", "firmware", "numa_node")
    devices = _list(_at(content, f"{host}.devices"))
    return "; ".join(", ".join(f"{key} {_at(each, key)}" for key in keys) for each in devices)


def _end_facts(level: dict[str, Any]) -> dict[str, Any]:
    """What a level's ends were granted: windows, slots, the queue pair, the journal's folder."""
    granted = {**_dict(_at(level, "ends")), **_dict(_at(level, "ends.verbs"))}
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
    pairs = [(what, _at(before, path), _at(after, path)) for path, what in _SAME]
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
            value /= sum(run[name] for name in _FLOORS)
        values.append(value)
    return values


def _has_floor(level: dict[str, Any]) -> bool:
    return all(_FLOORS[0] in run for run in level["runs"] if run["kept"])


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
                    "side for an interval; measure with more --repeats"
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

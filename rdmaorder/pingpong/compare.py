"""Two result files: did it get worse? A verdict with an interval, for people and for CI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdmaorder.errors import InputError
from rdmaorder.pingpong.statistics import bootstrap_change

__all__ = ["Change", "Comparison", "compare", "load", "percent"]

_PYTEST_RUNS = 10
_QS = (("p50", 0.5), ("p99", 0.99))
#: Fewer runs than this on a side give an interval that means nothing.
RUNS_MIN = 3
#: (path in the file, what it is): where these differ the files are not about the same thing.
_SAME = (
    ("plan.transport", "transport"),
    ("plan.size", "payload size"),
    ("plan.loop", "loop"),
    ("plan.rate_per_s", "rate"),
    ("plan.replay", "replayed file"),
    ("plan.waterfall", "stamping of stages"),
    ("environment.cpu", "processor"),
    ("environment.kernel", "kernel"),
    ("environment.hypervisor", "virtual machine"),
    ("environment.isolated", "isolated processors"),
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
    failed: bool


def percent(text: str) -> float:
    """``5%`` or ``0.05`` as a fraction."""
    number = text.strip()
    try:
        value = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10:
        raise ValueError(f"{text!r} is not a share such as 5% or 0.05")
    return value


def load(path: Path) -> dict[str, Any]:
    """A result file. InputError when it is none, or of a run that was cut short."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=str(path)) from None
    except ValueError as error:
        raise InputError(f"is no JSON: {error}", path=str(path)) from None
    if isinstance(content, dict) and {"machine_info", "benchmarks"} <= set(content):
        return _from_pytest_benchmark(content, path)
    if not isinstance(content, dict) or content.get("tool") != "rdmaorder pingpong":
        raise InputError("is no result of rdmaorder pingpong --json", path=str(path))
    if not content.get("complete"):
        raise InputError(
            f"is of a run that was cut short ({content.get('ending')}): measure again",
            path=str(path),
        )
    return content


def _from_pytest_benchmark(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The same shape: a benchmark a level, its rounds in ten runs, one after the other."""
    import numpy as np

    levels: dict[str, Any] = {}
    for each in content["benchmarks"]:
        rounds = each["stats"].get("data")
        if not rounds:
            raise InputError(
                "has no single rounds: run pytest with --benchmark-save-data", path=str(path)
            )
        calls = each.get("extra_info", {}).get("calls", 1)
        ns = np.asarray(rounds) * 1e9 / calls
        levels[each["name"].removeprefix("test_")] = {
            "runs": [
                {"kept": True, "rtt_ns": {name: float(np.quantile(part, q)) for name, q in _QS}}
                for part in np.array_split(ns, min(_PYTEST_RUNS, len(ns)))
            ]
        }
    machine = content["machine_info"]
    cpu = machine.get("cpu") or {}
    return {
        "levels": levels,
        "plan": {"transport": "pytest-benchmark"},
        "environment": {
            "cpu": cpu.get("brand_raw") if isinstance(cpu, dict) else str(cpu),
            "kernel": machine.get("release"),
            "python": machine.get("python_version"),
        },
    }


def _at(content: dict[str, Any], path: str) -> Any:
    value: Any = content
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def unlike(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two measurements that should not."""
    found = [
        f"{what}: {_at(before, path)} and {_at(after, path)}"
        for path, what in _SAME
        if _at(before, path) != _at(after, path)
    ]
    if before.get("placement") != after.get("placement"):
        found.append(
            f"placement of the two processors: {before.get('placement')} and "
            f"{after.get('placement')}"
        )
    return found


def _values(level: dict[str, Any], quantile: str, *, to_floor: bool) -> list[float]:
    values = []
    for run in level["runs"]:
        if not run["kept"] or quantile not in run["rtt_ns"]:
            continue
        value = run["rtt_ns"][quantile]
        if to_floor:
            value /= run["floor_before_ns"] + run["floor_after_ns"]
        values.append(value)
    return values


def _has_floor(level: dict[str, Any]) -> bool:
    return all("floor_before_ns" in run for run in level["runs"] if run["kept"])


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
    return Comparison(changes, unlike(before, after), failed)


def _change(
    name: str, quantile: str, to_floor: bool, a: list[float], b: list[float], limit: float | None
) -> Change:
    import numpy as np

    change, low, high = bootstrap_change(a, b)
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

"""Result files as they are read back: whatever is wrong with one is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rdmaorder.errors import InputError
from rdmaorder.pingpong.files import FORMAT

__all__ = ["FLOORS", "QS", "dict_in", "list_in", "load", "value_at"]

_PYTEST_RUNS = 10
QS = (("p50", 0.5), ("p99", 0.99))
FLOORS = ("floor_before_ns", "floor_after_ns")
#: A time beyond these is a mistake in the file, and a ratio of two within them is finite.
_NS_MIN, _NS_MAX = 1e-3, 1e18


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
            floors = {key: run[key] for key in FLOORS if key in run}
            if len(floors) == 1:
                raise _Wrong(f"{where} has {next(iter(floors))} alone")
            times = {key: run["rtt_ns"][key] for key, _ in QS if key in run["rtt_ns"]}
            for key, value in (floors | times if run["kept"] else {}).items():
                if not _is_time(value):
                    raise _Wrong(f"{where}: {key} is no time: {value!r:.40}")


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and _NS_MIN <= value <= _NS_MAX


def _from_pytest_benchmark(content: dict[str, Any]) -> dict[str, Any]:
    """The same shape: a benchmark a level, its rounds in ten runs, one after the other."""
    import numpy as np

    levels: dict[str, Any] = {}
    for each in list_in(content["benchmarks"]):
        name, rounds = value_at(each, "name"), list_in(value_at(each, "stats.data"))
        calls = value_at(each, "extra_info.calls")
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
                {"kept": True, "rtt_ns": {name: float(np.quantile(part, q)) for name, q in QS}}
                for part in np.array_split(ns, min(_PYTEST_RUNS, len(ns)))
            ]
        }
    machine = content["machine_info"]
    return {
        "levels": levels,
        "plan": {"transport": "pytest-benchmark"},
        "environment": {
            "cpu": value_at(machine, "cpu.brand_raw") or str(value_at(machine, "cpu")),
            "kernel": value_at(machine, "release"),
            "python": value_at(machine, "python_version"),
        },
    }


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= _NS_MAX


def list_in(value: Any) -> list[Any]:
    """What should be a list; empty where the file is damaged."""
    return value if isinstance(value, list) else []


def dict_in(value: Any) -> dict[str, Any]:
    """What should be an object; empty where the file is damaged."""
    return value if isinstance(value, dict) else {}


def value_at(content: Any, path: str) -> Any:
    """The value at a path of keys with dots between them, None where there is none."""
    value = content
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value

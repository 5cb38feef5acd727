"""Percentiles and latency over time of a measurement, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdmaorder.errors import InputError
from rdmaorder.flow.latency import Latency
from rdmaorder.pingpong.measure import Measurement
from rdmaorder.pingpong.runs import Run
from rdmaorder.plotting import plot_latency, require_matplotlib

__all__ = ["over_time_path", "plot"]

_INK, _SECONDARY, _GRID = "#1f2933", "#52606d", "#d9dee4"
_COLOURS = ("#1f6feb", "#d1495b", "#2a9d8f", "#e09f3e", "#6d597a", "#495057")
_BINS = 400
#: A median of fewer orders than these says nothing.
_FEW = 20


def over_time_path(path: Path) -> Path:
    """Where the second plot goes: beside the first."""
    return path.with_name(f"{path.stem}-over-time{path.suffix or '.png'}")


def _latency(runs: list[Run]) -> Latency:
    rtt = np.concatenate([run.rtt_ns() for run in runs]) if runs else np.zeros(0)
    values, counts = np.unique(rtt.astype(np.uint64), return_counts=True)
    if not len(values):
        return Latency(np.zeros(0, np.uint64), np.zeros(0, np.uint64), 0, 0)
    return Latency(values, counts.astype(np.uint64), int(values[0]), int(values[-1]))


def plot(path: Path, measurement: Measurement) -> list[Path]:
    """Writes both plots; their paths."""
    plan = measurement.plan
    loop = "paced" if plan.paced else "closed loop"
    subtitle = (
        f"{measurement.environment['cpu']} · {plan.transport} · {plan.size} bytes · {loop} · "
        f"placement {measurement.placement or 'unknown'}"
    )
    if not measurement.complete:
        subtitle += f" · incomplete: {measurement.ending}"
    names = [*measurement.runs, *measurement.references]
    curves = {name: _latency(measurement.shown(name)) for name in names}
    plot_latency(path, curves, title="Round trips by percentile", subtitle=subtitle)
    second = over_time_path(path)
    runs = {name: measurement.shown(name) for name in measurement.runs}
    _plot_over_time(second, runs, subtitle)
    return [path, second]


def _plot_over_time(path: Path, levels: Mapping[str, list[Run]], subtitle: str) -> None:
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from rdmaorder.plotting import time_text

    figure = Figure(
        figsize=(10, 1.4 + 2.3 * len(levels)), dpi=150, layout="constrained", facecolor="white"
    )
    panels = figure.subplots(len(levels), 1, squeeze=False)[:, 0]
    for axes, (name, runs), colour in zip(panels, levels.items(), _COLOURS * 9, strict=False):
        _panel(axes, runs, colour)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(time_text))
        axes.set_ylabel(name, color=_INK)
        axes.grid(color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_INK, length=3)
    panels[-1].set_xlabel("time measured, ms (runs one after the other)", color=_INK)
    panels[0].legend(frameon=False, loc="upper right", ncols=3, fontsize=9)
    panels[0].set_title(
        "Round trips over time", loc="left", fontsize=13, fontweight="bold", color=_INK, pad=26
    )
    panels[0].annotate(
        subtitle,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 9),
        textcoords="offset points",
        fontsize=9.5,
        color=_SECONDARY,
    )
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise InputError(f"plot cannot be written: {error.strerror}", path=str(path)) from None


def _panel(axes: Any, runs: list[Run], colour: str) -> None:
    """Median, 99 % and slowest of each short interval; a thin line where a new run begins."""
    offset_ms = 0.0
    for number, run in enumerate(runs):
        times_ms, rtt = run.times_s() * 1e3, run.rtt_ns()
        if not len(rtt):
            continue
        length_ms = float(times_ms[-1]) or 1e-6
        bins = max(1, min(_BINS // len(runs), len(rtt) // 100))
        edges = np.linspace(0, length_ms, bins + 1)
        parts = np.split(np.arange(len(rtt)), np.searchsorted(times_ms, edges[1:-1]))
        middles = offset_ms + (edges[:-1] + edges[1:]) / 2
        labels = ("median", "99 %", "slowest") if number == 0 else (None, None, None)
        # A stall leaves few orders or none in its intervals: no line there, the dot tells.
        for q, width, alpha, label in ((0.5, 1.6, 1.0, labels[0]), (0.99, 1.0, 0.55, labels[1])):
            values = [np.quantile(rtt[p], q) if len(p) >= _FEW else np.nan for p in parts]
            axes.plot(middles, values, color=colour, lw=width, alpha=alpha, label=label)
        worst = [part[np.argmax(rtt[part])] for part in parts if len(part)]
        dots = (offset_ms + times_ms[worst], rtt[worst])
        axes.plot(*dots, ".", color=_SECONDARY, ms=2.5, label=labels[2])
        if number:
            axes.axvline(offset_ms, color=_GRID, lw=1.2)
        offset_ms += length_ms

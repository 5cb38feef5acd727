"""Plots, as PNG files. Needs matplotlib (``pip install rdmaorder[plot]``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdmaorder.errors import ConfigError, InputError

if TYPE_CHECKING:
    from rdmaorder.flow.latency import Latency

__all__ = ["plot_latency", "require_matplotlib", "time_text"]

_INK, _SECONDARY, _GRID = "#1f2933", "#52606d", "#d9dee4"
_COLOURS = ("#1f6feb", "#d1495b", "#2a9d8f", "#e09f3e", "#6d597a", "#495057")
_DASHES = ("-", "--", ":")
_MARKED = (0.5, 0.9, 0.99, 0.999, 0.9999)


def require_matplotlib() -> None:
    """Raises ConfigError naming the remedy when matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError(
            "plotting needs matplotlib: pip install 'rdmaorder[plot]', or leave the plot out"
        ) from None


def time_text(value_ns: float, _position: object = None) -> str:
    """For example ``850 ns``, ``1.25 µs``, ``30 ms``."""
    for unit_ns, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if value_ns >= unit_ns:
            return f"{value_ns / unit_ns:.3g} {unit}"
    return f"{value_ns:.3g} ns"


def _curve(latency: Latency) -> tuple[Any, Any]:
    """Times against 1/(1-p): the time that all but one in so many round trips do not exceed."""
    below = np.concatenate(([0], np.cumsum(latency.counts)[:-1])).astype(np.float64)
    rarity = latency.count / (latency.count - below)  # from 1 to the number of round trips
    return np.append(rarity, latency.count), np.append(latency.values_ns, latency.max_ns)


def plot_latency(
    path: Path, curves: Mapping[str, Latency], *, title: str, subtitle: str = ""
) -> None:
    """Writes the latency distributions to ``path`` (PNG): time on a log axis against percentile.

    The percentile axis is logarithmic in 1/(1-p), so each further nine takes the same room. Raises
    ConfigError without matplotlib, InputError when nothing was measured or the file cannot be
    written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    filled = {label: latency for label, latency in curves.items() if latency.count}
    if not filled:
        raise InputError("there is nothing to plot: no round trip was measured", path=str(path))
    figure = Figure(figsize=(10, 5.6), dpi=150, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    most = max(latency.count for latency in filled.values())
    for number, (label, latency) in enumerate(filled.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        dashes = _DASHES[number // len(_COLOURS) % len(_DASHES)]
        rarity, times_ns = _curve(latency)
        axes.step(rarity, times_ns, where="post", color=colour, ls=dashes, linewidth=2, label=label)
        if len(filled) == 1:
            _mark(axes, latency, colour)

    axes.set_xscale("log")
    axes.set_yscale("log")
    nines = [q for q in _ticks() if 1 / (1 - q) <= most * 1.01]
    axes.set_xlim(1, max(most, 10) * 1.4)
    axes.xaxis.set_major_locator(FixedLocator([1 / (1 - q) for q in nines]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - 1 / x):.10g} %"))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(time_text))
    axes.set_xlabel("percentile of round trips", color=_INK)
    axes.set_ylabel("round-trip time (log scale)", color=_INK)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, length=3)
    axes.set_title(
        title, loc="left", fontsize=13, fontweight="bold", color=_INK, pad=26 if subtitle else 10
    )
    axes.annotate(
        subtitle,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 9),
        textcoords="offset points",
        fontsize=9.5,
        color=_SECONDARY,
    )
    if len(filled) > 1:
        axes.legend(frameon=False, loc="upper left")
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise InputError(f"plot cannot be written: {error.strerror}", path=str(path)) from None


def _ticks() -> list[float]:
    return [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999, 0.9999999]


def _mark(axes: Any, latency: Latency, colour: str) -> None:
    """Points with their values at the usual percentiles."""
    for q in _MARKED:
        if 1 / (1 - q) > latency.count:
            continue
        value_ns = latency.quantile(q)
        axes.plot(1 / (1 - q), value_ns, "o", color=colour, markersize=5)
        axes.annotate(
            time_text(value_ns),
            (1 / (1 - q), value_ns),
            xytext=(7, -12),
            textcoords="offset points",
            fontsize=9,
            color=_INK,
        )

"""The measurement as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rdmaorder.pingpong.hazards import Hazard
from rdmaorder.pingpong.statistics import QUANTILES, time_text

if TYPE_CHECKING:
    from rich.console import Console

    from rdmaorder.pingpong.compare import Comparison

__all__ = ["print_comparison", "print_report", "print_warnings", "ratio_text"]

_COLUMNS = ("min", *QUANTILES, "max")
_NARROW_COLUMNS = ("p50", "p99", "p99_9", "max")
_WIDE, _WIDEST = 108, 120
_TITLES = {"p50": "50 %", "p90": "90 %", "p99": "99 %", "p99_9": "99.9 %", "p99_99": "99.99 %"}


def print_warnings(console: Console, found: Sequence[Hazard]) -> None:
    """What spoils the measurement, before it: each with its remedy."""
    for each in found:
        _print_text(console, f"warning: {each.finding}", "yellow")
        _print_text(console, f"         {each.remedy}", "dim")


def _print_text(console: Console, text: str, style: str) -> None:
    """Wrapped between words on a terminal, one line elsewhere."""
    from rich.text import Text

    console.print(Text(text, style), soft_wrap=not console.is_terminal)


def _table(title: str, *columns: str, fold: bool = False) -> Any:
    """``fold``: what a narrow terminal has no room for goes on in the next line; nothing is cut."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.title_style = "bold"
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=not fold, overflow="fold")
    return table


def ratio_text(found: dict[str, Any] | None, key: str) -> str:
    """Median and spread; where there are means alone they stand, named, in place of p50."""
    if found and key == "p50" and found.get("mean") is not None:
        return f"means: {ratio_text(found, 'mean')}"
    if not found or found.get(key) is None:
        return "–"
    return f"{found[key]:.3g} ({found[f'{key}_low']:.3g} … {found[f'{key}_high']:.3g})"


def print_report(console: Console, result: dict[str, Any]) -> None:
    """``result``: what is written as JSON."""
    from rich.text import Text

    if not result["levels"]:
        console.print(Text("nothing was measured", "red"))
        return
    columns = _COLUMNS if console.width >= _WIDE else _NARROW_COLUMNS
    both = console.width >= _WIDEST
    console.print(_times(result, "rtt_ns", "round trip (RTT)", columns, rate=True, adds=both))
    console.print(_times(result, "one_way_ns", "one way (RTT/2)", columns, rate=False, adds=True))
    if any("floor_ns" in level for level in result["levels"].values()):
        console.print(_floor(result))
    if _is_paced(result):
        console.print(_rates(result))
    if result["references"]:
        console.print(_references(result))
    for line in _limits(result):
        _print_text(console, line, "yellow")
    for name, why in result["missing_references"].items():
        _print_text(console, f"no {name}: {why}", "yellow")
    for name, level in result["levels"].items():
        if "waterfall" in level:
            console.print(_waterfall(name, level["waterfall"], 40 if console.width >= _WIDE else 8))
    for name, level in result["levels"].items():
        if level["worst"]:
            console.print(_worst(name, level["worst"][:5]))
    for line in _footer(result):
        _print_text(console, line, "dim")
    if not result["complete"]:
        _print_text(console, _why_incomplete(result), "bold red")


def _is_paced(result: dict[str, Any]) -> bool:
    return bool(result["plan"]["loop"] == "paced")


def _times(
    result: dict[str, Any], key: str, title: str, columns: Sequence[str], *, rate: bool, adds: bool
) -> Any:
    """``rate``, ``adds``: columns that not every table has room for."""
    names = ["level", "orders", *(["orders/s"] if rate else [])]
    names += [_TITLES.get(name, name) for name in columns]
    table = _table(title, *names, *(["adds"] if adds else []))
    before: float | None = None
    for name, level in result["levels"].items():
        times, cells = level[key], _cells(level, key, columns, rate=rate)
        if adds:
            more = None if before is None else times.get("p50", 0) - before
            before = times.get("p50")
            sign = "−" if more is not None and more < 0 else "+"
            cells.append("" if more is None else sign + time_text(abs(more)))
        table.add_row(name, *cells)
    for name, reference in result["references"].items():
        times, cells = reference[key], _cells(reference, key, columns, rate=rate)
        if "p50" not in times and "mean" in times:
            cells[names.index(_TITLES["p50"]) - 1] = f"mean {time_text(times['mean'])}"
        table.add_row(name, *cells, style="dim")
    return table


def _cells(found: dict[str, Any], key: str, columns: Sequence[str], *, rate: bool) -> list[str]:
    cells = [f"{found.get('count', 0):,}"]
    if rate:
        cells.append(f"{found['rate_per_s']:,.0f}" if found.get("rate_per_s") else "–")
    return cells + [time_text(found[key].get(column)) for column in columns]


def _floor(result: dict[str, Any]) -> Any:
    table = _table(
        f"against the floor (bare cache line, one way), placement {result['placement']}",
        *("level", "floor", "50 % ÷ floor", "99 % ÷ floor", "runs kept"),
        fold=True,
    )
    for name, level in result["levels"].items():
        if "floor_ns" not in level:
            continue
        cells = [
            f"{level[key]['median']:.2f} ({level[key]['low']:.2f} … {level[key]['high']:.2f})"
            for key in ("p50_to_floor", "p99_to_floor")
        ]
        kept = f"{level['runs_kept']} of {len(level['runs'])}"
        table.add_row(name, time_text(level["floor_ns"]["median"]), *cells, kept)
    return table


def _rates(result: dict[str, Any]) -> Any:
    table = _table(
        "paced: times count from when each order was due",
        *("level", "rate asked", "reached", "sent late 99 %", "from the send itself 99 %"),
        fold=True,
    )
    for name, level in result["levels"].items():
        for run in level["runs"]:
            asked, got = run.get("rate_asked_per_s"), run["rate_per_s"]
            missed = asked is not None and not run["rate_reached"]
            table.add_row(
                name,
                "–" if asked is None else f"{asked:,.0f}/s",
                f"{got:,.0f}/s" + ("  NOT REACHED" if missed else ""),
                time_text(run.get("late_ns", {}).get("p99")),
                time_text(run.get("service_ns", {}).get("p99")),
                style="red" if missed else None,
            )
    return table


def _limits(result: dict[str, Any]) -> list[str]:
    """Of each level's runs that were over before their time, the first."""
    lines = []
    for name, level in result["levels"].items():
        limited = [run for run in level["runs"] if "limited" in run]
        if limited:
            runs = f"{len(limited)} of {len(level['runs'])} runs"
            lines.append(f"{name}: {runs} ended early, the first was {limited[0]['limited']}")
    return lines


def _references(result: dict[str, Any]) -> Any:
    paced = " (ours paced, references in a closed loop)" if _is_paced(result) else ""
    table = _table(
        *(f"ours ÷ reference, runs in turn (spread){paced}", "reference", "level", "50 %", "99 %"),
        fold=True,
    )
    table.columns[1].justify, table.columns[1].no_wrap = "left", True
    for name in result["references"]:
        for level, found in result["levels"].items():
            ratio = found["ratio"].get(name)
            cells = [ratio_text(ratio, "p50"), ratio_text(ratio, "p99")]
            table.add_row(name, level, *(cells if ratio else ["no pair of runs counts", ""]))
    return table


def _waterfall(name: str, found: dict[str, Any], bar_width: int) -> Any:
    clocks = found["clocks"]
    if found["clock_error_ns"]:
        clocks += f", right to ± {time_text(found['clock_error_ns'])}"
    title = f"where the time goes, {name}: {found['orders']:,} orders, {clocks}"
    table = _table(title, "from", "to", "50 %", "99 %", "share", "")
    table.columns[1].justify = table.columns[5].justify = "left"
    for each in found["stages"]:
        bar = "█" * round(bar_width * max(0.0, min(1.0, each["share"])))
        table.add_row(
            each["from"],
            each["to"],
            time_text(each["p50_ns"]),
            time_text(each["p99_ns"]),
            f"{each['share']:.0%}",
            bar,
        )
    # Stages of one order add up exactly; medians of stages nearly.
    whole = (time_text(found["round_trip_p50_ns"]), time_text(found["round_trip_p99_ns"]))
    table.add_section()
    table.add_row("call", "report seen", *whole, "100%", "")
    return table


def _worst(name: str, orders: list[dict[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"slowest orders, {name}")
    table.title_justify, table.title_style = "left", "bold"
    for column in ("round trip", "run", "order", "at"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("likely cause")
    for each in orders:
        table.add_row(
            time_text(each["rtt_ns"]),
            str(each["repeat"] + 1),
            f"{each['index']:,}",
            f"{each['at_s'] * 1e3:.2f} ms",
            "; ".join([*each["causes"], *_held_up_with(each)]),
        )
    return table


def _held_up_with(order: dict[str, Any]) -> list[str]:
    others = order["stall_orders"] - 1
    return [f"with it {others:,} other{'s' if others > 1 else ''}"] if others else []


def _footer(result: dict[str, Any]) -> list[str]:
    clock, plan = result["clock"], result["plan"]
    host = result["environment"]
    lines = [
        f"{plan['loop']} loop, {plan['size']} bytes, {plan['transport']}, processors "
        f"{plan['client_cpu']} and {plan['server_cpu']}; a stamp costs "
        f"{clock['read_cost_ns']:.1f} ns (from Python {clock['python_stamp_ns']:.0f} ns), once in "
        f"every round trip shown; the clock moves in steps of {clock['step_ns']:.1f} ns",
        f"{host['cpu']}, Linux {host['kernel']}, {host['build']['compiler']} "
        f"{host['build']['build_flags']}, commit {host['build']['commit']}"
        f"{' + changes' if host['build'].get('dirty') else ''}, steal {result['steal']:.2%}",
    ]
    stamped = [name for name, level in result["levels"].items() if "waterfall" in level]
    if stamped:
        lines.append(
            f"stamping the stages is in the times of {', '.join(stamped)}: seven further readings "
            "of the clock an order"
        )
    bad = sum(run["bad_payloads"] for level in result["levels"].values() for run in level["runs"])
    lines.append(f"every payload checked: {bad} wrong")
    return lines


def _why_incomplete(result: dict[str, Any]) -> str:
    if result["ending"] == "interrupted":
        return "interrupted: this is what had been measured until then"
    if result["ending"] == "peer lost":
        return (
            f"the other side is gone ({result['cause']}): this is what had been measured until then"
        )
    return "answers were wrong: do not trust these numbers"


def print_comparison(console: Console, result: Comparison) -> None:
    """Every change with its interval, what else differs, the verdict."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("level", "", "unit"):
        table.add_column(column)
    for column in ("before", "after", "change", "95 % interval"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    styles = {"SLOWER": "bold red", "slower": "yellow", "faster": "green", "same": None}
    for each in result.changes:
        table.add_row(
            *(each.level, each.quantile, each.measure, f"{each.before:g}", f"{each.after:g}"),
            f"{each.change:+.1%}",
            f"{each.low:+.1%} … {each.high:+.1%}",
            each.verdict,
            style=styles[each.verdict],
        )
    console.print(table)
    for difference in [*result.differences, *result.missing]:
        console.print(f"differs: {difference}", markup=False, soft_wrap=True)
    console.print("FAIL: slower than allowed" if result.failed else "PASS")

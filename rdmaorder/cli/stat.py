"""``rdmaorder stat``: what a running process counts, from its counters file."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from rdmaorder.errors import ConfigError
from rdmaorder.monitor.counters import GAUGES, CounterName, Counters

if TYPE_CHECKING:
    from rich.console import Group

_WATCH_MIN_S = 0.05


class Frame(NamedTuple):
    """A counters file at one moment. ``rates`` (a second) is empty in the first frame of a file."""

    path: str
    label: str
    pid: int
    alive: bool
    start_time_ns: int
    time_ns: int
    counters: dict[str, int]
    rates: dict[str, float]


def take_frame(path: str, before: Frame | None = None) -> Frame:
    """Reads the file anew, because a restarted process makes another one under the same path."""
    with Counters(path) as file:
        now_ns = time.time_ns()
        counters = file.snapshot()
        rates: dict[str, float] = {}
        if before is not None and (before.pid, before.start_time_ns) == (
            file.pid,
            file.start_time_ns,
        ):
            elapsed_s = max(now_ns - before.time_ns, 1) / 1e9
            rates = {
                name: (value - before.counters.get(name, 0)) / elapsed_s
                for name, value in counters.items()
                if CounterName.parse(name).base not in GAUGES
            }
        return Frame(
            path, file.label, file.pid, file.alive(), file.start_time_ns, now_ns, counters, rates
        )


def frames(path: str, interval_s: float) -> Iterator[Frame]:
    """A frame now and after every interval, without end."""
    frame = take_frame(path)
    while True:
        yield frame
        time.sleep(interval_s)
        frame = take_frame(path, frame)


def _heading(frame: Frame) -> str:
    started = datetime.fromtimestamp(frame.start_time_ns / 1e9, tz=timezone.utc)
    state = "running" if frame.alive else "gone"
    return (
        f"{frame.label or '(no label)'}: process {frame.pid} {state}, "
        f"started {started:%Y-%m-%d %H:%M:%S} UTC"
    )


def _rate_text(frame: Frame, name: str) -> str:
    rate = frame.rates.get(name)
    if rate is None:
        return ""
    return f"{rate:,.0f}" if rate >= 100 or rate == 0 else f"{rate:,.1f}"


def render_text(frame: Frame) -> str:
    """Heading and one aligned line a counter; a column of rates where there are any."""
    lines = [_heading(frame)]
    name_width = max((len(name) for name in frame.counters), default=0)
    for name, value in frame.counters.items():
        line = f"{name:<{name_width}}  {value:>20}"
        if frame.rates:
            line += f"  {_rate_text(frame, name):>14}/s" if name in frame.rates else ""
        lines.append(line)
    return "\n".join(lines)


def render_json(frame: Frame) -> str:
    """One line: every field of the frame but ``rates`` when there are none."""
    fields = frame._asdict()
    if not frame.rates:
        del fields["rates"]
    return json.dumps(fields)


def render_table(frame: Frame) -> Group:
    """For a terminal: the process's counters, then a row a session."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parsed = {name: CounterName.parse(name) for name in frame.counters}
    totals = Table("counter", title_justify="left")
    totals.add_column("value", justify="right")
    if frame.rates:
        totals.add_column("per second", justify="right")
    for name, parts in parsed.items():
        if parts.key is None:
            cells = [name, f"{frame.counters[name]:,}"]
            totals.add_row(*cells, *([_rate_text(frame, name)] if frame.rates else []))
    parts_shown: list[Text | Table] = [Text(_heading(frame)), totals]

    for key in dict.fromkeys(parts.key for parts in parsed.values() if parts.key is not None):
        bases = list(dict.fromkeys(p.base for p in parsed.values() if p.key == key))
        table = Table(key)
        for base in bases:
            table.add_column(base, justify="right")
        for value in dict.fromkeys(p.value for p in parsed.values() if p.key == key):
            row = [str(value)]
            for base in bases:
                name = f"{base}{{{key}={value}}}"
                rate = _rate_text(frame, name)
                count = frame.counters.get(name)
                row.append("" if count is None else f"{count:,}" + (f" ({rate}/s)" if rate else ""))
            table.add_row(*row)
        parts_shown.append(table)
    return Group(*parts_shown)


def render_prometheus(frame: Frame) -> str:
    """Prometheus' text format, version 0.0.4. ``orders_applied{session=alpha}`` becomes
    ``rdmaorder_session_orders_applied_total{session="alpha"}``, so that summing over sessions
    never counts the process's own total again."""
    try:
        from prometheus_client import CollectorRegistry, Metric, generate_latest
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            InfoMetricFamily,
        )
        from prometheus_client.registry import Collector
    except ImportError as error:
        raise ConfigError(
            "--prometheus needs the package prometheus-client: pip install 'rdmaorder[metrics]'"
        ) from error

    info = InfoMetricFamily("rdmaorder_process", "The process that writes the counters file")
    info.add_metric([], {"label": frame.label, "pid": str(frame.pid)})
    up = GaugeMetricFamily("rdmaorder_up", "1 while the process runs", value=int(frame.alive))
    started = GaugeMetricFamily(
        "rdmaorder_start_time_seconds",
        "When the counters began, since the epoch",
        value=frame.start_time_ns / 1e9,
    )
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for name, value in frame.counters.items():
        base, key, key_value = CounterName.parse(name)
        metric = f"rdmaorder_{base}" if key is None else f"rdmaorder_{key}_{base}"
        if metric not in families:
            family = GaugeMetricFamily if base in GAUGES else CounterMetricFamily
            families[metric] = family(
                metric, f"{base}, see docs/counters.md", labels=[] if key is None else [key]
            )
        families[metric].add_metric([] if key_value is None else [key_value], value)

    class FrameCollector(Collector):
        def collect(self) -> list[Metric]:
            return [info, up, started, *families.values()]

    registry = CollectorRegistry()
    registry.register(FrameCollector())
    return generate_latest(registry).decode("utf-8")


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not _WATCH_MIN_S <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not between {_WATCH_MIN_S} and 86400 seconds")
    return seconds


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``stat`` to the command line."""
    parser = subparsers.add_parser(
        "stat",
        help="show what a running process counts",
        description="Shows a counters file. Reading it costs its process nothing, and it can be "
        "read after the process was killed; a gateway that ends in order removes it.",
    )
    parser.add_argument("path", metavar="PATH", help="the counters file; the gateway names it")
    parser.add_argument(
        "--watch",
        type=_interval,
        metavar="SECONDS",
        help="show it anew every so many seconds, with rates, until interrupted",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument("--prometheus", action="store_true", help="Prometheus' text format")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 0, also when the process is gone: its counters are still a good answer."""
    if args.prometheus and args.watch is not None:
        raise ConfigError("--prometheus is for a scrape and makes no rates; leave out --watch")
    if args.prometheus:
        sys.stdout.write(render_prometheus(take_frame(args.path)))
        return 0
    on_terminal = sys.stdout.isatty() and not args.json
    if args.watch is not None:
        return _watch_table(args) if on_terminal else _watch_lines(args)
    frame = take_frame(args.path)
    if on_terminal:
        from rich.console import Console

        Console().print(render_table(frame))
    else:
        print(render_json(frame) if args.json else render_text(frame))
    return 0


def _watch_table(args: argparse.Namespace) -> int:
    from rich.live import Live

    try:
        with Live(auto_refresh=False) as live:
            for frame in frames(args.path, args.watch):
                live.update(render_table(frame), refresh=True)
    except KeyboardInterrupt:
        pass
    return 0


def _watch_lines(args: argparse.Namespace) -> int:
    try:
        for frame in frames(args.path, args.watch):
            print(render_json(frame) if args.json else render_text(frame) + "\n", flush=True)
    except KeyboardInterrupt:
        pass
    return 0

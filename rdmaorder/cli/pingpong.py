"""``rdmaorder pingpong``: latency of the order path, and what it would be with something else."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdmaorder.flow import FORMATS

if TYPE_CHECKING:
    import subprocess

    from rdmaorder.gateway.address import Address
    from rdmaorder.pingpong.measure import Measurement
    from rdmaorder.pingpong.plan import Plan

__all__ = ["add_parser"]

_DESCRIPTION = """\
Sends an order, waits for its answer, and says how long that takes, level by level:
raw (transport write and write back), session (order, receiver, report), gateway (with limits and
journal), python (the same from Python), python-handler (Python at both ends).

  rdmaorder pingpong                                 both ends here, two pinned processes
  rdmaorder pingpong --listen rdma://0.0.0.0:7777    the server, on one host
  rdmaorder pingpong --to rdma://gateway:7777        the client, on another
  rdmaorder pingpong compare BEFORE.json AFTER.json --fail-above 5%
"""
_INTERRUPTED = 130
_EPILOG = "docs/benchmarking.md has the method, and how people fool themselves."


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``pingpong`` to the commands."""
    parser = subparsers.add_parser(
        "pingpong",
        help="measure latency level by level, beside the alternatives",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_argument_group("where")
    where.add_argument("--listen", metavar="URL", help="be the server: shm:///path.sock, rdma://…")
    where.add_argument("--to", metavar="URL", help="be the client of that server")
    where.add_argument(
        "--transport",
        choices=("shm", "rdma", "inproc"),
        help="both ends on this host (default shm): two processes, or with inproc two threads",
    )
    where.add_argument("--address", metavar="IP", help="own address for --transport rdma")
    where.add_argument(
        "-d", "--device", metavar="DEV", help="RDMA device to send through (default: the address's)"
    )
    where.add_argument(
        "--server-device", metavar="DEV", help="the answering end's, for --transport rdma"
    )
    where.add_argument("--once", action="store_true", help="a server for one client, as perftest's")
    where.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # it ends with that process
    where.add_argument("--cpu", type=int, metavar="N", help="processor of the sending end")
    where.add_argument("--server-cpu", type=int, metavar="N", help="processor of the answering end")
    _add_what(parser.add_argument_group("what"))
    _add_results(parser.add_argument_group("results"))
    parser.set_defaults(run=_run)
    _add_compare(parser)


def _add_what(what: argparse._ArgumentGroup) -> None:
    what.add_argument(
        "--level",
        action="append",
        metavar="L",
        help="raw, session (default), gateway, python, python-handler, several with commas, or all",
    )
    what.add_argument("-s", "--size", type=int, metavar="BYTES", help="slot size (default 64)")
    what.add_argument(
        "-n", "--iters", type=int, default=50_000, metavar="N", help="orders a run (default 50000)"
    )
    what.add_argument("-D", "--duration", type=_seconds, metavar="S", help="seconds a run instead")
    what.add_argument("--repeats", type=int, default=5, metavar="N", help="runs (default 5)")
    what.add_argument(
        "--warm-up", type=int, default=2_000, metavar="N", help="orders before each (default 2000)"
    )
    what.add_argument(
        "--rate", type=float, metavar="R", help="orders a second, answered or not (open loop)"
    )
    what.add_argument("--replay", type=Path, metavar="FILE", help="pace of recorded order flow")
    what.add_argument(
        "--format",
        dest="file_format",
        choices=FORMATS,
        help="of the recording (default csv; docs/replay.md)",
    )
    what.add_argument("--speed", type=float, metavar="F", help="replay so much faster (default 1)")
    what.add_argument("--journal", metavar="DIR", help="where the journal levels keep theirs")
    what.add_argument(
        "--waterfall",
        action="store_true",
        help="stamp every stage of an order (session level and up): where its time goes",
    )
    what.add_argument(
        "--reference",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="measure these in turn: cacheline, unix, tcp, udp, zeromq, zeromq-spin, iceoryx2, "
        "ucx_am, ucx_tag, fi_pingpong, ib_write_lat, aeron or all",
    )


def _add_results(results: argparse._ArgumentGroup) -> None:
    results.add_argument("--json", type=Path, metavar="OUT", help="everything, as JSON")
    results.add_argument("--hdr", type=Path, metavar="OUT", help="HdrHistogram log")
    results.add_argument(
        "--plot", type=Path, metavar="PNG", help="percentiles; and beside it latency over time"
    )
    results.add_argument("--worst", type=int, default=10, metavar="N", help="slowest to keep")
    results.add_argument("-q", "--quiet", action="store_true", help="no progress on standard error")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="[COMMAND]", required=False)
    compare = commands.add_parser(
        "compare",
        help="compare two results",
        description="Says for every level whether it became slower, with the 95 % confidence "
        "interval over the runs, or over the files of two folders, measured in turn. Exit status "
        "1 when one is slower by more than --fail-above for certain, 3 when the two are not "
        "comparable.",
    )
    compare.add_argument("before", type=Path, metavar="A", help="a result, or a folder of them")
    compare.add_argument("after", type=Path, metavar="B", help="the same, of what is to be judged")
    compare.add_argument("--fail-above", type=_percent, metavar="P", help="for example 5%%")
    compare.add_argument(
        "--unlike", action="store_true", help="compare even where the environments differ"
    )
    compare.add_argument("--json", type=Path, metavar="OUT", help="the verdict as JSON")
    compare.set_defaults(run=_compare)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 3600")
    return value


def _percent(text: str) -> float:
    from rdmaorder.pingpong.compare import percent

    try:
        return percent(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _levels(given: list[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    from rdmaorder.pingpong.plan import LEVELS

    names = [name for text in given or [] for name in text.split(",") if name]
    if not names:
        return default
    if "all" in names:
        return LEVELS
    known = [level for level in LEVELS if level in names]  # in order, each once
    return tuple(known + [name for name in names if name not in LEVELS])


def _address(option: str, url: str) -> Address:
    from rdmaorder.errors import ConfigError
    from rdmaorder.gateway.address import parse_address

    try:
        return parse_address(url)
    except ValueError as error:
        raise ConfigError(f"{option} {url}: {error}") from None


def _run(args: argparse.Namespace) -> int:
    from rdmaorder.pingpong.options import check_options
    from rdmaorder.pingpong.output import open_missing

    open_missing()
    check_options(args)
    if args.listen is not None:
        return _serve(args)
    return _client(args)


def _serve(args: argparse.Namespace) -> int:
    """Until Ctrl-C or SIGTERM, or one client was served."""
    from rdmaorder.pingpong.output import Output
    from rdmaorder.pingpong.plan import LEVELS, check_levels, check_size, choose_cpu
    from rdmaorder.pingpong.processes import end_with
    from rdmaorder.pingpong.serving import Server

    levels = _levels(args.level, LEVELS)
    check_levels(levels)
    if args.size is not None:
        check_size(args.size)
    wanted = args.server_cpu if args.server_cpu is not None else args.cpu
    cpu = choose_cpu("--cpu" if args.server_cpu is None else "--server-cpu", wanted, server=True)
    output = Output()
    server = Server(
        _address("--listen", args.listen),
        cpu=cpu,
        size=args.size,
        levels=levels,
        journal=args.journal,
        say=lambda text: output.write(f"rdmaorder pingpong: {text}\n"),
    )
    try:
        _end_at_signals()
        if args.parent is not None:
            end_with(args.parent, signal.SIGTERM)
        output.write(f"rdmaorder pingpong: listening on {server.url}, processor {cpu}\n")
        if args.once:
            server.serve_client()
        else:
            server.serve_forever()
    except KeyboardInterrupt:
        return 0
    finally:
        _end_undisturbed()
        server.close()
    return 0


def _end_signals() -> list[signal.Signals]:
    """A closed terminal ends this as SIGTERM does, but not under nohup."""
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if nohup else [signal.SIGTERM, signal.SIGHUP]


def _end_at_signals() -> None:
    """As Ctrl-C does: nothing is left behind, and what there is gets printed. The first one alone:
    a second would end what tidies up."""
    numbers = _end_signals()

    def end(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, end)


def _end_undisturbed() -> None:
    """From here on no signal but SIGKILL stops the process: it is about to end and tidies up. A
    client ends its server when it has what it wanted, which may be ending by itself just then."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _local_server(args: argparse.Namespace, plan: Plan) -> Iterator[Address | None]:
    """A server of our own on this host, in a process of its own; none for inproc."""
    import subprocess

    from rdmaorder.errors import ConfigError, SystemFailure
    from rdmaorder.pingpong.folders import own_folder

    if plan.transport == "inproc":
        yield None
        return
    if plan.transport == "rdma" and not args.address:
        from rdmaorder.pingpong.external import device_addresses

        here = ", ".join(f"{name} has {ip}" for name, ip in device_addresses())
        raise ConfigError(
            "--transport rdma: give the address of the answering end's device with --address IP "
            f"({here or 'there is no RDMA device with an IPv4 address here: rdma link'}), or "
            "measure between two hosts with --listen and --to"
        )
    with own_folder() as folder:
        url = f"shm://{folder}/pp.sock"
        if plan.transport == "rdma":
            there = args.server_device
            url = f"rdma://{args.address}:0" + (f"?device={there}" if there else "")
        command = [sys.executable, "-m", "rdmaorder", "pingpong", "--listen", url, "--once"]
        command += ["--parent", str(os.getpid())]
        command += ["--server-cpu", str(plan.server_cpu)]
        command += ["--journal", args.journal] if args.journal else []
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "listening on " not in line:
                raise SystemFailure(f"the answering end did not start: {_first_error(process)}")
            where = line.split("listening on ")[1].split(",")[0]
            if plan.transport == "rdma" and args.device:
                where += f"?device={args.device}"
            yield _address("--to", where)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _first_error(process: subprocess.Popen[str]) -> str:
    """What a server that has ended said of it."""
    said = process.communicate()[1].strip().splitlines()
    return said[-1].removeprefix("rdmaorder: error: ") if said else "it said nothing"


def _plan(args: argparse.Namespace) -> Plan:
    from rdmaorder import _core
    from rdmaorder.pingpong.plan import Plan, choose_cpu, choose_cpus, due_times
    from rdmaorder.pingpong.references import check_references

    clock = _core.pingpong_clock()
    if args.to is None:
        client, server = choose_cpus(args.cpu, args.server_cpu)
    else:  # which says what processor is its own
        client, server = choose_cpu("--cpu", args.cpu, server=False), -1
    due = None
    if args.rate is not None:
        count = args.iters if args.duration is None else max(2, args.rate * args.duration)
        due = due_times(args.rate, count, clock["order_cost_ns"])
    elif args.replay is not None:
        due = _replay_times(args)
    scheme = args.to.partition(":")[0] if args.to else args.transport or "shm"
    return Plan(
        transport=scheme,
        levels=_levels(args.level, ("session",)),
        size=64 if args.size is None else args.size,
        iterations=args.iters,
        duration_s=args.duration,
        warm_up=args.warm_up,
        repeats=args.repeats,
        rate=args.rate,
        replay=str(args.replay) if args.replay else None,
        speed=_speed(args) if args.replay else None,
        due_ns=due,
        client_cpu=client,
        server_cpu=server,
        journal=args.journal,
        references=check_references(args.reference),
        worst=args.worst,
        waterfall=args.waterfall,
    )


def _speed(args: argparse.Namespace) -> float:
    return 1.0 if args.speed is None else float(args.speed)


def _replay_times(args: argparse.Namespace) -> Any:
    """When the file's messages came, from the first, bursts and pauses as they were."""
    from rdmaorder.errors import InputError
    from rdmaorder.flow.formats import read_flow
    from rdmaorder.pingpong.plan import MOST_SAMPLES, due_times_like

    flow = read_flow(args.replay, file_format=args.file_format or "csv")
    if len(flow) < 2:
        raise InputError("has fewer than two client messages", path=str(args.replay))
    count = args.iters if args.duration is None else MOST_SAMPLES
    return due_times_like(flow.t_ns, count, _speed(args))


def _check(args: argparse.Namespace) -> None:
    from rdmaorder.pingpong.files import check_writable, require_hdrhistogram
    from rdmaorder.pingpong.plots import over_time_path
    from rdmaorder.plotting import require_matplotlib

    if args.plot is not None:
        require_matplotlib()
    if args.hdr is not None:
        require_hdrhistogram()
    check_writable((args.json, args.hdr, args.plot))
    if args.plot is not None:
        check_writable((over_time_path(args.plot),))


def _client(args: argparse.Namespace) -> int:
    from rdmaorder.pingpong.measure import measure
    from rdmaorder.pingpong.output import Output
    from rdmaorder.pingpong.progress import Progress
    from rdmaorder.pingpong.report import print_report, print_warnings

    _check(args)
    plan = _plan(args)
    _end_at_signals()
    output = Output()
    progress = Progress.on_stderr(quiet=args.quiet)
    with contextlib.ExitStack() as stack:
        if args.to is not None:
            mark = "&" if "?" in args.to else "?"
            own = f"{mark}device={args.device}" if args.device else ""
            address: Address | None = _address("--to", args.to + own)
        else:
            address = stack.enter_context(_local_server(args, plan))
        stack.callback(progress.clear)
        measurement = measure(
            plan,
            address,
            progress=progress,
            warn=lambda found: output.show(lambda console: print_warnings(console, found)),
            over=_end_undisturbed,
        )
    from rdmaorder.pingpong.files import to_json

    result = to_json(measurement)
    failures = _write(args, measurement, result)
    output.show(lambda console: print_report(console, result))
    status = 0 if measurement.complete else 1
    if measurement.ending == "interrupted":
        status = _INTERRUPTED
    return _ended([*failures, *output.failures], status)


def _ended(failures: Sequence[str], status: int) -> int:
    """The exit status, after saying what could not be written."""
    for each in failures:
        with contextlib.suppress(OSError):
            print(f"rdmaorder: error: {each}", file=sys.stderr)
    return 2 if failures else status


def _write(args: argparse.Namespace, measurement: Measurement, result: dict[str, Any]) -> list[str]:
    """What was asked for; each file whether or not another fails. Why those that failed did."""
    from rdmaorder.errors import RdmaOrderError
    from rdmaorder.flow.report import write_json
    from rdmaorder.pingpong.files import write_hdr
    from rdmaorder.pingpong.plots import plot

    writers: list[Callable[[], object]] = []
    if args.json is not None:
        writers.append(lambda: write_json(args.json, result))
    if args.hdr is not None:
        writers.append(lambda: write_hdr(args.hdr, measurement))
    if args.plot is not None and measurement.runs:
        writers.append(lambda: plot(args.plot, measurement))
    failures = []
    for write in writers:
        try:
            write()
        except (RdmaOrderError, OSError) as error:
            failures.append(str(error))
    return failures


def _compare(args: argparse.Namespace) -> int:
    from rdmaorder.errors import RdmaOrderError
    from rdmaorder.flow.report import write_json
    from rdmaorder.pingpong.compare import compare, load_sides, one_sided, unlike
    from rdmaorder.pingpong.files import check_writable
    from rdmaorder.pingpong.output import Output, open_missing
    from rdmaorder.pingpong.report import print_comparison

    open_missing()
    check_writable((args.json,))
    output = Output()
    before, after = load_sides(args.before, args.after)
    differences = unlike(before, after)
    if args.fail_above is not None:  # what only one side has cannot be said to have passed
        differences += one_sided(before, after)
    if differences and not args.unlike:
        lines = ["not comparable; what differs:", *(f"  {each}" for each in differences)]
        lines += [
            "measure the same in one environment, or give --unlike to compare all the same",
        ]
        output.write("\n".join(lines) + "\n")
        return _ended(output.failures, 3)
    result = compare(before, after, fail_above=args.fail_above)
    failures = []
    if args.json is not None:
        try:
            write_json(args.json, result.to_json())
        except RdmaOrderError as error:
            failures.append(str(error))
    output.show(lambda console: print_comparison(console, result))
    return _ended([*failures, *output.failures], 1 if result.failed else 0)

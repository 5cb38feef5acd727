"""``rdmaorder chaos``: real processes, faults by plan, an audit of every order."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rdmaorder.chaos.audit import Verdict
    from rdmaorder.chaos.plan import Fault
    from rdmaorder.chaos.supervisor import Outcome

__all__ = ["add_parser"]

_DESCRIPTION = """\
Starts a gateway (venue handler, journal) and a strategy that writes a ledger before each send,
kills, stops and disturbs both by a plan drawn from the seed, and lets them come back each time.
Then every order of the ledger is looked up in the gateway's journal and among the reports that
arrived. Exit status 0 only if no order was lost, duplicated, reordered or corrupted, and every fate
is known. docs/operations.md says how to read the result.
"""
_DEFAULT_FAULTS: Final = "100"
_DEFAULT_ORDERS: Final = 50_000


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``chaos`` to the commands."""
    parser = subparsers.add_parser(
        "chaos",
        help="fault suite: kill, stop and disturb gateway and strategy; audit every order",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--transport", choices=("shm", "rdma"), default="shm")
    parser.add_argument("--seed", type=int, metavar="N", help="of plan and orders; default: random")
    parser.add_argument(
        "--orders",
        type=int,
        default=_DEFAULT_ORDERS,
        metavar="N",
        help="at least so many; default 50000",
    )
    parser.add_argument(
        "--faults",
        default=_DEFAULT_FAULTS,
        metavar="LIST",
        help="a number of faults of all kinds (default 100), or KIND[=COUNT],...; "
        "'--faults list' names the kinds",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result to this file")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="run in this new folder and leave everything"
    )
    parser.add_argument("--listen", metavar="URL", help="rdma: what the gateway listens on")
    parser.add_argument("--connect", metavar="URL", help="rdma: what the strategy connects to")
    parser.add_argument(
        "--interface",
        action="append",
        default=[],
        metavar="NAME",
        help="rdma: network interface that faults of the wire disturb; may be repeated",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from rdmaorder._outputs import check_writable
    from rdmaorder.chaos import plan
    from rdmaorder.errors import InputError

    if args.faults == "list":
        for kind in plan.KINDS.values():
            print(f"{kind.name:24} {'/'.join(kind.transports):9} {kind.what}")
        return 0
    if not 1 <= args.orders <= 10_000_000:
        raise InputError(f"--orders must be 1 .. 10000000, not {args.orders}")
    if args.seed is not None and args.seed < 0:
        raise InputError(f"--seed must be 0 or above, not {args.seed}")
    if args.transport == "rdma" and not (args.listen and args.connect):
        raise InputError(
            "--transport rdma: give --listen rdma://HOST:PORT (with ?device=... where there are "
            "several) and --connect with what the strategy uses"
        )
    check_writable((args.json,))
    seed = args.seed if args.seed is not None else time.time_ns() % 1_000_000
    counts, skipped = _possible(args, plan.parse_faults(args.faults, args.transport))
    faults = plan.make_plan(counts, seed)
    folder = _new_folder(args.keep)
    failed = False
    try:
        outcome, verdict = _carry_out(args, folder, seed, faults)
        failed = bool(outcome.failures) or not verdict.clean
        outcome.skipped.update(skipped)
        result = _result(args, seed, counts, outcome, verdict)
        _print_result(result, verdict, outcome, folder)
        if args.json is not None:
            from rdmaorder.flow.report import write_json

            write_json(args.json, result)
    finally:
        if not failed and args.keep is None:
            shutil.rmtree(folder)
    return 1 if failed else 0


def _possible(
    args: argparse.Namespace, counts: dict[str, int]
) -> tuple[dict[str, int], dict[str, str]]:
    """The faults that can be had here, and why not the others."""
    from rdmaorder.chaos.supervisor import DISK_FULL_ORDERS

    skipped = {}
    full = counts.get("disk-full", 0)
    if full and full * DISK_FULL_ORDERS > args.orders // 2:
        able = args.orders // 2 // DISK_FULL_ORDERS
        skipped["disk-full"] = (
            f"{able} of {full}: each takes {DISK_FULL_ORDERS:,} orders to fill what is there"
        )
        counts["disk-full"] = able
    if args.transport == "rdma" and not args.interface:
        for name in ("link-down", "packet-loss", "packet-duplication", "packet-reordering"):
            if counts.pop(name, 0):
                skipped[name] = "no --interface was given"
    return {name: count for name, count in counts.items() if count}, skipped


def _new_folder(keep: Path | None) -> Path:
    """In memory where possible: a disk that writes back stalls the writers of mapped files."""
    from rdmaorder.errors import InputError

    if keep is None:
        shared = Path("/dev/shm")
        return Path(
            tempfile.mkdtemp(prefix="rdmaorder-chaos-", dir=shared if shared.is_dir() else None)
        )
    try:
        keep.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"--keep: cannot be made: {error.strerror}; name a folder that does not exist yet",
            path=str(keep),
        ) from None
    return keep.resolve()


def _carry_out(
    args: argparse.Namespace, folder: Path, seed: int, faults: list[Fault]
) -> tuple[Outcome, Verdict]:
    from rdmaorder.chaos.audit import audit
    from rdmaorder.chaos.network import Network
    from rdmaorder.chaos.strategy import PACES
    from rdmaorder.chaos.supervisor import RunSettings, Supervisor

    listen = args.listen or f"shm://{folder / 'gateway.sock'}"
    settings = RunSettings(
        folder=folder,
        seed=seed,
        orders=args.orders,
        plan=faults,
        listen=listen,
        connect=_without_tls(args.connect) if args.connect else listen,
        pace=PACES[args.transport],
        network=Network(tuple(args.interface)) if args.interface else None,
        progress=_progress(len(faults)),
    )
    outcome = Supervisor(settings).execute()
    return outcome, audit(folder, outcome.unjournalled)


def _without_tls(url: str) -> str:
    """The gateway of a run has no certificate."""
    if not url.startswith("rdma:") or "tls=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}tls=off"


def _progress(total: int) -> Callable[[int, int], None]:
    """A line that is written over, on a terminal; else one for each tenth."""
    on_terminal = sys.stderr.isatty()

    def show(done: int, orders: int) -> None:
        if not on_terminal and done != total and done % max(total // 10, 1):
            return
        end = "\n" if not on_terminal or done == total else "\r"
        print(f"fault {done} of {total}, {orders:,} orders", end=end, file=sys.stderr, flush=True)

    return show


def replay_command(args: argparse.Namespace, seed: int, counts: Mapping[str, int]) -> str:
    """What repeats a run: plan, orders and hostile bytes; not the moment of each instruction."""
    faults = ",".join(f"{name}={count}" for name, count in sorted(counts.items()))
    words = ["rdmaorder", "chaos", "--transport", args.transport, "--seed", str(seed)]
    words += ["--orders", str(args.orders), "--faults", faults or "0"]
    for name in ("listen", "connect"):
        if getattr(args, name):
            words += [f"--{name}", getattr(args, name)]
    for interface in args.interface:
        words += ["--interface", interface]
    return shlex.join(words)


def _result(
    args: argparse.Namespace,
    seed: int,
    counts: Mapping[str, int],
    outcome: Outcome,
    verdict: Verdict,
) -> dict[str, Any]:
    import numpy as np

    times = np.array(outcome.recovery_ms or [0.0])
    return {
        "transport": args.transport,
        "seed": seed,
        "orders": verdict.orders,
        "faults": dict(sorted(outcome.faults.items())),
        "kills": outcome.kills,
        **verdict.violations,
        "recovery_ms": {
            "p50": round(float(np.percentile(times, 50)), 3),
            "p99": round(float(np.percentile(times, 99)), 3),
            "max": round(float(times.max()), 3),
        },
        "recoveries": len(outcome.recovery_ms),
        "journalled": verdict.journalled,
        "reports": verdict.reports,
        "fates": verdict.fates,
        "skipped": outcome.skipped,
        "failures": [*outcome.failures, *verdict.details],
        "duration_s": round(outcome.duration_s, 3),
        "replay": replay_command(args, seed, counts),
    }


def _print_result(
    result: Mapping[str, Any], verdict: Verdict, outcome: Outcome, folder: Path
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['transport']}, seed {result['seed']}")
    table.add_column("")
    table.add_column("count", justify="right")
    for name, count in result["faults"].items():
        table.add_row(name, f"{count:,}")
    table.add_section()
    table.add_row("faults", f"{sum(result['faults'].values()):,}")
    table.add_row("processes killed", f"{result['kills']:,}")
    table.add_row("orders in the ledger", f"{result['orders']:,}")
    for name, count in verdict.fates.items():
        table.add_row(f"  {name}", f"{count:,}")
    table.add_row("reports seen", f"{result['reports']:,}")
    table.add_section()
    for name, count in verdict.violations.items():
        table.add_row(name, f"{count:,}", style="bold red" if count else "")
    console = Console()
    console.print(table)
    times = result["recovery_ms"]
    print(
        f"recovery, from a fault to the next order answered: p50 {times['p50']:.1f} ms, "
        f"p99 {times['p99']:.1f} ms, max {times['max']:.1f} ms; {result['duration_s']:.1f} s in all"
    )
    for name, why in outcome.skipped.items():
        print(f"skipped {name}: {why}")
    for failure in result["failures"]:
        print(f"FAILURE {failure}\n  replay: {result['replay']}")
    if result["failures"]:
        print(f"everything is in {folder}")
    print("FAIL" if result["failures"] else "PASS")

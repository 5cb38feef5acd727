"""The ``rdmaorder`` command. Each module of this package adds one subcommand."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from rdmaorder import __version__
from rdmaorder.cli import (
    chaos,
    demo,
    devices,
    gateway,
    journal,
    kill,
    pingpong,
    reconcile,
    replay,
    stat,
)
from rdmaorder.errors import RdmaOrderError

__all__ = ["main"]


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="rdmaorder", description="Order-path messaging over RDMA and shared memory."
    )
    parser.add_argument("--version", action="version", version=f"rdmaorder {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (gateway, kill, replay, reconcile, journal, stat, pingpong, devices, demo, chaos):
        module.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status. Errors of the user are one line on stderr."""
    parsed = build_parser().parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
        sys.stdout.flush()
    except RdmaOrderError as error:
        print(f"rdmaorder: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe has left: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return status

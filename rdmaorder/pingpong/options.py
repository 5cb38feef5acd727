"""Options that contradict each other, or that nothing would heed: said before anything starts."""

from __future__ import annotations

import argparse

from rdmaorder.errors import ConfigError

__all__ = ["check_options"]


def check_options(args: argparse.Namespace) -> None:
    """Raises ConfigError naming the option, its value and what to give instead."""
    if args.listen is not None and args.to is not None:
        raise ConfigError("--listen and --to are the two ends: give one of them")
    if args.rate is not None and args.replay is not None:
        raise ConfigError("--rate and --replay are two ways to pace: give one of them")
    if args.to is not None and args.transport not in (None, args.to.partition(":")[0]):
        raise ConfigError(f"--transport {args.transport} contradicts --to {args.to}: leave it out")
    server, remote = args.listen is not None, args.to is not None
    both_rdma = not server and not remote and args.transport == "rdma"
    replays = args.replay is not None
    to_rdma = remote and args.to.startswith("rdma:")
    in_url = "it is for --transport rdma; a server's is in its URL, rdma://…?device=DEV"
    for option, value, heeded, remedy in (
        ("--once", args.once or None, server, "it is a server's; give it beside --listen"),
        ("--server-cpu", args.server_cpu, not remote, "the server has its own; give --cpu there"),
        ("--journal", args.journal, not remote, "the server has its own; give it there"),
        ("--address", args.address, both_rdma, "it is for --transport rdma; else a URL has it"),
        ("--server-device", args.server_device, both_rdma, in_url),
        ("--device", args.device, both_rdma or (to_rdma and not server), in_url),
        ("--speed", args.speed, replays, "it is that of --replay FILE; give both"),
        ("--format", args.file_format, replays, "it is that of --replay FILE; give both"),
    ):
        if value is not None and not heeded:
            raise ConfigError(f"{option}{'' if value is True else f' {value}'}: {remedy}")

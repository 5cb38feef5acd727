"""Faults of the wire, by netem on one network interface. Needs root and iproute2."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rdmaorder.errors import SystemFailure

__all__ = ["Network"]

#: Nothing passes, both ways of a cable pulled; or as much harm as a link survives.
_NETEM: Final = {
    "link-down": ("loss", "100%"),
    "packet-loss": ("loss", "30%"),
    "packet-duplication": ("duplicate", "50%"),
    "packet-reordering": ("delay", "2ms", "reorder", "25%", "50%"),
}


class Network:
    """One or more interfaces whose outgoing packets can be disturbed."""

    def __init__(self, interfaces: tuple[str, ...]) -> None:
        self._interfaces = interfaces
        if shutil.which("tc") is None:
            raise SystemFailure("faults of the wire need the command tc: install iproute2")

    @contextmanager
    def disturbed(self, kind: str) -> Iterator[None]:
        """A kind of plan.KINDS, for the time of the block."""
        try:
            for interface in self._interfaces:
                _tc("replace", interface, "netem", *_NETEM[kind])
            yield
        finally:
            for interface in self._interfaces:
                _tc("del", interface)


def _tc(action: str, interface: str, *words: str) -> None:
    command = ["tc", "qdisc", action, "dev", interface, "root", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemFailure(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")

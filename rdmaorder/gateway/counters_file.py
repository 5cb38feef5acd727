"""Where a gateway's counters file is, and whose."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import tempfile
from pathlib import Path

__all__ = ["default_path", "file_at"]


def default_path(listen_path: str | None) -> str:
    """Of a gateway that was told none. In memory, not on a disk: the kernel stalls writers of
    mapped pages that it is writing back."""
    name = Path(listen_path or "gateway").name.removesuffix(".sock")
    shared = Path("/dev/shm")
    folder = shared if shared.is_dir() else Path(tempfile.gettempdir())
    stem = f"rdmaorder-{os.geteuid()}-{name}-"
    _remove_left(folder, stem)
    path = folder / f"{stem}{os.getpid()}.counters"
    numbers = itertools.count(2)
    while path.exists():  # of another gateway in this process
        path = folder / f"{stem}{os.getpid()}.{next(numbers)}.counters"
    return str(path)


def _remove_left(folder: Path, stem: str) -> None:
    """Counters of gateways of this name that were killed: the next one takes their place."""
    left = re.compile(re.escape(stem) + r"([0-9]+)(\.[0-9]+)?\.counters")
    for path in folder.iterdir():
        match = left.fullmatch(path.name)
        if match is None:
            continue
        if int(match[1]) != os.getpid() and Path(f"/proc/{match[1]}").exists():
            continue
        with contextlib.suppress(OSError), path.open("rb") as file:
            # Locked if it is this process's own, or that of one which lives where none is seen.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def file_at(path: str) -> tuple[int, int] | None:
    """Which file has this name now."""
    try:
        info = os.lstat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino

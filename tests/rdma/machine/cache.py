"""A folder that several machines at once may fill, use and tidy."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

# Debug leftovers of machines that failed; a success removes its own.
_LOGS_KEPT = 10


def folder() -> Path:
    """Where kernels, images and logs live; RDMAORDER_RDMA_CACHE names another place."""
    named = os.environ.get("RDMAORDER_RDMA_CACHE")
    if named:
        return Path(named).resolve()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).resolve() / "rdmaorder" / "rxe"


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Only one process prepares at a time. The kernel drops the lock of one that dies."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def hold(path: Path) -> int:
    """Open `path` under a shared lock, so that `tidy` leaves it; close the descriptor to let go."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def made_whole(target: Path, make: Callable[[Path], None]) -> Path:
    """`target`, made by `make` under another name and renamed, so that it is there whole or not."""
    if target.exists():
        os.utime(target)  # tidy keeps what was used last
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    _remove(draft)
    try:
        make(draft)
        draft.rename(target)
    finally:
        _remove(draft)
    return target


def tidy(files: Iterable[Path], keep: int) -> None:
    """Remove all but the `keep` last used of `files`, except those a machine holds."""
    by_use = sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)
    for file in by_use[keep:]:
        with file.open("rb") as handle, contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()


def sweep_drafts(where: Path) -> None:
    """Remove what a process killed half-way left; call it under `locked`."""
    if where.is_dir():
        for draft in where.glob(".*"):
            _remove(draft)


def new_log(cache: Path) -> Path:
    """A path for one machine's kernel log."""
    logs = cache / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for old in sorted(logs.glob("*.log"), key=lambda log: log.stat().st_mtime)[:-_LOGS_KEPT]:
        old.unlink(missing_ok=True)
    return logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"


def fingerprint(paths: Iterable[Path], extra: str = "") -> str:
    """Hash of names, kinds, sizes and times of `paths`; changes when any of them does."""
    digest = hashlib.sha256(extra.encode())
    for path in paths:
        state = path.lstat()
        facts = (state.st_mode, state.st_size, state.st_mtime_ns)
        digest.update(f"{path}\0{facts}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:20]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

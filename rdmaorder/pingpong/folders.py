"""Folders that are gone with the process that made them: at its end, or if it was killed, when the
next one wants a folder in the same place."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rdmaorder.errors import SystemFailure

__all__ = ["journal_folder", "own_folder"]

_PREFIX = "rdmaorder-pingpong-"
#: The folder itself is for a gateway to lock, which has its socket there.
_LOCK = ".owner"


@contextlib.contextmanager
def own_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new folder in ``parent`` (the one for temporary files). OSError where none can be made.

    A lock on it lasts as long as this process, whoever ends that and however.
    """
    root = Path(tempfile.gettempdir()) if parent is None else parent
    _remove_abandoned(root)
    folder, lock = _make(root)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def journal_folder(given: str | None, default: Path) -> Iterator[Path]:
    """For journals: as large as they are, they go with whoever made them. A new one in ``given``,
    else ``default``. SystemFailure where none can be made."""
    with contextlib.ExitStack() as stack:
        folder = default
        if given is not None:
            try:
                Path(given).mkdir(parents=True, exist_ok=True)
                folder = stack.enter_context(own_folder(Path(given)))
            except OSError as error:
                raise SystemFailure(
                    f"--journal {given}: {error.strerror}; name a folder that can be written",
                    error_number=error.errno or 0,
                ) from None
        yield folder


def _make(root: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with contextlib.suppress(OSError):  # a file system without locks keeps what is left
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder, lock
        os.close(lock)  # taken for abandoned before it was locked: once more


def _remove_abandoned(root: Path) -> None:
    """Those of this user that nobody has locked."""
    for folder in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)

"""Files that a command writes when it is done."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rdmaorder.errors import InputError

__all__ = ["check_writable"]


def check_writable(paths: Iterable[Path | None]) -> None:
    """What would spoil the run at its end is found before it."""
    for path in paths:
        if path is None:
            continue
        folder = path.absolute().parent
        if path.is_dir():
            raise InputError("cannot be written: it is a folder", path=str(path))
        if not folder.is_dir():
            raise InputError(f"cannot be written: {folder} is no folder", path=str(path))
        _try_to_write(path)


def _try_to_write(path: Path) -> None:
    """Asking for permissions is not enough: root has them where a file system takes no file."""
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", path=str(path)) from None

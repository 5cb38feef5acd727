"""The strategy side's record of a run: every message sent, every report received, byte for byte.

An .npz file of plain arrays (no pickles): ``version``, ``names``, ``first_sequences``, and for the
session at index i ``sent_i`` (SLOT, the message with sequence first_sequences[i] first) and
``received_i`` (REPORT_RECORD, in order of arrival).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rdmaorder.errors import InputError
from rdmaorder.messages import REPORT_RECORD, SLOT

__all__ = ["SessionLedger", "load_ledger", "save_ledger"]

Records = npt.NDArray[np.void]

_VERSION = 1


@dataclass(slots=True)
class SessionLedger:
    """One session's part."""

    name: str
    first_sequence: int
    sent: Records  #: SLOT, without commit words; sequences grow by 1 from first_sequence
    received: Records  #: REPORT_RECORD


def save_ledger(path: Path, sessions: list[SessionLedger]) -> None:
    """Writes the file, replacing one that is there. Raises InputError when it cannot."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "version": np.array(_VERSION),
        "names": np.array([session.name for session in sessions], np.str_),
        "first_sequences": np.array([session.first_sequence for session in sessions], np.uint64),
    }
    for index, session in enumerate(sessions):
        # Structured dtypes with raw fields have no portable .npy form of their own: bytes have.
        arrays[f"sent_{index}"] = session.sent.view(np.uint8).reshape(-1, SLOT.itemsize)
        arrays[f"received_{index}"] = session.received.view(np.uint8).reshape(
            -1, REPORT_RECORD.itemsize
        )
    try:
        with path.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise InputError(f"ledger cannot be written: {error.strerror}", path=str(path)) from None


def _records(stored: npt.NDArray[np.uint8], dtype: np.dtype[np.void], what: str) -> Records:
    if stored.dtype != np.uint8 or stored.ndim != 2 or stored.shape[1] != dtype.itemsize:
        raise ValueError(f"{what} is no array of {dtype.itemsize}-byte records")
    return np.ascontiguousarray(stored).reshape(-1).view(dtype)


def load_ledger(path: Path) -> list[SessionLedger]:
    """Reads the file back. Raises InputError when it is no ledger."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            version = int(stored["version"])
            if version != _VERSION:
                raise ValueError(f"version {version} is not {_VERSION}, the one read here")
            return [
                SessionLedger(
                    str(name),
                    int(first),
                    _records(stored[f"sent_{index}"], SLOT, f"sent_{index}"),
                    _records(stored[f"received_{index}"], REPORT_RECORD, f"received_{index}"),
                )
                for index, (name, first) in enumerate(
                    zip(stored["names"], stored["first_sequences"], strict=True)
                )
            ]
    except OSError as error:
        raise InputError(
            f"ledger cannot be read: {error.strerror or error}", path=str(path)
        ) from None
    except Exception as error:  # zipfile and numpy raise whatever comes over damaged bytes
        raise InputError(f"is no ledger of a replay: {error}", path=str(path)) from None

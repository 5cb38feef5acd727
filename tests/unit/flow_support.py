"""Small recordings for tests of replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rdmaorder.flow.formats import read_flow
from rdmaorder.flow.table import Flow

HEADER = "t_ns,msg,order_id,side,price,qty,sym\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read_csv(folder: Path, body: str, **options: Any) -> Flow:
    """The flow of a file in this project's own form; ``body`` is what follows the header."""
    return read_flow(write(folder / "flow.csv", HEADER + body), **options)

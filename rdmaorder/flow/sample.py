"""The recording the demo replays: fetched from the package that ships it, kept in a cache folder.

ob-analytics 0.1.0 (GPL-2.0-or-later) has half an hour of Bitstamp's BTC/USD orders as sample data.
Its two files are taken out of the archive as data; none of its code is installed or run.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rdmaorder.errors import InputError

__all__ = ["cache_folder", "fetch_sample"]

_PACKAGE = "ob-analytics == 0.1.0"
_FILES = {
    "orders.csv.gz": "880501e94fb43942b7f98cbc37bab421d72703d85898aae8de5da117bf62cdfc",
    "trades.csv": "9fd0dd86023b71eed49026b9b8e8a45d06d2578ced69393ad696f37233e9c795",
}
_FOLDER_IN_ARCHIVE = "ob_analytics/_sample_data"
_DOWNLOAD_TIMEOUT_S = 300


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/rdmaorder``, or ``~/.cache/rdmaorder``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "rdmaorder"


def _is_intact(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def fetch_sample(folder: Path | None = None) -> Path:
    """Path of ``orders.csv.gz``, its ``trades.csv`` beside it; downloads what is not there yet.

    ``folder``: where to keep them (default: below cache_folder()). Raises InputError with the
    remedy when the package cannot be had or does not hold what it should.
    """
    folder = folder if folder is not None else cache_folder() / _PACKAGE.replace(" == ", "-")
    if not all(_is_intact(folder / name, digest) for name, digest in _FILES.items()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                _unpack(_download(Path(scratch)), Path(scratch), folder)
        except OSError as error:
            raise InputError(
                f"cannot keep the sample data: {error.strerror}", path=str(folder)
            ) from None
    return folder / "orders.csv.gz"


def _download(scratch: Path) -> Path:
    # None of its code runs here, so whatever Python that code asks for does not matter.
    options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    options += ["--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(scratch), _PACKAGE]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S, check=False
        )
        cause = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    except subprocess.TimeoutExpired:
        cause = [f"no answer in {_DOWNLOAD_TIMEOUT_S} s"]
    wheels = list(scratch.glob("*.whl"))
    if cause or len(wheels) != 1:
        why = " ".join(cause) or "pip brought no wheel"
        raise InputError(
            f"cannot download {_PACKAGE}, which has the recording: {why}. "
            "Check the network and pip, or replay a recording of your own with rdmaorder replay"
        )
    return wheels[0]


def _unpack(archive: Path, scratch: Path, folder: Path) -> None:
    for name, digest in _FILES.items():
        try:
            with zipfile.ZipFile(archive) as package:
                content = package.read(f"{_FOLDER_IN_ARCHIVE}/{name}")
        except (KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"has no sample data: {error}", path=archive.name) from None
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            raise InputError(f"{name} has sha256 {found}, not {digest}", path=archive.name)
        (scratch / name).write_bytes(content)
        (scratch / name).replace(folder / name)

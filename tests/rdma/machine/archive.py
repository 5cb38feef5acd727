"""A package from Debian's own archive, for hosts whose apt does not offer it.

Over HTTPS; the package has the checksum that the archive's index gives.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from .failure import MachineFailure

ARCHIVE = "https://deb.debian.org/debian"
_INDEX = "dists/bookworm/main/binary-amd64/Packages.xz"
_TIMEOUT_S = 60
_BLOCK_BYTES = 1 << 20


def fetch_newest(package: re.Pattern[str], folder: Path) -> Path:
    """The .deb of the newest package whose name matches, its first group a number, in `folder`."""
    index = f"{ARCHIVE}/{_INDEX}"
    try:
        with urllib.request.urlopen(index, timeout=_TIMEOUT_S) as stream, lzma.open(stream) as text:
            offered = {int(match[1]): fields for match, fields in _stanzas(text, package)}
        if not offered:
            raise MachineFailure(f"{index} has no package {package.pattern}")
        chosen = offered[max(offered)]
        file = folder / Path(chosen["Filename"]).name
        digest = _download(f"{ARCHIVE}/{chosen['Filename']}", file)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise MachineFailure(f"{ARCHIVE} does not give it: {error}") from None
    except (KeyError, UnicodeDecodeError) as error:
        raise MachineFailure(f"{index} cannot be read: {error}") from None
    if digest != chosen["SHA256"]:
        file.unlink()
        raise MachineFailure(f"{file.name} has sha256 {digest}, not {chosen['SHA256']}")
    return file


def _stanzas(
    text: lzma.LZMAFile, package: re.Pattern[str]
) -> Iterator[tuple[re.Match[str], dict[str, str]]]:
    """Of every package whose name matches: the match and its fields."""
    matched = None
    fields: dict[str, str] = {}
    for line in text:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "Package":
            matched = package.fullmatch(value)
        if matched:
            fields[name] = value
        if matched and not name:  # the empty line behind a stanza
            yield matched, fields
            matched, fields = None, {}
    if matched:
        yield matched, fields


def _download(url: str, file: Path) -> str:
    """Writes what is at `url` into `file`; its SHA-256."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as stream, file.open("wb") as out:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            out.write(block)
    return digest.hexdigest()

"""The kernel's package from Debian's archive: here one of our own, in a folder."""

from __future__ import annotations

import hashlib
import lzma
import re
from pathlib import Path

import pytest
from machine import archive
from machine.failure import MachineFailure

PACKAGE = re.compile(r"linux-image-6\.1\.0-(\d+)-amd64-unsigned")


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive with two kernels and more; the folder it lies in."""
    folder = tmp_path / "debian"
    (folder / "dists/bookworm/main/binary-amd64").mkdir(parents=True)
    names = ["linux-image-6.1.0-9-amd64-unsigned", "linux-image-6.1.0-47-amd64-unsigned"]
    others = ["linux-image-6.1.0-99-amd64-unsigned-dbg", "linux-image-6.1.0-99-cloud-amd64", "zsh"]
    stanzas = []
    for name in [*names, *others]:
        content = f"the package {name}".encode()
        (folder / f"{name}.deb").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        stanzas.append(f"Package: {name}\nFilename: {name}.deb\nSHA256: {digest}\n\n")
    write_index(folder, "".join(stanzas))
    monkeypatch.setattr(archive, "ARCHIVE", folder.as_uri())
    return folder


def write_index(folder: Path, text: str) -> None:
    (folder / archive._INDEX).write_bytes(lzma.compress(text.encode()))


def test_the_newest_by_its_number_is_fetched(debian: Path, tmp_path: Path) -> None:
    file = archive.fetch_newest(PACKAGE, tmp_path)
    assert file == tmp_path / "linux-image-6.1.0-47-amd64-unsigned.deb"
    assert file.read_text() == "the package linux-image-6.1.0-47-amd64-unsigned"


def test_another_checksum_than_the_indexs_is_refused_and_nothing_kept(
    debian: Path, tmp_path: Path
) -> None:
    (debian / "linux-image-6.1.0-47-amd64-unsigned.deb").write_text("something else")
    with pytest.raises(MachineFailure, match=r"47-amd64-unsigned\.deb has sha256 \w{64}, not"):
        archive.fetch_newest(PACKAGE, tmp_path)
    assert list(tmp_path.glob("*.deb")) == []


@pytest.mark.parametrize(
    ("index", "complaint"),
    [
        (None, "does not give it"),
        (b"no xz", "does not give it"),
        (lzma.compress(b"Package: zsh\n\n"), "has no package"),
        (lzma.compress(b"Package: linux-image-6.1.0-1-amd64-unsigned\n\n"), "'Filename'"),
        (lzma.compress(b"Package: linux-image-6.1.0-1-amd64-unsigned\n\n")[:-20], "not give it"),
    ],
)
def test_an_archive_without_the_package_says_so(
    debian: Path, tmp_path: Path, index: bytes | None, complaint: str
) -> None:
    if index is None:
        (debian / archive._INDEX).unlink()
    else:
        (debian / archive._INDEX).write_bytes(index)
    with pytest.raises(MachineFailure, match=complaint):
        archive.fetch_newest(PACKAGE, tmp_path)

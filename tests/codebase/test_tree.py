"""The shape of the tree: what lies where, how big, and what must be said once only."""

from __future__ import annotations

import re
from pathlib import Path

import house
import pytest

TOP_LEVEL = {
    *("pyproject.toml", "setup.py", "CMakeLists.txt", "CMakePresets.json", "Makefile"),
    *("README.md", "LICENSE", "CHANGELOG.md"),
    *("rdmaorder", "cpp", "benchmarks", "tests", "docs"),
}
SOURCE_SUFFIXES = (".py", ".pyi", ".cpp", ".hpp")
TEXT_SUFFIXES = (*SOURCE_SUFFIXES, ".md", ".toml", ".txt", ".json", ".xml", ".yml")
MOST_LINES = 500
# In pieces, so that this file does not trip over itself.
MARKS = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")
LEFT_FOR_LATER = re.compile(rf"\b({'|'.join(MARKS)})\b")
SOURCE_FILES = list(
    house.files("cpp", "rdmaorder", "tests", "benchmarks", suffixes=SOURCE_SUFFIXES)
)


def test_the_top_level_holds_what_it_should() -> None:
    shown = {
        path.name
        for path in house.ROOT.iterdir()
        if not path.name.startswith(".") and not house.LEFT_BEHIND.search(path.name)
    }
    # An unpacked sdist has two files more.
    assert shown - TOP_LEVEL <= {"PKG-INFO", "setup.cfg"}
    assert TOP_LEVEL - shown == set()


def test_no_source_file_is_longer_than_five_hundred_lines() -> None:
    long = {}
    for path in SOURCE_FILES:
        count = len(path.read_text(encoding="utf-8").splitlines())
        if count > MOST_LINES:
            long[house.name(path)] = count
    assert long == {}


def test_nothing_is_left_for_later_in_the_sources() -> None:
    found = [
        f"{house.name(path)}:{number}: {line.strip()}"
        for path in house.files(suffixes=TEXT_SUFFIXES)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if LEFT_FOR_LATER.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("path", SOURCE_FILES, ids=house.name)
def test_a_source_file_is_plain_text_of_the_house(path: Path) -> None:
    text = path.read_bytes().decode("utf-8")
    assert "\t" not in text, "tabs"
    assert "\r" not in text, "carriage returns"
    assert text == "" or text.endswith("\n"), "no newline at the end"


def test_the_version_stands_in_one_place() -> None:
    version = (house.ROOT / "rdmaorder/VERSION").read_text(encoding="utf-8")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", version), "MAJOR.MINOR.PATCH, for CMake reads it too"
    looked_at = [
        *house.files("cpp", "rdmaorder", suffixes=SOURCE_SUFFIXES),
        *(house.ROOT / name for name in ("pyproject.toml", "setup.py", "CMakeLists.txt")),
    ]
    # A version between quotes; 0.1.0 inside a longer dotted number is an address.
    quoted = re.compile(rf"[\"'=]{re.escape(version.strip())}[\"'\s]")
    assert [house.name(p) for p in looked_at if quoted.search(p.read_text(encoding="utf-8"))] == []


def test_python_extension_and_package_tell_the_same_version() -> None:
    import rdmaorder
    from rdmaorder import _core

    version = (house.ROOT / "rdmaorder/VERSION").read_text(encoding="utf-8").strip()
    assert rdmaorder.__version__ == version
    assert _core.__version__ == version


def test_the_golden_folder_holds_what_its_page_says() -> None:
    page = (house.ROOT / "tests/golden/README.md").read_text(encoding="utf-8")
    kept = {path.name for path in house.files("tests/golden")} - {"README.md"}
    assert kept == set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))


def test_the_licence_is_the_one_the_package_names() -> None:
    licence = (house.ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert 'license = "Apache-2.0"' in (house.ROOT / "pyproject.toml").read_text(encoding="utf-8")

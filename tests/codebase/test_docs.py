"""The documentation keeps pace: links lead somewhere, examples parse, commands exist."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import house
import pytest

PAGES = [
    house.ROOT / "README.md",
    house.ROOT / "CHANGELOG.md",
    *house.files("docs", suffixes=(".md",)),
]
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```([a-z]*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SHELL = ("sh", "bash", "console")


def prose(path: Path) -> str:
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def blocks(path: Path, *languages: str) -> Iterator[str]:
    for language, body in _FENCE.findall(path.read_text(encoding="utf-8")):
        if language in languages:
            yield body


def anchors(path: Path) -> set[str]:
    """The fragment names that a page's headings get where it is shown."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.strip().lower())
        found.add(plain.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=house.name)
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    dead = []
    for link, picture in _LINK.findall(prose(page)):
        target = link or picture
        if re.match(r"[a-z]+:", target):
            continue
        file, _, fragment = target.partition("#")
        goal = (page.parent / file).resolve() if file else page
        if not goal.exists() or (fragment and fragment not in anchors(goal)):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=house.name)
def test_every_python_example_parses(page: Path) -> None:
    for body in blocks(page, "python"):
        ast.parse(body)


@pytest.mark.parametrize("page", PAGES, ids=house.name)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    makefile = (house.ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")))
    for body in blocks(page, *_SHELL):
        named |= set(re.findall(r"^\s*\$?\s*make ([a-z-]+)", body, re.MULTILINE))
    assert named - targets == set()


def test_no_unit_has_a_comment_behind_a_value_which_systemd_takes_for_part_of_it() -> None:
    units = [body for page in PAGES for body in blocks(page, "ini")]
    assert units
    assert [
        line for body in units for line in body.splitlines() if re.search(r"[^#].*#", line)
    ] == []


@functools.cache
def help_text(*words: str) -> str:
    """What `rdmaorder WORDS --help` prints, or nothing where there is no such command."""
    command = [sys.executable, "-m", "rdmaorder", *words, "--help"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=house.ROOT, check=False)
    return run.stdout if run.returncode == 0 else ""


@pytest.mark.parametrize("page", PAGES, ids=house.name)
def test_every_command_in_an_example_exists_with_its_options(page: Path) -> None:
    wrong = []
    for body in blocks(page, *_SHELL, "ini"):
        for line in body.replace("\\\n", " ").splitlines():
            match = re.match(
                r"\s*(?:\$|ExecStart=/\S+/)?\s*rdmaorder ([a-z]+(?: [a-z]+)?)(.*)", line
            )
            if match is None:
                continue
            command = f"rdmaorder {match[1]}"
            shown = help_text(*match[1].split())
            if not shown:
                wrong.append(command)
            options = re.findall(r"(?<=\s)--?[a-z][a-z-]*", match[2].split(" #")[0])
            wrong += [
                f"rdmaorder {match[1]} {o}" for o in options if not re.search(rf"{o}\b", shown)
            ]
    assert wrong == []

"""How the codebase tests look at the tree: plain files, so that an unpacked sdist passes too."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CPP_SUFFIXES = (".cpp", ".hpp")
# Folders that tools and runs leave behind; never part of the project.
LEFT_BEHIND = re.compile(
    r"(^|/)(\.venv|\.git|build|dist|demo-out|__pycache__|\.cache|\.hypothesis|\.benchmarks"
    r"|\.(mypy|ruff|pytest)_cache|[^/]*\.egg-info)(/|$)"
)
_INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.MULTILINE)


def files(*folders: str, suffixes: tuple[str, ...] = ()) -> Iterator[Path]:
    """Project files under `folders` (the root when none is named), in a stable order."""
    for folder in folders or (".",):
        for here, below, names in os.walk(ROOT / folder):
            inside = [each for each in sorted(below) if not LEFT_BEHIND.search(each)]
            # At the top, dot folders are tools' and editors' but for these two.
            at_top = Path(here) == ROOT
            below[:] = [b for b in inside if not at_top or b[0] != "." or b in (".ci", ".make")]
            for file in sorted(names):
                if file.startswith(".") or LEFT_BEHIND.search(file):
                    continue
                if Path(file).suffix not in (".so", ".pyc") and file.endswith(suffixes or ""):
                    yield Path(here) / file


def name(path: Path) -> str:
    """The path as the project speaks of it: relative to the root."""
    return path.relative_to(ROOT).as_posix()


def includes(path: Path) -> list[tuple[str, bool]]:
    """(what is included, whether in angle brackets) for each #include of a file."""
    found = _INCLUDE.findall(path.read_text(encoding="utf-8"))
    return [(target, bracket == "<") for bracket, target in found]

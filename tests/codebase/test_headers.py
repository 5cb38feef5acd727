"""A public header can be included first, alone, by anyone, without a warning."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import house
import pytest

INCLUDE = house.ROOT / "cpp/include"
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
HEADERS = [path.relative_to(INCLUDE).as_posix() for path in house.files("cpp/include")]


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler (g++ or CXX)")
@pytest.mark.parametrize("header", HEADERS)
def test_a_public_header_compiles_alone(header: str) -> None:
    command = [
        *(str(COMPILER), "-std=c++20", "-fsyntax-only", "-x", "c++", "-I", str(INCLUDE)),
        *("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-"),
    ]
    # Twice: the second inclusion shows a missing guard.
    source = f'#include "{header}"\n#include "{header}"\n'
    run = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("header", HEADERS)
def test_a_public_header_starts_with_its_contract(header: str) -> None:
    lines = (INCLUDE / header).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("//"), "say what the header is for before the first line of code"
    assert "#pragma once" in lines


def test_the_public_headers_are_headers() -> None:
    assert [name for name in HEADERS if Path(name).suffix != ".hpp"] == []

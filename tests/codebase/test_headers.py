"""Public headers stand alone; no file leans on what one standard library happens to include."""

from __future__ import annotations

import os
import re
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
        *("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-"),
    ]
    # Twice: the second inclusion shows a missing guard.
    source = f'#include "{header}"\n#include "{header}"\n'
    run = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler (g++ or CXX)")
def test_an_older_standard_is_refused_by_name() -> None:
    command = [str(COMPILER), "-std=c++17", "-fsyntax-only", "-x", "c++", "-I", str(INCLUDE), "-"]
    source = '#include "rdmaorder/session.hpp"\n'
    run = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    first_error = next(line for line in run.stderr.splitlines() if "error" in line)
    assert "need C++20" in first_error


@pytest.mark.parametrize("header", HEADERS)
def test_a_public_header_starts_with_its_contract(header: str) -> None:
    lines = (INCLUDE / header).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("//"), "say what the header is for before the first line of code"
    assert "#pragma once" in lines


def test_the_public_headers_are_headers() -> None:
    assert [name for name in HEADERS if Path(name).suffix != ".hpp"] == []


# What a standard library may or may not bring along with other headers, and the next one does not.
_STANDARD_NAMES = {
    "algorithm": r"std::(all_of|any_of|clamp|copy|count_if|equal|fill|find_if|max|min|sort)\(",
    "array": r"std::array\b",
    "atomic": r"std::atomic",
    "bit": r"std::(bit_cast|bit_ceil|bit_width|countr_zero|endian|has_single_bit|popcount)\b",
    "cerrno": r"\berrno\b",
    "chrono": r"std::chrono\b",
    "cstddef": r"std::(byte|ptrdiff_t|size_t)\b",
    "cstdint": r"std::u?int(8|16|32|64|ptr|max)_t",
    "cstdio": r"std::(f?printf|snprintf|FILE)\b",
    "cstring": r"std::(memcmp|memcpy|memmove|memset|strcmp|strerror|strlen)\b",
    "exception": r"std::(exception|exception_ptr|current_exception|rethrow_exception)\b",
    "functional": r"std::function\b",
    "initializer_list": r"std::initializer_list",
    "iterator": r"std::(back_inserter|distance|next)\(",
    "limits": r"std::numeric_limits",
    "memory": r"std::(make_shared|make_unique|shared_ptr|unique_ptr)\b",
    "mutex": r"std::(lock_guard|mutex|scoped_lock|unique_lock)\b",
    "new": r"std::(align_val_t|bad_alloc|launder|nothrow)\b",
    "optional": r"std::(nullopt|optional)\b",
    "span": r"std::span\b",
    "string": r"std::(string|to_string)\b",
    "string_view": r"std::string_view",
    "thread": r"std::(this_thread|thread)\b",
    "tuple": r"std::(tie|tuple)\b",
    "utility": r"std::(as_const|exchange|forward|move|pair|swap)\b",
    "variant": r"std::(get_if|holds_alternative|variant|visit)\b",
    "vector": r"std::vector",
}
_QUOTED_FROM = [house.ROOT / "cpp/include", house.ROOT / "cpp/src", house.ROOT / "tests/cpp"]


def _brought_along(path: Path) -> set[str]:
    """Standard headers that a file includes, by itself or through the project's own headers."""
    found: set[str] = set()
    seen, left = {path}, [path]
    while left:
        here = left.pop()
        for target, angled in house.includes(here):
            beside = [folder / target for folder in (here.parent, *_QUOTED_FROM)]
            own = next((each.resolve() for each in beside if each.exists()), None)
            if angled or own is None:
                found.add(target)
            elif own not in seen:
                seen.add(own)
                left.append(own)
    return found


@pytest.mark.parametrize("folder", ["cpp", "tests/cpp"])
def test_standard_names_come_from_their_own_headers(folder: str) -> None:
    missing = []
    for path in house.files(folder, suffixes=house.CPP_SUFFIXES):
        code = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
        there = _brought_along(path)
        for header, names in _STANDARD_NAMES.items():
            named = re.search(names, code)
            if named and header not in there:
                missing.append(f"{house.name(path)}: {named.group()} without <{header}>")
    assert missing == []

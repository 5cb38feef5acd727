"""What is shipped: the sdist holds everything and builds where it is unpacked."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import house
import pytest

BUILD_MODULES = ("setuptools", "pybind11", "cmake", "ninja")
MISSING = [name for name in BUILD_MODULES if importlib.util.find_spec(name) is None]


def run(*command: str, cwd: Path) -> str:
    """Runs a build step and gives its output; a failure shows the end of it."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of a copy of this tree, unpacked far from it."""
    folder = tmp_path_factory.mktemp("sdist")
    copy = folder / "copy"
    for path in house.files():
        target = copy / house.name(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    run(sys.executable, "setup.py", "-q", "sdist", "-d", str(folder / "dist"), cwd=copy)
    (archive,) = (folder / "dist").glob("rdmaorder-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder)  # our own archive
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.mark.skipif(MISSING != [], reason=f"not installed: {', '.join(MISSING)}")
class TestSourceDistribution:
    def test_it_holds_every_file_of_the_project(self, unpacked: Path) -> None:
        here = [house.name(path) for path in house.files()]
        assert [name for name in here if not (unpacked / name).is_file()] == []

    def test_it_builds_a_wheel_that_works_alone(self, unpacked: Path, tmp_path: Path) -> None:
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-index")
        run(*pip, "--no-deps", "--no-build-isolation", "-w", str(tmp_path), ".", cwd=unpacked)
        (wheel,) = tmp_path.glob("rdmaorder-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
            archive.extractall(tmp_path / "installed")
        package = {name for name in names if name.startswith("rdmaorder/")}
        sources = {house.name(path) for path in house.files("rdmaorder", suffixes=(".py", ".pyi"))}
        data = {"rdmaorder/VERSION", "rdmaorder/py.typed", "rdmaorder/schema/orders.xml"}
        assert (sources | data) - package == set()
        others = package - sources - data
        assert [name.split(".")[0] for name in others] == ["rdmaorder/_core"]
        # Neither the checkout nor an editable install of it may answer for the wheel.
        probe = (
            f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r})\n"
            "sys.meta_path = [f for f in sys.meta_path if 'Editable' not in str(f)]\n"
            "import rdmaorder, rdmaorder._core as core; print(core.__file__, rdmaorder.__version__)"
        )
        where, version = run(sys.executable, "-I", "-c", probe, cwd=tmp_path).split()
        assert Path(where).is_relative_to(tmp_path)
        assert version == wheel.name.split("-")[1]


STRATEGY = """
#include "rdmaorder/error.hpp"
#include "rdmaorder/session.hpp"

int main(int count, char** words) {
  unsigned char total = count;  // not for our warnings to judge
  int unused;
  rdmaorder::SessionConfig config;
  config.connect.url = words[1];
  config.connect.session = "alpha";
  const auto session = rdmaorder::Session::connect(config);
  rdmaorder::wire::NewOrder order{};
  order.instrument = total;
  std::uint64_t sequence = 0;
  return session->try_new_order(order, &sequence) == rdmaorder::Status::kOk ? 0 : 1;
}
"""


@pytest.mark.skipif("cmake" in MISSING or "ninja" in MISSING, reason="not installed: cmake, ninja")
def test_a_program_takes_the_library_in_with_flags_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "strategy.cpp").write_text(STRATEGY, encoding="utf-8")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(strategy CXX)\n"
        f'add_subdirectory("{house.ROOT}" rdmaorder EXCLUDE_FROM_ALL)\n'
        "add_executable(strategy strategy.cpp)\n"
        "target_link_libraries(strategy PRIVATE rdmaorder::core)\n",
        encoding="utf-8",
    )
    run("cmake", "-S", ".", "-B", "build", "-G", "Ninja", cwd=tmp_path)
    settings = (tmp_path / "build" / "CMakeCache.txt").read_text(encoding="utf-8")
    assert "RDMAORDER_PYTHON:BOOL=OFF" in settings
    assert "RDMAORDER_WERROR:BOOL=OFF" in settings
    run("ninja", "-C", "build", "CMakeFiles/strategy.dir/strategy.cpp.o", cwd=tmp_path)
    links = run("ninja", "-C", "build", "-t", "query", "strategy", cwd=tmp_path)
    assert "rdmaorder/librdmaorder_core.a" in links


def test_every_linter_is_pinned_for_one_that_moves_breaks_builds_that_changed_nothing() -> None:
    text = (house.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (needs,) = re.findall(r"^lint = \[(.*)\]$", text, re.MULTILINE)
    assert [need for need in needs.split(", ") if "==" not in need] == []

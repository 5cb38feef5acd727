"""Runs CMake for the extension; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# What an sdist needs beyond the package: the sources, and what a developer runs from them.
SDIST_TREES = ("cpp", "tests", "benchmarks", "docs", ".make", ".ci")
SDIST_FILES = ("CMakeLists.txt", "CMakePresets.json", "Makefile", "CHANGELOG.md", ".clang-format")


def sdist_files() -> list[str]:
    """Every file of the source trees, relative to the root, without what runs leave behind."""
    found = [ROOT / name for name in SDIST_FILES]
    for tree in SDIST_TREES:
        found += [path for path in sorted((ROOT / tree).rglob("*")) if path.is_file()]
    return [
        path.relative_to(ROOT).as_posix()
        for path in found
        if "__pycache__" not in path.parts and path.suffix not in (".pyc", ".so")
    ]


class CMakeBuild(build_ext):
    """Builds `rdmaorder._core` in a build folder that stays, so that the next build is short."""

    def get_source_files(self) -> list[str]:
        return sdist_files()

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        folder = ROOT / "build" / f"python-{sys.implementation.cache_tag}"
        folder.mkdir(parents=True, exist_ok=True)
        # An isolated build runs from a temporary environment; no path into it may be kept.
        (folder / "CMakeCache.txt").unlink(missing_ok=True)
        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"),
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            "-DRDMAORDER_WERROR=OFF",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        quiet = {} if self.verbose else {"stdout": subprocess.DEVNULL}
        jobs = [f"-j{self.parallel}"] if self.parallel else []
        try:
            subprocess.run(configure, check=True, **quiet)
            subprocess.run(
                ["cmake", "--build", str(folder), *jobs, "--target", "_core"], check=True
            )
        except FileNotFoundError:
            sys.exit("rdmaorder: cmake and ninja are needed to build: pip install cmake ninja")
        except subprocess.CalledProcessError as error:
            sys.exit(f"rdmaorder: the C++ build failed (status {error.returncode}); see above")
        # Copied, not linked there: each place would be a link of its own, with its optimisation.
        output.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(folder / output.name), str(output))


setup(
    ext_modules=[Extension("rdmaorder._core", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)

"""Importing the package does nothing, and its leaves stay leaves."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import house
import pytest

PACKAGE = house.ROOT / "rdmaorder"
LEAVES = ("doctor", "bench", "monitor", "pingpong", "chaos")
# Only these may know a leaf: the command line hands a user to it.
MAY_USE_LEAVES = ("cli",)


def module_name(path: Path) -> str:
    parts = list(path.relative_to(house.ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = list(house.files("rdmaorder", suffixes=(".py",)))
MODULES = [module_name(path) for path in SOURCES if path.stem != "__main__"]


def imported(path: Path) -> set[str]:
    """Absolute names of what a module imports, at any depth of the file."""
    here = module_name(path).split(".")
    package = here if path.stem == "__init__" else here[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found |= {stem} | {f"{stem}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("leaf", LEAVES)
def test_nothing_below_the_command_line_imports_a_leaf(leaf: str) -> None:
    users = []
    for path in SOURCES:
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part in (leaf, *MAY_USE_LEAVES):
            continue
        if any(f"{name}.".startswith(f"rdmaorder.{leaf}.") for name in imported(path)):
            users.append(house.name(path))
    assert users == []


def test_nothing_imports_the_command_line() -> None:
    users = [
        house.name(path)
        for path in SOURCES
        if path.relative_to(PACKAGE).parts[0] not in ("cli", "__main__.py")
        and any(f"{name}.".startswith("rdmaorder.cli.") for name in imported(path))
    ]
    assert users == []


# What runs in the probe: an audit hook notes whatever an import does to the world outside.
PROBE = """
import importlib, json, os, sys, threading, warnings
warnings.simplefilter("error")
with_own_effects = ("numpy", "msgpack")
for name in with_own_effects:
    importlib.import_module(name)
seen = []
acts = {"subprocess.Popen", "os.system", "os.fork", "os.exec", "os.posix_spawn", "os.mkdir",
        "os.remove", "os.rename", "os.putenv", "socket.bind", "socket.connect", "signal.signal"}
def hook(event, args):
    if event in acts:
        seen.append(event)
    elif event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
        seen.append(f"open for writing {args[0]}")
sys.dont_write_bytecode = True
environment = dict(os.environ)
descriptors = len(os.listdir("/proc/self/fd"))
sys.addaudithook(hook)
importlib.import_module(sys.argv[1])
seen += [f"thread {t.name}" for t in threading.enumerate() if t is not threading.main_thread()]
threads = len(os.listdir("/proc/self/task"))
if dict(os.environ) != environment:
    seen.append("os.environ changed")
if len(os.listdir("/proc/self/fd")) != descriptors:
    seen.append("a descriptor stays open")
print(json.dumps({"seen": seen, "threads": threads,
                  "heavy": sorted({"matplotlib", "rich", "prometheus_client"} & set(sys.modules))}))
"""


@pytest.mark.parametrize("module", MODULES)
def test_importing_a_module_has_no_side_effects(module: str) -> None:
    # numpy's BLAS starts its own threads; one keeps the count of ours exact.
    run = subprocess.run(
        [sys.executable, "-c", PROBE, module],
        capture_output=True,
        text=True,
        cwd=house.ROOT,
        env={"PATH": "/usr/bin:/bin", "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"seen": [], "threads": 1, "heavy": []}
    assert run.stderr == ""

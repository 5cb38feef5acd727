"""What the guest reads often, as uncompressed squashfs images; the rest it reads over 9p.

9p costs about a millisecond for each name looked up, so `import numpy, asyncio, ssl` takes 16 s
over it. An image is read in blocks from the host's page cache. Images are kept by the names, sizes
and times of the files inside.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import cache, packages
from .failure import MachineFailure

_KEPT_PER_KIND = 2
# Of a checkout: what tools leave behind, and what is shown over 9p instead.
_TOOLS_LEAVE = {".cache", ".hypothesis", ".benchmarks", ".mypy_cache", ".ruff_cache"}
_TOOLS_LEAVE |= {".pytest_cache", "dist", "demo-out"}
CHECKOUT_LEFT_OUT = frozenset({".git", ".venv", "build"} | _TOOLS_LEAVE)
_STDLIB_LEFT_OUT = frozenset(["test", "idlelib", "turtledemo", "ensurepip"])
# Programs and data put over the 9p root, with the libraries that `ldd` names for them.
_PROGRAMS = """
    bash sh env cat ls sleep timeout date mkdir rm kill stty nproc tail head grep
    ip tc ss ping rdma modprobe lsmod tcpdump tshark dumpcap
    ibv_devices ibv_devinfo ibv_rc_pingpong rping ib_write_lat ib_write_bw ib_send_lat
"""
_DATA = (
    "/etc/ld.so.cache",
    "/etc/libibverbs.d",
    "/etc/nsswitch.conf",
    "/usr/lib/locale/C.utf8",
    "/usr/share/wireshark",
)


@dataclass
class Image:
    """One image file, and the folders of the host that it shows whole."""

    file: Path
    trees: list[Path] = field(default_factory=list)


def tools(where: Path, pythons: list[Path]) -> Image:
    """Programs and their libraries at their own places."""
    found = [packages.program(name) for name in _PROGRAMS.split()]
    seeds = [Path(path) for path in found if path] + pythons
    for python in pythons:
        seeds += sorted(stdlib(python).glob("lib-dynload/*.so"))
    seeds += sorted(Path("/usr/lib").glob("*/libibverbs/*.so"))
    seeds += [Path(data) for data in _DATA if Path(data).exists()]
    # Libraries change by packages and ldconfig only.
    known = [*seeds, Path("/var/lib/dpkg/status"), Path("/etc/ld.so.cache")]
    key = cache.fingerprint([path for path in known if path.exists()])
    return Image(_image(where, "tools", key, lambda: (list(_with_links(seeds)), [])))


def python(where: Path, pythons: list[Path], venv: Path | None) -> Image:
    """Standard libraries, Debian's Python packages and the virtual environment."""
    trees = [stdlib(each) for each in pythons]
    trees += [Path("/usr/lib/python3"), *([venv] if venv else [])]
    trees = sorted({tree.resolve() for tree in trees if tree.is_dir()})
    left_out = []
    for tree in trees:
        if tree != venv:
            left_out += [path for path in tree.iterdir() if path.name in _STDLIB_LEFT_OUT]
            # Empty but there: the host's own is put on it.
            left_out += (tree / "site-packages").glob("*")
    return _of_trees(where, "python", trees, left_out)


def checkout(where: Path, root: Path) -> Image:
    """The checkout's sources and built extension as they are now."""
    left_out = [path for path in root.iterdir() if path.name in CHECKOUT_LEFT_OUT]
    return _of_trees(where, "checkout", [root], left_out)


def stdlib(python: Path) -> Path:
    """Where a Python interpreter has its standard library."""
    if python == Path(sys.executable):
        return Path(sysconfig.get_path("stdlib"))
    ask = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    asked = subprocess.run([python, "-I", "-S", "-c", ask], capture_output=True, text=True)
    if asked.returncode != 0:
        raise MachineFailure(f"{python} does not run: {asked.stderr.strip()}")
    return Path(asked.stdout.strip())


def _of_trees(where: Path, kind: str, trees: list[Path], left_out: list[Path]) -> Image:
    skipped = set(left_out)
    inside = (path for tree in trees for path in _walk(tree, skipped))
    key = cache.fingerprint(inside, extra=repr(sorted(map(str, left_out))))
    return Image(_image(where, kind, key, lambda: (trees, left_out)), trees)


def _walk(tree: Path, skipped: set[Path]) -> Iterator[Path]:
    """Every file and folder that an image of `tree` holds, in a stable order."""
    yield tree
    for here, below, names in os.walk(tree):
        folder = Path(here)
        below[:] = sorted(name for name in below if folder / name not in skipped)
        yield from (folder / name for name in below)
        yield from (folder / name for name in sorted(names) if folder / name not in skipped)


def _image(
    where: Path, kind: str, key: str, content: Callable[[], tuple[list[Path], list[Path]]]
) -> Path:
    """images/KIND-KEY.squashfs, made unless it is there. Call it under the cache's lock."""
    folder = where / "images"
    cache.sweep_drafts(folder)

    def make(draft: Path) -> None:
        sources, left_out = content()
        _squash(sources, left_out, draft)

    made = cache.made_whole(folder / f"{kind}-{key}.squashfs", make)
    cache.tidy(folder.glob(f"{kind}-*.squashfs"), keep=_KEPT_PER_KIND)
    return made


def _squash(sources: list[Path], left_out: list[Path], target: Path) -> None:
    command = [packages.required_program("mksquashfs"), *map(str, sources), str(target)]
    # Nothing compressed: an emulated processor unpacks slowly, the host's disk is quick.
    command += ["-noI", "-noD", "-noF", "-noX", "-no-strip", "-no-exports"]
    command += ["-quiet", "-no-progress"]
    if left_out:
        command += ["-e", *map(str, left_out)]  # last: it takes all words that follow
    made = subprocess.run(command, capture_output=True, text=True)
    # Files may vanish while it reads (another build in the checkout): it says so and goes on.
    if made.returncode != 0 or not target.exists():
        raise MachineFailure(f"mksquashfs failed: {(made.stderr or made.stdout).strip()}")


def _with_links(seeds: list[Path]) -> Iterator[Path]:
    """Seeds and their libraries, each with every link that leads to it."""
    listed = subprocess.run(["ldd", *map(str, seeds)], capture_output=True, text=True).stdout
    libraries = (word for word in listed.split() if word[0] == "/" and word[-1] != ":")
    seen: set[Path] = set()
    for path in [*seeds, *map(Path, libraries)]:
        step = path
        while True:
            # The folder's real name: a link such as /lib must not become a folder in the image.
            step = step.parent.resolve() / step.name
            if step in seen or not step.exists():
                break
            seen.add(step)
            yield step
            if not step.is_symlink():
                break
            step = step.parent / step.readlink()

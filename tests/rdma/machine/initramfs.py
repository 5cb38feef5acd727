"""The initial file system: busybox, the modules, the guest's scripts and what this run is to do."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import packages
from .images import CHECKOUT_LEFT_OUT, Image
from .kernel import Kernel

GUEST = Path(__file__).resolve().parent.parent / "guest"


@dataclass(frozen=True)
class Job:
    """What runs inside, in the words of guest/agent.py."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    home: str
    tty: bool
    size: tuple[int, int]  # rows and columns of the terminal

    def to_bytes(self) -> bytes:
        """Fields with a NUL after each, as guest/agent.py's Job reads them."""
        fields = [self.cwd, self.home, "tty" if self.tty else "pipes", *map(str, self.size)]
        fields += [str(len(self.argv)), *self.argv]
        fields += [f"{name}={value}" for name, value in self.env.items()]
        return b"".join(os.fsencode(field) + b"\0" for field in fields)


def plan(images: dict[str, Image], root: Path, kernel: Kernel, shares: list[Path]) -> str:
    """The mounts, in the words of guest/init; device names follow the order of `images`."""
    lines = [f"image {name} vd{'abcdef'[index]}" for index, name in enumerate(images)]
    lines.append("root_from tools")
    # The checkout first: its virtual environment is put into it.
    lines.append(f"copy_from checkout {_word(root)}")
    for name in sorted(CHECKOUT_LEFT_OUT & {"build", ".git"}):
        if (root / name).is_dir():
            lines += [f"mkdir -p /new{_word(root / name)}", f"copy {_word(root / name)}"]
    for tree in images["python"].trees:
        lines.append(f"tree_from python {_word(tree)}")
        if (tree / "site-packages").is_dir():
            lines.append(f"folder {_word(tree / 'site-packages')}")
    lines.append(f"copy_at {_word(kernel.module_folder)} /usr/lib/modules/{kernel.version}")
    lines += [f"share share{index} {_word(path)}" for index, path in enumerate(shares)]
    return "\n".join(lines) + "\n"


def build(kernel: Kernel, mounts: str, python: Path, job: Job) -> bytes:
    """A cpio archive (newc) for QEMU's -initrd."""
    files: list[tuple[str, int, bytes]] = [(name, 0o755, b"") for name in ("bin", "modules")]
    files.append(("bin/busybox", 0o755, Path(packages.required_program("busybox")).read_bytes()))
    files += [(f"modules/{module.name}", 0o644, module.read_bytes()) for module in kernel.modules]
    order = "".join(f"{module.name}\n" for module in kernel.modules)
    files += [
        ("modules/order", 0o644, order.encode()),
        ("init", 0o755, (GUEST / "init").read_bytes()),
        ("wire", 0o755, (GUEST / "wire").read_bytes()),
        ("agent.py", 0o644, (GUEST / "agent.py").read_bytes()),
        ("job", 0o600, job.to_bytes()),
        ("plan", 0o644, mounts.encode()),
        ("python", 0o644, f"{python}\n".encode()),
    ]
    return b"".join(_records(files))


def _word(path: Path) -> str:
    return shlex.quote(str(path))


def _records(files: list[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """newc: "070701", 13 words of 8 hex digits, name and content, both padded to 4 bytes."""
    for number, (name, permissions, content) in enumerate([*files, ("TRAILER!!!", 0, b"")], 1):
        folder = permissions and not content and "." not in name
        mode = permissions | (stat.S_IFDIR if folder else stat.S_IFREG)
        path = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device and special device, name, checksum
        words = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % word for word in words) + path
        yield head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4)

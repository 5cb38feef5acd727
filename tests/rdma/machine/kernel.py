"""Debian's stock kernel: fetched from its package, unpacked, its modules put in loading order."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import archive, cache, packages
from .failure import MachineFailure

_PACKAGE = re.compile(r"linux-image-6\.1\.0-(\d+)-amd64-unsigned")
# What the machine needs, in the order of need; their dependencies come from modules.dep.
MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "9p",
    "9pnet_virtio",
    "overlay",
    "squashfs",
    "crc32_generic",  # rxe asks for it by an alias, before there is a modprobe
    "rdma_rxe",
    "ib_uverbs",
    "rdma_ucm",
    "veth",
    "sch_netem",
)


@dataclass(frozen=True)
class Kernel:
    """One unpacked kernel."""

    version: str
    image: Path  # vmlinux, an ELF file
    modules: tuple[Path, ...]  # in loading order
    module_folder: Path  # what belongs at /lib/modules/VERSION


def provide(where: Path, say: Callable[[str], None]) -> Kernel:
    """The newest kernel in the cache, fetched first when there is none."""
    found = _cached(where)
    if found is None:
        say("fetching Debian's kernel")
        cache.made_whole(where / "kernel", lambda draft: _unpack(_fetch(draft), draft))
        found = _cached(where)
    if found is None:
        raise MachineFailure(
            f"{where / 'kernel'} holds no kernel; remove that folder and try again"
        )
    return found


def _cached(where: Path) -> Kernel | None:
    images = list((where / "kernel").glob("vmlinux-*"))
    if not images:
        return None
    version = images[0].name.removeprefix("vmlinux-")
    folder = where / "kernel" / "lib" / "modules" / version
    return Kernel(version, images[0], _in_loading_order(folder), folder)


def _fetch(draft: Path) -> Path:
    """The kernel's .deb: RDMAORDER_RDMA_KERNEL when set, else downloaded into `draft`.

    With apt where it offers it, as on Debian 12, else from Debian's archive.
    """
    draft.mkdir(parents=True)
    named = os.environ.get("RDMAORDER_RDMA_KERNEL")
    if named:
        if not Path(named).is_file():
            raise MachineFailure(f"RDMAORDER_RDMA_KERNEL={named} is no file")
        return Path(named)
    package = _newest() or _after_update()
    if package is None:
        try:
            return archive.fetch_newest(_PACKAGE, draft)
        except MachineFailure as failure:
            raise MachineFailure(
                f"apt offers no linux-image-6.1.0-NN-amd64-unsigned here, and {failure}. Download "
                "that package of Debian 12 and name it: RDMAORDER_RDMA_KERNEL=/path/to/the.deb"
            ) from None
    command = ["apt-get", "-q", "download", package]
    result = subprocess.run(command, cwd=draft, capture_output=True, text=True)
    files = list(draft.glob("*.deb"))
    if result.returncode != 0 or not files:
        raise MachineFailure(f"apt-get download {package} failed: {result.stderr.strip()}")
    return files[0]


def _newest() -> str | None:
    if shutil.which("apt-cache") is None:
        return None
    command = ["apt-cache", "search", "--names-only", "^linux-image-6[.]1[.]0-.*-unsigned$"]
    listed = subprocess.run(command, capture_output=True, text=True).stdout
    numbers = [int(match[1]) for match in map(_PACKAGE.match, listed.splitlines()) if match]
    return f"linux-image-6.1.0-{max(numbers)}-amd64-unsigned" if numbers else None


def _after_update() -> str | None:
    """The same after the package lists have been fetched: a fresh container has none."""
    prefix = packages.as_root()
    if prefix is None or shutil.which("apt-get") is None:
        return None
    packages.apt_get(prefix, "update")
    return _newest()


def _unpack(package: Path, draft: Path) -> None:
    """Fill `draft` with lib/modules/VERSION, as depmod leaves it, and vmlinux-VERSION."""
    unpacked = draft / "unpacked"
    subprocess.run(["dpkg", "-x", package, unpacked], check=True)
    packed = next((unpacked / "boot").glob("vmlinuz-*"), None)
    if packed is None:
        raise MachineFailure(f"{package} holds no boot/vmlinuz-*: is it a kernel's package?")
    version = packed.name.removeprefix("vmlinuz-")
    (unpacked / "lib").rename(draft / "lib")
    depmod = packages.required_program("depmod")
    subprocess.run([depmod, "-b", draft, version], check=True)
    (draft / f"vmlinux-{version}").write_bytes(_vmlinux(packed.read_bytes(), packed))
    shutil.rmtree(unpacked)
    for downloaded in draft.glob("*.deb"):
        downloaded.unlink()


def _vmlinux(image: bytes, name: Path) -> bytes:
    """The ELF kernel inside a bzImage.

    QEMU starts it directly (PVH). The bzImage would unpack itself, which takes ten seconds under
    emulation and two here. Offsets: Documentation/x86/boot.rst, setup_sects, payload_offset and
    payload_length.
    """
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if payload[:6] != b"\xfd7zXZ\0":
        raise MachineFailure(
            f"{name} is not packed with xz; only Debian 12's 6.1 kernels are known"
        )
    # The decompressor object, unlike lzma.decompress, bears the length word after the stream.
    kernel = lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(payload)
    if kernel[:4] != b"\x7fELF":
        raise MachineFailure(f"{name} unpacks to something that is no ELF kernel")
    return kernel


def _in_loading_order(folder: Path) -> tuple[Path, ...]:
    """MODULES and what they depend on, each after its dependencies."""
    needs: dict[str, list[str]] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        module, _, rest = line.partition(":")
        needs[module] = rest.split()
    by_name = {Path(module).stem.replace("-", "_"): module for module in needs}
    order: dict[str, None] = {}  # as a set that keeps its order
    for name in MODULES:
        if name.replace("-", "_") not in by_name:
            raise MachineFailure(f"the kernel in {folder} has no module {name}")
        module = by_name[name.replace("-", "_")]
        # modules.dep lists the nearest dependency first.
        order.update(dict.fromkeys([*reversed(needs[module]), module]))
    return tuple(folder / module for module in order)

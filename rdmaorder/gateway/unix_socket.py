"""The Unix socket under the control plane: listening, who is calling, frames with descriptors."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import stat
import struct
import time
from pathlib import Path

from rdmaorder.errors import ConfigError, SystemFailure
from rdmaorder.gateway.address import MAX_PATH_BYTES
from rdmaorder.gateway.channel import Channel, Frame, PeerGoneError
from rdmaorder.gateway.protocol import WindowGeometry

__all__ = ["UnixChannel", "listen", "peer_process", "window_problem"]

_BACKLOG = 512
_DIRECTORY_LOCK_WAIT_S = 2.0

# <linux/fcntl.h>; not every build of the fcntl module has them.
_F_GET_SEALS = 1034
_F_SEAL_SHRINK = 0x0002
_F_SEAL_GROW = 0x0004
_F_SEAL_WRITE = 0x0008
_F_SEAL_FUTURE_WRITE = 0x0010

#: A frame carries one descriptor at most; room for more only so that they can be told and closed.
_DESCRIPTORS_PER_READ = 4
_DESCRIPTOR_BYTES = array.array("i").itemsize


def peer_process(sock: socket.socket) -> tuple[int, int]:
    """Process id and user id of who made the other end."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    pid, uid, _ = struct.unpack("iII", credentials)
    return pid, uid


class UnixChannel(Channel):
    """Frames and their descriptors."""

    transport = "shm"

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._descriptors: list[int] = []
        self._excess = False
        pid, self.peer_uid = peer_process(sock)
        self.peer = f"pid {pid} uid {self.peer_uid}"

    def _make_frame(self, body: bytes) -> Frame:
        frame = Frame(body, self._descriptors, self._excess)
        self._descriptors, self._excess = [], False
        return frame

    def _read_some(self, count: int) -> bytes:
        chunk, ancillary, flags, _ = self._socket.recvmsg(
            count,
            socket.CMSG_SPACE(_DESCRIPTORS_PER_READ * _DESCRIPTOR_BYTES),
            socket.MSG_CMSG_CLOEXEC,
        )
        self._keep_descriptors(ancillary, flags)
        return chunk

    def _keep_descriptors(self, ancillary: list[tuple[int, int, bytes]], flags: int) -> None:
        for level, kind, data in ancillary:
            if level != socket.SOL_SOCKET or kind != socket.SCM_RIGHTS:
                continue
            received = array.array("i")
            received.frombytes(data[: len(data) - len(data) % _DESCRIPTOR_BYTES])
            for descriptor in received:
                if self._descriptors:
                    os.close(descriptor)
                    self._excess = True
                else:
                    self._descriptors.append(descriptor)
        if flags & socket.MSG_CTRUNC:
            self._excess = True

    async def send(self, frame: bytes, descriptor: int | None = None) -> None:
        ancillary = []
        if descriptor is not None:
            ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor])))
        try:
            sent = self._socket.sendmsg([frame], ancillary, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise PeerGoneError(error.strerror or str(error)) from error
        if sent != len(frame):
            raise PeerGoneError("does not read its socket")

    def close(self) -> None:
        """Closes the socket and whatever descriptors of an unfinished frame. Idempotent."""
        while self._descriptors:
            os.close(self._descriptors.pop())
        super().close()


def window_problem(descriptor: int, window: WindowGeometry) -> str | None:
    """Why ``descriptor`` cannot be the memory that ``window`` describes, or None if it can."""
    try:
        seals = fcntl.fcntl(descriptor, _F_GET_SEALS)
        size_bytes = os.fstat(descriptor).st_size
    except OSError:
        return "the descriptor is not a memfd"
    if seals & (_F_SEAL_SHRINK | _F_SEAL_GROW) != _F_SEAL_SHRINK | _F_SEAL_GROW:
        return "the memfd is not sealed against shrinking and growing (F_SEAL_SHRINK, F_SEAL_GROW)"
    if seals & (_F_SEAL_WRITE | _F_SEAL_FUTURE_WRITE):
        return "the memfd is sealed against writing"
    if size_bytes < window.bytes:
        return f"the memfd holds {size_bytes} bytes, the window is said to have {window.bytes}"
    return None


def listen(path: str, mode: int) -> socket.socket:
    """A listening, non-blocking Unix socket at ``path`` with permission bits ``mode``.

    Replaces the socket file of a gateway that is dead; one that lives is a ConfigError, as is any
    other file. Two gateways that start at once take turns under a lock of the directory.
    """
    encoded = os.fsencode(path)
    if len(encoded) > MAX_PATH_BYTES:
        raise ConfigError(
            f"listen {path}: socket path of {len(encoded)} bytes; the kernel takes at most "
            f"{MAX_PATH_BYTES}, choose a shorter one"
        )
    directory = Path(path).parent
    try:
        directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"listen {path}: directory {directory} cannot be used ({error.strerror}); "
            "create it, or choose another path"
        ) from error
    try:
        _lock_directory(directory_fd, path, directory)
        _remove_stale_socket(path)
        return _bind(path, mode)
    finally:
        os.close(directory_fd)  # gives the lock back


def _lock_directory(directory_fd: int, path: str, directory: Path) -> None:
    end_s = time.monotonic() + _DIRECTORY_LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(directory_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end_s:
                raise ConfigError(
                    f"listen {path}: another process holds a lock on directory {directory}; "
                    "choose a directory of the gateway's own"
                ) from None
            time.sleep(0.01)
        except OSError:
            return  # a file system without locks: simultaneous starts are not told apart there


def _remove_stale_socket(path: str) -> None:
    try:
        kind = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"listen {path}: {error.strerror}; choose another path") from error
    if not stat.S_ISSOCK(kind):
        raise ConfigError(
            f"listen {path}: exists and is not a socket; remove it, or choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        answer = probe.connect_ex(path)
        if answer == errno.ECONNREFUSED:
            Path(path).unlink()
            return
        pid = 0
        if answer == 0:
            pid, _ = peer_process(probe)
    if answer in (0, errno.EAGAIN):
        raise ConfigError(
            f"listen {path}: a live process (pid {pid or 'unknown'}) listens there; "
            "stop it, or choose another path"
        )
    if answer != errno.ENOENT:
        raise ConfigError(
            f"listen {path}: a socket is there already and cannot be probed "
            f"({os.strerror(answer)}); remove it, or choose another path"
        )


def _bind(path: str, mode: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(path)
        Path(path).chmod(mode)  # before listen(): until then nobody can connect
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise SystemFailure(
            f"listen {path}: {error.strerror}; choose a directory this user may write to",
            error_number=error.errno or 0,
        ) from error
    return sock

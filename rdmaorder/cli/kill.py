"""``rdmaorder kill``: the operator's kill switch."""

from __future__ import annotations

import argparse
import contextlib
import errno
import socket
import struct
import sys
from typing import Any

from rdmaorder.errors import ConfigError, Refused, SystemFailure
from rdmaorder.gateway import protocol
from rdmaorder.gateway.config import parse_shm_url

__all__ = ["add_parser"]

_PATIENCE_S = 30
_REMEDIES = {
    errno.ENOENT: "no such socket: is the gateway running, and with this address in listen?",
    errno.ECONNREFUSED: "nobody listens: the gateway that made this socket has ended",
    errno.EACCES: "ask as the gateway's user, or as root",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "kill",
        help="fence a session (or all) at once and cancel its orders",
        description="Takes the link away, cancels every live order with reason kill, and lets the "
        "session have no link until --release, not even after a restart of the gateway. Only the "
        "gateway's own user and root may.",
    )
    parser.add_argument("gateway", metavar="URL", help="shm:///path of the gateway's socket")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--session", metavar="NAME", help="one session")
    which.add_argument("--all", action="store_true", help="every session, those to come included")
    parser.add_argument("--release", action="store_true", help="allow links again instead")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Asks the gateway and says what it did."""
    kind = "OperatorRelease" if arguments.release else "OperatorKill"
    answer = _ask(arguments.gateway, {"type": kind, "session": _chosen(arguments.session)})
    if answer["type"] == "Released":
        print(f"released {answer['sessions']} sessions")
    else:
        print(
            f"killed {answer['sessions']} sessions: fenced in {answer['fence_ns'] / 1e3:.0f} us, "
            f"{answer['canceled']} orders cancelled"
        )
    if not answer["recorded"]:
        print(
            "not written down: the gateway has no journal or cannot write it; "
            "a restart of the gateway undoes this",
            file=sys.stderr,
        )
    return 0


def _chosen(session: str | None) -> str:
    """The request's form of --session: "" asks for every session, so a name must be one."""
    if session is not None and not protocol.is_session_name(session):
        raise ConfigError(f'--session "{session}": is no session name; --all for every session')
    return session or ""


def _ask(url: str, request: dict[str, Any]) -> dict[str, Any]:
    if url.startswith("rdma:"):
        raise ConfigError(
            f"{url}: an operator asks on the gateway's own host, through a Unix socket that "
            "tells who asks; let the gateway listen on one too (--listen shm:///run/gw.sock) and "
            "give that"
        )
    try:
        path = parse_shm_url(url)
    except ValueError as error:
        raise ConfigError(f"{url}: {error}") from None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_PATIENCE_S)
            connection.connect(path)
            with contextlib.suppress(BrokenPipeError):  # refused unread: the answer says why
                connection.sendall(protocol.encode_frame(request))
            (length,) = struct.unpack("<I", _receive(connection, protocol.FRAME_HEADER_BYTES))
            answer = protocol.decode_body(_receive(connection, length))
    except TimeoutError as error:
        raise SystemFailure(
            f"ask the gateway at {path}: no answer in {_PATIENCE_S} s; it is stopped or stuck, and "
            "may still do it when it goes on",
            error_number=errno.ETIMEDOUT,
        ) from error
    except OSError as error:
        raise SystemFailure(
            f"ask the gateway at {path}: {error.strerror}; "
            + _REMEDIES.get(error.errno or 0, "check the path"),
            error_number=error.errno or 0,
        ) from error
    if answer["type"] not in ("Killed", "Released"):
        raise Refused(
            f"the gateway refused, {answer['code']}: {answer['text']}", code=answer["code"]
        )
    return answer


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            raise Refused("the gateway closed the connection without an answer; see its log")
        data += chunk
    return data

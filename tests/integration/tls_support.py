"""Certificates for tests, made by the openssl command, and a strategy's half over TCP."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

from handshake_support import (
    ENDPOINT,
    ESTABLISH,
    NEGOTIATE,
    PATIENCE_S,
    REMOTE_WINDOW,
    Client,
    Running,
)

from rdmaorder.gateway.protocol import decode_body, encode_frame

NEGOTIATE_RDMA = NEGOTIATE | {"transport": "rdma"}
ESTABLISH_RDMA = ESTABLISH | {"window": REMOTE_WINDOW, "endpoint": ENDPOINT}

_VALID = ("-days", "2")
_EXPIRED = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z")

#: PEM files that make_certificates leaves in its directory, without ".pem"; keys beside them.
LEAVES = {
    "gateway": ("ca", _VALID, "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"),
    "other-name": ("ca", _VALID, "subjectAltName=DNS:elsewhere.example"),
    "expired": ("ca", _EXPIRED, "subjectAltName=DNS:localhost,IP:127.0.0.1"),
    "strategy": ("ca", _VALID, "subjectAltName=DNS:strategy"),
    "stranger": ("other-ca", _VALID, "subjectAltName=DNS:strategy"),
}

#: For openssl ca, which alone takes a date that is past in every release (3.5 refuses -days -1).
_AUTHORITY = """[ca]
default_ca = own
[own]
database = index.txt
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
"""


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(
        ("openssl", *arguments), cwd=directory, check=True, capture_output=True, timeout=60
    )


def make_certificates(directory: Path) -> Path:
    """Two authorities (ca, other-ca) and the certificates of LEAVES, NAME.pem and NAME.key."""
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "other-ca"):
        _openssl(
            directory,
            *("req", "-x509", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.pem"),
            *(*_VALID, "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )
    (directory / "index.txt").touch()
    (directory / "ca.cnf").write_text(_AUTHORITY, encoding="ascii")
    for name, (issuer, validity, extension) in LEAVES.items():
        (directory / f"{name}.ext").write_text(extension + "\n", encoding="ascii")
        _openssl(
            directory,
            *("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr"),
            *("-subj", f"/CN={name}"),
        )
        _openssl(
            directory,
            *("ca", "-batch", "-notext", "-config", "ca.cnf", *validity),
            *("-cert", f"{issuer}.pem", "-keyfile", f"{issuer}.key"),
            *("-in", f"{name}.csr", "-extfile", f"{name}.ext", "-out", f"{name}.pem"),
        )
    return directory


class Remote(Client):
    """A strategy over TCP; ``context`` None speaks without TLS."""

    def __init__(self, gateway: Running, context: ssl.SSLContext | None, index: int = 0) -> None:
        host, _, port = gateway.server.urls[index].removeprefix("rdma://").rpartition(":")
        host = host.strip("[]")
        plain = socket.create_connection((host, int(port)), PATIENCE_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket = context.wrap_socket(plain, server_hostname=host) if context else plain
        except BaseException:
            plain.close()
            raise

    def send(self, data: bytes | dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        frame = encode_frame(data) if isinstance(data, dict) else data
        self.socket.sendall(frame)

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        header = self._read(4)
        return (
            (decode_body(self._read(int.from_bytes(header, "little"))), []) if header else ({}, [])
        )

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self.socket.recv(count - len(data))
            if not chunk:
                assert not data, "closed within a frame"
                return b""
            data += chunk
        return data

    def negotiate(self, **changes: Any) -> dict[str, Any]:
        return self.ask(NEGOTIATE_RDMA | changes)

    def connect(self, session: str = "alpha") -> dict[str, Any]:
        assert self.negotiate(session=session)["type"] == "NegotiationResponse"
        answer = self.ask(ESTABLISH_RDMA | {"session": session})
        assert answer["type"] == "EstablishmentAck", answer
        self.send({"type": "Established", "epoch": answer["epoch"]})
        return answer

    def is_closed(self) -> bool:
        try:
            return self.receive() == ({}, [])
        except (ConnectionResetError, ssl.SSLEOFError):
            return True

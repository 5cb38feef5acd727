"""Addresses a gateway listens on. cpp/src/control/url.cpp reads the strategy's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["MAX_PATH_BYTES", "Address", "parse_address", "parse_shm_url"]

#: sun_path has 108 bytes, the last of them zero.
MAX_PATH_BYTES = 107
_FORMS = "write shm:///absolute/path.sock, shm:relative.sock or rdma://HOST:PORT[?key=value&...]"
_HOST = re.compile(r"[A-Za-z0-9._%-]{1,253}", re.ASCII)
_IPV6 = re.compile(r"[A-Za-z0-9._:%-]{1,253}", re.ASCII)

#: Options of the link that may follow "?", with the range of those that are integers.
LINK_OPTIONS: Mapping[str, tuple[int, int] | None] = {
    "device": None,
    "port": (1, 255),
    "gid_index": (0, 255),
    "mtu": (256, 4096),
    "depth": (4, 65_536),
    "inline_bytes": (0, 4096),
    "signal_interval": (1, 32_768),
    "timeout_exponent": (1, 31),
    "retry_count": (1, 6),
    "rnr_retry_count": (0, 6),
    "traffic_class": (0, 255),
    "service_level": (0, 15),
}
_MTUS = (256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Address:
    """One address to listen on: a socket file (shm) or a host and port (rdma)."""

    url: str
    scheme: str
    path: str = ""
    #: Without brackets; a name, an IPv4 or an IPv6 address.
    host: str = ""
    #: 0: any free port, told by ``ControlServer.urls``.
    port: int = 0
    #: Checked options of the link: integers, and ``device`` as a string.
    options: Mapping[str, str | int] = field(default_factory=dict)


def parse_shm_url(url: str) -> str:
    """Path of the Unix socket that ``url`` names. ValueError says what is wrong and what is right.

    >>> parse_shm_url("shm:///run/gw.sock"), parse_shm_url("shm:gw.sock")
    ('/run/gw.sock', 'gw.sock')
    """
    scheme, colon, path = url.partition(":")
    if not colon or scheme != "shm":
        raise ValueError(f"is not an address of shared memory; {_FORMS}")
    path = path.removeprefix("//")
    if not path or path.endswith("/"):
        raise ValueError(f"names no socket file; {_FORMS}")
    if "\0" in path or "?" in path:
        raise ValueError(f"holds a character that no address takes (NUL or '?'); {_FORMS}")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_PATH_BYTES:
        raise ValueError(f"is longer than the {MAX_PATH_BYTES} bytes a socket path may have")
    return path


def parse_address(url: str) -> Address:
    """Reads one URL to listen on. ValueError says what is wrong and what is right.

    >>> parse_address("rdma://[::1]:9000?gid_index=1").port
    9000
    """
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in ("shm", "rdma"):
        raise ValueError(f"is not an address to listen on; {_FORMS}")
    if scheme == "shm":
        return Address(url, scheme, path=parse_shm_url(url))
    if not rest.startswith("//"):
        raise ValueError(f"lacks '//' after its scheme; {_FORMS}")
    authority, _, query = rest[2:].partition("?")
    if authority.startswith("["):
        host, bracket, tail = authority[1:].partition("]")
        if not bracket or ":" not in host or not _IPV6.fullmatch(host):
            raise ValueError(f"has no IPv6 address between its brackets; {_FORMS}")
    else:
        host, colon, tail = authority.partition(":")
        tail = colon + tail
        if ":" in tail[1:]:
            raise ValueError("has more than one ':'; put an IPv6 address into brackets")
        if not _HOST.fullmatch(host):
            raise ValueError(f"names no host; {_FORMS}")
    digits = tail.removeprefix(":")
    if not tail.startswith(":") or not _is_number(digits) or int(digits) > 65_535:
        raise ValueError(f"has no port from 0 to 65535 after its host; {_FORMS}")
    return Address(url, scheme, host=host, port=int(digits), options=_options(query))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9


def _options(query: str) -> dict[str, str | int]:
    options: dict[str, str | int] = {}
    for item in query.split("&") if query else ():
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise ValueError(f"has the option {item!r}; write key=value")
        if key.startswith("tls"):
            raise ValueError(
                f"has the option {key}; a gateway's TLS is set by the keys tls, tls_certificate, "
                "tls_key and tls_client_ca"
            )
        if key not in LINK_OPTIONS:
            known = ", ".join(sorted(LINK_OPTIONS))
            raise ValueError(f"has the unknown option {key!r}; use one of {known}")
        if key in options:
            raise ValueError(f"gives option {key} twice; give it once")
        options[key] = _option(key, value)
    return options


def _option(key: str, value: str) -> str | int:
    limits = LINK_OPTIONS[key]
    if limits is None:
        if not value:
            raise ValueError(f"has option {key} without a value; give one or leave it out")
        return value
    low, high = limits
    if not _is_number(value) or not low <= int(value) <= high:
        raise ValueError(f"has option {key} = {value!r}; use an integer from {low} to {high}")
    if key == "mtu" and int(value) not in _MTUS:
        raise ValueError(f"has option mtu = {value!r}; use 256, 512, 1024, 2048 or 4096")
    return int(value)

"""Listening sockets of a gateway: one for each address, each making its kind of channel."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from rdmaorder.errors import ConfigError
from rdmaorder.gateway import tcp_socket, unix_socket
from rdmaorder.gateway.address import Address
from rdmaorder.gateway.channel import Channel
from rdmaorder.gateway.config import GatewayConfig
from rdmaorder.gateway.tcp_socket import TcpChannel, make_tls_context
from rdmaorder.gateway.unix_socket import UnixChannel

__all__ = ["Listener", "open_listeners"]

_log = logging.getLogger(__name__)


class Listener:
    """A listening, non-blocking socket and the kind of channel its connections get."""

    def __init__(
        self, sock: socket.socket, url: str, make_channel: Callable[[socket.socket], Channel]
    ) -> None:
        self.socket = sock
        self.url = url
        self.make_channel = make_channel

    def close(self) -> None:
        """Idempotent."""
        self.socket.close()


class _UnixListener(Listener):
    """Removes its socket file, unless a successor has put its own there."""

    def __init__(self, sock: socket.socket, address: Address) -> None:
        super().__init__(sock, address.url, UnixChannel)
        self._path = Path(address.path)
        status = self._path.stat()
        self._identity = (status.st_dev, status.st_ino)

    def close(self) -> None:
        if self.socket.fileno() >= 0:
            with contextlib.suppress(OSError):  # removed by somebody: nothing is left to clean up
                status = self._path.stat()
                if (status.st_dev, status.st_ino) == self._identity:
                    self._path.unlink()
        super().close()


def open_listeners(config: GatewayConfig, allowed_uids: Iterable[int]) -> tuple[Listener, ...]:
    """Listens on every address of ``config``, or on none: raises ConfigError or SystemFailure
    naming the address or the setting at fault."""
    make_tcp_channel = _tcp_channels(config)
    listeners: list[Listener] = []
    try:
        for address in config.addresses:
            if address.scheme == "shm":
                # Other users can only connect to a socket they may write to; SO_PEERCRED decides.
                others = set(allowed_uids) - {os.geteuid(), 0}
                sock = unix_socket.listen(address.path, 0o666 if others else 0o600)
                listeners.append(_UnixListener(sock, address))
            else:
                for sock, url in tcp_socket.listen(address):
                    listeners.append(Listener(sock, url, make_tcp_channel(address)))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return tuple(listeners)


def _tcp_channels(
    config: GatewayConfig,
) -> Callable[[Address], Callable[[socket.socket], Channel]]:
    """Reads the TLS files and warns of what is left open."""
    remote = [address.url for address in config.addresses if address.scheme == "rdma"]
    context = None
    if remote and config.tls == "off":
        _log.warning(
            "control: TLS IS OFF on %s: anyone on the network can read, change and forge control "
            "connections; for test networks only",
            ", ".join(remote),
        )
    elif remote:
        if config.tls_certificate is None or config.tls_key is None:
            raise ConfigError(
                f"listen {remote[0]}: tls_certificate and tls_key are not set; give both, or "
                'tls = "off" on a test network'
            )
        context = make_tls_context(config.tls_certificate, config.tls_key, config.tls_client_ca)
        if Path(config.tls_key).stat().st_mode & 0o007:  # a group may be the keys' own (ssl-cert)
            _log.warning(
                "control: %s is the gateway's private key and others may read it: chmod 600",
                config.tls_key,
            )
    if remote and (config.tls == "off" or config.tls_client_ca is None) and not config.all_keyed:
        _log.warning(
            "control: whoever reaches %s may open a session: set tls_client_ca, or a key for each "
            "session and list them in sessions",
            ", ".join(remote),
        )
    return lambda address: lambda sock: TcpChannel(sock, context, dict(address.options))

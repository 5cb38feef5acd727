"""Proof that both sides have a session's key, without sending it.

HMAC-SHA256 under the key; cpp/src/control/authenticate.hpp lists the bytes it is over, as does
docs/control-plane.md.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass

from rdmaorder.gateway.protocol import LAYOUT_VERSION, NONCE_BYTES, PROTOCOL_VERSION

__all__ = ["KEY_MIN_BYTES", "ProofInput", "client_proof", "gateway_proof", "is_same", "new_nonce"]

#: Shortest key of a session.
KEY_MIN_BYTES = 32


@dataclass(frozen=True)
class ProofInput:
    session: str
    gateway_nonce: bytes
    client_nonce: bytes
    #: Channel.binding().
    binding: bytes


def new_nonce() -> bytes:
    return secrets.token_bytes(NONCE_BYTES)


def client_proof(key: bytes, over: ProofInput) -> bytes:
    """What the strategy sends in Authenticate."""
    return _proof(b"rdmaorder client", key, over)


def gateway_proof(key: bytes, over: ProofInput) -> bytes:
    """What the gateway sends in NegotiationResponse."""
    return _proof(b"rdmaorder server", key, over)


def is_same(one: bytes, other: bytes) -> bool:
    """Takes the same time wherever the two differ."""
    return hmac.compare_digest(one, other)


def _proof(role: bytes, key: bytes, over: ProofInput) -> bytes:
    data = b"".join(
        (
            role,
            struct.pack("<II", PROTOCOL_VERSION, LAYOUT_VERSION),
            _counted(over.session.encode("ascii")),
            over.gateway_nonce,
            over.client_nonce,
            _counted(over.binding),
        )
    )
    return hmac.new(key, data, hashlib.sha256).digest()


def _counted(part: bytes) -> bytes:
    return bytes([len(part)]) + part

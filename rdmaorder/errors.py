"""Every exception this package raises on purpose.

Set-up (connecting, opening journals, reading files) raises with the whole story in the message:
the operation, the object, the cause and the remedy. On the order path the ``try_`` calls return a
``Status``; only the calls that promise delivery raise, and then nothing beyond what the exception
says was written.
"""

from __future__ import annotations

from functools import partial
from typing import Any

__all__ = [
    "BackPressure",
    "ConfigError",
    "ConnectTimeout",
    "Halted",
    "HandshakeError",
    "InputError",
    "JournalError",
    "NotConnected",
    "RdmaOrderError",
    "Refused",
    "SendError",
    "SessionClosed",
    "SystemFailure",
    "TransportError",
]


class RdmaOrderError(Exception):
    """Base of all of them. Catch it where one handler serves every failure of this package."""


class ConfigError(RdmaOrderError, ValueError):
    """A setting is out of its range or contradicts another. Correct the one the message names."""


class SystemFailure(RdmaOrderError, OSError):
    """A system call failed. ``errno`` is its error number; the message names call and object.

    What to do depends on ``errno``: a missing socket means the gateway is not running, ``ENOSPC``
    or ``ENOMEM`` that the machine is out of something, ``EACCES`` that rights are missing.
    """

    def __init__(self, message: str, *, error_number: int = 0) -> None:
        super().__init__(message)
        self.errno = error_number

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), error_number=self.errno or 0), self.args


class HandshakeError(RdmaOrderError):
    """The peer answered, but not with this protocol or version. Check the URL and both versions."""


class Refused(HandshakeError):
    """The gateway understood the request and said no.

    ``code`` is its machine-readable reason, for example ``"DuplicateId"`` or
    ``"VersionMismatch"``. Trying again without changing anything gives the same answer, except for
    codes that name a passing state (a session that is still being torn down).
    """

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class ConnectTimeout(RdmaOrderError, TimeoutError):
    """The gateway accepted the connection but did not finish the handshake in time.

    No link exists and nothing was sent. Trying again is safe.
    """


class SendError(RdmaOrderError):
    """A call of the order path was refused.

    ``sent`` messages of a batch were written before that and will be processed; the one at index
    ``sent`` and all after it were not. 0 for single messages: then nothing was written.
    """

    def __init__(self, message: str, *, sent: int = 0) -> None:
        super().__init__(message)
        self.sent = sent


class TransportError(SendError):
    """A link could not be made, or broke in a way that the message describes. Connect anew."""


class BackPressure(SendError):
    """No credit (or no room under the agreed rate) came free before the deadline.

    Poll, then go on with the message at index ``sent``.
    """


class NotConnected(SendError):
    """There is no link, or the one there is has become suspect.

    What was sent before may or may not have been applied: reconnect and reconcile before sending
    anything that depends on it.
    """


class SessionClosed(SendError):
    """The session was closed, here or by the gateway, or belongs to the process that forked this
    one. Make a new session; one that the gateway ended may also :meth:`Session.reconnect`.
    """


class Halted(SendError):
    """The gateway refuses new orders (kill switch, journal failure). Cancels still pass.

    The session's ``status()`` tells the reason; orders are taken again when an operator resumes.
    """


class JournalError(RdmaOrderError):
    """A journal could not be opened or written, or is damaged. ``errno`` is 0 if no call failed.

    The gateway takes no new orders without its journal. The message names the file and, for
    damage, the position; ``rdmaorder journal`` inspects it.
    """

    def __init__(self, message: str, *, error_number: int = 0) -> None:
        super().__init__(message)
        self.errno = error_number


class InputError(RdmaOrderError, ValueError):
    """A value handed in, or read from a file, cannot be used.

    ``path`` and ``line`` (counted from 1) say where it stood, or are None. The message starts with
    them, so that an editor can jump there.
    """

    def __init__(self, message: str, *, path: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.line = line

    def __str__(self) -> str:
        message = str(self.args[0]) if self.args else ""
        if self.path is None:
            return message
        where = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {message}"

"""A process that serves until SIGTERM or SIGINT, among threads that are not its own."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

__all__ = ["end_signals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def end_signals() -> Iterator[Callable[[], signal.Signals]]:
    """SIGTERM and SIGINT end no thread from here on; gives what waits for the first of them.

    Blocking them is not enough: numpy's threads, made when it is imported, have them unblocked and
    take them in place of a thread that does not. So each is caught, and told by a byte in a pipe
    whichever thread it comes to. The gateway's threads, made meanwhile, do block them: no call of
    theirs is to be interrupted.
    """
    pipe, writer = socket.socketpair()
    writer.setblocking(False)
    fd_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    handlers_before = {each: signal.signal(each, lambda *_: None) for each in _SIGNALS}
    mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def wait() -> signal.Signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        number = 0
        while number not in _SIGNALS:  # the pipe tells of every signal that Python catches
            number = pipe.recv(1)[0]
        for each in _SIGNALS:  # one is enough, until the process is gone
            signal.signal(each, signal.SIG_IGN)
        return signal.Signals(number)

    try:
        yield wait
    except BaseException:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask_before)
        raise
    finally:
        signal.set_wakeup_fd(fd_before)
        pipe.close()
        writer.close()

"""How far a measurement has come, on standard error: one line that is rewritten on a terminal, a
line now and then elsewhere.

Showing it takes time from what is measured, on a small machine from one of the two ends. So there
is one short write a second and no more, by a thread that looks at the array of samples and leaves
the measuring loop alone; when it did is kept, so that an order it held up can be told.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TextIO

from rdmaorder import _core
from rdmaorder.pingpong.output import silence
from rdmaorder.pingpong.runs import Words

__all__ = ["Progress", "sent_count"]

_LIVE_INTERVAL_S = 1.0
_PLAIN_INTERVAL_S = 10.0
_SENT = 1


def sent_count(samples: Words) -> int:
    """How many rows have been filled, from the first: found by halving."""
    low, high = 0, len(samples)
    while low < high:
        middle = (low + high) // 2
        if samples[middle, _SENT]:
            low = middle + 1
        else:
            high = middle
    return low


class Progress:
    """``live``: rewrite one line; without, whole lines; ``stream`` None: nothing at all."""

    def __init__(self, stream: TextIO | None, *, live: bool = False) -> None:
        self._stream = stream
        self._live = live
        self._interval_s = _LIVE_INTERVAL_S if live else _PLAIN_INTERVAL_S
        self._left: list[str] = []
        self._took_s: dict[str, float] = {}
        self._total = self._done = 0
        self._shown = False
        self._cpus = os.sched_getaffinity(0)
        #: When a line was written during the last run, in ticks.
        self.writes: list[tuple[int, int]] = []

    @classmethod
    def on_stderr(cls, *, quiet: bool) -> Progress:
        """As the command shows it."""
        live = sys.stderr.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")
        return cls(None if quiet else sys.stderr, live=live)

    def say(self, text: str) -> None:
        """What happens outside the runs."""
        if self._stream is None:
            return
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r{text[:width]}\x1b[K")
        else:
            self._write(f"rdmaorder pingpong: {text}\n")
        self._shown = self._live

    def _write(self, text: str) -> None:
        """Whoever read it may have left: what is measured goes on."""
        assert self._stream is not None
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            silence(self._stream)

    def clear(self) -> None:
        """Before something else is printed."""
        if self._shown and self._stream is not None:
            self._write("\r\x1b[K")
        self._shown = False

    def runs(self, names: Sequence[str], repeats: int, busy: set[int]) -> None:
        """What is going to be measured, in this order; ``busy`` processors are left alone where
        there are others."""
        self._cpus = (self._cpus - busy) or self._cpus
        self._left = [name for _ in range(repeats) for name in names]
        self._total, self._done = len(self._left), 0

    @contextlib.contextmanager
    def run(
        self, name: str, samples: Words, total: int | None, duration_s: float | None
    ) -> Iterator[None]:
        """The next run. ``total`` orders or ``duration_s``; neither where that is not known."""
        self._done += 1
        self._left = self._left[1:]
        self.writes = []
        head = f"run {self._done} of {self._total}: {name}"
        self.say(head + self._left_text(self._took_s.get(name)))
        started_s = time.monotonic()
        if self._stream is None:
            yield
            return
        over = threading.Event()

        def show() -> None:
            os.sched_setaffinity(0, self._cpus)  # of this thread
            while not over.wait(self._interval_s):
                began = _core.ticks()
                self.say(self._text(head, name, samples, total, duration_s, started_s))
                self.writes.append((began, _core.ticks()))

        watcher = threading.Thread(target=show, name="progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
        self._took_s[name] = time.monotonic() - started_s

    def _text(
        self,
        head: str,
        name: str,
        samples: Words,
        total: int | None,
        duration_s: float | None,
        started_s: float,
    ) -> str:
        elapsed_s = time.monotonic() - started_s
        usual_s = duration_s or self._took_s.get(name)
        text = f"{head}, {elapsed_s:.0f} s" + (f" of {duration_s:g}" if duration_s else "")
        if len(samples):
            sent = sent_count(samples)
            text += f", {sent:,}" + (f" of {total:,}" if total and not duration_s else "")
            text += " orders"
            if total and sent and usual_s is None:
                usual_s = elapsed_s * total / sent
        return text + self._left_text(None if usual_s is None else max(0.0, usual_s - elapsed_s))

    def _left_text(self, this_run_s: float | None) -> str:
        """Time that remains; empty until every name that is left has been measured once."""
        if this_run_s is None or any(name not in self._took_s for name in self._left):
            return ""
        left_s = this_run_s + sum(self._took_s[name] for name in self._left)
        return f", about {left_s:.0f} s left" if left_s >= 1 else ""

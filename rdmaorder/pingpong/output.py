"""Standard output and error, which may be full, closed, or left by whoever read them: what was
measured is kept all the same."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Output", "open_missing", "silence"]


def open_missing() -> None:
    """Streams that were closed before the start go nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123


def silence(stream: TextIO) -> None:
    """Drops what ``stream`` is left with and all that follows: at the exit it would fail again."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


class Output:
    """What goes to standard output. ``failures``: why it does not, where that is an error."""

    def __init__(self) -> None:
        from rich.console import Console

        terminal = sys.stdout.isatty()
        # Tables in a file or a pipe are not cut to the 80 columns that rich assumes there.
        wide = None if terminal or "COLUMNS" in os.environ else 140
        self._text = io.StringIO()
        self._console = Console(
            file=self._text, force_terminal=terminal, highlight=False, width=wide
        )
        self.failures: list[str] = []

    def show(self, print_to: Callable[[Console], None]) -> None:
        """Whatever ``print_to`` prints."""
        print_to(self._console)
        self.write(self._text.getvalue())
        self._text.truncate(0)
        self._text.seek(0)

    def write(self, text: str) -> None:
        """``text`` as it is."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read it has seen enough
            silence(sys.stdout)
        except OSError as error:
            silence(sys.stdout)
            self.failures.append(f"standard output: cannot be written: {error.strerror}")

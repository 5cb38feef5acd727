"""How the machine itself fails, as opposed to the command inside it."""

from __future__ import annotations

# As timeout(1) and docker-run(1) have them; 126 and 127 come from inside, as from a shell.
EXIT_TIME_LIMIT = 124
EXIT_MACHINE = 125


class MachineFailure(Exception):
    """The machine could not be built, booted or kept alive. The text names thing and remedy."""

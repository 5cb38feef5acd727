"""``python -m rdmaorder``: the same as the ``rdmaorder`` command."""

import sys

from rdmaorder.cli import main

if __name__ == "__main__":
    sys.exit(main())

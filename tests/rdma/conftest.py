"""What the tests on soft-RoCE share."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known wherever this folder is collected."""
    config.addinivalue_line("markers", "rdma: needs RDMA devices or boots a machine that has them")

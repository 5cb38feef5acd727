"""Fixtures that every suite shares. A suite's own stay in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout (or unpacked sdist) that these tests belong to."""
    return REPOSITORY


@pytest.fixture(scope="session")
def golden(repository: Path) -> Path:
    """Bytes that earlier builds wrote and every later build must read."""
    return repository / "tests" / "golden"

"""Everything that runs on RDMA devices: one boot (conftest.py), an item for each test there."""

from __future__ import annotations

import pytest
from rdma_suite import CPP_TESTS, Suite

pytestmark = pytest.mark.rdma


def test_on_rdma_devices(suite: Suite, inside: str) -> None:
    """What the test of this name said inside."""
    if inside == "build/dev/rdmaorder_tests":
        pytest.fail(f"{CPP_TESTS} is not built; make test-cpp builds it", pytrace=False)
    result = suite.results.get(inside)
    if result is None:
        pytest.fail(f"it did not run: {suite.end}", pytrace=False)
    if result["outcome"] == "skipped":
        pytest.skip(result["text"])
    if result["outcome"] == "failed":
        pytest.fail(result["text"], pytrace=False)

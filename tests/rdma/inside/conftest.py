"""What the tests on RDMA devices share. They run inside the machine of tests/rdma/run, or natively
(tests/rdma/README.md), started by tests/rdma/test_suite.py."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wire import Wire, find_wire

NETEM_OFF = "qdisc del dev {} root"


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Nothing here has a meaning without devices."""
    return None if config.getoption("--transport") == "rdma" else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What leaves the wire unplugged comes after everything else."""
    items.sort(key=lambda item: item.path.name == "test_unplugged.py")


@pytest.fixture(scope="session")
def wire() -> Wire:
    """The two ends. That there are none fails every test: this suite was asked for."""
    return find_wire()


@pytest.fixture(scope="session")
def soft(wire: Wire) -> Wire:
    """The same, where the wire is ours to cut and to listen on."""
    if os.environ.get("RDMAORDER_RDMA") != "soft-roce":
        pytest.skip("changes the network between the devices: only in the soft-RoCE machine")
    return wire


@pytest.fixture(scope="session")
def out() -> Path:
    """A folder of the host's for what is looked at there."""
    return Path(os.environ["RDMAORDER_RDMA_OUT"])


@pytest.fixture
def netem(soft: Wire) -> Iterator[Callable[..., None]]:
    """``netem("near", "loss", "5%")`` disturbs what that end sends, until the test is over."""

    def disturb(end: str, *words: str) -> None:
        netdev = getattr(soft, end).netdev
        subprocess.run(
            ["tc", "qdisc", "replace", "dev", netdev, "root", "netem", "limit", "100000", *words],
            check=True,
        )

    yield disturb
    for end in (soft.near, soft.far):
        subprocess.run(
            ["tc", *NETEM_OFF.format(end.netdev).split()], stderr=subprocess.DEVNULL, check=False
        )

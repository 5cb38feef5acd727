"""docs/control-plane.md against the code: every message, key, code, setting and byte."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from test_protocol import ENDPOINT, GOLDEN

from rdmaorder.gateway import protocol
from rdmaorder.gateway.address import LINK_OPTIONS
from rdmaorder.gateway.config import GatewayConfig


@pytest.fixture
def page(repository: Path) -> str:
    return (repository / "docs" / "control-plane.md").read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    found = re.search(rf"^## {title}[^\n]*\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section {title}"
    return found[1]


@pytest.mark.parametrize("name", GOLDEN)
def test_every_key_of_every_message_is_documented(page: str, name: str) -> None:
    message = GOLDEN[name]
    title = "Questions on a live link" if "request" in message else message["type"] + r"\b"
    words = set(re.findall(r"`(\w+)`", section(page, title)))
    assert set(message) - {"type"} <= words


def test_every_key_of_a_window_is_documented(page: str) -> None:
    words = set(re.findall(r"^\| `(\w+)` \|", section(page, "Establish"), re.MULTILINE))
    assert {"bytes", "offset_bytes", "slot_bytes", "slot_count", "address", "key"} <= words


def test_every_key_of_an_endpoint_is_documented(page: str) -> None:
    words = set(re.findall(r"^\| `(\w+)` \|", section(page, "Establish"), re.MULTILINE))
    assert set(ENDPOINT) <= words


def test_every_option_of_a_url_is_documented_with_its_range(page: str) -> None:
    text = " ".join(section(page, "Addresses").split())
    for key, limits in LINK_OPTIONS.items():
        shown = f"`{key}` (name)" if limits is None else f"`{key}` ({limits[0]}"
        assert shown in text
        assert limits is None or str(limits[1]) in text


@pytest.mark.parametrize(
    ("title", "codes"),
    [
        ("NegotiationReject", protocol.NEGOTIATION_REJECT_CODES),
        ("EstablishmentReject", protocol.ESTABLISHMENT_REJECT_CODES),
    ],
)
def test_the_table_of_codes_is_the_set_of_codes(
    page: str, title: str, codes: frozenset[str]
) -> None:
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", section(page, title), re.MULTILINE)) == codes


def test_every_setting_is_documented_and_no_other(page: str) -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section(page, "Configuration"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {field.name for field in dataclasses.fields(GatewayConfig)}


def test_the_dumps_are_the_golden_bytes(page: str, golden: Path) -> None:
    dumps = re.findall(r"^`(control-[a-z]+\.bin)`[^`]*```\n(.*?)```", page, re.M | re.S)
    assert len(dumps) == 2
    for name, dump in dumps:
        shown = b"".join(bytes.fromhex(line[6:53]) for line in dump.splitlines())
        assert shown == (golden / name).read_bytes()

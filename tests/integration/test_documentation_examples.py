"""The Python of the documentation runs, against the gateway that the README starts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_support import ROOT, GatewayProcess

from rdmaorder.cli import build_parser

FENCE = re.compile(r"^```([a-z]+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def examples(page: Path, language: str) -> list[str]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [body for name, body in found if name == language]


PAGES_WITH_PYTHON = [page for page in PAGES if examples(page, "python")]


def run(page: Path, folder: Path, **names: object) -> None:
    """Runs the page's examples one after another, with this folder for what they call /tmp."""
    for body in examples(page, "python"):
        code = body.replace("/tmp/", f"{folder}/")
        exec(compile(code, str(page), "exec"), names)


@pytest.fixture
def readme_gateway(
    tmp_path: Path, start_process: Callable[..., GatewayProcess], monkeypatch: pytest.MonkeyPatch
) -> GatewayProcess:
    """What the README's command line starts; the current folder has its journal as "journal"."""
    (line,) = [
        line
        for body in examples(ROOT / "README.md", "sh")
        for line in body.splitlines()
        if line.startswith("rdmaorder gateway ")
    ]
    _, _, *arguments = shlex.split(line.replace("/tmp/", f"{tmp_path}/"))
    parsed = build_parser().parse_args(["gateway", *arguments])
    gateway = start_process(*arguments)
    monkeypatch.chdir(tmp_path)
    Path("journal").symlink_to(parsed.journal)
    return gateway


@pytest.mark.parametrize(
    "page", PAGES_WITH_PYTHON, ids=[str(page.relative_to(ROOT)) for page in PAGES_WITH_PYTHON]
)
def test_the_examples_of_a_page_run(
    page: Path, tmp_path: Path, readme_gateway: GatewayProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = ROOT / "README.md"
    run(readme, tmp_path)
    output = capsys.readouterr().out
    # The new order is answered, then its cancel; how many of the two one poll finds is open.
    assert output.splitlines()[:1] == ["1 48 0"]
    if page != readme:
        run(page, tmp_path, path=readme_gateway.counters_path)

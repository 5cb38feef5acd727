"""What ``rdmaorder pingpong`` measured is kept, whatever cannot be shown or written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_support import PATIENCE_S, ROOT, eventually
from pingpong_support import COMMAND, FEW, listening, measured, pingpong, worker_of

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="two spinning ends need two processors"
)
SHOWN = FEW[:-1]  # with progress


@pytest.fixture
def left_pipe() -> Iterator[int]:
    """The end of a pipe that its reader has left."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def run(*arguments: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], text=True, cwd=ROOT, timeout=120, check=False, **streams
    )


def test_a_full_standard_output_costs_the_tables_alone(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    with Path("/dev/full").open("w") as full:
        done = run(*FEW, "--json", str(out), stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (
        2,
        "rdmaorder: error: standard output: cannot be written: No space left on device\n",
    )
    assert json.loads(out.read_text())["complete"]


def test_readers_that_have_left_are_no_failure(tmp_path: Path, left_pipe: int) -> None:
    out = tmp_path / "out.json"
    done = run(*SHOWN, "--json", str(out), stdout=left_pipe, stderr=subprocess.PIPE)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert json.loads(out.read_text())["complete"]
    out.unlink()
    done = run(*SHOWN, "--json", str(out), stdout=subprocess.PIPE, stderr=left_pipe)
    assert done.returncode == 0 and "round trip" in done.stdout
    assert json.loads(out.read_text())["complete"]


def test_streams_that_are_closed_from_the_start_are_no_failure(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    shell = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"]
    command = [*shell, *COMMAND, *SHOWN, "--json", str(out)]
    assert subprocess.run(command, cwd=ROOT, timeout=120, check=False).returncode == 0
    assert json.loads(out.read_text())["complete"]


def test_a_file_that_cannot_be_written_costs_that_file_alone(tmp_path: Path) -> None:
    pytest.importorskip("hdrh")
    gone, log = tmp_path / "gone", tmp_path / "out.hdr"
    gone.mkdir()
    files = ("--json", str(gone / "out.json"), "--hdr", str(log))
    client = subprocess.Popen(
        [*COMMAND, "-D", "2", "--repeats", "1", "-q", *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    eventually(lambda: worker_of(client.pid), "the answering end runs")
    shutil.rmtree(gone)
    text, errors = client.communicate(timeout=PATIENCE_S)
    assert client.returncode == 2
    assert "gone/out.json: cannot be written: No such file or directory" in errors
    assert "round trip" in text and "Tag=session" in log.read_text()


def test_both_plots_are_tried_before_anything_starts(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "out-over-time.png").mkdir()
    text = pingpong(*FEW, "-n", "5000000", "--plot", str(tmp_path / "out.png"), status=2)
    assert "out-over-time.png: cannot be written: it is a folder" in text


def test_a_server_goes_on_when_nobody_reads_what_it_says(tmp_path: Path) -> None:
    url = f"shm://{tmp_path}/pp.sock"
    with listening(url) as server:
        assert server.stdout is not None
        server.stdout.close()
        for _ in range(2):
            assert measured(tmp_path, "--to", url, "--level", "raw")["complete"]
        server.terminate()
        assert server.wait(PATIENCE_S) == 0
        server.stdout = None  # for communicate


def test_a_verdict_that_cannot_be_shown_is_written(tmp_path: Path) -> None:
    out, verdict = tmp_path / "out.json", tmp_path / "verdict.json"
    pingpong(*FEW, "--repeats", "8", "--level", "raw", "--json", str(out))
    content = json.loads(out.read_text())
    for each in content["levels"]["raw"]["runs"]:
        each["kept"] = True  # wherever the floor was meanwhile
    out.write_text(json.dumps(content))
    with Path("/dev/full").open("w") as full:
        done = run(
            *("compare", str(out), str(out), "--json", str(verdict)),
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert json.loads(verdict.read_text())["failed"] is False

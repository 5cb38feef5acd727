"""``rdmaorder pingpong`` as people run it: real processes, real links, few orders."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateway_support import GatewayProcess
from pingpong_support import FEW, listening, measured, pingpong, recorded

from rdmaorder import _core
from rdmaorder.gateway.address import parse_address
from rdmaorder.pingpong import plan as plan_module
from rdmaorder.pingpong import waterfall
from rdmaorder.pingpong.files import to_json
from rdmaorder.pingpong.measure import measure
from rdmaorder.pingpong.plan import Plan
from rdmaorder.pingpong.progress import Progress

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="two spinning ends need two processors"
)


@pytest.mark.parametrize("transport", ["shm", "inproc"])
def test_every_level_is_measured_and_every_payload_checked(tmp_path: Path, transport: str) -> None:
    result = measured(tmp_path, "--transport", transport, "--level", "all")
    assert list(result["levels"]) == ["raw", "session", "gateway", "python", "python-handler"]
    assert result["complete"]
    for level in result["levels"].values():
        run = level["runs"][0]
        assert (run["sent"], run["answered"], run["bad_payloads"]) == (500, 500, 0)
        times = level["rtt_ns"]
        assert 0 < times["min"] <= times["p50"] <= times["p99"] <= times["max"]
        assert level["one_way_ns"]["p50"] == pytest.approx(times["p50"] / 2, abs=0.01)
        assert run["floor_before_ns"] > 0 and run["floor_after_ns"] > 0
        assert all(each["causes"] for each in level["worst"])


def test_the_other_sides_own_count_is_in_the_result(tmp_path: Path) -> None:
    """It is asked for at the end: a gateway that SIGTERM killed at once would have no last word."""
    levels = measured(tmp_path, "--level", "raw,session,gateway")["levels"]
    assert levels["raw"]["ends"]["server"] == {"bad_payloads": 0}
    for name in ("session", "gateway"):
        counted = levels[name]["ends"]["server"]
        assert (counted["orders_applied"], counted["orders_rejected"]) == (550, 0)


def test_more_orders_than_are_kept_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "MOST_SAMPLES", 2000)
    client, server = sorted(os.sched_getaffinity(0))[-2:]
    plan = Plan(
        transport="inproc",
        levels=("raw",),
        iterations=10,
        duration_s=60.0,
        repeats=1,
        client_cpu=client,
        server_cpu=server,
    )
    found = measure(plan, None, progress=Progress(None), warn=lambda _: None)
    (run,) = to_json(found)["levels"]["raw"]["runs"]
    assert run["sent"] == 2000
    assert re.fullmatch(
        "over after .* s of 60: no more than 2,000 orders are kept of a run", run["limited"]
    )


def test_journals_go_where_they_are_told_to_and_do_not_stay(tmp_path: Path) -> None:
    """In one process too."""
    for transport in ("shm", "inproc"):
        folder = tmp_path / transport
        arguments = ("--transport", transport, "--level", "gateway", "--journal", str(folder))
        ends = measured(tmp_path, *arguments)["levels"]["gateway"]["ends"]
        assert Path(ends["journal"]).parents[1] == folder
        assert not list(folder.iterdir())
        text = pingpong(*FEW, *arguments[:-1], "/proc/none", status=2)
        assert "--journal /proc/none: No such file or directory; name a folder" in text


def test_larger_payloads_go_the_same_ways(tmp_path: Path) -> None:
    result = measured(tmp_path, "-s", "256", "--level", "raw,session,gateway")
    assert result["complete"] and result["plan"]["size"] == 256
    assert result["levels"]["session"]["ends"]["slot_bytes"] == 256


def test_a_result_says_where_it_was_measured(tmp_path: Path) -> None:
    environment = measured(tmp_path, "--level", "raw")["environment"]
    for name in ("cpu", "kernel", "isolated", "numa_nodes", "huge_pages", "rdmaorder", "python"):
        assert name in environment
    assert {"compiler", "build_flags", "build_type", "commit"} <= set(environment["build"])
    assert [set(each) >= {"governor", "c_states"} for each in environment["pinned"]] == [True] * 2


def test_references_take_turns_and_give_ratios(tmp_path: Path) -> None:
    names = ["cacheline", "unix", "tcp", "udp"]
    result = measured(tmp_path, "--reference", *names, "--repeats", "2")
    assert list(result["references"]) == names
    if result["levels"]["session"]["runs_kept"] == 2:  # else the floor moved between them
        assert set(result["ratio"]) == set(names)
    for reference in result["references"].values():
        assert reference["rtt_ns"]["p50"] > 0


def test_a_reference_that_is_not_installed_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = measured(tmp_path, "--level", "raw", "--reference", "ucx_tag")
    assert result["complete"]
    assert "apt-get install ucx-utils" in result["missing_references"]["ucx_tag"]


def test_the_probe_of_the_floor_is_over_soon_whatever_else_runs() -> None:
    """Where both processors are wanted by others a round trip takes ticks of the scheduler."""
    asked = 60_000_000  # more than any processor makes in the time the probe has
    assert 0 < len(_core.pingpong_floor(0, 1, asked)) < asked


def test_an_open_loop_counts_from_the_intended_send(tmp_path: Path) -> None:
    result = measured(tmp_path, "--rate", "20000", "--level", "raw,session,python")
    for level in result["levels"].values():
        run = level["runs"][0]
        assert run["answered"] == 500
        assert run["rate_asked_per_s"] == pytest.approx(20_000, rel=0.01)
        assert run["rtt_ns"]["max"] >= run["service_ns"]["max"] - 1


def test_the_waterfall_accounts_for_the_whole_round_trip(tmp_path: Path) -> None:
    levels = ("session", "gateway", "python-handler")
    result = measured(tmp_path, "--waterfall", "--level", ",".join(levels))
    for name in levels:
        level = result["levels"][name]
        found = level["waterfall"]
        assert found["orders"] == 500
        assert (found["clocks"], found["clock_error_ns"]) == ("one clock", 0)
        assert [each["to"] for each in found["stages"]] == [
            *("written", "seen", "verified", "guarded", "journalled", "handled"),
            *("report written", "report seen"),
        ]
        # Medians need not add up, but those of steps that follow each other come near.
        assert all(each["p50_ns"] >= 0 for each in found["stages"][2:])
        slowest = level["worst"][0]
        assert sum(slowest["stages_ns"].values()) == pytest.approx(slowest["rtt_ns"], abs=2)


def test_two_clocks_are_aligned_within_the_bound_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ends that take each other for hosts of their own; here one clock tells what is right."""
    from rdmaorder.pingpong import measure as measuring

    joined: list[tuple[Any, Any, Any]] = []

    def join(run: Any, rows: Any, first: int, rate: float, one_clock: bool) -> Any:
        assert not one_clock
        joined.append((run, waterfall.join(run, rows, first, rate, False), rows))
        return joined[-1][1]

    monkeypatch.setattr(measuring, "join", join)
    read = measuring.env.read
    monkeypatch.setattr(
        measuring.env, "read", lambda path: "elsewhere" if "boot_id" in str(path) else read(path)
    )
    url = f"shm://{tmp_path}/pp.sock"
    with listening(url, "--server-cpu", "1"):
        plan = Plan(client_cpu=0, server_cpu=1, iterations=5000, repeats=2, waterfall=True)
        shown = Progress(None)
        result = measuring.measure(plan, parse_address(url), progress=shown, warn=lambda _: None)
    assert len(joined) == 2 and result.server is not None
    for run, stages, rows in joined:
        assert stages.clocks.error_ns > 0
        seen = rows[np.isin(rows[:, 0], run.facts["first_sequence"] + stages.index), 1]
        true = (np.sort(seen).astype(np.int64) - int(run.samples[0, 1])) / run.ticks_per_ns
        off = np.abs(stages.times[:, 2] - true)
        assert np.median(off) <= stages.clocks.error_ns
    found = to_json(result)["levels"]["session"]["waterfall"]
    assert found["clocks"] == "aligned over the link"
    assert found["clock_error_ns"] == max(stages.clocks.error_ns for _, stages, _ in joined)


def test_only_levels_that_are_stamped_are_said_to_be() -> None:
    text = pingpong(*FEW, "--waterfall", "--level", "raw,session")
    assert "stamping the stages is in the times of session: " in text
    assert "stamping" not in pingpong(*FEW, "--level", "session")


def test_the_stages_of_paced_orders_are_stamped_too(tmp_path: Path) -> None:
    result = measured(tmp_path, "--waterfall", "--rate", "20000")
    assert result["levels"]["session"]["waterfall"]["orders"] == 500


def test_a_rate_that_was_not_reached_is_said() -> None:
    """Between readings of the clock at nearly the highest rate there is no time for a gateway."""
    refused = pingpong(*FEW, "--rate", "1e12", status=2)
    highest = re.search(r"; (\S+) a second is the most", refused)
    assert highest, refused
    rate = f"{0.7 * float(highest[1]):.0f}"  # that reading is of this host and of this moment
    text = pingpong(*FEW, "--rate", rate, "--level", "gateway", "-n", "20000")
    assert "NOT REACHED" in text


def test_orders_may_come_at_the_pace_of_a_recording(tmp_path: Path) -> None:
    times = [0, 10_000, 10_001, 10_002, 500_000, 2_000_000]  # a burst and two pauses
    result = measured(tmp_path, "--replay", recorded(tmp_path, times))
    assert result["levels"]["session"]["runs"][0]["answered"] == len(times)
    assert result["plan"]["loop"] == "paced"


def test_a_recording_may_be_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "aapl.csv"
    rows = (f"34200.00{n}0,1,{n},100,1{n}0000,1\n" for n in range(1, 9))
    path.write_text("".join(rows))
    assert "a row of --format lobster" in pingpong(*FEW, "--replay", str(path), status=2)
    result = measured(tmp_path, "--replay", str(path), "--format", "lobster", "--level", "raw")
    run = result["levels"]["raw"]["runs"][0]
    assert (run["answered"], round(run["rate_asked_per_s"])) == (8, 1000)


def test_the_histogram_log_and_the_plots_can_be_read(tmp_path: Path) -> None:
    reader = pytest.importorskip("hdrh.log")
    pytest.importorskip("matplotlib")
    log, plot = tmp_path / "out.hdr", tmp_path / "out.png"
    result = measured(tmp_path, "--level", "raw,session", "--hdr", str(log), "--plot", str(plot))
    from hdrh.histogram import HdrHistogram

    histogram = HdrHistogram(1, 3_600_000_000_000, 3)
    lines = reader.HistogramLogReader(str(log), histogram)
    counts = {}
    while (interval := lines.get_next_interval_histogram()) is not None:
        counts[interval.get_tag()] = interval.get_total_count()
    assert counts == {"raw": 500, "session": 500}
    assert result["complete"]
    for path in (plot, tmp_path / "out-over-time.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_server_and_a_client_may_be_started_by_hand(tmp_path: Path) -> None:
    url = f"shm://{tmp_path}/pp.sock"
    with listening(url):
        for _ in range(2):  # a server serves one client after the other
            result = measured(tmp_path, "--to", url, "--level", "raw,session")
            assert result["complete"]


@contextlib.contextmanager
def allowed(cpu: int) -> Iterator[None]:
    """What is started meanwhile may use that processor alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def test_one_processor_is_enough_where_one_end_runs(tmp_path: Path) -> None:
    here, there = sorted(os.sched_getaffinity(0))[:2]
    url = f"shm://{tmp_path}/pp.sock"
    with contextlib.ExitStack() as stack:
        with allowed(there):
            stack.enter_context(listening(url))
        with allowed(here):
            plan = measured(tmp_path, "--to", url, "--level", "raw")["plan"]
            assert (plan["client_cpu"], plan["server_cpu"]) == (here, there)
            assert "two processors are needed" in pingpong(*FEW, status=2)
        with allowed(there):
            assert f"--cpu {there}: the server spins on" in pingpong(*FEW, "--to", url, status=2)


def test_the_help_names_what_it_offers() -> None:
    assert re.search(r"\n  \[COMMAND\]\n    compare +compare two", pingpong("--help"))
    assert "95 % confidence" in pingpong("compare", "--help")


@pytest.mark.parametrize(
    ("server", "client", "complaint"),
    [
        (("-s", "128"), (), "--size 128"),
        (("--level", "raw"), ("--level", "session"), "--level raw"),
    ],
)
def test_ends_that_were_asked_for_different_things_are_told(
    tmp_path: Path, server: tuple[str, ...], client: tuple[str, ...], complaint: str
) -> None:
    url = f"shm://{tmp_path}/pp.sock"
    with listening(url, *server):
        text = pingpong(*FEW, "--to", url, *client, status=2)
    assert complaint in text and "give both the same" in text


def test_a_gateway_is_no_ping_pong_server(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path)
    try:
        text = pingpong(*FEW, "--to", gateway.url, status=2)
    finally:
        gateway.clean_up()
    assert "is no ping-pong server" in text and "--listen" in text


def test_something_that_answers_nonsense_is_no_ping_pong_server(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def answer() -> None:
            connection, _ = listener.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        text = pingpong(*FEW, "--to", f"shm://{path}", status=2)
        thread.join()
    assert "speaks another protocol" in text


def test_nobody_listening_says_how_to_start_the_other_end(tmp_path: Path) -> None:
    text = pingpong(*FEW, "--to", f"shm://{tmp_path}/none.sock", status=2)
    assert "pingpong --listen" in text


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--rate", "1e12"), "no clock of this host"),
        (("--rate", "-1"), "--rate"),
        (("--cpu", "4097"), "no such processor"),
        (("--server-cpu", "-1"), "no such processor"),
        (("--json", "/nonexistent/out.json"), "is no folder"),
        (("--plot", "/"), "it is a folder"),
        (("--level", "wire"), "use one of raw"),
        (("--reference", "pigeon"), "use one of cacheline"),
        (("-s", "100"), "multiple of 64"),
        (("--listen", "tcp://x", "--to", "shm:y"), "give one of them"),
        (("--to", "http://x"), "not an address"),
        (("--transport", "rdma"), "--address"),
        (("--cpu", "0", "--server-cpu", "0"), "are the same"),
        (("--to", "shm:///nonexistent.sock", "--server-cpu", "0"), "give --cpu there"),
        (("-s", "0"), "--size 0: slots are a multiple of 64"),
        (("--listen", "shm:///nonexistent/x", "-s", "100"), "--size 100: slots are a multiple"),
        (("--listen", "shm:///nonexistent/x", "--level", "sesion"), "--level sesion: use one of"),
        (("--listen", "shm:///nonexistent/x", "--cpu", "4097"), "--cpu 4097: no such processor"),
        (("--waterfall", "--level", "raw"), "--waterfall: it is a gateway"),
        (("--waterfall", "--transport", "inproc"), "--waterfall: it is a gateway"),
        (("--journal", "/tmp/x"), "--journal /tmp/x: at session there is none; add --level"),
        (("--to", "shm:///none.sock", "--journal", "/tmp/x"), "--journal /tmp/x: the server has"),
        (("--to", "rdma://h:1", "--server-device", "d"), "--server-device d: it is for"),
        (("--to", "rdma://h:1", "--address", "::1"), "--address ::1: it is for --transport rdma"),
        (("--device", "mlx5_0"), "--device mlx5_0: it is for --transport rdma"),
        (("--listen", "rdma://0.0.0.0:0", "-d", "mlx5_0"), "--device mlx5_0: it is for"),
        (("--speed", "2"), "--speed 2.0: it is that of --replay"),
        (("--format", "lobster"), "--format lobster: it is that of --replay"),
        (("--once",), "--once: it is a server's"),
    ],
)
def test_bad_arguments_are_named_with_what_to_give(
    arguments: tuple[str, ...], complaint: str
) -> None:
    assert complaint in pingpong(*FEW, *arguments, status=2)


def test_two_results_are_compared_with_a_verdict(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pingpong(*FEW, "--repeats", "4", "--level", "raw", "--json", str(tmp_path / f"{name}.json"))
    files = [str(tmp_path / f"{name}.json") for name in ("a", "b")]
    kept = [json.loads(Path(each).read_text())["levels"]["raw"]["runs_kept"] for each in files]
    if min(kept) >= 4:  # else the floor moved under the runs
        assert "PASS" in pingpong("compare", *files, "--unlike", "--fail-above", "1000%")
    changed = json.loads(Path(files[1]).read_text())
    changed["environment"]["kernel"] = "another"
    Path(files[1]).write_text(json.dumps(changed))
    assert "kernel:" in pingpong("compare", *files, status=3)

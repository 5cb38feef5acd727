"""Two result files of the ping-pong tool: what counts as worse, and what is no result at all."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from pingpong_support import pingpong

from rdmaorder.errors import InputError
from rdmaorder.pingpong import compare as comparing
from rdmaorder.pingpong.results import load


def test_files_of_pytest_benchmark_are_compared_the_same_way(tmp_path: Path) -> None:
    files = []
    for factor in (1.0, 1.5):
        path = tmp_path / f"{factor}.json"
        rounds = [factor * 1e-6 * (1 + n % 7 / 100) for n in range(100)]
        benchmark = {"name": "test_call", "stats": {"data": rounds}, "extra_info": {"calls": 10}}
        machine = {"release": "6.1", "python_version": "3.11", "cpu": {"brand_raw": "X"}}
        path.write_text(json.dumps({"machine_info": machine, "benchmarks": [benchmark]}))
        files.append(load(path))
    assert comparing.unlike(*files) == []
    result = comparing.compare(*files, fail_above=0.1)
    assert result.failed
    assert result.changes[0].level == "call"
    assert result.changes[0].before == pytest.approx(103, abs=1)


def result(p50: list[float], *, kernel: str = "6.1", complete: bool = True) -> dict[str, Any]:
    """A result file of one level with these medians over a floor of 100 ns one way."""
    runs = [
        {"kept": True, "rtt_ns": {"p50": each, "p99": each * 2}, "floor_before_ns": 100.0}
        | {"floor_after_ns": 100.0}
        for each in p50
    ]
    return {
        "tool": "rdmaorder pingpong",
        "format": 1,
        "complete": complete,
        "ending": "done",
        "placement": "near",
        "plan": {"transport": "shm", "size": 64, "loop": "closed"},
        "environment": {"kernel": kernel},
        "levels": {"session": {"runs": runs}},
    }


OLD = [200.0, 202, 198, 201, 199]


def test_a_comparison_fails_only_when_the_whole_interval_is_beyond_the_limit() -> None:
    slower = comparing.compare(result(OLD), result([x * 1.3 for x in OLD]), fail_above=0.05)
    assert slower.failed and {each.verdict for each in slower.changes} == {"SLOWER"}
    noisy = comparing.compare(result(OLD), result([200.0, 300, 190, 205, 198]), fail_above=0.05)
    assert not noisy.failed
    faster = comparing.compare(result(OLD), result([x * 0.8 for x in OLD]), fail_above=0.05)
    assert not faster.failed and faster.changes[0].verdict == "faster"


def test_a_comparison_needs_repeated_runs() -> None:
    with pytest.raises(InputError, match="--repeats"):
        comparing.compare(result(OLD[:3]), result(OLD), fail_above=None)


def test_unlike_environments_are_named() -> None:
    assert comparing.unlike(result(OLD), result(OLD, kernel="6.2")) == ["kernel: 6.1 and 6.2"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is no JSON"),
        ("{}", "is no result"),
        ("[" * 200_000, "nested too deeply"),
        (json.dumps({**result(OLD), "format": 99}), "has format 99"),
        (json.dumps({**result(OLD), "complete": "yes"}), "cut short"),
        (json.dumps({**result(OLD), "plan": None}), "plan is no object"),
        (json.dumps({**result(OLD), "levels": [1]}), "levels is no object"),
        (json.dumps({**result(OLD), "levels": {"raw": []}}), "level raw has no list of runs"),
        (json.dumps({**result(OLD), "levels": {"raw": {"runs": [1]}}}), "run 1 does not say"),
        (json.dumps({"machine_info": {}, "benchmarks": [1]}), "a benchmark has no name"),
        (
            json.dumps({"machine_info": [], "benchmarks": [{"name": "x", "stats": {"data": "y"}}]}),
            "has no single rounds",
        ),
        (
            json.dumps({"machine_info": 1, "benchmarks": [{"name": "x", "stats": {"data": [0]}}]}),
            "rounds or calls of x are no numbers above 0",
        ),
        (json.dumps(result(OLD, complete=False)), "cut short"),
    ],
)
def test_a_file_that_is_no_whole_result_is_refused(
    tmp_path: Path, content: str, complaint: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError, match=complaint):
        load(path)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.1", 0.1), (" 7.5% ", 0.075)])
def test_a_share_may_be_written_in_percent(text: str, share: float) -> None:
    assert comparing.percent(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "x%", "-1%", "nan"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a share"):
        comparing.percent(text)


def changed(path: str, value: Any) -> dict[str, Any]:
    """A result with one value replaced, added, or with None for ``value`` gone."""
    content = copy.deepcopy(result(OLD))
    *folders, name = path.split(".")
    at: Any = content
    for folder in folders:
        at = at[int(folder)] if isinstance(at, list) else at.setdefault(folder, {})
    if value is None:
        del at[name]
    else:
        at[name] = value
    return content


RUN, ENDS = "levels.session.runs.1", "levels.session.ends"


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 0, -1.0, 1e300, 10**400, "x", [], True]
)
@pytest.mark.parametrize("name", ["rtt_ns.p50", "rtt_ns.p99", "floor_before_ns"])
def test_what_is_no_time_is_refused_where_it_could_have_passed(
    tmp_path: Path, name: str, value: Any
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(changed(f"{RUN}.{name}", value)))
    with pytest.raises(InputError, match=r"run 2: \S+ is no time|it holds (NaN|Infinity)"):
        load(path)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("kept", "run 2 does not say whether it counts"),
        ("rtt_ns", "run 2 has no round trips"),
        ("floor_after_ns", "run 2 has floor_before_ns alone"),
    ],
)
def test_a_run_that_lacks_something_is_refused(tmp_path: Path, name: str, complaint: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(changed(f"{RUN}.{name}", None)))
    with pytest.raises(InputError, match=complaint):
        load(path)


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        ("plan.iterations", 10, "orders a run"),
        ("plan.duration_s", 1.0, "seconds a run"),
        ("plan.warm_up", 0, "orders of the warm-up"),
        ("plan.speed", 2.0, "speed of the replay"),
        ("environment.smt", "off", "simultaneous multithreading"),
        ("environment.huge_pages", 64, "huge pages"),
        ("environment.transparent_huge_pages", "never", "transparent huge pages"),
        ("environment.command_line", "mitigations=off", "command line of the kernel"),
        ("environment.nohz_full", "2-3", "processors without a tick"),
        ("environment.cpu_count", 64, "number of processors"),
        ("environment.clocksource", "hpet", "clock source"),
        ("environment.pinned", [{"governor": "x"}], "governor of the pinned processors"),
        ("environment.pinned", [{"c_states": "C1, C6"}], "C-states of the pinned processors"),
        ("environment.pinned", [{"numa_node": 1}], "NUMA node of the pinned processors"),
        (f"{ENDS}.huge_pages", True, "huge_pages of session"),
        (f"{ENDS}.numa_node", 1, "numa_node of session"),
        (f"{ENDS}.journal", "/mnt/a/rdmaorder-pingpong-x/1.journal", "journal of session"),
        (f"{ENDS}.verbs", {"mtu_bytes": 1024}, "mtu_bytes of session"),
        (f"{ENDS}.verbs", {"firmware": "28.1"}, "firmware of session"),
        ("server_environment.cpu", "another", "processor of the server"),
        ("server_environment.kernel", "another", "kernel of the server"),
        ("server_environment.hypervisor", True, "virtual machine of the server"),
        ("server_environment.isolated", "2-3", "isolated processors of the server"),
        (
            "server_environment.pinned",
            [{"governor": "x"}],
            "governor of the pinned processors of the server",
        ),
    ],
)
def test_whatever_a_time_depends_on_has_to_be_alike(path: str, value: Any, what: str) -> None:
    (difference,) = comparing.unlike(result(OLD), changed(path, value))
    assert difference.startswith(f"{what}: ")


@pytest.mark.parametrize("own", ["why", "gid", "server"])
def test_what_differs_from_call_to_call_is_no_difference(own: str) -> None:
    folders = (f"/tmp/rdmaorder-pingpong-{name}/1.journal" for name in "ab")
    one, other = (changed(ENDS, {"journal": path, own: path}) for path in folders)
    assert comparing.unlike(one, other) == []
    assert comparing.unlike(one, changed(f"{ENDS}.verbs", 7))  # damaged: a difference at the most


def test_the_devices_of_either_end_have_to_be_alike_where_orders_went_over_one() -> None:
    def measured(transport: str, firmware: str) -> dict[str, Any]:
        content = changed("plan.transport", transport)
        content["server_environment"] = {"devices": [{"name": "mlx5_0", "firmware": firmware}]}
        return content

    assert comparing.unlike(measured("shm", "28.1"), measured("shm", "28.2")) == []
    (difference,) = comparing.unlike(measured("rdma", "28.1"), measured("rdma", "28.2"))
    assert difference.startswith("RDMA devices of the server: name mlx5_0, firmware 28.1,")


def test_a_level_that_one_side_lacks_is_no_pass(tmp_path: Path) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    both = changed("levels.gateway", result(OLD)["levels"]["session"])
    for path, content in zip(files, (both, result(OLD)), strict=True):
        path.write_text(json.dumps(content))
    names, missing = [str(path) for path in files], "level gateway: before alone"
    assert missing in pingpong("compare", *names, "--fail-above", "5%", status=3)
    assert missing in pingpong("compare", *names, "--fail-above", "5%", "--unlike")
    assert missing in pingpong("compare", *names)
    assert "level gateway: after alone" in pingpong(
        "compare", *reversed(names), "--fail-above", "5%", status=3
    )


@pytest.mark.parametrize("text", ["1", "5", "10"])
def test_a_bare_number_that_was_meant_in_percent_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=f"write that or {text}%"):
        comparing.percent(text)


def folder_of(path: Path, calls: list[dict[str, Any]]) -> Path:
    """A folder with one file for each call."""
    path.mkdir()
    for number, content in enumerate(calls):
        (path / f"{number}.json").write_text(json.dumps(content))
    return path


def test_what_differs_from_call_to_call_fails_no_folder(tmp_path: Path) -> None:
    calls = [1.0, 1.2, 1.01, 1.19, 1.02]
    of_file = [result([x * factor for x in OLD]) for factor in calls]
    assert comparing.compare(of_file[0], of_file[1], fail_above=0.05).failed  # the same program
    turned = [*of_file[2:], *of_file[:2]]
    folders = [folder_of(tmp_path / name, of) for name, of in (("a", of_file), ("b", turned))]
    same = comparing.compare(*comparing.load_sides(*folders), fail_above=0.05)
    assert [(each.verdict, each.before, each.after) for each in same.changes] == [
        ("same", pytest.approx(1.02), pytest.approx(1.02)),
        ("same", pytest.approx(2.04), pytest.approx(2.04)),
    ]
    slow = [result([x * factor * 1.5 for x in OLD]) for factor in calls]
    names = (str(folders[0]), str(folder_of(tmp_path / "slow", slow)))
    assert "+50.0%" in pingpong("compare", *names, "--fail-above", "5%", status=1)


def test_a_folder_without_floors_is_compared_in_nanoseconds(tmp_path: Path) -> None:
    calls = [result(OLD) for _ in range(4)]
    for content in calls:
        for run in content["levels"]["session"]["runs"]:
            del run["floor_before_ns"], run["floor_after_ns"]
        content["levels"]["session"]["runs"][0]["kept"] = False
    folders = [folder_of(tmp_path / name, calls) for name in "ab"]
    change, _ = comparing.compare(*comparing.load_sides(*folders), fail_above=None).changes
    assert (change.measure, change.before) == ("ns", 200.0)  # 198, 199, 201, 202 count


def test_a_call_of_which_nothing_counts_does_not_count_in_its_folder(tmp_path: Path) -> None:
    calls = [result(OLD) for _ in range(4)]
    for run in calls[2]["levels"]["session"]["runs"]:
        run["kept"] = False
    folders = [folder_of(tmp_path / name, calls) for name in "ab"]
    with pytest.raises(InputError, match=r"3 and 3 runs that count, .* for a folder"):
        comparing.compare(*comparing.load_sides(*folders), fail_above=None)


def test_a_folder_of_unlike_calls_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", [result(OLD), result(OLD, kernel="6.2")])
    with pytest.raises(InputError, match=r"not of what 0\.json is of: kernel: 6\.1 and 6\.2"):
        comparing.load_sides(folder, folder)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no file ends in"):
        comparing.load_sides(tmp_path / "none", folder)


def test_a_folder_and_a_file_are_not_of_a_kind(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", [result(OLD)])
    with pytest.raises(InputError, match="give two of a kind"):
        comparing.load_sides(folder, folder / "0.json")
    with pytest.raises(InputError, match="give two of a kind"):
        comparing.load_sides(folder / "0.json", folder)

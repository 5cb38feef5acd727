"""The arithmetic of the ping-pong tool: percentiles, classes, ratios, intervals, causes."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rdmaorder.errors import ConfigError
from rdmaorder.pingpong import report
from rdmaorder.pingpong.external import (
    parse_fi_pingpong,
    parse_hdr_percentiles,
    parse_ib_write_lat,
    parse_ucx_perftest,
)
from rdmaorder.pingpong.hazards import hazards
from rdmaorder.pingpong.plan import Plan, due_times
from rdmaorder.pingpong.progress import Progress, sent_count
from rdmaorder.pingpong.report import ratio_text
from rdmaorder.pingpong.runs import Run
from rdmaorder.pingpong.statistics import (
    change_of,
    is_steady,
    main_class,
    quantile,
    ratio_of,
    summary,
)
from rdmaorder.pingpong.waterfall import align, join, pack, unpack, waterfall_json
from rdmaorder.pingpong.worst import worst_orders


def run_of(rtt_ns: list[int], *, due: list[int] | None = None, **facts: Any) -> Run:
    """A run of one tick a ns: an order every 1000 ns that takes as long as given."""
    samples = np.zeros((len(rtt_ns), 6), np.uint64)
    samples[:, 1] = 1_000_000 + np.arange(len(rtt_ns)) * 1000
    samples[:, 0] = samples[:, 1] if due is None else 1_000_000 + np.asarray(due)
    samples[:, 2] = samples[:, 1] + np.asarray(rtt_ns, np.uint64)
    samples[:, 4] = 10
    return Run("session", 0, samples, 1.0, {"sent": len(rtt_ns), "ending": "done", **facts})


def test_a_quantile_of_shared_values_lies_between_their_neighbours() -> None:
    ordered = np.repeat([100.0, 110.0, 120.0], [10, 80, 10])
    assert 105 <= quantile(ordered, 0.2) < quantile(ordered, 0.5) < quantile(ordered, 0.8) <= 115


def test_a_quantile_of_distinct_values_is_near_the_usual_one() -> None:
    ordered = np.arange(1, 1001, dtype=np.float64)
    assert quantile(ordered, 0.5) == pytest.approx(np.median(ordered), abs=1)
    assert quantile(ordered, 0.99) == pytest.approx(990, abs=1.5)


def test_a_percentile_beyond_the_samples_is_the_slowest_and_not_an_extrapolation() -> None:
    found = summary(np.arange(1, 101, dtype=np.float64))
    assert found["p99_99"] == found["max"] == 100


def test_a_summary_of_nothing_is_empty() -> None:
    assert summary(np.zeros(0)) == {}


def test_runs_whose_floor_moved_are_not_steady() -> None:
    assert is_steady(60, 62)
    assert not is_steady(60, 230)
    assert not is_steady(125, 135)  # across the border of two classes
    assert not is_steady(150, 200)


def test_the_main_class_is_the_commonest() -> None:
    assert main_class(["near", "far", "near"]) == "near"
    assert main_class([]) is None


def test_ratios_pair_the_runs_of_one_turn() -> None:
    ours = [{"repeat": n, "rtt_ns": {"p50": 100 * (n + 1), "p99": 200.0}} for n in range(3)]
    theirs = [{"repeat": n, "rtt_ns": {"p50": 200 * (n + 1), "p99": 400.0}} for n in (0, 2)]
    found = ratio_of(ours, theirs)
    assert (found["p50"], found["p50_low"], found["p50_high"], found["pairs"]) == (0.5, 0.5, 0.5, 2)
    assert found["p99"] == 0.5


def test_a_reference_with_a_mean_only_is_compared_with_our_mean_and_no_percentile() -> None:
    ours = [{"repeat": 0, "rtt_ns": {"p50": 100.0, "p99": 200.0, "mean": 150.0}}]
    found = ratio_of(ours, [{"repeat": 0, "rtt_ns": {"mean": 300.0}}])
    assert (found["p50"], found["p99"], found["mean"]) == (None, None, 0.5)
    assert ratio_text(found, "p50") == "means: 0.5 (0.5 … 0.5)"
    assert ratio_text(found, "p99") == "–"
    # With percentiles on both sides the means are left out.
    assert "mean" not in ratio_of(ours, ours)


def test_how_far_a_run_is_shows_in_its_samples() -> None:
    samples = np.zeros((1000, 6), np.uint64)
    for sent in (0, 1, 499, 1000):
        samples[:sent, 1] = 5
        assert sent_count(samples) == sent


def test_progress_says_how_long_it_will_take_once_everything_was_measured() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.runs(["a", "b"], 2, set())
    for name in ("a", "b", "a", "b"):
        with progress.run(name, np.zeros((1, 6), np.uint64), 1, None):
            progress._took_s[name] = 30.0  # what the run before took, were this a long one
            time.sleep(0.001)
        progress._took_s[name] = 30.0
    lines = stream.getvalue().splitlines()
    assert lines[0] == "rdmaorder pingpong: run 1 of 4: a"
    assert lines[2] == "rdmaorder pingpong: run 3 of 4: a, about 60 s left"
    assert lines[3] == "rdmaorder pingpong: run 4 of 4: b, about 30 s left"


def test_an_order_during_which_progress_was_shown_says_so() -> None:
    run = run_of([100, 5000, 100])
    run.progress = [(1_001_500, 1_005_500)]
    assert "showed its progress" in worst_orders([run], 1)[0]["causes"][0]
    run.progress = [(1_001_500, 1_001_600)]  # too short to have mattered
    assert "showed its progress" not in worst_orders([run], 1)[0]["causes"][0]


def test_the_interval_of_a_real_change_excludes_no_change_and_noise_does_not() -> None:
    before = [100.0, 101, 99, 100, 102, 98, 100]
    change, low, high = change_of(before, [each * 1.2 for each in before])
    assert 0.15 < low <= change <= high < 0.25
    _, low, high = change_of(before, [101.0, 99, 100, 98, 102, 100, 100])
    assert low <= 0 <= high


@pytest.mark.parametrize(
    ("before", "after", "outside"),  # the critical values of U in tables, 5 % on two sides
    [(4, 4, 0), (5, 5, 2), (3, 5, 0), (4, 10, 5), (10, 4, 5), (7, 9, 12), (15, 15, 64)],
)
def test_the_interval_is_that_of_the_rank_test(before: int, after: int, outside: int) -> None:
    a, b = 1000.0 + np.arange(before), 1000.0 + 37 * np.arange(after)
    ratios = np.sort((b[:, None] / a).ravel()) - 1
    assert change_of(a, b)[1:] == (ratios[outside], ratios[-1 - outside])


def test_three_runs_are_too_few_for_any_interval() -> None:
    assert change_of([1.0, 1, 1], [9.0, 9, 9])[1:] == (float("-inf"), float("inf"))


@pytest.mark.parametrize("runs", [4, 5, 15])
def test_no_more_than_one_in_twenty_of_equal_measurements_differs(runs: int) -> None:
    """Runs of two placements, where medians of resampled runs were wrong by far."""
    rng = np.random.default_rng(7)
    differ = found = 0
    for _ in range(1000):
        a, b = (200 * rng.choice([1, 1.08], runs) + rng.normal(0, 2, runs) for _ in range(2))
        _, low, high = change_of(a, b)
        differ += not low <= 0 <= high
        found += change_of(a, b * 1.05)[1] > 0
    assert differ < 70
    assert runs < 15 or found > 600


def test_many_runs_are_compared_at_once() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.normal(200, 4, 400), rng.normal(202, 4, 400)
    change, low, high = change_of(a, b)
    assert 0 < low < change < high < 0.02


def test_times_of_paced_orders_count_from_when_they_were_due() -> None:
    run = run_of([100, 100, 100], due=[0, 500, 1000])
    assert run.rtt_ns().tolist() == [100, 600, 1100]
    assert run.service_ns().tolist() == [100, 100, 100]
    assert run.late_ns().tolist() == [0, 500, 1000]


def anomaly(since: int, seen: int, **counts: int) -> list[int]:
    """A row as the loops make it; times in ns from the first order."""
    names = ("voluntary", "involuntary", "minor_faults", "major_faults", "migrated")
    return [1_000_000 + since, 1_000_000 + seen, *(counts.get(name, 0) for name in names)]


def test_the_worst_orders_come_with_what_the_kernel_did() -> None:
    rows = [anomaly(49_500, 59_100, involuntary=1), anomaly(90_000, 99_000, major_faults=1)]
    run = run_of([100] * 50 + [9000] + [100] * 50, anomalies=np.asarray(rows))
    run.samples[50, 3] = 8000
    worst = worst_orders([run], 3)
    assert worst[0]["index"] == 50
    assert worst[0]["rtt_ns"] == 9000
    assert worst[0]["kernel"] == {"involuntary": 1}
    assert "context switch" in worst[0]["causes"][0]
    assert len(worst) == 3


def test_whatever_was_due_meanwhile_is_told_what_the_kernel_did() -> None:
    due = list(range(0, 5000, 1000))
    rows = [anomaly(500, 4800, involuntary=1), anomaly(-9000, -100, migrated=1)]
    run = run_of([100] * 5, due=due, anomalies=np.asarray(rows))
    run.samples[:, 1] = 1_004_900
    run.samples[:, 2] = 1_005_000
    for each in worst_orders([run], 5):
        assert each["kernel"] == {"involuntary": 1}
        assert "context switch" in each["causes"][0] and "earlier orders" in each["causes"][1]


def test_a_sender_that_kept_looking_is_not_blamed_for_what_the_kernel_did() -> None:
    rows = [anomaly(40_000, 59_100, minor_faults=1, involuntary=1)]
    run = run_of([100] * 50 + [9000] + [100] * 50, anomalies=np.asarray(rows))
    run.samples[50, 3:5] = 200, 900
    (worst,) = worst_orders([run], 1)
    assert worst["kernel"] == {"involuntary": 1, "minor_faults": 1}
    assert worst["causes"] == [
        "the answer came late though the sender kept looking: the other side or the way"
    ]


def test_an_order_behind_a_stall_is_said_to_have_waited() -> None:
    run = run_of([100, 100, 100], due=[0, 1000, 0])
    assert "waited behind earlier orders" in worst_orders([run], 1)[0]["causes"][0]


def test_of_one_stall_the_slowest_order_alone_is_kept() -> None:
    """Two stalls of 3000 and 9000 ns in a hundred paced orders, one each 1000 ns."""
    held_up = {20: 3000, 21: 2100, 22: 1200, **{60 + n: 9000 - 900 * n for n in range(9)}}
    rtt = [held_up.get(n, 100) for n in range(100)]
    run = run_of(rtt)
    run.rate_asked = 1e6
    worst = worst_orders([run, run], 4)
    assert [(each["index"], each["stall_orders"]) for each in worst[:2]] == [(60, 9), (60, 9)]
    assert [(each["index"], each["stall_orders"]) for each in worst[2:]] == [(20, 3), (20, 3)]
    others = worst_orders([run], 100)
    assert [each["stall_orders"] for each in others] == [9, 3, *[1] * 88]  # 100 orders in all
    assert "with it 2 others" in shown_worst(worst[2:])
    run.rate_asked = None  # a closed loop's orders never wait for each other
    assert [each["index"] for each in worst_orders([run], 3)] == [60, 61, 62]


def shown_worst(orders: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    Console(file=stream, width=200).print(report._worst("raw", orders))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("usual", "then", "gap_ns", "cause"),
    [
        (10, 10, 0, "looked seldom"),
        (10, 900, 0, "kept looking: the other side"),
        (10, 900, 8000, "did not look for a while"),
        (0, 0, 0, "kept looking: the other side"),  # nothing was counted
    ],
)
def test_the_sender_is_blamed_by_what_its_looks_tell(
    usual: int, then: int, gap_ns: int, cause: str
) -> None:
    run = run_of([100] * 50 + [9000] + [100] * 50)
    run.samples[:, 4] = usual
    run.samples[50, 3:5] = gap_ns, then
    worst = worst_orders([run], 2)
    assert cause in worst[0]["causes"][0]
    assert "did not look" not in worst[1]["causes"][0]  # it took no longer than usual


def test_an_order_during_garbage_collection_says_so() -> None:
    run = run_of([100, 5000, 100])
    run.collections = [(1_001_500, 1_002_000)]
    assert "garbage collection" in worst_orders([run], 1)[0]["causes"][0]


def stamped(run: Run, *, skew_ns: float = 0.0, drift: float = 0.0) -> np.ndarray:
    """Gateway rows of ``run``: 300 ns away, stages of 10 ns, on a clock of its own."""
    rows = np.zeros((len(run.samples), 8), np.uint64)
    rows[:, 0] = 1000 + np.arange(len(rows))
    sent = run.samples[:, 1].astype(np.float64)
    for stage in range(6):
        rows[:, 1 + stage] = sent + 300 + 10 * stage + skew_ns + drift * (sent - sent[0])
    return rows


def test_stamps_of_one_clock_are_joined_as_they_are() -> None:
    run = run_of([650] * 200)
    run.samples[:, 5] = run.samples[:, 1] + 20
    run.stages = join(run, unpack(pack(stamped(run))), 1000, 1.0, one_clock=True)
    found = waterfall_json([run])
    assert found is not None
    assert [each["p50_ns"] for each in found["stages"]] == [20, 280, 10, 10, 10, 10, 10, 300]


def test_two_clocks_are_aligned_within_the_bound_that_is_given() -> None:
    run = run_of([650] * 2000)
    run.samples[:, 5] = run.samples[:, 1] + 20
    rows = stamped(run, skew_ns=7_000_000, drift=20e-6)
    run.stages = join(run, rows, 1000, 1.0, one_clock=False)
    found = waterfall_json([run])
    assert found is not None
    assert found["clocks"] == "aligned over the link"
    assert found["clock_error_ns"] < 320
    seen = sum(each["p50_ns"] for each in found["stages"][:2])
    assert seen == pytest.approx(300, abs=found["clock_error_ns"])


def test_alignment_of_a_lopsided_way_is_off_by_no_more_than_its_bound() -> None:
    times = np.zeros((500, 9))
    times[:, 0] = np.arange(500) * 1000.0
    times[:, 2:8] = times[:, :1] + 900 + np.arange(6) * 10 - 123_456  # 900 there, 50 back
    times[:, 8] = times[:, 0] + 900 + 50 + 50
    aligned, clocks = align(times, one_clock=False)
    assert abs(float(np.median(aligned[:, 2] - aligned[:, 0])) - 900) <= clocks.error_ns + 1


@pytest.mark.parametrize(("count", "every_ns"), [(20_000, 1e6), (60, 1e8), (5000, 3e3)])
@pytest.mark.parametrize("drift", [20e-6, -100e-6])
def test_clocks_that_drift_are_followed_however_slowly_orders_come(
    count: int, every_ns: float, drift: float
) -> None:
    """Between two orders of a slow run the clocks move further apart than the way takes."""
    rng = np.random.default_rng(3)
    called = np.arange(count) * every_ns
    seen = called + 1200 + rng.exponential(300, count)
    times = np.zeros((count, 9))
    times[:, 0], times[:, 1] = called, called + 100
    times[:, 2:8] = (seen + 7e6 + drift * called)[:, None] + 50 * np.arange(6)
    times[:, 8] = seen + 250 + 1200 + rng.exponential(300, count)
    aligned, clocks = align(times, one_clock=False)
    assert 0 < clocks.error_ns < 1300
    assert np.abs(aligned[:, 2] - seen).max() < clocks.error_ns


def test_stamps_of_other_orders_are_left_out() -> None:
    run = run_of([650] * 10)
    assert join(run, stamped(run), 5000, 1.0, one_clock=True) is None


@pytest.mark.parametrize("rate", [0.0, -5.0, float("nan"), 1e9, float("inf")])
def test_a_rate_that_no_clock_can_hold_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="--rate"):
        due_times(rate, 10, order_cost_ns=16)


def test_a_schedule_is_evenly_spaced() -> None:
    assert due_times(1e6, 4, order_cost_ns=16).tolist() == [0, 1000, 2000, 3000]


@pytest.mark.parametrize(("name", "value"), [("size", 65), ("size", 8192), ("repeats", 0)])
def test_a_plan_refuses_what_cannot_be(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=name):
        Plan(client_cpu=0, server_cpu=1, **{name: value})


def test_the_output_of_the_tools_is_understood() -> None:
    ucx = "iterations,99.0_percentile_lat,avg_lat,overall_lat\n50000,1.108,21.297,60.710,2.87\n"
    assert parse_ucx_perftest(ucx) == {"percentile_us": 1.108, "average_us": 60.710}
    fi = "bytes   #sent   #ack     total       time     MB/sec    usec/xfer   Mxfers/sec\n"
    fi += "64      2k      =2k      250k        0.52s      0.49     130.14       0.01\n"
    assert parse_fi_pingpong(fi) == {"average_us": 130.14}
    ib = " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec] ...\n"
    ib += " 64      1000          1.65           9.87         1.70   1.72   0.12   1.90   4.50\n"
    found = parse_ib_write_lat(ib)
    assert (found["p50_us"], found["p99_us"], found["p99_9_us"]) == (1.70, 1.90, 4.50)


def test_percentiles_of_a_histogram_listing_are_understood() -> None:
    text = """
           Value   Percentile   TotalCount 1/(1-Percentile)

           0.190     0.000000            1           1.00
           0.231     0.500000        10000           2.00
           0.402     0.990625        19813         106.67
           9.811     1.000000        20000            inf
    #[Mean    =        0.240, StdDeviation   =        0.1]
    """
    found = parse_hdr_percentiles(text)
    assert found == {"p50_us": 0.231, "p90_us": 0.402, "p99_us": 0.402, "p99_9_us": 9.811}


def test_what_aerons_ping_prints_is_understood_with_what_surrounds_it() -> None:
    """Aeron 1.11.3, some rows left out."""
    text = """Subscribing Pong at aeron:ipc on Stream ID 1002
Publishing Ping at aeron:ipc on Stream ID 1001
Available image correlationId=2 sessionId=-883199837 at position=0 from aeron:ipc
Warmed up the media driver in 1831318 [ns]
Pinging 2000 messages of length 64 bytes
       Value   Percentile   TotalCount 1/(1-Percentile)

       0.181     0.000000            3         1.00
       0.251     0.400000          810         1.67
       0.261     0.500000         1027         2.00
       0.331     0.900000         1812        10.00
       5.611     0.990625         1982       106.67
     790.527     0.999023         1999      1024.00
   12091.391     1.000000         2000          inf
#[Mean    =        7.231, StdDeviation   =      270.794]
#[Max     =    12091.391, Total count    =         2000]
#[Buckets =           24, SubBuckets     =         2048]

Execute again? (y/n): Unavailable image on correlationId=2 sessionId=-883199837
"""
    expected = {"p50_us": 0.261, "p90_us": 0.331, "p99_us": 5.611, "p99_9_us": 790.527}
    assert parse_hdr_percentiles(text) == expected


HOST = {
    "pinned": [
        {"cpu": 2, "core": "1", "socket": "0", "numa_node": 0, "governor": "powersave",
         "c_states": "POLL, C1, C6"},
        {"cpu": 3, "core": "1", "socket": "0", "numa_node": 1, "governor": "performance",
         "c_states": "none"},
    ],
    "isolated": "none", "hypervisor": False, "cpu_count": 8, "load_average": [6.0, 1.0, 1.0],
    "invariant_tsc": True, "machine": "x86_64", "huge_pages": 0,
    "devices": [{"name": "rxe0", "soft": "True", "numa_node": ""}], "steal_since_boot": 0.031,
}  # fmt: skip


def test_every_hazard_of_a_host_is_named_with_its_remedy() -> None:
    found = hazards(HOST, transport="rdma")
    assert {each.key for each in found} == {
        *("shared_core", "numa", "governor", "c_states", "isolation", "load", "huge_pages"),
        *("steal", "soft_roce"),
    }
    assert all(each.remedy for each in found)


def test_a_host_made_for_measuring_has_no_warnings() -> None:
    good = {"governor": "performance", "c_states": "POLL, C1", "numa_node": 0, "socket": "0"}
    host = HOST | {
        "pinned": [{"cpu": 2, "core": "1", **good}, {"cpu": 3, "core": "2", **good}],
        "isolated": "2-7",
        "load_average": [0.1, 0.1, 0.1],
        "huge_pages": 64,
        "steal_since_boot": 0.0,
    }
    assert hazards(host, transport="shm") == []

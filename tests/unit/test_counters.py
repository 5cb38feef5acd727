"""The counters file as Python reads it, and ``rdmaorder stat``.

The files are put together here from the documented bytes alone.
"""

from __future__ import annotations

import argparse
import errno
import json
import mmap
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import pytest
from rights_support import without_rights

from rdmaorder.cli import stat
from rdmaorder.errors import ConfigError, InputError, SystemFailure
from rdmaorder.monitor import counters as counters_module
from rdmaorder.monitor.counters import GAUGES, CounterName, Counters

ROOT = Path(__file__).resolve().parents[2]
GONE_PID = 1 << 30  # above every kernel's limit
NAMES = ("passes", "max_window_ns", "orders_applied{session=alpha}", "orders_applied{session=b.2}")


def build(
    path: Path,
    values: dict[str, int],
    *,
    capacity: int = 8,
    version: int = 1,
    pid: int = GONE_PID,
    start_time_ns: int = 1_700_000_000_000_000_000,
    label: bytes = b"gateway test",
    labels_offset: int = 128,
    values_offset: int | None = None,
) -> Path:
    """A counters file by the table of docs/counters.md."""
    at = labels_offset + 128 * capacity if values_offset is None else values_offset
    header = b"ROCNT001" + struct.pack(
        "<IIQQQQ80s", version, capacity, pid, start_time_ns, labels_offset, at, label
    )
    labels = b"".join(name.encode().ljust(128, b"\0") for name in values)
    numbers = b"".join(struct.pack("<Q", value) for value in values.values())
    path.write_bytes(
        header + labels.ljust(128 * capacity, b"\0") + numbers.ljust(8 * capacity, b"\0")
    )
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return build(tmp_path / "counters", dict(zip(NAMES, (10, 77, 3, 2**64 - 1), strict=True)))


class TestCounters:
    def test_a_snapshot_has_every_counter_in_the_order_made_and_whole_64_bits(
        self, file: Path
    ) -> None:
        with Counters(file) as counters:
            snapshot = counters.snapshot()
        assert list(snapshot) == list(NAMES)
        assert list(snapshot.values()) == [10, 77, 3, 2**64 - 1]

    def test_the_header_tells_who_writes_since_when(self, file: Path) -> None:
        with Counters(str(file)) as counters:
            assert counters.label == "gateway test"
            assert counters.pid == GONE_PID
            assert counters.start_time_ns == 1_700_000_000_000_000_000
            assert counters.capacity == 8
            assert "gateway test" in repr(counters)

    def test_it_sees_values_change_and_counters_added_while_it_is_open(self, file: Path) -> None:
        with Counters(file) as counters, file.open("r+b") as writer:
            assert len(counters.snapshot()) == 4
            writer.seek(128 + 8 * 128)
            writer.write(struct.pack("<Q", 11))
            writer.seek(128 + 4 * 128)
            writer.write(b"stalls")
            writer.seek(128 + 8 * 128 + 4 * 8)
            writer.write(struct.pack("<Q", 9))
            writer.flush()
            snapshot = counters.snapshot()
        assert snapshot["passes"] == 11
        assert snapshot["stalls"] == 9

    def test_a_file_filled_to_its_last_place_is_read_to_the_end(self, tmp_path: Path) -> None:
        path = build(tmp_path / "c", {"a": 1, "b": 2}, capacity=2)
        with Counters(path) as counters:
            assert counters.snapshot() == {"a": 1, "b": 2}

    def test_close_may_be_called_twice_and_a_snapshot_after_it_is_an_error(
        self, file: Path
    ) -> None:
        counters = Counters(file)
        counters.snapshot()
        counters.close()
        counters.close()
        with pytest.raises(ValueError, match="is closed"):
            counters.snapshot()

    def test_a_missing_file_is_a_system_failure_that_names_the_path(self, tmp_path: Path) -> None:
        with pytest.raises(SystemFailure, match=r"nowhere: No such file") as caught:
            Counters(tmp_path / "nowhere")
        assert caught.value.errno == errno.ENOENT

    def test_a_file_that_may_not_be_read_says_who_may(self, file: Path) -> None:
        file.chmod(0)
        with without_rights(), pytest.raises(SystemFailure) as caught:
            Counters(file)
        assert str(caught.value) == (
            f"open counters file {file}: Permission denied; it is its process's user's: read it "
            "as that user, or as root"
        )

    def test_a_directory_is_a_system_failure(self, tmp_path: Path) -> None:
        with pytest.raises(SystemFailure, match="Is a directory"):
            Counters(tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "empty"),
            (b"ROCNT001", "not a counters file: 8 bytes"),
            (b"x" * 4096, "not a counters file"),
        ],
    )
    def test_a_file_of_another_kind_is_refused(
        self, tmp_path: Path, content: bytes, message: str
    ) -> None:
        path = tmp_path / "other"
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            Counters(path)
        assert caught.value.path == str(path)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"version": 2}, "version 2; this rdmaorder reads version 1"),
            ({"capacity": 0}, "room for 0 counters"),
            ({"capacity": 2**20 + 1, "values_offset": 128}, "room for 1048577 counters"),
            ({"labels_offset": 64, "values_offset": 64 + 8 * 128}, "labels at 64"),
            ({"values_offset": 128}, "values at 128"),
            ({"values_offset": 2**63}, "values at"),
            ({"pid": 0}, "process id 0"),
            ({"pid": 2**40}, "process id"),
        ],
    )
    def test_a_header_that_cannot_be_is_refused_by_what_is_wrong(
        self, tmp_path: Path, fields: dict[str, int], message: str
    ) -> None:
        path = build(tmp_path / "c", {}, **fields)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message):
            Counters(path)

    def test_a_truncated_file_is_refused_before_it_is_read(self, file: Path) -> None:
        with file.open("r+b") as writer:
            writer.truncate(128 + 8 * 128 + 63)
        with pytest.raises(InputError, match="truncated"):
            Counters(file)

    @pytest.mark.parametrize("label", ["two words", "a{b}", "x" * 128, "\x7f"])
    def test_a_label_no_writer_makes_is_reported_as_damage(
        self, tmp_path: Path, label: str
    ) -> None:
        path = build(tmp_path / "c", {"fine": 1, label: 2})
        with Counters(path) as counters, pytest.raises(InputError, match="label 1 is"):
            counters.snapshot()

    def test_a_name_comes_apart_into_base_and_session(self) -> None:
        assert CounterName.parse("passes") == ("passes", None, None)
        assert CounterName.parse("orders_applied{session=a.b:c-1}") == (
            "orders_applied",
            "session",
            "a.b:c-1",
        )
        with pytest.raises(ValueError, match="neither"):
            CounterName.parse("a{b=c")


class TestAlive:
    WRITER = (
        "import mmap, sys\n"
        "file = open(sys.argv[1], 'r+b')\n"
        "memory = mmap.mmap(file.fileno(), 0)\n"
        "print('mapped', flush=True)\n"
        "sys.stdin.read()\n"
    )

    @pytest.fixture
    def writer(self, file: Path) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [sys.executable, "-c", self.WRITER, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "mapped\n"
            yield process

    def set_pid(self, file: Path, pid: int) -> None:
        with file.open("r+b") as writer:
            writer.seek(16)
            writer.write(struct.pack("<Q", pid))

    def test_a_process_that_has_the_file_mapped_is_alive_until_it_ends(
        self, file: Path, writer: subprocess.Popen[str]
    ) -> None:
        self.set_pid(file, writer.pid)
        with Counters(file) as counters:
            assert counters.alive()
            writer.communicate()
            assert not counters.alive()

    def test_another_process_of_the_same_id_is_not_taken_for_the_writer(
        self, file: Path, writer: subprocess.Popen[str]
    ) -> None:
        self.set_pid(file, os.getpid())  # runs, and has the file mapped only for reading
        with Counters(file) as counters:
            assert not counters.alive()

    def test_this_process_is_alive_when_it_is_the_writer(self, file: Path) -> None:
        self.set_pid(file, os.getpid())
        with file.open("r+b") as handle, mmap.mmap(handle.fileno(), 0), Counters(file) as counters:
            assert counters.alive()


class TestStat:
    def parse(self, *words: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        stat.add_parser(parser.add_subparsers())
        return parser.parse_args(["stat", *words])

    def run(self, *words: str) -> int:
        args = self.parse(*words)
        return int(args.run(args))

    def test_without_a_terminal_it_prints_one_aligned_line_a_counter(
        self, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(str(file)) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(
            f"gateway test: process {GONE_PID} gone, started 2023-11-14 22:13:20 UTC"
        )
        assert [line.split() for line in lines[1:]] == [
            ["passes", "10"],
            ["max_window_ns", "77"],
            ["orders_applied{session=alpha}", "3"],
            ["orders_applied{session=b.2}", str(2**64 - 1)],
        ]
        assert len({len(line) for line in lines[1:]}) == 1

    def test_json_has_every_field_and_exact_values(
        self, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(str(file), "--json") == 0
        record = json.loads(capsys.readouterr().out)
        assert record["counters"]["orders_applied{session=b.2}"] == 2**64 - 1
        assert (record["pid"], record["alive"]) == (GONE_PID, False)
        assert record["label"] == "gateway test"
        assert "rates" not in record

    def test_prometheus_text_is_parsed_back_by_its_own_library(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("prometheus_client")
        from prometheus_client.parser import text_string_to_metric_families

        path = build(
            tmp_path / "c", dict(zip(NAMES, (10, 77, 3, 4), strict=True)), label=b'odd "\\\n label'
        )
        assert self.run(str(path), "--prometheus") == 0
        samples = {
            (sample.name, tuple(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(capsys.readouterr().out)
            for sample in family.samples
        }
        assert samples["rdmaorder_passes_total", ()] == 10
        assert samples["rdmaorder_max_window_ns", ()] == 77
        assert samples["rdmaorder_session_orders_applied_total", (("session", "alpha"),)] == 3
        assert samples["rdmaorder_session_orders_applied_total", (("session", "b.2"),)] == 4
        assert samples["rdmaorder_up", ()] == 0
        info = next(dict(labels) for name, labels in samples if name == "rdmaorder_process_info")
        assert info == {"label": 'odd "\\\n label', "pid": str(GONE_PID)}

    def test_prometheus_and_watch_exclude_each_other(self, file: Path) -> None:
        with pytest.raises(ConfigError, match="leave out --watch"):
            self.run(str(file), "--prometheus", "--watch", "1")

    @pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon", "1e9"])
    def test_an_interval_out_of_range_is_refused(
        self, file: Path, seconds: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            self.parse(str(file), f"--watch={seconds}")
        assert "seconds" in capsys.readouterr().err

    def test_rates_are_differences_over_time_and_only_of_what_grows(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock_ns = [5_000_000_000]
        monkeypatch.setattr(stat.time, "time_ns", lambda: clock_ns[0])

        def count_on(seconds: float) -> None:
            clock_ns[0] += int(seconds * 1e9)
            build(file, dict(zip(NAMES, (30, 99, 3, 2**64 - 1), strict=True)))

        monkeypatch.setattr(stat.time, "sleep", count_on)
        first, second = islice(stat.frames(str(file), 4.0), 2)
        assert first.rates == {}
        assert second.rates == {
            "passes": 5.0,
            "orders_applied{session=alpha}": 0.0,
            "orders_applied{session=b.2}": 0.0,
        }
        text = stat.render_text(second).splitlines()
        assert text[1].split() == ["passes", "30", "5.0/s"]
        assert text[2].split() == ["max_window_ns", "99"]

    def test_a_restarted_process_has_no_rate_from_the_one_before(self, file: Path) -> None:
        before = stat.take_frame(str(file))
        build(file, {"passes": 1}, start_time_ns=1_700_000_000_000_000_001)
        assert stat.take_frame(str(file), before).rates == {}

    def test_the_terminal_table_has_totals_and_a_row_a_session(self, file: Path) -> None:
        from rich.console import Console

        console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
        before = stat.take_frame(str(file))
        with console.file:
            console.print(stat.render_table(stat.take_frame(str(file), before)))
            text = console.export_text()
        assert re.search(r"passes\W+10\W+0\b", text)
        assert re.search(r"alpha\W+3 \(0/s\)", text)
        assert re.search(r"b\.2\W+18,446,744,073,709,551,615", text)

    def test_an_error_of_the_file_reaches_the_caller(self, tmp_path: Path) -> None:
        with pytest.raises(SystemFailure):
            self.run(str(tmp_path / "nowhere"))


class TestTheLayoutIsTheSameEverywhere:
    """docs/counters.md, the contract header and the reader describe the same bytes."""

    HEADER_TEXT = (ROOT / "cpp/include/rdmaorder/monitor.hpp").read_text(encoding="utf-8")
    DOC_TEXT = (ROOT / "docs/counters.md").read_text(encoding="utf-8")

    def offsets_of_reader(self) -> list[tuple[int, int]]:
        """(offset, size) of each field, from what struct says of ever longer prefixes."""
        codes = re.findall(r"\d*[sIQ]", counters_module.HEADER.format)
        offsets = [struct.calcsize("<" + "".join(codes[:n])) for n in range(len(codes) + 1)]
        return [(start, end - start) for start, end in pairwise(offsets)]

    def test_offsets_and_sizes_agree(self) -> None:
        in_header = re.findall(r"^//   (\d+)\s+(\d+)  \S", self.HEADER_TEXT, re.MULTILINE)
        in_doc = re.findall(r"^\| (\d+) \| (\d+) \|", self.DOC_TEXT, re.MULTILINE)
        expected = self.offsets_of_reader()
        assert [(int(a), int(b)) for a, b in in_header] == expected
        assert [(int(a), int(b)) for a, b in in_doc] == expected

    @pytest.mark.parametrize(
        ("constant", "value"),
        [
            ("kCountersMagic[]", f'"{counters_module.MAGIC.decode()}"'),
            ("kCountersVersion", str(counters_module.VERSION)),
            ("kCountersHeaderBytes", str(counters_module.HEADER.size)),
            ("kCounterLabelBytes", str(counters_module.LABEL_BYTES)),
            ("kCounterCountMax", f"1U << {counters_module.COUNT_MAX.bit_length() - 1}"),
        ],
    )
    def test_constants_agree(self, constant: str, value: str) -> None:
        assert f"{constant} = {value};" in self.HEADER_TEXT

    def test_the_label_and_value_sizes_in_the_doc_agree(self) -> None:
        assert f"| labels | {counters_module.LABEL_BYTES} × count |" in self.DOC_TEXT
        assert "| values | 8 × count |" in self.DOC_TEXT
        assert counters_module.MAGIC.decode() in self.DOC_TEXT

    def test_every_maximum_is_documented_as_one(self) -> None:
        sentence = re.search(r"All but the maxima \(([^)]*)\)", self.DOC_TEXT)
        assert sentence is not None
        assert set(re.findall(r"`(\w+)`", sentence[1])) == GAUGES


def test_a_named_pipe_is_no_counters_file(tmp_path: Path) -> None:
    """To open one waits for who writes into it."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: not a counters file: it is no regular file"):
        Counters(tmp_path / "pipe")

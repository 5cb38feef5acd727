"""Recorded order flow over RDMA, from the recording to the verdict over ledger and journal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from gateway_support import GatewayProcess, strategy_url

from rdmaorder import cli

#: Client messages sent. Under emulation an order and its report take about a millisecond.
LIMIT = 12_000
SESSIONS = 3


def recording(out: Path, tmp_path: Path) -> list[str]:
    """The words that name it: half an hour of Bitstamp's orders where the host had them."""
    if (out / "orders.csv").exists():
        return [str(out / "orders.csv"), "--format", "ob-analytics"]
    rows = ["t_ns,msg,order_id,side,price,qty,sym\n"]
    for n in range(LIMIT // 4):
        for at, message in enumerate(("N,{},B,1.25,8", "C,{},B,,3", "M,{},B,1.5,9", "D,{},B,,")):
            rows.append(f"{1000 * (4 * n + at)},{message.format(n)},SYM{n % 3}\n")
    (tmp_path / "flow.csv").write_text("".join(rows))
    return [str(tmp_path / "flow.csv")]


def test_real_order_flow_is_replayed_with_nothing_lost_duplicated_or_unknown(
    start_process: Callable[..., GatewayProcess], tmp_path: Path, out: Path
) -> None:
    journal = tmp_path / "journal"
    gateway = start_process("--handler", "venue", "--journal", str(journal))
    words = ["replay", *recording(out, tmp_path), "--to", strategy_url(gateway.url), "--flat-out"]
    words += ["--limit", str(LIMIT), "--sessions", str(SESSIONS), "--timeout", "60"]
    words += ["--ledger", str(tmp_path / "l.npz"), "--json", str(tmp_path / "run.json")]
    assert cli.main(words) == 0
    assert gateway.end()[0] == 0
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["sent"] == LIMIT
    assert (run["lost"], run["duplicated"], run["unknown"]) == (0, 0, 0)
    words = ["reconcile", "--ledger", str(tmp_path / "l.npz"), "--journal", str(journal)]
    assert cli.main([*words, "--json", str(tmp_path / "verdict.json")]) == 0
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["verdict"] == "PASS"
    assert verdict["messages"] == {"sent": LIMIT, "journalled": LIMIT, "equal": LIMIT}

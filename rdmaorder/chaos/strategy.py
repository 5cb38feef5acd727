"""The strategy under test: writes its ledger, sends, takes reports, and comes back after anything.

Runs in a process of its own, which the supervisor kills, stops and starts again. Whatever it knows
lies in the files of :mod:`rdmaorder.chaos.ledger`; a new life begins with those and nothing else.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from rdmaorder.chaos.flow import make_messages
from rdmaorder.chaos.hostile import Act, perform
from rdmaorder.chaos.ledger import ENTRY, MESSAGE_BYTES, Board, EntryState, open_logs
from rdmaorder.errors import ConfigError, NotConnected, RdmaOrderError, SendError, SessionClosed
from rdmaorder.messages import NEW_ORDER, Reason, Records, SessionEventKind, TemplateId
from rdmaorder.session import Session, connect

__all__ = ["PACES", "SESSION_NAME", "Pace", "StrategySettings", "run"]

SESSION_NAME: Final = "strategy"
_BATCH_MAX: Final = 32
_CONNECT_PATIENCE_S: Final = 30.0
_IDLE_WAIT_S: Final = 0.000_2


@dataclass(frozen=True)
class Pace:
    """How soon silence is noticed."""

    heartbeat_us: int = 1_000
    suspect_after_s: float = 0.02
    dead_after_s: float = 0.3


#: By transport. A heartbeat over RDMA is a WRITE, and packets that are lost for a while must not
#: end every link: only some of the faults of the wire are to be longer than that.
PACES: Final = {"shm": Pace(), "rdma": Pace(20_000, 0.3, 1.0)}


@dataclass(frozen=True)
class StrategySettings:
    """What a life of the strategy is started with."""

    url: str
    folder: Path
    seed: int
    life: int  #: counts from 1
    #: Take the session up from the gateway's word instead of the own ledger's.
    trust_gateway: bool
    pace: Pace = PACES["shm"]


class Strategy:
    """One life of the strategy."""

    def __init__(self, settings: StrategySettings) -> None:
        self._settings = settings
        self._board = Board(settings.folder / "board")
        self._ledger, self._reports, self._links = open_logs(settings.folder)
        self._dice = np.random.default_rng((settings.seed, settings.life))
        self._hostile_dice = random.Random(f"{settings.seed} {settings.life}")
        self._session = self._begin()
        self._deaf_until_s = 0.0

    # -- links -----------------------------------------------------------------------------------

    def _begin(self) -> Session:
        entries = self._ledger.written
        open_rows = np.flatnonzero(entries["state"] <= EntryState.SENT)
        next_sequence = 0
        if not self._settings.trust_gateway and len(open_rows):
            next_sequence = int(entries["sequence"][open_rows].max()) + 1
        reports = self._reports.written
        settings = {
            "next_sequence": next_sequence,
            "next_report_sequence": int(reports["sequence"][-1]) + 1 if len(reports) else 1,
            "connect_timeout_s": 2.0,
            "send_timeout_s": 0.0,
            "suspect_after_s": self._settings.pace.suspect_after_s,
            "dead_after_s": self._settings.pace.dead_after_s,
        }
        deadline_s = time.monotonic() + _CONNECT_PATIENCE_S
        while True:
            try:
                session = connect(self._settings.url, SESSION_NAME, **settings)  # type: ignore[arg-type]
                break
            except ConfigError:
                raise
            except RdmaOrderError:  # the gateway starts, or has not seen this one's death yet
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(0.001)
        self._note_link(session)
        self._hear(session)
        if next_sequence == 0:  # what the gateway's word says was never applied
            self._not_applied(session.next_sequence, 1 << 62)
        return session

    def _note_link(self, session: Session) -> None:
        self._links.append(
            (
                time.time_ns(),
                SessionEventKind.ESTABLISHED,
                self._settings.life,
                session.next_sequence,
                0,
            )
        )
        self._board.set("links", self._board.get("links") + 1)

    def _reconnect(self) -> None:
        self._poll()  # what has arrived and was not taken yet
        deadline_s = time.monotonic() + _CONNECT_PATIENCE_S
        while True:
            try:
                self._session.reconnect(1.0)
                break
            except ConfigError:
                raise
            except RdmaOrderError:
                if time.monotonic() > deadline_s:
                    raise
        self._note_link(self._session)
        self._hear(self._session)

    def _hear(self, session: Session) -> None:
        for event in session.events():
            if event.kind == SessionEventKind.NOT_APPLIED:
                self._not_applied(event.from_sequence, event.count)
            if event.kind in (SessionEventKind.NOT_APPLIED, SessionEventKind.REPORTS_LOST):
                row = (event.time_ns, event.kind, self._settings.life)
                self._links.append((*row, event.from_sequence, event.count))

    def _not_applied(self, first: int, count: int) -> None:
        entries = self._ledger.written
        named = (entries["sequence"] >= first) & (entries["sequence"] - first < count)
        entries["state"][named & (entries["state"] <= EntryState.SENT)] = EntryState.NOT_APPLIED

    # -- orders ----------------------------------------------------------------------------------

    def _send_some(self) -> bool:
        """A few orders: into the ledger first, then into the ring. False when there is no leave."""
        start = self._ledger.count
        leave = min(self._board.get("limit"), self._ledger.capacity) - start
        if leave <= 0:
            return False
        count = min(leave, int(self._dice.integers(1, _BATCH_MAX + 1)))
        slots = make_messages(start + 1, count, self._dice)
        entries = np.zeros(count, ENTRY)
        entries["sequence"] = np.arange(count, dtype=np.uint64) + np.uint64(
            self._session.next_sequence
        )
        entries["state"] = EntryState.INTENT
        entries["life"] = self._settings.life
        parts = [("message", f"V{MESSAGE_BYTES}"), ("commit", f"V{64 - MESSAGE_BYTES}")]
        entries["message"] = slots.view(np.dtype((np.void, 64))).view(np.dtype(parts))["message"]
        self._ledger.append(entries)
        self._push(slots, start)
        return True

    def _push(self, slots: Records, start: int) -> None:
        """Sends ``slots``, whose entries begin at ``start``; polls while there is no room."""
        sent, total = 0, len(slots)
        states = self._ledger.rows["state"]
        while sent < total:
            try:
                done = self._send_one(slots) if total == 1 else self._send(slots[sent:])
            except SendError as error:
                done = error.sent
            states[start + sent : start + sent + done] = EntryState.SENT
            sent += done
            if done or self._poll():
                continue
            if self._over():
                states[start + sent : start + total] = EntryState.REFUSED
                return
            time.sleep(0)  # full, or suspect: the next position or heartbeat decides

    def _send(self, slots: Records) -> int:
        return self._session.try_send_batch(slots)

    def _send_one(self, slots: Records) -> int:
        """Through the call for single orders where the message is one that it can make."""
        order = slots.view(NEW_ORDER)[0]
        if order["template_id"] != TemplateId.NEW_ORDER or order["stale_after_ns"]:
            return self._send(slots)
        result = self._session.try_new_order(
            *(int(order[name]) for name in ("cl_ord_id", "instrument", "side", "price")),
            *(int(order[name]) for name in ("quantity", "account", "ord_type", "time_in_force")),
        )
        return int(result > 0)

    def _over(self) -> bool:
        return self._session.status()["state"] in ("dead", "closed")

    # -- reports ---------------------------------------------------------------------------------

    def _poll(self) -> bool:
        """Takes what has arrived into the log. False when there was nothing."""
        if time.monotonic() < self._deaf_until_s:
            return False
        any_at_all = False
        while True:
            try:
                reports = self._session.poll()
            except (NotConnected, SessionClosed):
                return any_at_all
            if not len(reports):
                return any_at_all
            any_at_all = True
            self._reports.append(reports)
            refused = np.count_nonzero(reports["reason"] == Reason.JOURNAL_UNAVAILABLE)
            if refused:
                self._board.set("unjournalled", self._board.get("unjournalled") + int(refused))
            # Last: who sees an order answered finds everything about it counted.
            self._board.set(
                "answered", max(self._board.get("answered"), int(reports["cl_ord_id"].max()))
            )

    # -- the loop --------------------------------------------------------------------------------

    def _act(self) -> None:
        """What the supervisor asks for besides orders."""
        command = self._board.get("command")
        if command == self._board.get("command_done") or self._over():
            return
        act, argument = Act(self._board.get("command_kind")), self._board.get("command_argument")
        if act is Act.DEAF:
            self._deaf_until_s = time.monotonic() + argument / 1e3
        elif perform(self._session, SESSION_NAME, act, self._hostile_dice):
            # Left alone, or overwritten by the next order at once: the argument says.
            time.sleep(argument / 1e3)
        else:
            return  # after the next order
        self._board.set("command_done", command)

    def run(self) -> None:
        """Until the supervisor says that it is over."""
        while not self._board.get("closing"):
            self._act()
            moved = self._poll()
            self._hear(self._session)
            if self._over():
                self._reconnect()
                continue
            moved = self._send_some() or moved
            if not moved:
                self._wait()
        self._session.close()

    def _wait(self) -> None:
        if time.monotonic() < self._deaf_until_s or not self._session.wait(_IDLE_WAIT_S):
            time.sleep(_IDLE_WAIT_S)


def run(settings: StrategySettings) -> None:
    """A whole life."""
    Strategy(settings).run()

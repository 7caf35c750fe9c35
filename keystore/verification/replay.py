"""What the log says happened: its leaves, replayed into the state that the tables must show. Pure: bytes in, values and problems
out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from keystore.verification import replay_decisions, replay_holdings
from keystore.verification.replay_decisions import LoggedDecisions, apply_decision, says_time_went_back
from keystore.verification.replay_holdings import LoggedHoldings, apply_holding

State = TypeVar("State", bound=LoggedDecisions)
KNOWN = replay_decisions.KINDS | replay_holdings.KINDS | {"refused"}


@dataclass
class LoggedState(LoggedDecisions, LoggedHoldings):
    """All that the log tells."""


@dataclass
class Replay(Generic[State]):
    """Goes through a log, entry by entry. size: entries so far; last_time: of the last of them."""

    state: State
    apply: Callable[[State, dict[str, Any]], None]
    size: int = 0
    last_time: str = ""

    def add(self, data: bytes) -> None:
        """Take the next leaf into account; one that does not fit is a problem of the state."""
        seq, problems = self.size, self.state.problems
        self.size += 1
        try:
            leaf = json.loads(data)
            if leaf["seq"] != seq:
                problems.append(f"entry {seq} says it is entry {leaf['seq']}")
            if leaf["time"] < self.last_time and not says_time_went_back(leaf):
                problems.append(f"entry {seq} is earlier than the entry before it")
            self.last_time = leaf["time"]
            if leaf["type"] not in KNOWN:
                problems.append(f"entry {seq} has the unknown type {leaf['type']!r}")
            self.apply(self.state, leaf)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            problems.append(f"entry {seq} is malformed or refers to nothing ({type(error).__name__}: {error})")


def full_replay() -> Replay[LoggedState]:
    """A replay from the first entry into all that the log tells."""
    return Replay(LoggedState(), _apply_all)


def replay(leaves: Iterable[bytes]) -> LoggedState:
    """Return the state that the leaves of a whole log lead to, with every leaf that does not fit as a problem."""
    whole = full_replay()
    for leaf in leaves:
        whole.add(leaf)
    return whole.state


def _apply_all(state: LoggedState, leaf: dict[str, Any]) -> None:
    apply_decision(state, leaf)
    apply_holding(state, leaf)

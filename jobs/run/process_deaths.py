"""What the deaths of a stage's processes say about its rows.

A process that dies (a crash in native code, the kernel's OOM killer, a device that is lost) takes a whole block with it,
and Ray hands the block to the next process, for ever if it is let. Every process therefore says which rows it has in hand.
Rows that were in hand when a process died are worked on again in smaller parts, down to a single row, and a row is to blame
when two processes died with it alone. Neighbours that shared a death with a row that is to blame are cleared of it.

What a process says about a fault of the machine before it leaves is no verdict on the row in hand, with one exception: a row
that alone runs two processes out of memory while other rows get through is too large for the machine.

Nothing here knows of Ray: it is a record of row numbers, held by `jobs.run.progress.Monitor`, one for each stage of an attempt.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

DEATHS_OF_A_ROW: Final = 2  # processes that died with this row alone in hand
FAULTS_OF_A_ROW: Final = 3  # processes that met a fault of the machine with this row alone in hand: then the run ends
# Rows that shared a death are tried again in so many parts. Halves would find the row with the fewest calls, but each
# further step costs the start of a process, which loads the models again.
PARTS: Final = 8
# Deaths that a run bears, beside one of each process (a machine of the cluster may be taken away with all its processes).
MAX_DEATHS_WITHOUT_PROGRESS: Final = 8  # since a row last got through, rows to blame included
MAX_UNEXPLAINED_DEATHS: Final = 32  # in all, without a row that is to blame


@dataclass(frozen=True)
class Fault:
    """What a process says of the fault it leaves for. description: as `jobs.faults.describe` gives it."""

    description: str
    memory: bool


@dataclass(frozen=True)
class Death:
    """One process that ended. fault: None when it was killed. witnesses: rows that had got through the stage by then."""

    rows: frozenset[int]
    fault: Fault | None
    witnesses: int


@dataclass(frozen=True)
class Plan:
    """How a block is worked through: the rows of each part, in order, and the reasons of those that are not tried again."""

    parts: list[list[int]]
    verdicts: dict[int, str]


@dataclass
class StageRecord:
    """The processes of one stage, the rows they have in hand, and their deaths."""

    in_hand: dict[str, frozenset[int]] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    deaths: list[Death] = field(default_factory=list)
    witnesses: int = 0
    to_blame: set[int] = field(default_factory=set)

    def started(self, process: str) -> None:
        """A process begins, or takes the place of the one of its name that died."""
        if process in self.in_hand:
            self.deaths.append(Death(self.in_hand[process], self.faults.pop(process, None), self.witnesses))
        self.in_hand[process] = frozenset()

    def hold(self, process: str, rows: Iterable[int], witnesses: int) -> None:
        """A process begins with `rows`; `witnesses` of those it had before have gone the whole way."""
        self.in_hand[process] = frozenset(rows)
        self.witnesses += witnesses

    def leaves(self, process: str, fault: Fault) -> None:
        """A process is about to end for a fault of the machine."""
        self.faults[process] = fault

    def plan(self, rows: Sequence[int]) -> Plan:
        """How the rows of a block are to be worked through now; rows that are to blame for deaths are remembered as such."""
        verdicts = {row: reason for row in rows if (reason := self._verdict(row))}
        self.to_blame.update(verdicts)
        shared: dict[int, list[int]] = {}
        free: list[int] = []
        for row in (row for row in rows if row not in verdicts):
            held = min((len(death.rows) for death in self._unexplained() if row in death.rows), default=0)
            (shared.setdefault(held, []) if held else free).append(row)
        parts = [part for held in sorted(shared) for part in _cut(shared[held], -(-held // PARTS))]
        parts += [free] if free else []
        # The part that is suspected least shows whether the machine is well. The others follow by suspicion: little work is
        # lost when they end this process too.
        return Plan([*parts[-1:], *parts[:-1]], verdicts)

    def exhausted(self) -> str:
        """Why the run must end: more went wrong than rows can be blamed for. "" while it need not."""
        for row in {row for death in self._unexplained() if len(death.rows) == 1 for row in death.rows}:
            faults = [death.fault for death in self._alone(row) if death.fault is not None]
            if len(faults) >= FAULTS_OF_A_ROW:
                return f"{len(faults)} processes met {faults[-1].description}, each with row {row} alone in hand"
        stalled = [death for death in self.deaths if death.witnesses == self.witnesses]
        if len(stalled) > MAX_DEATHS_WITHOUT_PROGRESS + len(self.in_hand):
            return f"{len(stalled)} processes ended before a row got through{_last(stalled)}"
        unexplained = self._unexplained()
        if len(unexplained) > MAX_UNEXPLAINED_DEATHS + len(self.in_hand):
            return f"{len(unexplained)} processes ended, and no row is to blame{_last(unexplained)}"
        return ""

    def _verdict(self, row: int) -> str:
        alone = self._alone(row)
        killed = [death for death in alone if death.fault is None]
        if len(killed) >= DEATHS_OF_A_ROW:
            return f"killed_process: {len(killed)} processes died with this picture alone in hand"
        starved = [death for death in alone if death.fault is None or death.fault.memory]
        if len(starved) >= DEATHS_OF_A_ROW and self._is_witnessed(row):
            return f"out_of_memory: {len(starved)} processes had not memory enough for this picture alone, and had for others"
        return ""

    def _alone(self, row: int) -> list[Death]:
        return [death for death in self.deaths if death.rows == {row}]

    def _is_witnessed(self, row: int) -> bool:
        """True when others got through since the row first ended a process alone."""
        alone = self._alone(row)
        return bool(alone) and self.witnesses > alone[0].witnesses

    def _unexplained(self) -> list[Death]:
        return [death for death in self.deaths if not death.rows & self.to_blame]


def _cut(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _last(deaths: list[Death]) -> str:
    """What is known of the last death, for the message."""
    death = deaths[-1]
    said = death.fault.description if death.fault is not None else "it was killed"
    rows = ", ".join(map(str, sorted(death.rows)[:3])) + (", ..." if len(death.rows) > 3 else "")
    return f" (the last one: {said}{f', with row {rows} in hand' if rows else ''})"

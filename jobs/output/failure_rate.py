"""A run that keeps too many pictures out stops early: a wrong folder, a broken disk or a wrong setting shows in its first rows,
and need not be paid for a million times."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from jobs.errors import TooManyQuarantinedError
from jobs.output.row_shards import reason_code

MIN_ROWS: Final = 100  # of one attempt, before its share of quarantined rows says anything
REASONS_SHOWN: Final = 3


class FailureRate:
    """The share of rows that an attempt may quarantine. limit: above it the attempt ends; None never ends one."""

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._rows = 0
        self._reasons: Counter[str] = Counter()

    def admit(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count the rows of a block that is about to be published. Raises TooManyQuarantinedError: it must not be."""
        for row in rows:
            self._rows += 1
            if row["status"] == "quarantined":
                self._reasons[reason_code(row["reason"])] += 1
        if self._rows >= MIN_ROWS:
            self.judge(self._rows, self._reasons)

    def judge(self, rows: int, reasons: Counter[str]) -> None:
        """Compare some rows, however few, with the limit. reasons: codes of the quarantined ones.

        Raises TooManyQuarantinedError.
        """
        count = reasons.total()
        if self._limit is None or count <= self._limit * rows:
            return
        shown = ", ".join(f"{code} {times}" for code, times in reasons.most_common(REASONS_SHOWN))
        raise TooManyQuarantinedError(
            f"{count} of {rows} rows were quarantined, more than the share of {self._limit:g} that max_failure_rate "
            f"allows ({shown}{', ...' if len(reasons) > REASONS_SHOWN else ''}); the run is not complete. Mend the cause and run "
            "the same command again, or allow more; `keyanon quarantine list` shows the rows that were published"
        )

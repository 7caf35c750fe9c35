"""A stand-in for the workers of a run, which quarantines every row."""

from jobs.blocks import ID, ROW, with_results
from jobs.output.publisher import Publisher
from jobs.output.sink import PairedDatasink
from jobs.run.anonymize import Attempt
from jobs.run.measures import Measures
from jobs.run.progress import ProgressCallback
from tests.jobs.publishing import quarantined

FIRST = ("late: x", "late: x", "corrupt: x", "gate: x")  # why each row is quarantined by the run


class Stopped(Exception):
    """The machine ended an attempt."""


class Workers:
    """What `jobs.run.anonymize` computes with. reasons: of the rows; stops_after: rows after which an attempt ends; backwards:
    whether it begins with the last row."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.reasons, self.stops_after, self.backwards = list(FIRST), len(FIRST), False

    def __call__(self, attempt: Attempt, progress: ProgressCallback | None) -> Measures:
        self.attempts.append(attempt)
        keys, run_id = attempt.keys, attempt.manifest.run_id
        inbox = None if keys is None else keys.begin(run_id, attempt.config.dataset)
        left_alone, numbers = attempt.left_alone, attempt.rows.numbers
        publisher = Publisher(attempt.layout, attempt.lease, [numbers[row] for row in left_alone])
        publisher.open()
        sink = PairedDatasink(attempt.layout, inbox, attempt.lease.token, attempt.retry)
        units = attempt.source.units(left_alone, lambda left: 1, numbers)
        blocks = [one.slice(at, 1) for unit in units for one in unit.read() for at in range(one.num_rows)]
        for table in (blocks[::-1] if self.backwards else blocks)[: self.stops_after]:
            row, name = table.column(ROW)[0].as_py(), table.column(ID)[0].as_py()
            sink.stage(with_results(table, [quarantined(row, name, self.reasons[row % len(self.reasons)])]))
        publisher.publish_complete()
        if self.stops_after < len(blocks):
            raise Stopped
        return Measures()

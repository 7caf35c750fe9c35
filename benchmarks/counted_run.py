"""`keyanon`, with anonymizing workers that write down what they have computed, and whose denoiser may only sleep.

    python benchmarks/counted_run.py LOG MS anonymize PHOTOS --output OUT ...

LOG, a file on a disk that all nodes share, gets a line with the id of each row whose pictures an anonymizing process has done,
whatever becomes of it. MS is what one evaluation of one face takes the sleeping denoiser; with - the prior is the run's own.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import Sleeper

import jobs.commands.cli
import jobs.run.anonymize
from jobs.blocks import ID
from jobs.run.anonymize_stage import AnonymizeFaces

REAL = "-"


def counted(log: Path, ms: float | None) -> type[AnonymizeFaces]:
    """The stage itself, with a line in `log` for each row."""

    class CountedAnonymizeFaces(AnonymizeFaces):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            if ms is not None:
                prior = self.anonymizer.prior
                slept = log.with_name(f"slept-{os.getpid()}")
                Sleeper(ms / 1000, slept, prior.networks.denoiser.out_channels).put_into(prior)

        def _anonymize(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
            made = super()._anonymize(rows)
            lines = "".join(f"{row[ID]}\n" for row in rows)
            descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, lines.encode())  # at once: whole lines, whoever else writes
            finally:
                os.close(descriptor)
            return made

    return CountedAnonymizeFaces


if __name__ == "__main__":
    log, ms = Path(sys.argv[1]), sys.argv[2]
    stage = counted(log, None if ms == REAL else float(ms))
    setattr(jobs.run.anonymize, "AnonymizeFaces", stage)  # noqa: B010  a name that the module does not export
    sys.exit(jobs.commands.cli.main(sys.argv[3:]))

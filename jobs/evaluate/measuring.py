"""How rows are measured, whatever is measured of them: through Ray Data into portions of the output, and portions into a report.

A stopped evaluation goes on when the same command is run again; a finished one only tells again what it found.
"""

import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from jobs.errors import ConfigError, PublishError
from jobs.evaluate.portions import FOLDER, Portions
from jobs.evaluate.report import REPORT
from jobs.output.layout import LEASE_FILE
from jobs.output.lease import Lease
from jobs.output.manifest import code_version
from jobs.output.row_sets import RowSet
from jobs.output.unwritable import unwritable
from jobs.run.cluster import explaining, machines, ray_cluster
from jobs.run.pools import PROCESS_RESTARTS, Pool
from jobs.run.progress import Monitor
from jobs.run.reading import read_pictures
from jobs.run.task_sizes import TaskSizes
from jobs.run.usable_cpus import usable_cpus
from jobs.sources.source import Source
from jobs.storage.json_files import read_json, to_json
from keystore.storage import durable

MANIFEST: Final = "evaluation.json"

Progress = Callable[[int, int], None]  # pictures measured, and pictures in all
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Measuring:
    """What is measured, and by what.

    output: directory of the report. digest: over all that decides the figures. source: reads the rows. chosen: positions of
    those that are measured. stage: a Ray Data actor that makes blocks of PORTION_SCHEMA of them; arguments: what it is made with,
    beside `monitor`, and beside `device` where one is wanted. rows: of a task. workers: 0 for one on each CPU, or on each GPU.
    device: None for a stage that knows CPUs alone.
    """

    output: Path
    digest: str
    source: Source
    chosen: npt.NDArray[np.int64]
    stage: type[Any]
    arguments: Mapping[str, Any]
    rows: int
    workers: int = 0
    device: Device | None = None


def measure_and_tell(
    work: Measuring, tell: Callable[[Portions], dict[str, Any]], progress: Progress | None
) -> dict[str, Any]:
    """Measure what is not measured yet; what REPORT holds. tell: writes the report and returns that.

    Raises:
        PublishError, LeaseError: the output is not this evaluation's, can not be written, or another process writes it.
        MachineError: its disk is full. PriorError, FaceModelError: a model can not be used. ConfigError: there is no GPU.
        JobError: Ray failed; the same command goes on. What `tell` raises.
    """
    output = work.output.absolute()
    try:
        durable.make_directory(output)
        with Lease(output):
            _claim(output, work.digest)
            if (output / REPORT).is_file():
                _forget(output)  # where the end was killed
                return read_json(output / REPORT)
            portions = Portions(output)
            _measure(work, portions, progress or (lambda done, of: None))
            report = tell(portions)
            _forget(output)
            return report
    except OSError as error:
        raise unwritable(output, error) from error


def made_here() -> dict[str, str]:
    """When, on what and by which version a report is made."""
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "by": f"keyanon {code_version()}",
    }


def _forget(output: Path) -> None:
    """Remove the portions: they hold identity vectors, and people in clear. Raises OSError."""
    if (output / FOLDER).is_dir():
        shutil.rmtree(output / FOLDER)


def _claim(output: Path, digest: str) -> None:
    """Make the output this evaluation's, or see that it is. Raises PublishError."""
    path = output / MANIFEST
    if path.is_file():
        if read_json(path).get("digest") != digest:
            raise PublishError(
                f"output {output} belongs to an evaluation of other pictures or by other settings; give another output"
            )
    elif any(entry.name != LEASE_FILE for entry in output.iterdir()):
        raise PublishError(f"output {output} is not empty and no evaluation wrote it; give an empty directory")
    else:
        durable.replace(path, to_json({"digest": digest}), durable.SECRET_MODE)


def _measure(work: Measuring, portions: Portions, progress: Progress) -> None:
    total = len(work.chosen)
    left = np.setdiff1d(work.chosen, np.array(sorted(portions.done()), np.int64))
    measured = total - len(left)
    progress(measured, total)
    if not len(left):
        return
    skipped = RowSet.of(~np.isin(np.arange(work.source.total), left))
    tasks = -(-len(left) // work.rows)
    with ray_cluster(min(work.workers or usable_cpus(), tasks)):
        monitor = Monitor()
        workers, device = _placed(work)
        workers = min(workers, tasks)
        sizes = TaskSizes(work.rows, work.rows, workers)
        units = list(work.source.units(skipped, sizes.next))
        # The public `map_batches` refuses GPUs without a batch size, which would join blocks.
        dataset = read_pictures(work.source, units, work.rows).map_batches_internal(
            work.stage,
            fn_constructor_kwargs={
                **work.arguments,
                "monitor": monitor,
                **({} if work.device is None else {"device": device}),
            },
            batch_size=None,
            batch_format="pyarrow",
            compute=Pool(workers, workers).strategy(),
            num_cpus=0,
            num_gpus=1 if device == "cuda" else 0,
            max_restarts=PROCESS_RESTARTS,
        )
        with explaining(monitor, "measuring"):
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                portions.add(table)
                measured += table.num_rows
                progress(measured, total)


def _placed(work: Measuring) -> tuple[int, str]:
    """How many processes, and the device of each: a GPU of its own, or the CPU. Raises ConfigError."""
    there = machines()
    gpus = int(sum(one.gpus for one in there)) if work.device in ("auto", "cuda") else 0
    if work.device == "cuda" and not gpus:
        raise ConfigError("device cuda was asked for, and no machine of the cluster has a GPU; give device cpu")
    if gpus:
        return min(work.workers or gpus, gpus), "cuda"
    return work.workers or max(int(sum(one.usable_cpus for one in there)), 1), "cpu"

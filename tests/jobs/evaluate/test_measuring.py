"""Where the processes of an evaluation work: on a GPU each where the stage can use one, else on a CPU each."""

from pathlib import Path

import numpy as np
import pytest

from jobs.errors import ConfigError
from jobs.evaluate import measuring
from jobs.evaluate.measuring import Device, Measuring
from jobs.evaluate.paper.source import PaperSource
from jobs.run.placement import Machine

CPUS, GPUS = Machine(cpus=4, gpus=0, usable_cpus=4), Machine(cpus=16, gpus=2, usable_cpus=8)


@pytest.mark.parametrize(
    ("machines", "device", "workers", "placed"),
    [
        ([CPUS, GPUS, GPUS], "auto", 0, (4, "cuda")),
        ([GPUS], "cuda", 9, (2, "cuda")),
        ([GPUS], "auto", 1, (1, "cuda")),
        ([CPUS, GPUS], "cpu", 0, (12, "cpu")),
        ([CPUS, GPUS], None, 0, (12, "cpu")),
        ([CPUS], "auto", 3, (3, "cpu")),
    ],
)
def test_each_process_has_a_gpu_of_its_own_or_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
    machines: list[Machine],
    device: Device | None,
    workers: int,
    placed: tuple[int, str],
) -> None:
    monkeypatch.setattr(measuring, "machines", lambda: machines)
    assert measuring._placed(work(device, workers)) == placed


def test_a_gpu_that_is_not_there_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "machines", lambda: [CPUS])
    with pytest.raises(ConfigError, match="no machine of the cluster has a GPU; give device cpu"):
        measuring._placed(work("cuda", 0))


def work(device: Device | None, workers: int) -> Measuring:
    source = PaperSource([], {}, (), 0)
    return Measuring(Path("report"), "", source, np.zeros(0, np.int64), object, {}, 1, workers, device)

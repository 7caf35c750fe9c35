"""A prior is replaced whole or not at all, whichever file-system operation fails or is the last one before a crash."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from keyanon_core.priors import load_prior
from keyanon_core.training.denoiser import new_denoiser
from keyanon_core.training.publishing import write_prior
from keyanon_core.training.settings import PriorSettings
from tests.keyanon_core.training.tiny_bank import settings

pytestmark = pytest.mark.slow

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.copyfile", "shutil.rmtree", "open")


class FailingDisk:
    """Makes the file-system operations below `root` fail from number `first` to number `last`, counted from 1."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.first = self.last = self.count = 0

    def watch(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.root is None or event not in CHANGES:
            return
        paths = [os.fspath(one) for one in arguments if isinstance(one, str | os.PathLike)]
        if not any(str(path).startswith(self.root) for path in paths):
            return
        self.count += 1
        if self.first <= self.count <= self.last:
            raise OSError(errno.EIO, f"operation {self.count} ({event}) fails")


DISK = FailingDisk()
sys.addaudithook(
    DISK.watch
)  # sees what is really called, and can not be taken away: hence one, that mostly does nothing


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FailingDisk]:
    torch.set_num_threads(1)
    DISK.root, DISK.first, DISK.last, DISK.count = str(tmp_path), 0, 0, 0
    yield DISK
    DISK.root = None


CHOSEN = replace(settings().prior, channels=(32,))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return new_denoiser(CHOSEN).eval()


def publish(network: nn.Module, folder: Path, name: str, prior: PriorSettings = CHOSEN) -> None:
    write_prior(network, prior, folder / "prior", name, "none")


def name_of(folder: Path) -> str:
    """The name of the prior that lies there, which must be whole."""
    loaded = load_prior(folder / "prior")
    assert (folder / "prior" / "MODEL_CARD.md").read_text() == "a card"
    return str(loaded.name)


def operations(disk: FailingDisk, network: nn.Module, folder: Path) -> int:
    """How many operations a replacement takes; leaves a prior called `old` with a card."""
    publish(network, folder, "older")
    (folder / "prior" / "MODEL_CARD.md").write_text("a card")
    disk.count = 0
    publish(network, folder, "old")
    assert name_of(folder) == "old"
    return disk.count


def test_an_operation_that_fails_leaves_the_old_prior_or_the_new_one_in_its_place(
    disk: FailingDisk, network: nn.Module, tmp_path: Path
) -> None:
    count, seen = operations(disk, network, tmp_path), []
    assert count > 8
    for at in range(1, count + 1):
        publish(network, tmp_path, "old")
        disk.first = disk.last = at
        disk.count = 0
        done = False
        with suppress(OSError):
            publish(network, tmp_path, "new")
            done = True  # of what a folder of scratch could not get rid of, nothing is said
        disk.first = disk.last = 0
        seen.append(name_of(tmp_path))
        assert seen[-1] == "new" or not done
    assert set(seen) == {"old", "new"}
    publish(network, tmp_path, "last")
    assert name_of(tmp_path) == "last"
    assert not (tmp_path / ".prior.previous").exists()


def test_after_a_crash_at_any_operation_the_next_call_puts_a_whole_prior_back(
    disk: FailingDisk, network: nn.Module, tmp_path: Path
) -> None:
    """A crash is an operation that fails and none that works after it, so that nothing is cleaned up."""
    count = operations(disk, network, tmp_path)
    torn = 0
    for at in range(1, count + 1):
        publish(network, tmp_path, "old")
        disk.first, disk.last, disk.count = at, sys.maxsize, 0
        with suppress(OSError):
            publish(network, tmp_path, "new")
        disk.first = disk.last = 0
        torn += not (tmp_path / "prior").exists()
        with pytest.raises(
            AttributeError
        ):  # fails before anything is written: what is found then was put back, not made
            publish(nn.Linear(1, 1), tmp_path, "newer")
        assert name_of(tmp_path) in ("old", "new")
        publish(network, tmp_path, "old")
        assert name_of(tmp_path) == "old"
    assert torn == 1, "between the two renames, and nowhere else, no prior bears the name"

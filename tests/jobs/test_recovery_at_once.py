"""Pictures restored several at a time are those that are restored one after the other, and end as they do."""

import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from PIL import Image

from jobs.config import AnonymizeConfig
from jobs.exit_codes import ExitCode
from jobs.recovery import RecoveryReport, at_once, default_workers, prepare, recover_request
from jobs.run.anonymize import run_anonymize
from jobs.run.usable_cpus import usable_cpus
from keyanon_core.precision import STRICT, multiplying
from keystore.embedded import Keystore

from .conftest import ONE_WORKER, OPEN_GATE

WORKERS = 3
PICTURES = 7
RESTORED = 4  # for real: more than there are workers


def test_results_come_in_order_from_threads_that_share_the_cpus() -> None:
    meet = threading.Barrier(WORKERS, timeout=30)  # broken unless so many are at work together
    here = torch.get_num_threads()

    def act(number: int) -> tuple[int, int]:
        if number < WORKERS:
            meet.wait()
        time.sleep(0.01 * (PICTURES - number))
        return number, torch.get_num_threads()

    found = list(at_once(act, range(PICTURES), WORKERS))
    assert [number for number, _ in found] == list(range(PICTURES))
    assert {threads for _, threads in found} == {max(usable_cpus() // WORKERS, 1)}
    assert torch.get_num_threads() == here
    assert list(at_once(lambda one: threading.current_thread(), [1], 1)) == [threading.current_thread()]


def test_interrupted_it_begins_nothing_more() -> None:
    begun: list[int] = []

    def act(number: int) -> int:
        begun.append(number)
        time.sleep(0.05)
        return number

    results = at_once(act, range(1000), 2)
    with pytest.raises(KeyboardInterrupt):
        for number in results:
            if number == 3:
                raise KeyboardInterrupt
    del results  # as when the frame is gone
    count = len(begun)
    assert count < 20
    time.sleep(0.2)
    assert len(begun) == count


def test_strict_float32_stays_strict_while_threads_come_and_go() -> None:
    """Each thread sets torch's flag, which is the process's, and sets back what it found."""
    wrong: list[object] = []
    conv = torch.backends.cudnn.conv

    def act(number: int) -> None:
        with multiplying(STRICT):
            for _ in range(20):
                time.sleep(0.001 * (number % 3))
                if conv.fp32_precision != "ieee":
                    wrong.append(conv.fp32_precision)

    with multiplying("tf32"), multiplying(STRICT):
        list(at_once(act, range(40), 8))
    assert not wrong


def test_a_gpu_solves_one_picture_at_a_time() -> None:
    assert default_workers(torch.device("cuda:0")) == 1
    assert default_workers(torch.device("cpu")) == usable_cpus()


def restore(root: Path, ids: list[str], workers: int, *, skip_damaged: bool = False) -> tuple[Path, RecoveryReport]:
    """A new request for these pictures, approved and used."""
    with Keystore.open(root / "keystore") as keystore:
        view = keystore.request("ines", ids, "C-17", "identify", "court-order: StPO 98a", timedelta(hours=1))
        for person in ("dora", "carl"):
            keystore.approve(view.request_id, person, view.digest)
        restored = root / f"restored-{workers}-{skip_damaged}"
        prepared = prepare(root / "out", restored, view.images, workers=workers, skip_damaged=skip_damaged)
        return restored, recover_request(keystore, view.request_id, "ines", prepared)


@pytest.mark.slow
def test_the_same_pictures_come_back_however_many_at_a_time(
    without_a_cluster: None, tmp_path: Path, grace_hopper: Path
) -> None:
    (tmp_path / "photos").mkdir()
    with Image.open(grace_hopper) as picture:
        for at in range(RESTORED):
            picture.resize((250 + 10 * at, 300 + 12 * at)).save(tmp_path / f"photos/{at}.png")
    places = {"photos": tmp_path / "photos", "output": tmp_path / "out", "keystore": tmp_path / "keystore"}
    run_anonymize(
        AnonymizeConfig.load(None, {**places, "gate_threshold": OPEN_GATE, **ONE_WORKER, "check_every": 100_000})
    )
    ids = [f"{at}.png" for at in range(RESTORED)]
    one, alone = restore(tmp_path, ids, 1)
    several, together = restore(tmp_path, ids, WORKERS)
    assert [picture.status for picture in together.pictures] == ["recovered"] * RESTORED
    assert [picture.image_id for picture in together.pictures] == sorted(p.image_id for p in alone.pictures)
    for picture in together.pictures:
        assert picture.output is not None
        with Image.open(one / picture.output) as first, Image.open(several / picture.output) as second:
            apart = max(abs(a - b) for a, b in zip(first.tobytes(), second.tobytes(), strict=True))
            assert apart <= 1, "rounding alone may differ"

    sidecar = tmp_path / "out/sidecars/3.png.keyanon"
    sidecar.write_bytes(sidecar.read_bytes()[:-40])
    _, damaged = restore(tmp_path, ids[2:], WORKERS, skip_damaged=True)
    failed = {picture.image_id: picture for picture in damaged.pictures if picture.status != "recovered"}
    assert failed.keys() == {"3.png"} and damaged.exit_code is ExitCode.WRONG_KEY_OR_TAMPERED

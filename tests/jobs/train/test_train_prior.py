"""Trainings on a real cluster, of a network of some thousand weights: what comes out, what a kill costs, what is refused."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image, ImageOps
from ray.train import WorkerGroupError

from jobs.commands.cli import main
from jobs.errors import ConfigError, JobError, PublishError, SourceError
from jobs.exit_codes import ExitCode
from jobs.run.cluster import cause_of
from jobs.train.checkpoint import STATE_FILE
from jobs.train.config import TrainConfig
from jobs.train.faces import BANK_FOLDER
from jobs.train.run import run_training
from jobs.train.worker import LOG_FILE, PRIOR_FOLDER, read_log
from keyanon_core.errors import KeyanonError, PriorError
from keyanon_core.priors import load_prior
from keyanon_core.training.bank import FaceBank

pytestmark = pytest.mark.slow

TINY: dict[str, Any] = {
    "name": "tiny", "licence": "Apache-2.0", "data": "Two photographs in the public domain.", "side": 16, "space_to_depth": 4,
    "channels": [32], "attention_levels": 1, "batch": 4, "warmup": 2, "learning_rate": 1e-3, "steps": 8, "measured_faces": 1,
    "threads_per_worker": 1, "cutting_actors": 1, "page_minutes": 60, "held_out_share": 0, "same_person_distance": 0,
    "precision": "fp32",
}  # fmt: skip
MakeTraining = Callable[..., TrainConfig]
KEPT = {"RAY_worker_niceness"}
KILLED_AT = 3  # of the steps above
EVERY_STEP = 1e-6  # minutes between checkpoints
SAME_TRAINING = 1e-6  # of weights: the same arithmetic; a step that began otherwise moves them by a thousandth


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, astronaut: Path, grace_hopper: Path, coffee: Path) -> Path:
    """Two people, each also mirrored, and what can not be trained on."""
    folder = tmp_path_factory.mktemp("faces") / "photos"
    folder.mkdir()
    for source in (astronaut, grace_hopper):
        picture = Image.open(source).convert("RGB").reduce(2)
        picture.save(folder / f"{source.stem}.png")
        ImageOps.mirror(picture).save(folder / f"{source.stem}-mirrored.png")
    (folder / "coffee.png").write_bytes(coffee.read_bytes())
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lists") / "held-out.txt"
    path.write_text("grace_hopper.png\n")
    return path


@pytest.fixture(scope="module")
def training(ray_cluster: Path, photos: Path, held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """One finished training."""
    output = tmp_path_factory.mktemp("training") / "out"
    config = TrainConfig.load(
        None, {**TINY, "photos": photos, "output": output, "held_out_ids": held_out, "same_person_distance": 0.5}
    )
    run_training(config)
    return config


def again(training: TrainConfig, output: Path, **changes: Any) -> TrainConfig:
    """Another training on the same faces, which need not be cut a second time."""
    config = TrainConfig.load(None, {**training.model_dump(), "output": output, **changes})
    shutil.copytree(training.output / BANK_FOLDER, output / BANK_FOLDER)
    (output / "training.json").write_text(json.dumps({"digest": config.digest(), "config": config.to_json()}))
    return config


def weights(config: TrainConfig) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(config.output / PRIOR_FOLDER / "unet" / "diffusion_pytorch_model.safetensors")


def largest_difference(first: TrainConfig, second: TrainConfig) -> float:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name].astype(np.float32) - other[name].astype(np.float32)).max()) for name in one)


def test_a_training_leaves_a_prior_a_card_and_a_page(training: TrainConfig) -> None:
    prior = load_prior(training.output / PRIOR_FOLDER)
    assert (prior.name, prior.side, prior.conditioning, prior.grid_ends) == ("tiny", 16, "inpaint", training.grid)
    card = (training.output / PRIOR_FOLDER / "MODEL_CARD.md").read_text()
    for part in (prior.digest, "Apache-2.0", "public domain", "8 steps of 4 faces", "1 held-out faces", "Memorisation"):
        assert part in card
    page = (training.output / "index.html").read_text()
    assert "<polyline" not in page or "points" in page
    assert page.count("data:image/jpeg;base64,") == len(list((training.output / "pictures").glob("*.jpg"))) == 2
    entries = read_log(training.output / LOG_FILE)
    assert entries[-1]["step"] == 8 and any("held_out_loss" in entry and "noise_rms" in entry for entry in entries)


def test_a_held_out_person_is_trained_on_in_no_picture(training: TrainConfig) -> None:
    bank = FaceBank.open(training.output / BANK_FOLDER)
    drawn = {name: weight > 0 for name, weight in zip(bank.ids.tolist(), bank.weight.tolist(), strict=True)}
    assert drawn == {
        "astronaut.png": True,
        "astronaut-mirrored.png": True,
        "grace_hopper.png": False,
        "grace_hopper-mirrored.png": False,
    }
    assert bank.ids[bank.held_out].tolist() == ["grace_hopper.png"]
    report = json.loads((training.output / BANK_FOLDER / "cutting.json").read_text())
    assert (
        report["pictures"] == 6 and report["too_alike"] == 1 and report["reasons"] == {"no_face": 1, "not_an_image": 1}
    )


def test_two_workers_do_what_one_does(training: TrainConfig, tmp_path: Path) -> None:
    both = again(training, tmp_path / "both", workers=2)
    run_training(both)
    assert largest_difference(training, both) < 2e-3


STALLING_TRAINING = """
import pathlib, sys, time
import jobs.commands.cli, jobs.train.run, jobs.train.worker

class Stalling(jobs.train.worker.Training):
    def _step(self, progress):
        if self.state.step == STEP:
            pathlib.Path(MARK).touch()
            time.sleep(600)
        super()._step(progress)

jobs.train.run.train_worker = lambda task: Stalling(task["task"]).run()
sys.exit(jobs.commands.cli.main(["train-prior", sys.argv[1], "--json"]))
"""  # the command, whose worker does not come beyond a step


@pytest.mark.timeout(900)
def test_a_killed_training_goes_on_as_if_it_had_not_been(training: TrainConfig, tmp_path: Path) -> None:
    config = again(training, tmp_path / "killed", checkpoint_minutes=EVERY_STEP)
    settings, reached = tmp_path / "training.yaml", tmp_path / "reached"
    settings.write_text(json.dumps({**config.to_json(), "photos": config.photos, "output": str(config.output)}))
    code = STALLING_TRAINING.replace("STEP", str(KILLED_AT)).replace("MARK", repr(str(reached)))
    # not in the tests' cluster, but as fast as its workers are
    environment = {name: value for name, value in os.environ.items() if name in KEPT or not name.startswith("RAY_")}
    victim = subprocess.Popen(
        [sys.executable, "-c", code, str(settings)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 500
    while not reached.exists():
        assert victim.poll() is None and time.monotonic() < deadline, victim.stderr and victim.stderr.read().decode()
        time.sleep(0.2)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert list((config.output / "checkpoints").glob(f"checkpoint_*/{STATE_FILE}"))
    before = len(read_log(config.output / LOG_FILE))
    run_training(config.model_copy(update={"checkpoint_minutes": training.checkpoint_minutes}))
    steps = [entry["step"] for entry in read_log(config.output / LOG_FILE)]
    assert 0 < steps[before] <= KILLED_AT and steps[-1] == training.steps
    assert largest_difference(training, config) < SAME_TRAINING


def test_a_finished_training_run_again_changes_nothing(training: TrainConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in (training.output / PRIOR_FOLDER).rglob("*")}
    report = run_training(training)
    assert report.digest == load_prior(training.output / PRIOR_FOLDER).digest and report.steps == training.steps
    assert (report.faces.pictures, report.faces.reasons) == (6, {"no_face": 1, "not_an_image": 1})
    assert {path: path.stat().st_mtime_ns for path in (training.output / PRIOR_FOLDER).rglob("*")} == before


def test_what_can_not_be_trained_is_refused(training: TrainConfig, photos: Path, coffee: Path, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"other settings \(.*learning_rate"):
        run_training(TrainConfig.load(None, {**training.model_dump(), "learning_rate": 0.5}))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    with pytest.raises(PublishError, match="not empty"):
        run_training(TrainConfig.load(None, {**TINY, "photos": photos, "output": tmp_path / "taken"}))
    nobody = tmp_path / "nobody"
    nobody.mkdir()
    (nobody / "coffee.png").write_bytes(coffee.read_bytes())
    with pytest.raises(SourceError, match="none can be trained on"):
        run_training(TrainConfig.load(None, {**TINY, "photos": nobody, "output": tmp_path / "empty"}))
    with pytest.raises(PriorError, match="do not fit"):
        run_training(again(training, tmp_path / "other", initial="embedded"))


def test_what_a_worker_raised_on_purpose_is_found_in_rays_wrappings() -> None:
    purpose = PriorError("the weights do not fit")
    assert cause_of(WorkerGroupError("failed", {0: RuntimeError("peer gone"), 1: purpose}), "training") is purpose
    other = cause_of(WorkerGroupError("failed\nout of memory", {0: MemoryError()}), "training")
    assert isinstance(other, JobError) and "training" in str(other) and "out of memory" in str(other)


def test_damaged_faces_are_refused_by_name(training: TrainConfig, tmp_path: Path) -> None:
    config = again(training, tmp_path / "damaged")
    (config.output / BANK_FOLDER / "faces.raw").write_bytes(b"cut short")
    with pytest.raises(KeyanonError, match="holds no usable faces"):
        run_training(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch": 5, "workers": 2}, "multiple"), ({"side": 4}, "side"), ({"lerning_rate": 1.0}, "lerning_rate")],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig.load(None, {"photos": tmp_path / "a", "output": tmp_path / "b", **changes})


def test_the_command_reports_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-prior", str(tmp_path / "none.yaml")]) == ExitCode.USAGE
    assert "none.yaml" in io.StringIO(capsys.readouterr().err).read()

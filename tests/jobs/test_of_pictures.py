"""Commands that work on pictures alone refuse clips at once: before a clip is read, and before anything is written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.errors import ConfigError, SourceError
from jobs.evaluate.config import EvaluateConfig
from jobs.evaluate.run import run_evaluation, subject_of_folders
from jobs.evaluate.subjects.run import ProposeConfig, propose_subjects
from jobs.run.anonymize import fitting
from jobs.run.plan import plan_run
from jobs.sources.source import open_source
from jobs.train.config import TrainConfig
from jobs.train.run import run_training
from tests.jobs.conftest import MakeConfig


def train(photos: Path, output: Path) -> None:
    run_training(TrainConfig.load(None, {"photos": photos, "output": output}))


def propose(photos: Path, output: Path) -> None:
    propose_subjects(ProposeConfig.load(None, {"photos": photos, "output": output}))


def evaluate(photos: Path, output: Path) -> None:
    anonymized = output.parent / "anonymized"
    anonymized.mkdir()
    (anonymized / "a.png").write_bytes(b"x")
    places = {"photos": photos, "anonymized": anonymized, "output": output}
    run_evaluation(subject_of_folders(EvaluateConfig.load(None, places)))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder of one file that is a clip by its name."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.mp4").write_bytes(b"x")
    return tmp_path / "photos"


@pytest.mark.parametrize("name", ["", "a.mp4"], ids=["folder", "clip"])
@pytest.mark.parametrize("act", [train, propose, evaluate])
def test_clips_are_refused_where_pictures_are_worked_on(
    clips: Path, tmp_path: Path, act: Callable[[Path, Path], None], name: str
) -> None:
    with pytest.raises(SourceError, match=r"photos.* holds clips, and this command works on pictures") as raised:
        act(clips / name, tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_pseudonyms_of_tracks_are_refused_over_pictures(clips: Path, make_config: MakeConfig, face_png: bytes) -> None:
    (clips / "a.mp4").unlink()
    (clips / "a.png").write_bytes(face_png)
    config = make_config(pseudonyms="tracks")
    with pytest.raises(ConfigError, match=r"pseudonyms tracks are of clips, and .*photos holds files; leave them out"):
        fitting(config, open_source(config))
    with pytest.raises(ConfigError, match="pseudonyms tracks are of clips"):
        plan_run(config)
    plain = make_config()
    assert fitting(plain, open_source(plain)) is plain

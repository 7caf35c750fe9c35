"""What a plan says beside what a run then does, and how sure it is."""

import random
from pathlib import Path

import pytest

from jobs.commands.cli import main
from jobs.errors import ConfigError, PublishError, SourceError
from jobs.run.anonymize import run_anonymize
from jobs.run.plan import Estimate, Prices, check_writable, mean_of, plan_run
from keyanon_core.errors import PriorError
from tests.jobs.conftest import MakeConfig


def test_an_interval_holds_the_mean_of_the_population_as_often_as_it_says() -> None:
    rng = random.Random(7)
    population = [rng.lognormvariate(0.0, 0.5) for _ in range(400)]
    mean = sum(population) / len(population)
    trials = [mean_of(rng.sample(population, 32), len(population)) for _ in range(1000)]
    held = sum(one.low is not None and one.high is not None and one.low <= mean <= one.high for one in trials)
    assert 920 <= held <= 975
    widths = [one.high - one.low for one in trials if one.high is not None and one.low is not None]
    assert max(widths) < mean, "and says something"


def test_what_was_counted_whole_is_certain_and_one_picture_is_not() -> None:
    assert mean_of([1.0, 3.0], 2) == Estimate(2.0, 2.0, 2.0)
    assert mean_of([3.0], 9) == Estimate(3.0, None, None)
    assert mean_of([0.0, 0.0, 9.0], 100).low == 0.0, "nothing is counted below 0"
    assert Estimate(2.0, None, 3.0).times(2.0) == Estimate(4.0, None, 6.0)


def test_a_place_that_can_not_be_written_is_refused_without_a_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="no directory"):
        check_writable(tmp_path / "file/out")
    assert "may be written" in check_writable(tmp_path / "new/out") and not (tmp_path / "new").exists()
    monkeypatch.setattr("os.access", lambda path, mode: False)  # tests may run as root, whom nothing stops
    with pytest.raises(ConfigError, match="can not be written"):
        check_writable(tmp_path / "new/out")


@pytest.fixture
def photos(tmp_path: Path, face_png: bytes, faceless_png: bytes) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for at in range(4):
        (folder / f"face{at}.png").write_bytes(face_png)
    (folder / "scene.png").write_bytes(faceless_png)
    (folder / "corrupt.png").write_bytes(b"no picture")
    return folder


@pytest.mark.slow
def test_a_plan_over_all_pictures_comes_true_and_writes_nothing(
    ray_cluster: Path, photos: Path, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(pictures_per_task=2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    plan = plan_run(config, 100, Prices(3.0, 0.5))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert (plan.rows, plan.rows_left, plan.sampled) == (6, 6, 6)
    assert plan.statuses == {"anonymized": 4, "no_face": 1, "quarantined": 1}
    assert plan.faces_per_image == Estimate(4 / 6, 4 / 6, 4 / 6)
    report = run_anonymize(config)
    assert report.statuses == plan.statuses
    for part, planned in (("images", plan.picture_bytes), ("sidecars", plan.sidecar_bytes)):
        assert planned.value == pytest.approx(report.bytes_of[part], rel=0.05)
    assert plan.hours.low is not None and plan.hours.high is not None
    assert plan.hours.low <= plan.hours.value <= plan.hours.high
    assert plan.cost_of_computing is not None and plan.cost_of_a_month is not None
    assert plan.cost_of_computing.value == pytest.approx(3.0 * plan.machines * plan.hours.value)
    stored = plan.picture_bytes.value + plan.sidecar_bytes.value
    assert plan.cost_of_a_month.value == pytest.approx(stored * 0.5 / 1e9)
    done = plan_run(config, 1)
    assert done.rows_left == 0 and done.hours.value == 0.0 and done.hours.low is None
    with pytest.raises(PublishError, match="other settings"):
        plan_run(make_config(steps=2), 1)


@pytest.mark.slow
def test_a_plan_refuses_what_a_run_would_refuse(ray_cluster: Path, photos: Path, make_config: MakeConfig) -> None:
    with pytest.raises(PriorError):
        plan_run(make_config(prior=str(photos)), 1)
    with pytest.raises(SourceError):
        plan_run(make_config(photos=photos / "nowhere"), 1)
    with pytest.raises(ConfigError, match="cluster"):
        plan_run(make_config(anonymizer_actors=100, cpus_per_actor=1), 1)


@pytest.mark.slow
def test_the_command_takes_the_options_of_anonymize(
    ray_cluster: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [str(photos), "-o", str(tmp_path / "out"), "-k", str(tmp_path / "keystore")]
    quick = ["--steps", "1", "--gate-threshold", "0.1", "--include", "face*", "--fidelity", "lossless"]
    assert main(["plan", *places, *quick, "--sample", "2", "--price-per-hour", "1"]) == 0
    out = capsys.readouterr().out
    assert "2 pictures" in out and "cost of computing" in out and "cost of storage" not in out
    assert main(["plan", *places, "--strict"]) == 2
    assert main(["plan", str(photos / "run.yaml")]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}

"""What a plan says beside what a run then does, and how sure it is."""

import random
import tracemalloc
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pytest

from jobs.commands.cli import main
from jobs.errors import ConfigError, PublishError, SourceError
from jobs.output.manifest import Manifest
from jobs.run.anonymize import run_anonymize
from jobs.run.placement import Machine
from jobs.run.plan import Estimate, Prices, _check_keys, check_writable, mean_of, plan_run
from jobs.run.progress import RunState
from jobs.run.sample import _blocks
from jobs.sources.source import ReadUnit, Source, open_source, unfinished
from jobs.storage.opening import open_store
from keyanon_core.errors import PriorError
from keyanon_core.imaging import decode_picture
from keystore.embedded import Keystore
from keystore.errors import KekError
from tests.jobs.conftest import MakeConfig
from tests.jobs.in_process import run_in_process
from tests.made_clips import make_clip

SEVERAL = "several machines write into the keystore's directory"


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


@pytest.mark.parametrize(
    ("prices", "of_cpus", "of_both"),
    [
        (Prices(), None, None),
        (Prices(machine_hour=2.0), 4.0, 6.0),
        (Prices(machine_hour=2.0, gpu_machine_hour=7.0), 4.0, 11.0),
        (Prices(gpu_machine_hour=7.0), None, None),
    ],
)
def test_machines_with_gpus_may_have_their_own_price(
    prices: Prices, of_cpus: float | None, of_both: float | None
) -> None:
    plain, with_gpus = Machine(8, 0, 8), Machine(8, 2, 8)
    assert prices.cluster_hour([plain, plain]) == of_cpus
    assert prices.cluster_hour([plain, with_gpus, plain]) == of_both
    assert prices.cluster_hour([with_gpus]) == (prices.gpu_machine_hour or prices.machine_hour)


def test_of_a_keystore_that_is_there_the_kek_is_tried_and_of_a_run_its_keystore(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config, store = make_config(), open_store(tmp_path / "out")
    ((_, said),) = _check_keys(config, store)
    assert "is made when a run begins" in said and not (tmp_path / "keystore").exists()
    with Keystore.create(tmp_path / "keystore") as keystore:
        keystore_id = keystore.id
    ((_, said),) = _check_keys(config, store)
    assert "its KEK is the right one" in said
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    Manifest.begin("run-1", keystore_id, config, open_source(config)).write(store)
    assert _check_keys(config, store)
    with Keystore.create(tmp_path / "other"):
        pass
    with pytest.raises(PublishError, match="whose keys are in keystore"):
        _check_keys(make_config(keystore=tmp_path / "other"), store)
    (tmp_path / "other" / "kek.key").unlink()
    with pytest.raises(KekError):
        _check_keys(make_config(keystore=tmp_path / "other"), store)
    assert _check_keys(make_config(keys="discard", keystore=None, fidelity=None, steps=None), store) == []


def test_a_sample_of_millions_is_chosen_without_an_object_for_each_row() -> None:
    rows, chosen = 2_000_000, [5, 70_000, 1_999_999]

    class Listed:
        total = rows

        def units(self, finished: Collection[int], size: Callable[[int], int]) -> Iterator[ReadUnit]:
            left = np.flatnonzero(unfinished(rows, finished))
            assert left.tolist() == chosen
            yield ReadUnit(lambda: [pa.table({"row": left})], len(left), 0)

    tracemalloc.start()
    try:
        blocks = list(_blocks(cast("Source", Listed()), chosen))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [block.column("row").to_pylist() for block in blocks] == [[row] for row in chosen]
    assert peak < 4 * rows, "bytes; a number of numpy's takes 8"


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
    ray_cluster: Path,
    photos: Path,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = make_config(pictures_per_task=2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    plan = plan_run(config, 100, Prices(3.0, 0.5))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert (plan.rows, plan.rows_left, plan.sampled) == (6, 6, 6)
    assert plan.statuses == {"anonymized": 4, "no_face": 1, "quarantined": 1}
    assert plan.faces_per_image == plan.anonymized_share == Estimate(4 / 6, 4 / 6, 4 / 6)
    assert {"input", "output", "keystore", "cluster", "prior and face models"} <= dict(plan.checks).keys()
    with monkeypatch.context() as patch:
        run_in_process(patch)
        patch.setattr("jobs.run.anonymize.keystore_on_several", lambda config: SEVERAL)
        report = run_anonymize(config)
    assert caplog.messages.count(SEVERAL) == 1
    assert report.statuses == plan.statuses
    for part, planned in (("images", plan.picture_bytes), ("sidecars", plan.sidecar_bytes)):
        assert planned.value == pytest.approx(report.bytes_of[part], rel=0.05)
    assert plan.hours.low is not None and plan.hours.high is not None
    assert plan.hours.low <= plan.hours.value <= plan.hours.high
    assert plan.gpu_hours is None
    assert plan.cost_of_computing is not None and plan.cost_of_a_month is not None
    assert plan.cost_of_computing.value == pytest.approx(3.0 * plan.machines * plan.hours.value)
    stored = plan.picture_bytes.value + plan.sidecar_bytes.value
    assert plan.cost_of_a_month.value == pytest.approx(stored * 0.5 / 1e9)
    with monkeypatch.context() as patch:
        patch.setattr("jobs.run.plan.keystore_on_several", lambda config: SEVERAL)
        done = plan_run(config, 1)
    assert SEVERAL in dict(done.checks).values() and SEVERAL not in dict(plan.checks).values()
    assert done.rows_left == 0 and done.hours.value == 0.0 and done.hours.low is None
    with pytest.raises(PublishError, match="other settings"):
        plan_run(make_config(steps=2), 1)


@pytest.mark.slow
def test_a_plan_over_clips_is_of_their_pieces(
    ray_cluster: Path, tmp_path: Path, face_png: bytes, make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    portrait = decode_picture(face_png)
    make_clip(tmp_path / "photos" / "one.mp4", [portrait], seconds=0.16, size=(160, 120), story="still")
    make_clip(tmp_path / "photos" / "without.mkv", [], seconds=0.16, size=(96, 64), audio=False)
    (tmp_path / "photos" / "broken.mov").write_bytes(b"\0\0\0\x18ftypqt  no more of it")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    told: list[RunState] = []
    plan = plan_run(make_config(), 100, progress=told.append)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert [(one.phase, one.rows, one.total, one.faces) for one in told] == [
        ("listing", 0, None, 0),
        ("starting", 0, None, 0),
        *(("sampling", rows, 3, faces) for rows, faces in enumerate([0, 4, 4], 1)),
    ]
    assert (plan.unit, plan.rows, plan.sampled) == ("piece", 3, 3)
    assert plan.statuses == {"anonymized": 1, "no_face": 1, "quarantined": 1}
    assert plan.faces_per_image.value == 4 / 3, "in each of four frames"
    places = [str(tmp_path / "photos"), "-o", str(tmp_path / "out"), "-k", str(tmp_path / "keystore")]
    assert main(["plan", *places, "--include", "without.mkv"]) == 0
    said = capsys.readouterr()
    assert "faces a piece" in said.out and '{"progress": "sampling"' in said.err


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
    assert "2 images" in out and "cost of computing" in out and "cost of storage" not in out
    assert main(["plan", *places, "--strict"]) == 2
    assert main(["plan", str(photos / "run.yaml")]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}

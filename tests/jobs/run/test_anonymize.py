"""The main job on a real cluster, with the real prior, face models and keystore: what every input row becomes."""

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.config import AnonymizeConfig
from jobs.errors import LeaseError, PublishError
from jobs.output.layout import OutputLayout
from jobs.output.reader import read_rows
from jobs.run.anonymize import run_anonymize
from jobs.run.key_records import to_key_record, to_picture_key
from jobs.run.progress import RunState
from jobs.run.report import RunReport
from keyanon_core.errors import FaceModelError, PriorError
from keyanon_core.pictures.recoverer import PictureRecoverer
from keyanon_core.priors import load_prior
from keystore.embedded import Keystore
from keystore.intake.records import KeyRecord
from keystore.recipient import Expected, Recipient
from tests.jobs.conftest import FIDELITY, OPEN_GATE, STEPS, MakeConfig
from tests.jobs.in_process import run_in_process
from tests.jobs.key_search import holds_key, written_forms
from tests.jobs.publishing import finished_rows

pytestmark = pytest.mark.slow

BOMB_SIDE = 4000  # px; more pixels than the run allows, in a small file


@dataclass
class FolderRun:
    config: AnonymizeConfig
    report: RunReport
    states: list[RunState]
    session: Path

    def rows(self) -> dict[str, dict[str, object]]:
        shards = sorted((self.config.output / "rows").glob("*.parquet"))
        return {row["image_id"]: row for shard in shards for row in pq.read_table(shard).to_pylist()}


@pytest.fixture(scope="module")
def folder_run(
    ray_cluster: Path,
    tmp_path_factory: pytest.TempPathFactory,
    face_png: bytes,
    face_jpeg: bytes,
    faceless_png: bytes,
) -> FolderRun:
    """One run over good and bad pictures, with as many rows a task as make several tasks."""
    root = tmp_path_factory.mktemp("folder")
    photos = root / "photos"
    (photos / "sub").mkdir(parents=True)
    bomb = io.BytesIO()
    Image.new("1", (BOMB_SIDE, BOMB_SIDE)).save(bomb, "PNG")
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    tagged = io.BytesIO()
    Image.open(io.BytesIO(face_jpeg)).save(tagged, "JPEG", exif=exif)
    contents = {
        "astronaut.png": face_png,
        "sub/grace.jpg": tagged.getvalue(),
        "coffee.png": faceless_png,
        "zero.jpg": b"",
        "text.png": b"this is no picture",
        "truncated.png": face_png[: len(face_png) // 2],
        "corrupt.jpg": face_jpeg[:200] + bytes(200) + face_jpeg[400:600],
        "bomb.png": bomb.getvalue(),
        "notes.txt": b"ignored",
    }
    for name, content in contents.items():
        (photos / name).write_bytes(content)
    (photos / "broken.jpg").symlink_to(photos / "nowhere")
    config = AnonymizeConfig.load(
        None,
        {
            "photos": photos, "output": root / "out", "keystore": root / "keystore", "steps": STEPS,
            "pictures_per_task": 4, "max_pixels": 1_000_000, "fidelity": FIDELITY, "gate_threshold": OPEN_GATE,
        },
    )  # fmt: skip
    states: list[RunState] = []
    return FolderRun(config, run_anonymize(config, states.append), states, ray_cluster)


def released(run: FolderRun) -> list[KeyRecord]:
    """The keys of all anonymized pictures, by a request that two others approve."""
    with Keystore.open(run.config.keystore) as keystore:
        ids = [view.image_id for view in keystore.find_records()]
        request = keystore.request("ann", ids, "C-1", "test of the recovery", "consent", timedelta(hours=1))
        for person in ("bob", "cleo"):
            keystore.approve(request.request_id, person, request.digest)
        recipient = Recipient.generate()
        view = keystore.show(request.request_id)
        sealed = keystore.release(request.request_id, recipient.public_key, "ann")
        return list(recipient.open(sealed, Expected.of(view, keystore.audit_vkey)))


def test_every_input_is_one_row_with_a_status_and_a_reason(folder_run: FolderRun) -> None:
    rows = folder_run.rows()
    found = {name: (row["status"], str(row["reason"]).split(":")[0]) for name, row in rows.items()}
    bad = ("zero.jpg", "text.png", "truncated.png", "corrupt.jpg", "bomb.png", "broken.jpg")
    assert {name for name, (status, _) in found.items() if status == "anonymized"} == {"astronaut.png", "sub/grace.jpg"}
    assert found["coffee.png"] == ("no_face", "no_face")
    assert all(found[name][0] == "quarantined" and found[name][1] for name in bad), found
    assert found["bomb.png"][1] == "too_large" and found["broken.jpg"][1] == "unreadable"
    assert len(found) == 9
    report = folder_run.report
    assert (report.rows, report.statuses) == (9, {"anonymized": 2, "no_face": 1, "quarantined": 6})
    assert report.fidelities == {FIDELITY: 2}
    assert report.ignored_files == 1 and report.keys_stored == 2 and report.faces == 2


def test_only_anonymized_pictures_are_published_and_without_metadata(folder_run: FolderRun) -> None:
    out = folder_run.config.output
    published = {str(p.relative_to(out)) for folder in ("images", "sidecars") for p in (out / folder).rglob("*.*")}
    assert published == {
        "images/astronaut.png", "sidecars/astronaut.png.keyanon",
        "images/sub/grace.jpg", "sidecars/sub/grace.jpg.keyanon",
    }  # fmt: skip
    with Image.open(out / "images/sub/grace.jpg") as picture:
        assert picture.format == "JPEG" and not picture.getexif()
        assert {name for name in picture.info if not name.startswith("jfif")} == set()


def test_manifest_and_report_say_what_was_done(folder_run: FolderRun) -> None:
    place = folder_run.config.output / "_keyanon"
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest["state"] == "complete" and manifest["run_id"] == folder_run.report.run_id
    assert manifest["config"]["steps"] == STEPS
    facts = manifest["facts"][0]
    assert len(facts["prior"]["digest"]) == 64 and facts["face_models"] and facts["environment"]["torch"]
    assert facts["batch_shape"][0] == folder_run.config.face_batch
    assert json.loads((place / "report.json").read_text())["rows"] == 9


def test_progress_ends_at_the_total(folder_run: FolderRun) -> None:
    last = folder_run.states[-1]
    assert (last.rows, last.total, last.faces) == (9, 9, 2) and last.images_per_second > 0


def test_a_released_key_restores_the_source_exactly(folder_run: FolderRun) -> None:
    recoverer = PictureRecoverer(load_prior("embedded"))
    rows = folder_run.rows()
    for record in released(folder_run):
        row = rows[record.image_id]
        assert row["record_id"] == record.record_id
        out = folder_run.config.output
        recovered = recoverer.recover(
            (out / str(row["output"])).read_bytes(), (out / str(row["sidecar"])).read_bytes(), to_picture_key(record)
        )
        with Image.open(Path(folder_run.config.photos) / record.image_id) as source:
            assert np.array_equal(recovered.pixels, np.asarray(source.convert("RGB")))


def test_a_record_survives_the_way_to_the_algorithm_and_back(folder_run: FolderRun) -> None:
    for record in released(folder_run):
        again = to_key_record(
            to_picture_key(record),
            run_id=record.run_id,
            dataset=record.dataset,
            environment=record.environment,
            created_at=record.created_at,
        )
        assert again.canonical_bytes() == record.canonical_bytes()


def files_with(keys: list[bytes], folders: list[Path]) -> Iterator[Path]:
    for path in (path for folder in folders for path in folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and holds_key(path.read_bytes(), keys):
            yield path


def test_no_image_key_is_in_the_output_the_keystore_or_rays_files(folder_run: FolderRun, tmp_path: Path) -> None:
    keys = [record.image_key.get_secret_value() for record in released(folder_run)]
    assert len(keys) == 2
    places = [folder_run.config.output, folder_run.config.keystore, folder_run.session]
    assert any((folder_run.session / "logs").iterdir())
    assert list(files_with(keys, places)) == []
    for at, form in enumerate(written_forms(keys[0])):  # the search finds what it looks for
        (tmp_path / str(at)).write_bytes(b"abc" + form + b"abc")
    (tmp_path / "json").write_text(json.dumps({"k": base64.b64encode(b"xx" + keys[1] + b"y").decode()}))
    assert len(list(files_with(keys, [tmp_path]))) == len(written_forms(keys[0])) + 1


def test_the_same_command_again_changes_nothing(folder_run: FolderRun) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in (folder_run.config.output / "rows").iterdir())
    report = run_anonymize(folder_run.config)
    assert report.resumed_rows == report.rows == 9 and report.keys_stored == 2
    assert sorted((p, p.stat().st_mtime_ns) for p in (folder_run.config.output / "rows").iterdir()) == before


def test_another_run_is_refused_an_output_that_is_not_empty(folder_run: FolderRun, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"other settings \(steps: "):
        run_anonymize(folder_run.config.model_copy(update={"steps": STEPS + 1}))
    with pytest.raises(PublishError, match="whose keys are in keystore"):
        run_anonymize(folder_run.config.model_copy(update={"keystore": tmp_path / "other"}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(PublishError, match="not empty"):
        run_anonymize(folder_run.config.model_copy(update={"output": tmp_path / "full"}))
    assert (tmp_path / "full" / "file").read_text() == "mine"


def test_a_run_goes_on_with_no_other_face_models(folder_run: FolderRun, tmp_path: Path, face_png: bytes) -> None:
    config = folder_run.config
    places = {"photos": tmp_path / "photos", "output": tmp_path / "out"}
    for name, copy in places.items():
        shutil.copytree(getattr(config, name), copy, symlinks=True)
    manifest = places["output"] / "_keyanon/manifest.json"
    said = json.loads(manifest.read_text())
    said["facts"][0]["face_models"] = dict.fromkeys(said["facts"][0]["face_models"], "0" * 64)
    manifest.write_text(json.dumps(said))
    (places["photos"] / "one more.png").write_bytes(face_png)
    with pytest.raises(FaceModelError, match=f"the run that is resumed used {'0' * 64}"):
        run_anonymize(config.model_copy(update={**places, "photos": str(places["photos"])}))


def test_an_output_that_can_not_be_written_is_a_clear_error(folder_run: FolderRun) -> None:
    with pytest.raises(PublishError, match=r"output /proc/keyanon can not be written"):
        run_anonymize(folder_run.config.model_copy(update={"output": Path("/proc/keyanon")}))


def test_parquet_comes_out_as_parquet(
    ray_cluster: Path, tmp_path: Path, make_config: MakeConfig, face_png: bytes, face_jpeg: bytes
) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [
        {"bytes": face_jpeg, "path": "a.jpg"},
        None,
        {"bytes": b"junk", "path": "b.png"},
        {"bytes": face_png, "path": "c.png"},
    ]
    table = pa.table(
        {
            "id": pa.array([10, 11, 12, 10], pa.int32()),
            "image": pa.array(cells, kind),
            "who": ["P", "Q", "R", "P"],
            "faces": pa.array([1.5, None, 2.5, 3.5], pa.float32()),
        }
    )
    (tmp_path / "photos").mkdir()
    pq.write_table(table, tmp_path / "photos" / "part.parquet")
    config = make_config(id_column="id", subject_column="who", pictures_per_task=2)
    run_anonymize(config)
    shards = [pq.read_table(path) for path in sorted((config.output / "rows").iterdir())]
    assert [shard.num_rows for shard in shards] == [2, 2], "a row group is shared out among tasks"
    made = pa.concat_tables(shards).sort_by("row")
    assert made.column("status").to_pylist() == ["anonymized", "quarantined", "quarantined", "quarantined"]
    assert [reason.split(":")[0] for reason in made.column("reason").to_pylist()][1::2] == [
        "null_image",
        "duplicate_id",
    ]
    assert made.select(["id", "who"]).equals(table.select(["id", "who"]))
    assert made.column("source_faces").equals(table.column("faces"))
    images = made.column("image").to_pylist()
    with Image.open(io.BytesIO(images[0]["bytes"])) as picture:
        assert picture.format == "JPEG" and images[0]["bytes"] != face_jpeg
    assert images[1] is None, "a null struct stays one"
    assert [cell["bytes"] for cell in images[2:]] == [None] * 2 and images[0]["path"] == "a.jpg"
    assert made.column("keyanon_sidecar")[0].as_py()
    assert not (config.output / "images").exists()
    with Keystore.open(config.keystore) as keystore:
        assert [view.image_id for view in keystore.find_records()] == ["10"]


@pytest.mark.parametrize("shape", ["binary", "struct"])
def test_a_picture_column_without_nulls_has_room_for_a_quarantined_row(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, face_png: bytes, shape: str
) -> None:
    run_in_process(monkeypatch)
    cells = [face_png, b"no picture"]
    if shape == "struct":
        kind = pa.struct([pa.field("bytes", pa.binary(), nullable=False), ("path", pa.string())])
        column = pa.array([{"bytes": cell, "path": "p"} for cell in cells], kind)
    else:
        kind, column = pa.binary(), pa.array(cells)
    schema = pa.schema([pa.field("image", kind, nullable=False), pa.field("id", pa.string(), nullable=False)])
    (tmp_path / "photos").mkdir()
    table = pa.table({"image": column, "id": ["a/../b//c", "./\n"]}, schema=schema)
    pq.write_table(table, tmp_path / "photos" / "part.parquet")
    config = make_config(id_column="id", pictures_per_task=1, anonymizer_actors=1)
    for _ in range(2):
        assert run_anonymize(config).statuses == {"anonymized": 1, "quarantined": 1}
        shards = sorted((config.output / "rows").iterdir())
        made = pa.concat_tables(pq.read_table(shard) for shard in shards).sort_by("row")
        pictures = [cell["bytes"] if isinstance(cell, dict) else cell for cell in made.column("image").to_pylist()]
        assert pictures[0] and pictures[0] != face_png and pictures[1] is None
        assert made.column("image_id").to_pylist() == ["a/../b//c", "./\n"]
        shards[1].unlink()  # as if the attempt had been killed before it, so that the next one resumes


def test_a_prior_that_can_not_be_loaded_is_the_error_that_is_shown(
    ray_cluster: Path, tmp_path: Path, make_config: MakeConfig, face_png: bytes
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(face_png)
    (tmp_path / "prior").mkdir()
    with pytest.raises(PriorError, match="prior"):
        run_anonymize(make_config(prior=str(tmp_path / "prior")))


STALLING_RUN = """
import sys, time
import jobs.run.anonymize, jobs.blocks, jobs.config

class Stalling(jobs.run.anonymize.AnonymizeFaces):
    def _anonymize(self, rows):
        if rows[0][jobs.blocks.ROW] > 1:
            time.sleep(600)
        return super()._anonymize(rows)

jobs.run.anonymize.AnonymizeFaces = Stalling
jobs.run.anonymize.run_anonymize(jobs.config.AnonymizeConfig.model_validate_json(sys.argv[1]))
"""  # whose workers do not come beyond the second row: the run is killed in its midst, however slow the machine


def test_a_killed_run_is_resumed_and_two_never_write_at_once(
    ray_cluster: Path, tmp_path: Path, make_config: MakeConfig, face_png: bytes
) -> None:
    (tmp_path / "photos").mkdir()
    for at in range(6):
        (tmp_path / "photos" / f"{at}.png").write_bytes(face_png)
    config = make_config(pictures_per_task=1)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", STALLING_RUN, config.model_dump_json()]
    process = subprocess.Popen(command, env=environment, cwd=Path.cwd())
    try:
        rows = config.output / "rows"
        deadline = time.monotonic() + 200
        while not (rows.exists() and any(p.suffix == ".parquet" for p in rows.iterdir())):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(LeaseError, match="another run is writing"):
            run_anonymize(config)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    layout = OutputLayout(config.output, "png")
    before = {path: path.stat().st_mtime_ns for path in rows.iterdir()}
    done = finished_rows(layout)
    visible = {str(row.record_id): row for row in read_rows(config.output)}
    handed_in = {path.name.removesuffix(".keys") for path in (config.keystore / "inbox").rglob("*.keys")}
    with Keystore.open(config.keystore) as keystore:
        waiting = {visible[one].shard for one in keystore.missing(visible)}
    assert {Path(shard).stem for shard in waiting} <= handed_in
    report = run_anonymize(config)
    assert len(done) <= report.resumed_rows <= report.rows == 6 and report.statuses == {"anonymized": 6}
    assert finished_rows(layout) == set(range(6)) and report.keys_stored == 6
    assert all(path.stat().st_mtime_ns == when for path, when in before.items() if path.suffix == ".parquet")
    with Keystore.open(config.keystore) as keystore:
        assert len({view.image_id for view in keystore.find_records(run_id=report.run_id)}) == 6

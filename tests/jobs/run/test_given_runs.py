"""Runs whose users give faces, keep faces, bring aligned crops, or have keys forgotten."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.config import AnonymizeConfig
from jobs.errors import CommitError, PublishError, SourceError
from jobs.exit_codes import ExitCode
from jobs.output.reader import OutputError, inspect_run, read_rows
from jobs.recovery import prepare
from jobs.run.anonymize import run_anonymize
from jobs.run.report import RunReport
from jobs.run.retry import retry_quarantined
from keyanon_core.faces import load_detector
from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE, similarity
from keyanon_core.faces.crop_kernel import CropKernel
from keyanon_core.faces.detection import Face
from keystore.embedded import Keystore
from tests.jobs.commands.conftest import Keyanon, keyanon
from tests.jobs.conftest import ONE_WORKER, encoded

pytestmark = pytest.mark.slow
__all__ = ["keyanon"]  # the fixture

BARE = {"steps": 1, "gate_threshold": 1e-6, **ONE_WORKER}  # these tests are about which faces and whose keys
CROP_SIDE = 256  # px
ROTATED = 6  # EXIF orientation: the picture is stored on its side

Pixels = npt.NDArray[np.uint8]


def pixels_of(content: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def as_png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def rows_of(output: Path) -> dict[str, dict[str, object]]:
    tables = [pq.read_table(path) for path in sorted((output / "rows").glob("*.parquet"))]
    return {row["image_id"]: row for table in tables for row in table.to_pylist()}


def changed(before: Pixels, after: Pixels, box: tuple[float, ...]) -> float:
    """Share of the pixels in a box that are not as they were."""
    x0, y0, x1, y1 = (max(int(value), 0) for value in box)
    return float((before != after).any(axis=2)[y0:y1, x0:x1].mean())


@pytest.fixture(scope="module")
def pair(astronaut: Path, grace_hopper: Path) -> Iterator[tuple[bytes, list[Face]]]:
    """Two people side by side, and where their faces are, left to right."""
    people = [Image.open(path).convert("RGB").resize((256, 256)) for path in (astronaut, grace_hopper)]
    scene = np.hstack([np.asarray(person) for person in people])
    faces = sorted(load_detector().detect(scene), key=lambda face: face.box[0])
    assert len(faces) == 2
    yield as_png(scene), faces


@dataclass
class Given:
    """A run over a folder with boxes to anonymize and to keep, keys discarded."""

    config: AnonymizeConfig
    report: RunReport
    picture: bytes
    faces: list[Face]


SIGN = (120.0, 190.0, 180.0, 250.0)  # of the pair: no face, but its user says so


@pytest.fixture(scope="module")
def folder_run(
    without_a_cluster: None,
    tmp_path_factory: pytest.TempPathFactory,
    pair: tuple[bytes, list[Face]],
    faceless_png: bytes,
) -> Given:
    root = tmp_path_factory.mktemp("given")
    picture, faces = pair
    (root / "photos" / "sub").mkdir(parents=True)
    sideways, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = ROTATED
    Image.fromarray(np.rot90(pixels_of(picture)).copy()).save(sideways, "PNG", exif=exif)
    pictures = {
        "pair.png": picture, "sub/plain.png": picture, "sideways.png": sideways.getvalue(), "all.png": picture,
        "sized.png": picture, "coffee.png": faceless_png,
    }  # fmt: skip
    for name, content in pictures.items():
        (root / "photos" / name).write_bytes(content)

    def line(name: str, box: tuple[float, ...]) -> str:
        return ",".join([name, *map(str, box)])

    boxes = [line("pair.png", SIGN), line("sub/plain.png", faces[0].box), line("sideways.png", SIGN)]
    (root / "boxes.csv").write_text("\n".join(["file,x0,y0,x1,y1", *boxes]))
    kept = [("pair.png", 1), ("sideways.png", 1), ("all.png", 0), ("all.png", 1), ("sized.png", 0)]
    names = sorted({name for name, _ in kept})
    images = [{"id": at, "file_name": name} for at, name in enumerate(names)]
    images[names.index("sized.png")] |= {"width": 256, "height": 512}
    annotations = [
        {"image_id": names.index(name), "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for name, (x0, y0, x1, y1) in ((name, faces[at].box) for name, at in kept)
    ]
    (root / "keep.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    config = AnonymizeConfig.load(
        None,
        {
            **BARE, "photos": root / "photos", "output": root / "out", "boxes": root / "boxes.csv",
            "keep": root / "keep.json", "keys": "discard",
        },
    )  # fmt: skip
    return Given(config, run_anonymize(config), picture, faces)


def test_given_faces_are_anonymized_and_kept_ones_are_not(folder_run: Given) -> None:
    rows = rows_of(folder_run.config.output)
    before, (first, second) = pixels_of(folder_run.picture), folder_run.faces
    for name in ("pair.png", "sideways.png"):
        row = rows[name]
        assert (row["status"], row["faces"], row["kept"]) == ("anonymized", 2, 1), row["reason"]
        after = pixels_of((folder_run.config.output / str(row["output"])).read_bytes())
        assert changed(before, after, first.box) > 0.8 and changed(before, after, SIGN) > 0.6
        assert changed(before, after, second.box) == 0, "coordinates are those of the upright picture"
    assert (rows["sub/plain.png"]["faces"], rows["sub/plain.png"]["kept"]) == (2, 0), "a face named twice counts once"
    assert rows["coffee.png"]["status"] == "no_face" and rows["coffee.png"]["output"] is None


def test_a_picture_of_kept_faces_alone_is_published_as_such(folder_run: Given) -> None:
    row = rows_of(folder_run.config.output)["all.png"]
    assert (row["status"], str(row["reason"]).split(":")[0], row["kept"]) == ("no_face", "kept", 2)
    after = pixels_of((folder_run.config.output / str(row["output"])).read_bytes())
    assert np.array_equal(after, pixels_of(folder_run.picture))
    assert folder_run.report.kept_faces == 4


def test_boxes_for_a_picture_of_another_size_quarantine_it(folder_run: Given) -> None:
    row = rows_of(folder_run.config.output)["sized.png"]
    assert row["status"] == "quarantined" and row["output"] is None
    assert str(row["reason"]).startswith("bad_faces: they are given for 256 x 512 px")


def test_discarded_keys_leave_no_keystore_no_sidecar_and_no_record(folder_run: Given) -> None:
    output = folder_run.config.output
    assert {path.name for path in output.parent.iterdir()} == {"photos", "out", "boxes.csv", "keep.json"}
    assert not (output / "sidecars").exists()
    for row in rows_of(output).values():
        assert row["permanent"] is True
        assert (row["record_id"], row["sidecar"], row["source_hmac"]) == (None, None, None)
    manifest = json.loads((output / "_keyanon" / "manifest.json").read_text())
    assert (manifest["keys"], manifest["keystore_id"], manifest["config"]["keys"]) == ("discard", None, "discard")
    assert manifest["config"]["boxes"].endswith("boxes.csv") and manifest["state"] == "complete"
    assert folder_run.report.keystore is None and folder_run.report.keys_stored == 0


def test_what_was_discarded_can_not_be_recovered_and_is_said_to_be_so(
    folder_run: Given, tmp_path: Path, keyanon: Keyanon
) -> None:
    output = folder_run.config.output
    with pytest.raises(OutputError, match="keys discarded; nothing in it can be restored"):
        prepare(output, tmp_path / "restored", [])
    found = inspect_run(output)
    assert (found.keys, found.permanent, found.kept_faces) == ("discard", 3, 4)
    shown = keyanon("inspect", output)
    assert shown.code == 0 and "discarded: nothing can be restored" in shown.out
    Keystore.create(tmp_path / "keystore").close()
    asked = ["--case", "C-1", "--purpose", "test of the recovery", "--legal-basis", "consent", "--expires", "1h"]
    refused = keyanon("request", tmp_path / "keystore", "--image", "pair.png", *asked)
    assert refused.code == ExitCode.REFUSED and "key was discarded has no record" in refused.err


def test_quarantined_rows_of_a_run_without_keys_are_done_again_without_keys(folder_run: Given) -> None:
    output = folder_run.config.output
    before = rows_of(output)
    report = retry_quarantined(output, "bad_faces")
    assert (report.resumed_rows, report.rows, report.keystore) == (5, 6, None)
    assert {name: row["status"] for name, row in rows_of(output).items()} == {
        name: row["status"] for name, row in before.items()
    }
    assert rows_of(output)["sized.png"]["permanent"] is True


def test_a_resumed_run_needs_the_same_boxes(folder_run: Given, tmp_path: Path) -> None:
    again = run_anonymize(folder_run.config)
    assert again.resumed_rows == again.rows == 6
    moved = tmp_path / "boxes.csv"
    assert folder_run.config.boxes is not None
    text = folder_run.config.boxes.read_text()
    moved.write_text(text)
    assert run_anonymize(folder_run.config.model_copy(update={"boxes": moved})).resumed_rows == 6
    moved.write_text(text.replace("120.0", "121.0"))
    with pytest.raises(PublishError, match="other files of boxes"):
        run_anonymize(folder_run.config.model_copy(update={"boxes": moved}))


def test_a_bad_file_of_boxes_is_refused_before_anything_is_written(folder_run: Given, tmp_path: Path) -> None:
    bad = tmp_path / "boxes.csv"
    bad.write_text("file,x0,y0,x1,y1\npair.png,1,2,30,40\npair.PNG,1,2,30,40\n")
    config = folder_run.config.model_copy(update={"boxes": bad, "output": tmp_path / "out"})
    with pytest.raises(SourceError, match=r"'pair\.PNG'"):
        run_anonymize(config)
    assert not (tmp_path / "out").exists()


def test_parquet_gives_boxes_and_chooses_permanence_row_by_row(
    without_a_cluster: None, tmp_path: Path, pair: tuple[bytes, list[Face]], keyanon: Keyanon
) -> None:
    picture, (first, second) = pair
    shape = pa.list_(pa.struct([*((name, pa.float64()) for name in "xywh"), ("landmarks", pa.list_(pa.float64()))]))

    def cell(face: Face) -> dict[str, object]:
        x0, y0, x1, y1 = face.box
        return {"x": x0, "y": y0, "w": x1 - x0, "h": y1 - y0, "landmarks": face.landmarks.ravel().tolist()}

    outside = {"x": 600, "y": 10, "w": 50, "h": 50, "landmarks": None}
    wrong = {"x": 6, "y": 10, "w": -50, "h": 50, "landmarks": None}
    table = pa.table(
        {
            "id": ["reversible", "permanent", "kept", "null", "outside", "wrong"],
            "image": [picture] * 6,
            "permanent": [False, True, True, None, False, False],
            "boxes": pa.array([[cell(first)], [cell(first)], None, None, [outside], [wrong]], shape),
            "keep": pa.array([None, [cell(second)], [cell(first), cell(second)], None, None, None], shape),
        }
    )
    (tmp_path / "photos").mkdir()
    pq.write_table(table, tmp_path / "photos" / "p.parquet")
    config = AnonymizeConfig.load(
        None,
        {
            **BARE, "photos": tmp_path / "photos", "output": tmp_path / "out", "keystore": tmp_path / "keystore",
            "id_column": "id", "boxes_column": "boxes", "keep_column": "keep", "permanent_column": "permanent",
            "faces": "given", "fidelity": "lossless",
        },
    )  # fmt: skip
    report = run_anonymize(config)
    rows = rows_of(config.output)
    found = {name: (row["status"], str(row["reason"]).split(":")[0]) for name, row in rows.items()}
    assert found == {
        "reversible": ("anonymized", ""), "permanent": ("anonymized", ""), "kept": ("no_face", "kept"),
        "null": ("quarantined", "bad_permanent"), "outside": ("quarantined", "bad_faces"),
        "wrong": ("quarantined", "bad_faces"),
    }  # fmt: skip
    counts = {name: (rows[name]["faces"], rows[name]["kept"]) for name in ("reversible", "permanent", "kept")}
    assert counts == {"reversible": (2, 0), "permanent": (1, 1), "kept": (0, 2)}
    kept, forgotten = rows["reversible"], rows["permanent"]
    assert kept["record_id"] and kept["keyanon_sidecar"] and kept["source_hmac"]
    assert [forgotten[name] for name in ("record_id", "keyanon_sidecar", "source_hmac")] == [None] * 3
    assert [row["permanent"] for row in rows.values()] == table.column("permanent").to_pylist()
    before, after = pixels_of(picture), pixels_of(bytes(forgotten["image"]))  # type: ignore[call-overload]
    assert changed(before, after, first.box) > 0.8 and changed(before, after, second.box) == 0
    with Keystore.open(config.keystore) as keystore:  # type: ignore[arg-type]
        assert [view.image_id for view in keystore.find_records()] == ["reversible"]
    assert report.keys_stored == 1
    shown = keyanon("inspect", config.output, "--json").json
    assert (shown["keys"], shown["permanent"], shown["kept_faces"]) == ("store", 1, 3)
    shard = Path(config.output) / next(iter(read_rows(config.output))).shard
    edited = pq.read_table(shard).to_pylist()
    edited[0]["record_id"] = None
    pq.write_table(pa.Table.from_pylist(edited, schema=pq.read_schema(shard)), shard)
    with pytest.raises(CommitError, match="not permanent and lacks a key record"):
        run_anonymize(config)


def test_aligned_crops_are_anonymized_as_they_are_and_come_back_exactly(
    without_a_cluster: None, tmp_path: Path, astronaut: Path, keyanon: Keyanon
) -> None:
    source = pixels_of(encoded(astronaut, 512, "PNG"))
    (face,) = load_detector().detect(source)
    affine = similarity(face.landmarks, UPRIGHT_TEMPLATE * CROP_SIDE - 0.5)
    crop = np.rint(CropKernel(affine, CROP_SIDE, source.shape).warp(source))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "00000.png").write_bytes(as_png(crop.astype(np.uint8)))
    (tmp_path / "photos" / "00001.png").write_bytes(as_png(crop[:-3].astype(np.uint8)))
    (tmp_path / "run.yaml").write_text(
        "faces: aligned\nsteps: 1\nfidelity: lossless\ngate_threshold: 1.0e-6\nthreads_per_actor: 1\nanonymizer_actors: 1\n"
    )
    output, keystore = tmp_path / "out", tmp_path / "keystore"
    arguments = ["anonymize", tmp_path / "photos", "-o", output, "-k", keystore, "--config", tmp_path / "run.yaml"]
    assert keyanon(*arguments).code == 0
    rows = rows_of(output)
    assert (rows["00000.png"]["status"], rows["00000.png"]["faces"]) == ("anonymized", 1)
    assert rows["00001.png"]["status"] == "quarantined"
    assert str(rows["00001.png"]["reason"]).startswith("not_square: ")
    asked = [
        "--case",
        "C-1",
        "--purpose",
        "test of the recovery",
        "--legal-basis",
        "consent",
        "--expires",
        "1h",
        "--as",
        "ines",
        "--json",
    ]
    request = keyanon("request", keystore, "--image", "00000.png", *asked).json["request_id"]
    for person in ("bob", "cleo"):
        digest = keyanon("show", keystore, request, "--json").json["digest"]
        assert keyanon("approve", keystore, request, "--digest", digest, "--as", person).code == 0
    restored = tmp_path / "restored"
    recovered = keyanon("recover", keystore, request, "--input", output, "--output", restored, "--as", "ines")
    assert recovered.code == 0, recovered.err
    assert np.array_equal(pixels_of((restored / "00000.png.png").read_bytes()), crop.astype(np.uint8))

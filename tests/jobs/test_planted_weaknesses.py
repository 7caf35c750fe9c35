"""Weak on purpose: runs that hide badly, each in one way, and `keyanon attack` and `keyanon evaluate` that must name it.

Each is a real output, written as a run writes it, by the anonymizer with one part of it spoilt. A prior of a few kilobytes makes
the faces: what is weak here are keys, transforms and lists, and no network's answer to them.
"""

import io
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from PIL import Image, ImageEnhance, ImageOps
from safetensors.numpy import load, save

import jobs.attack.run
from jobs.blocks import ENCODED, FACE_COUNT, GIVEN, ID, SIDECAR
from jobs.commands.cli import main
from jobs.config import AnonymizeConfig
from jobs.exit_codes import ExitCode
from jobs.output.manifest import Manifest
from jobs.output.row_sets import RowSet
from jobs.run.detect_stage import FaceModelChoice
from jobs.sources.source import open_source
from keyanon_core.evaluation.attacks import ATTACKS, brute_force
from keyanon_core.faces import FaceModels, load_face_models
from keyanon_core.faces.detection import Detector, Face, Pixels
from keyanon_core.faces.given import GivenFaces
from keyanon_core.faces.parsing import DEFAULT_REGIONS
from keyanon_core.imaging import decode_picture
from keyanon_core.keys import KeyStream
from keyanon_core.pictures import anonymizer, attempts
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.crops import align_faces
from keyanon_core.pictures.gate import AnonymityGate
from keyanon_core.pictures.opened import FaceAtWork
from keyanon_core.pictures.pasting import paste_face
from keyanon_core.pictures.settings import PictureResult, PictureTask
from keyanon_core.priors import Prior, load_prior
from keyanon_core.transforms import Rotation, Vector
from keystore.embedded import Keystore
from tests.jobs.conftest import OPEN_GATE
from tests.jobs.publishing import Place
from tests.keyanon_core.diffusion.tiny_priors import pixel_prior

pytestmark = pytest.mark.slow

PICTURES, SIDE = 8, 32
CROWD, COPIED, MISLED, UNMASKED = "crowd.png", "0.png", "4.png", 4
SIDES, TILE, HEAD = 3, 64, (40, 10, 140, 110)  # faces each way; px
MAGNITUDES, NORM, PROJECTIONS = (
    f"gallery linkage by {name}, from the sidecar" for name in ("sorted magnitudes", "norm", "projections")
)
TWICE, GUESSED = "keys used twice", "brute force of short seeds"
NUMBERS, LEFT = "published numbers as fingerprints", "faces left as they were"


class Remembered:
    """A detector that looks at each picture once: every run here is of the same ones."""

    def __init__(self, detector: Detector) -> None:
        self.name, self.digest, self._found = detector.name, detector.digest, dict[tuple[object, ...], list[Face]]()
        self._searches = {"detect": detector.detect, "look_again": detector.look_again}

    def _once(self, search: str, pixels: Pixels) -> list[Face]:
        asked = (search, pixels.shape, pixels.tobytes())
        if asked not in self._found:
            self._found[asked] = self._searches[search](pixels)
        return self._found[asked]

    def detect(self, pixels: Pixels) -> list[Face]:
        return self._once("detect", pixels)

    def look_again(self, pixels: Pixels) -> list[Face]:
        return self._once("look_again", pixels)


@dataclass
class Bench:
    """What all runs here share: pictures, a prior, face models, a keystore."""

    root: Path
    prior: Prior
    models: FaceModels
    keystore: Keystore

    def config(self, name: str, **settings: Any) -> AnonymizeConfig:
        places = {"photos": self.root / "photos", "output": self.root / name / "out", "prior": str(self.root / "prior")}
        return AnonymizeConfig.load(None, {**places, "keys": "discard", "gate_threshold": OPEN_GATE, **settings})

    def tasks(self, config: AnonymizeConfig | None = None) -> list[PictureTask]:
        """What a run reads: pictures, and what its list says of them."""
        config = config or self.config("sound")
        source = open_source(config, config.given())
        found = []
        for unit in source.units(RowSet(), lambda left: left):
            for row in pa.concat_tables(unit.read()).to_pylist():
                given = GivenFaces() if row[GIVEN] is None else GivenFaces.from_json(row[GIVEN])
                found.append(PictureTask(row[ID], row[ENCODED], given=given))
        return found

    def anonymized(self, config: AnonymizeConfig) -> list[PictureResult]:
        work = PictureAnonymizer(self.prior, self.models, replace(config.settings(), reversible=True))
        results = work(self.tasks(config))
        assert [result.reason for result in results] == [""] * len(results)
        return results

    def publish(self, name: str, config: AnonymizeConfig, results: Sequence[PictureResult]) -> Path:
        place = Place(self.root / name, self.keystore)
        rows = []
        for at, result in enumerate(results):
            assert result.encoded is not None
            rows.append(
                {**place.result(at, result.image_id, result.encoded), SIDECAR: result.sidecar, FACE_COUNT: result.faces}
            )
        with place.attempt() as attempt:
            Manifest.begin(place.run_id, None, config, open_source(config)).write(place.layout.store)
            attempt.run([rows], len(rows))
        return place.out


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory, shared_keystore: Keystore, astronaut: Path, grace_hopper: Path
) -> Bench:
    """Eight pictures of two people, each lit and turned otherwise; the first and the last have masks of one size, as two in a
    large run have."""
    root = tmp_path_factory.mktemp("planted")
    (root / "photos").mkdir()
    pixel_prior(root / "prior", "inpaint", side=SIDE)
    prior, models = load_prior(str(root / "prior")), load_face_models()
    models = replace(models, detector=Remembered(models.detector))

    def cells(pixels: Pixels) -> int:
        faces = align_faces(pixels, models.detector.detect(pixels), models.parser, DEFAULT_REGIONS, prior)
        return int(faces[0].crop.mask.sum())

    for at in range(PICTURES - 1):
        with Image.open((astronaut, grace_hopper)[at % 2]) as picture:
            small = picture.convert("RGB")
        small.thumbnail((200, 200))
        small = ImageOps.mirror(small) if at & 2 else small
        small = ImageEnhance.Contrast(small).enhance(0.8 + at * 5 % 8 / 25)
        small = ImageEnhance.Brightness(small).enhance(0.7 + at * 7 % 8 / 25)
        small.save(root / "photos" / f"{at}.png")
    first = decode_picture((root / "photos" / "0.png").read_bytes())
    lighter = (np.minimum(first, 255 - by) + np.uint8(by) for by in range(8, 60))
    last = next(pixels for pixels in lighter if cells(pixels) == cells(first))
    Image.fromarray(last).save(root / "photos" / f"{PICTURES - 1}.png")
    return Bench(root, prior, models, shared_keystore)


@pytest.fixture(autouse=True)
def quick(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attacks on keys, transforms and lists that eight pictures of two people are enough for: those that learn or recognize
    take more, and those that read 8-bit pictures more than 32 px. Seeds are guessed at full length in a test of their own."""
    names = {
        "gallery linkage",
        "keys used",
        "brute force",
        "keys shared",
        "two keys, by the noise",
        "published",
        "faces left",
    }
    chosen = [one for one in ATTACKS if one.name.startswith(tuple(names)) and "8-bit" not in one.name]
    monkeypatch.setattr(jobs.attack.run, "ATTACKS", tuple(chosen))
    monkeypatch.setattr(FaceModelChoice, "load", lambda self, threads, device="cpu": bench.models)
    monkeypatch.setattr(brute_force, "SEED_BITS", 6)


@dataclass
class Told:
    """What `keyanon attack --fail-on-win` said: its exit status, which attacks won, and what each of them came to."""

    code: int
    won: set[str]
    attacks: dict[str, dict[str, Any]]

    def sentence(self, name: str) -> str:
        return str(self.attacks[name]["sentence"])


Attacked = Callable[[Path], Told]


@pytest.fixture
def attacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Attacked:
    def attack(out: Path) -> Told:
        capsys.readouterr()
        code = main(["attack", str(out), "-o", str(tmp_path / "report"), "--fail-on-win", "--json", "--quiet"])
        attacks = {one["name"]: one for one in json.loads(capsys.readouterr().out)["attacks"]}
        won = {name for name, one in attacks.items() if one["verdict"] == "WINS"}
        assert "inconclusive" not in {one["verdict"] for one in attacks.values()}
        return Told(code, won, attacks)

    return attack


@pytest.fixture(scope="module")
def sound(bench: Bench) -> list[PictureResult]:
    return bench.anonymized(bench.config("sound"))


def test_nothing_is_found_in_a_sound_run(bench: Bench, sound: list[PictureResult], attacked: Attacked) -> None:
    told = attacked(bench.publish("sound", bench.config("sound"), sound))
    assert (told.code, told.won) == (ExitCode.OK, set())
    assert "No two faces that could show it" in told.sentence(TWICE)


def test_one_key_for_all_pictures(bench: Bench, attacked: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    config = bench.config("reused")
    with monkeypatch.context() as weak:
        weak.setattr("secrets.token_bytes", lambda size: bytes(range(size)))
        results = bench.anonymized(config)
    told = attacked(bench.publish("reused", config, results))
    assert (told.code, told.won) == (ExitCode.BEYOND_LIMIT, {TWICE})
    assert told.sentence(TWICE).startswith("Keys were used more than once: ")
    assert {"0.png", "7.png"} <= set(told.attacks[TWICE]["details"]["keys shared by"].split(", "))


def test_keys_of_sixteen_bits(bench: Bench, attacked: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brute_force, "SEED_BITS", 16)
    config, seeds = bench.config("seeds"), itertools.count(50_000, 1_000)
    with monkeypatch.context() as weak:
        weak.setattr("secrets.token_bytes", lambda size: next(seeds).to_bytes(size, "little"))
        results = bench.anonymized(config)
    told = attacked(bench.publish("seeds", config, results))
    assert (told.code, told.won) == (ExitCode.BEYOND_LIMIT, {GUESSED})
    assert "of 8 of 8 pictures: each is made of a seed of 16 bits (the seed itself, little-endian)" in told.sentence(
        GUESSED
    )
    assert told.attacks[GUESSED]["details"]["keys guessed of"].split(", ") == [task.image_id for task in bench.tasks()]


def test_sign_flips(bench: Bench, attacked: Attacked) -> None:
    config = bench.config("sign", transform="sign")
    told = attacked(bench.publish("sign", config, bench.anonymized(config)))
    assert (told.code, told.won) == (ExitCode.BEYOND_LIMIT, {MAGNITUDES, NORM})
    assert "leaves every number its size, as flipped signs do" in told.sentence(MAGNITUDES)


def test_signs_of_which_one_in_twenty_is_flipped(
    bench: Bench, attacked: Attacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(stream: KeyStream, n: int) -> npt.NDArray[np.float64]:
        return np.where(stream.integers(20, n) == 0, -1.0, 1.0)

    config = bench.config("few", transform="sign")
    with monkeypatch.context() as weak:
        weak.setattr(KeyStream, "signs", few)
        results = bench.anonymized(config)
    told = attacked(bench.publish("few", config, results))
    assert (told.code, told.won) == (ExitCode.BEYOND_LIMIT, {MAGNITUDES, NORM, PROJECTIONS})
    assert "leaves most of a face as it was, as too few flipped signs do" in told.sentence(PROJECTIONS)


def test_a_rotation_that_does_not_scale(bench: Bench, attacked: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    rotated = Rotation.forward

    def unscaled(rotation: Rotation, values: Vector, temperature: float = 1.0) -> tuple[Vector, float]:
        turned, scale = rotated(rotation, values, temperature)
        return turned * scale, 1.0

    config = bench.config("unscaled")
    with monkeypatch.context() as weak:
        weak.setattr(Rotation, "forward", unscaled)
        results = bench.anonymized(config)
    told = attacked(bench.publish("unscaled", config, results))
    assert (told.code, told.won) == (ExitCode.BEYOND_LIMIT, {NORM})
    assert told.sentence(NORM).endswith("as large together as they were: it does not scale.")


def with_number(sidecar: bytes, number: int) -> bytes:
    """A sidecar whose header has one more member, which every reader passes over."""
    length = int.from_bytes(sidecar[:8], "little")
    metadata = json.loads(sidecar[8 : 8 + length])["__metadata__"]
    header = {**json.loads(metadata["keyanon"]), "hint": number}
    return save(load(sidecar), metadata={"keyanon": json.dumps(header)})


def test_a_published_scale(bench: Bench, sound: list[PictureResult], attacked: Attacked) -> None:
    results = [
        replace(one, sidecar=with_number(one.sidecar, round(1000 * one.key.faces[0].scale)))
        for one in sound
        if one.sidecar is not None and one.key is not None
    ]
    told = attacked(bench.publish("scale", bench.config("scale"), results))
    assert (told.code, told.won) == (ExitCode.BEYOND_LIMIT, {NUMBERS})
    assert "the sidecar's hint, orders the pictures by the scale of their sources" in told.sentence(NUMBERS)
    assert "finds by it whose face it is" in told.sentence(NUMBERS)


@pytest.fixture(scope="module")
def left(bench: Bench) -> Path:
    """A run after which three faces stand there as they were: one of a crowd had an empty mask, one picture was copied to the
    output, and of one the list of faces names a corner. The run does not look at its results, by which it would have known."""
    photos, boxes = bench.root / "listed", bench.root / "boxes.csv"
    shutil.copytree(bench.root / "photos", photos)
    crowd = Image.new("RGB", (SIDES * TILE, SIDES * TILE))
    for at, task in enumerate(bench.tasks() * SIDES):
        with Image.open(io.BytesIO(task.encoded)) as picture:
            crowd.paste(picture.crop(HEAD).resize((TILE, TILE)), (at % SIDES * TILE, at // SIDES * TILE))
    crowd.save(photos / CROWD)
    lines = [["file", "x0", "y0", "x1", "y1"]]
    for path in sorted(photos.iterdir()):
        found = bench.models.detector.detect(decode_picture(path.read_bytes()))
        told = [(0, 0, 16, 16)] if path.name == MISLED else [face.box for face in found]
        lines += [[path.name, *map(str, box)] for box in told]
    boxes.write_text("\n".join(map(",".join, lines)))
    config = bench.config("left", photos=photos, faces="given", boxes=boxes)

    def paste_all_but_one(face: FaceAtWork, decoded: npt.NDArray[np.float64], *, exactly: bool) -> None:
        if (face.picture.task.image_id, face.index) != (CROWD, UNMASKED):
            paste_face(face, decoded, exactly=exactly)

    with pytest.MonkeyPatch.context() as weak:
        weak.setattr(attempts, "paste_face", paste_all_but_one)
        weak.setattr(anonymizer, "missed_in_frames", lambda *_: [])
        weak.setattr(AnonymityGate, "passes", lambda *_: True)
        results = bench.anonymized(config)
    sources = {task.image_id: task.encoded for task in bench.tasks(config)}
    spoilt = [replace(one, encoded=sources[COPIED]) if one.image_id == COPIED else one for one in results]
    return bench.publish("left", config, spoilt)


def test_faces_that_an_empty_mask_a_copy_and_a_wrong_list_left(left: Path, attacked: Attacked) -> None:
    told = attacked(left)
    assert (told.code, told.won) == (ExitCode.BEYOND_LIMIT, {LEFT})
    assert told.sentence(LEFT).startswith("3 of 18 faces stand in the output as in the source: see to each")
    assert told.attacks[LEFT]["details"] == {
        CROWD: "1 of its faces stands there as in the source although its list has them: nothing was put into their masks",
        COPIED: "the published picture is the source",
        MISLED: "1 of its faces stands there as in the source, of which nobody knew: its list has 1 face, and 2 are there",
    }


def test_an_evaluation_names_the_same_faces(
    without_a_cluster: None, left: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = [
        "--limit",
        "3",
        "--rehearse",
        "0",
        "--fail-over",
        "anonymized.untouched=0",
    ]  # the first, the middle and the last
    capsys.readouterr()
    code = main(["evaluate", str(left), "-o", str(tmp_path / "report"), *some, "--json", "--quiet"])
    report = json.loads(capsys.readouterr().out)
    (untouched,) = (one for one in report["findings"] if one["finding"] == "untouched")
    assert (code, untouched["count"], untouched["of"]) == (ExitCode.BEYOND_LIMIT, 3, 11)
    assert {face["image_id"] for face in untouched["faces"]} == {CROWD, COPIED, MISLED}

"""The faces of a training: found, cut and stored once, by Ray Data; later attempts map the same bank."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.blocks import ENCODED, FAILURE, ID, ROW, SUBJECT
from jobs.errors import SourceError
from jobs.faults import FaultKind, kind_of, reason_of
from jobs.run.cluster import explaining, machines
from jobs.run.detect_stage import FaceModelChoice
from jobs.run.pools import PROCESS_RESTARTS, Pool
from jobs.run.progress import Monitor
from jobs.run.reading import read_pictures
from jobs.run.rows_in_hand import RowsInHand
from jobs.run.task_sizes import TaskSizes
from jobs.sources.source import Source
from jobs.storage.json_files import read_json, write_json
from jobs.train.config import TrainConfig
from keyanon_core.evaluation import nearest
from keyanon_core.faces.landmarks import ShapePredictor
from keyanon_core.imaging import decode_picture
from keyanon_core.training.bank import FaceBank, FaceBankWriter, StoredFace, cut_face, sampling_weights
from keyanon_core.training.settings import PriorSettings

BANK_FOLDER: Final = "faces"
BANK_REPORT: Final = "cutting.json"
PICTURES_PER_TASK: Final = 32
HASH_RANGE: Final = 1 << 32

STORED: Final = "keyanon_stored"  # the face's bytes
COVERED: Final = "keyanon_covered"
ABOUT: Final = ("shape", "embedding", "chroma", "detail", "tone", "enlargement")


@dataclass(frozen=True)
class CuttingReport:
    """What became of the pictures: faces stored, of these trained_on, held_out, or too_alike (of a held-out person); reasons why
    a picture gave none.
    """

    digest: str
    pictures: int
    faces: int
    trained_on: int
    held_out: int
    too_alike: int
    reasons: dict[str, int]


class CutFaces:
    """Cuts the largest face of each picture; a picture without a usable one gets a reason."""

    def __init__(self, models: FaceModelChoice, prior: PriorSettings, max_pixels: int, monitor: Monitor) -> None:
        """Load the models. Raises FaceModelError, MachineError."""
        self.prior, self.max_pixels = prior, max_pixels
        self.hands = RowsInHand[dict[str, Any], dict[str, Any]](
            "cut", monitor, work=self._cut, quarantine=_failed, is_witness=lambda row: not row[FAILURE]
        )
        with self.hands.reporting_faults():
            self.models = models.load(threads=1)
            self.predictor = ShapePredictor()

    def __call__(self, table: pa.Table) -> pa.Table:
        with self.hands.reporting_faults():
            rows = {row[ROW]: row for row in table.select([ROW, ID, SUBJECT, ENCODED, FAILURE]).to_pylist()}
            cut = self.hands.work_through({number: row for number, row in rows.items() if not row[FAILURE]})
            found = [cut.get(number) or _failed(row, row[FAILURE]) for number, row in rows.items()]
            return pa.Table.from_pylist(found, schema=_SCHEMA)

    def _cut(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [self._cut_one(row) for row in rows]

    def _cut_one(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            pixels = decode_picture(row[ENCODED], self.max_pixels)
            faces = self.models.detector.detect(pixels)
            if not faces:
                return _failed(row, "no_face: no face was found")
            largest = max(faces, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))
            face = cut_face(pixels, largest, self.models, self.predictor, self.prior)
        except Exception as error:
            if kind_of(error) is not FaultKind.ROW:
                raise
            return _failed(row, reason_of(error))  # any defect met by one picture costs that picture only
        about = {name: np.ravel(getattr(face, name)).tolist() for name in ABOUT}
        stored = {STORED: face.face.tobytes(), COVERED: np.packbits(face.covered).tobytes()}
        return {**_failed(row, ""), **stored, **about}


def _failed(row: dict[str, Any], reason: str) -> dict[str, Any]:
    """A picture that gives no face, for a reason."""
    return {ID: row[ID], SUBJECT: row[SUBJECT], FAILURE: reason}


_SCHEMA: Final = pa.schema(
    [
        (ID, pa.string()),
        (SUBJECT, pa.string()),
        (FAILURE, pa.string()),
        (STORED, pa.large_binary()),
        (COVERED, pa.binary()),
    ]
    + [(name, pa.list_(pa.float64())) for name in ABOUT]
)


def prepare_faces(
    config: TrainConfig, source: Source, watch: Callable[[int, int], None]
) -> tuple[FaceBank, CuttingReport]:
    """The bank of this training, cut now or by an earlier attempt. watch: called with pictures done and pictures in all.

    A cluster must be connected. Raises SourceError when no face can be trained on, or when the bank was cut from other
    pictures or with other settings.
    """
    folder = config.output / BANK_FOLDER
    digest = config.cutting_digest(source.digest)
    if folder.exists():
        report = CuttingReport(**read_json(folder / BANK_REPORT))
        if report.digest != digest:
            raise SourceError(
                f"{folder} was cut from other pictures, or with other settings; give another output, or delete the folder"
            )
        return FaceBank.open(folder), report
    unfinished = folder.with_name(f"{BANK_FOLDER}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    report = _cut(config, source, unfinished, digest, watch)
    if not report.trained_on:
        raise SourceError(
            f"{config.photos}: of {report.pictures} pictures none can be trained on ({report.faces} faces, {report.held_out} "
            f"held out, {report.too_alike} of held-out people; reasons: {report.reasons})"
        )
    write_json(unfinished / BANK_REPORT, asdict(report))
    unfinished.rename(folder)
    return FaceBank.open(folder), report


def _cut(
    config: TrainConfig, source: Source, folder: Path, digest: str, watch: Callable[[int, int], None]
) -> CuttingReport:
    prior = config.settings().prior
    monitor = Monitor()
    actors = config.cutting_actors or max(int(sum(one.usable_cpus for one in machines())), 1)
    sizes = TaskSizes(PICTURES_PER_TASK, PICTURES_PER_TASK, actors)
    workers = sizes.workers_for(source.total)
    dataset = read_pictures(source, list(source.units((), sizes.next)), PICTURES_PER_TASK).map_batches(
        CutFaces,
        fn_constructor_kwargs={
            "models": FaceModelChoice(config.face_models),
            "prior": prior,
            "max_pixels": config.max_pixels,
            "monitor": monitor,
        },
        batch_size=None,
        batch_format="pyarrow",
        compute=Pool(workers, workers).strategy(),
        num_cpus=0,
        max_restarts=PROCESS_RESTARTS,
    )
    reasons: Counter[str] = Counter()
    subjects: list[str] = []
    done = 0
    with FaceBankWriter(folder, prior.bank_side) as writer, explaining(monitor, "cutting of faces"):
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in table.to_pylist():
                done += 1
                if row[FAILURE]:
                    reasons[row[FAILURE].split(":")[0]] += 1
                else:
                    writer.add(row[ID], _stored(row, prior.bank_side))
                    subjects.append(row[SUBJECT] or row[ID])
            watch(done, source.total)
        columns = writer.columns
        held_out = _held_out(config, columns["ids"], subjects)
        alike = _alike(columns["embedding"], held_out, config.same_person_distance)
        weight = np.zeros(0)
        if len(held_out):
            weight = sampling_weights(
                columns["chroma"],
                columns["detail"],
                columns["tone"],
                colour=config.colour_weight,
                rare_tone=config.rare_tone_weight,
            )
        weight = np.where(held_out | alike, 0.0, weight)
        writer.close(weight, held_out)
    return CuttingReport(
        digest,
        source.total,
        len(subjects),
        int((weight > 0).sum()),
        int(held_out.sum()),
        int(alike.sum()),
        dict(reasons),
    )


def _stored(row: dict[str, Any], side: int) -> StoredFace:
    bits = np.unpackbits(np.frombuffer(row[COVERED], np.uint8), count=side * side)
    return StoredFace(
        face=np.frombuffer(row[STORED], np.uint8).reshape(side, side, 3),
        covered=bits.reshape(side, side).astype(np.bool_),
        shape=np.array(row["shape"], np.float32).reshape(-1, 2),
        embedding=np.array(row["embedding"], np.float32),
        **{name: row[name][0] for name in ("chroma", "detail", "tone", "enlargement")},
    )


def _held_out(config: TrainConfig, ids: npt.NDArray[np.str_], subjects: list[str]) -> npt.NDArray[np.bool_]:
    """By the list of ids, or by a hash of the subject: the same whatever the order and the number of pictures."""
    listed: set[str] = set()
    if config.held_out_ids is not None:
        try:
            listed = set(config.held_out_ids.read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"held_out_ids {config.held_out_ids} can not be read: {error}") from error
    if listed:
        return np.array([name in listed for name in ids.tolist()], np.bool_)
    limit = int(config.held_out_share * HASH_RANGE)
    hashes = (int.from_bytes(hashlib.sha256(subject.encode()).digest()[:4], "big") for subject in subjects)
    return np.array([value < limit for value in hashes], np.bool_)


def _alike(
    embeddings: npt.NDArray[np.float32], held_out: npt.NDArray[np.bool_], distance: float
) -> npt.NDArray[np.bool_]:
    """Faces that the recognizer takes for one of the held-out people."""
    alike = np.zeros(len(held_out), np.bool_)
    if held_out.any() and not held_out.all():
        _, distances = nearest(embeddings[~held_out], embeddings[held_out])
        alike[~held_out] = distances < distance
    return alike

"""The detecting stage of a run, a Ray Data actor on CPUs.

Every row that comes in goes out, exactly once, whatever happens to it. This module keeps clear of torch, which takes seconds
of CPU time to load and which detection does not need.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa

from jobs.blocks import ENCODED, FACES, FAILURE, GIVEN, KEPT_FACES, ROW
from jobs.faults import FaultKind, kind_of, reason_of
from jobs.run.progress import Monitor
from jobs.run.rows_in_hand import RowsInHand
from keyanon_core.clips.piece import Piece, is_piece
from keyanon_core.clips.whose import PieceFaces
from keyanon_core.errors import FaceModelError
from keyanon_core.faces import FaceModels, load_detector, load_face_models
from keyanon_core.faces.detection import Detector
from keyanon_core.faces.given import ChosenFaces, FaceChoice, GivenFaces, choose_faces
from keyanon_core.faces.looks import DEFAULT_MIN_FACE
from keyanon_core.imaging import decode_picture

DETECTOR_THREADS = 1  # detection runs beside the denoiser: it must not take its CPUs


@dataclass(frozen=True)
class FaceModelChoice:
    """Which face models an actor loads. weights: directory, where the kind needs one. min_face: px, the smallest searched for.
    expected: digests of a resumed run's, by role and name."""

    kind: str
    weights: Path | None = None
    min_face: int = DEFAULT_MIN_FACE
    expected: Mapping[str, str] = field(default_factory=dict)

    def load(self, threads: int, device: str = "cpu") -> FaceModels:
        """Raises FaceModelError."""
        models = load_face_models(self.kind, self.weights, threads, device, self.min_face)
        self._check(models.digests())
        return models

    def load_detector(self, threads: int) -> Detector:
        """The detector alone, on the CPU. Raises FaceModelError."""
        detector = load_detector(self.kind, self.weights, threads, min_face=self.min_face)
        self._check({f"detector:{detector.name}": detector.digest})
        return detector

    def _check(self, found: Mapping[str, str]) -> None:
        for model, digest in found.items() if self.expected else ():
            if (before := self.expected.get(model, "none of that name")) != digest:
                raise FaceModelError(
                    f"face model {model} has digest {digest}, and the run that is resumed used {before}; give that run's weights "
                    "(--face-weights), or an empty output"
                )


class DetectFaces:
    """Finds the faces of each picture of a block, and joins them with those given; adds `FACES` and `KEPT_FACES`. A picture
    that can not be decoded, or that its given faces do not fit, gets a `FAILURE`."""

    def __init__(
        self, models: FaceModelChoice, max_pixels: int, monitor: Monitor, faces: FaceChoice = "detect"
    ) -> None:
        """Load the detector. Raises FaceModelError, MachineError."""
        self.max_pixels, self.faces = max_pixels, faces
        self.hands = RowsInHand[Asked, Found](
            "detect", monitor, work=self._detect, quarantine=_failed, is_witness=_is_found
        )
        with self.hands.reporting_faults():
            self.detector = models.load_detector(DETECTOR_THREADS)

    def __call__(self, table: pa.Table) -> pa.Table:
        with self.hands.reporting_faults():
            numbers, failures = table.column(ROW).to_pylist(), table.column(FAILURE).to_pylist()
            rows = zip(numbers, table.column(ENCODED), table.column(GIVEN), failures, strict=True)
            asked = {row: (encoded.as_py(), given.as_py()) for row, encoded, given, failure in rows if not failure}
            found = self.hands.work_through(asked)
            for row, failure in zip(numbers, failures, strict=True):
                found.setdefault(row, Found(None, failure))
            failures = pa.array([found[row].failure for row in numbers], pa.string())
            table = table.set_column(table.column_names.index(FAILURE), FAILURE, failures)
            faces = pa.array([found[row].to_json("faces") for row in numbers], pa.large_string())
            kept = pa.array([found[row].to_json("kept") for row in numbers], pa.large_string())
            return table.append_column(FACES, faces).append_column(KEPT_FACES, kept)

    def _detect(self, pictures: Sequence["Asked"]) -> list["Found"]:
        return [self._detect_one(encoded, given) for encoded, given in pictures]

    def _of_piece(self, encoded: bytes, given: str | None) -> PieceFaces:
        """Raises PictureError where the piece was not looked through: for the reason of its frames, if it is theirs."""
        if given is None:
            from keyanon_core.clips.frames import decode_piece  # and with it PyAV

            decode_piece(Piece.from_bytes(encoded), self.max_pixels)
        return PieceFaces.from_json(given)

    def _detect_one(self, encoded: bytes, given: str | None) -> "Found":
        try:
            if is_piece(encoded):  # whose faces were found when its clip was gone through
                return Found(None, "", self._of_piece(encoded, given))
            said = GivenFaces() if given is None else GivenFaces.from_json(given)
            return Found(choose_faces(decode_picture(encoded, self.max_pixels), self.detector, said, self.faces))
        except Exception as error:
            if kind_of(error) is not FaultKind.ROW:
                raise
            return Found(None, reason_of(error))


Asked = tuple[bytes, str | None]  # an encoded picture, and what its user says of the faces in it


@dataclass(frozen=True)
class Found:
    """What detection made of one picture. failure: why it is not anonymized, or "". of_piece: of a clip's, in its place."""

    chosen: ChosenFaces | None
    failure: str = ""
    of_piece: PieceFaces | None = None

    def to_json(self, which: Literal["faces", "kept"]) -> str | None:
        """The faces to anonymize, or those to leave alone, as they travel; None where there is a failure instead."""
        if self.of_piece is not None:
            return json.dumps([face.to_dict() for face in self.of_piece.faces] if which == "faces" else [])
        if self.chosen is None:
            return None
        return json.dumps([face.to_dict() for face in (self.chosen.faces if which == "faces" else self.chosen.kept)])


def _failed(_: Asked, reason: str) -> Found:
    return Found(None, reason)


def _is_found(found: Found) -> bool:
    return not found.failure

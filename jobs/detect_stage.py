"""The detecting stage of a run, a Ray Data actor on CPUs.

Every row that comes in goes out, exactly once, whatever happens to it. This module keeps clear of torch, which takes seconds
of CPU time to load and which detection does not need.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from jobs.blocks import ENCODED, FACES, FAILURE, ROW
from jobs.faults import FaultKind, kind_of, reason_of
from jobs.progress import Monitor
from jobs.rows_in_hand import RowsInHand
from keyanon_core.faces import FaceModels, load_detector, load_face_models
from keyanon_core.faces.detection import Detector, Face
from keyanon_core.faces.looks import DEFAULT_MIN_FACE
from keyanon_core.imaging import decode_picture

DETECTOR_THREADS = 1  # detection runs beside the denoiser: it must not take its CPUs


@dataclass(frozen=True)
class FaceModelChoice:
    """Which face models an actor loads. weights: directory, where the kind needs one. min_face: px, the smallest searched for."""

    kind: str
    weights: Path | None = None
    min_face: int = DEFAULT_MIN_FACE

    def load(self, threads: int, device: str = "cpu") -> FaceModels:
        """Raises FaceModelError."""
        return load_face_models(self.kind, self.weights, threads, device, self.min_face)

    def load_detector(self, threads: int) -> Detector:
        """The detector alone, on the CPU. Raises FaceModelError."""
        return load_detector(self.kind, self.weights, threads, min_face=self.min_face)


class DetectFaces:
    """Finds the faces of each picture of a block; adds `FACES`. A picture that can not be decoded gets a `FAILURE`."""

    def __init__(self, models: FaceModelChoice, max_pixels: int, monitor: Monitor) -> None:
        """Load the detector. Raises FaceModelError, MachineError."""
        self.max_pixels = max_pixels
        self.hands = RowsInHand[bytes, Found](
            "detect", monitor, work=self._detect, quarantine=_failed, is_witness=_is_found
        )
        with self.hands.reporting_faults():
            self.detector = models.load_detector(DETECTOR_THREADS)

    def __call__(self, table: pa.Table) -> pa.Table:
        with self.hands.reporting_faults():
            numbers, failures = table.column(ROW).to_pylist(), table.column(FAILURE).to_pylist()
            rows = zip(numbers, table.column(ENCODED), failures, strict=True)
            found = self.hands.work_through({row: encoded.as_py() for row, encoded, failure in rows if not failure})
            for row, failure in zip(numbers, failures, strict=True):
                found.setdefault(row, Found(None, failure))
            failures = pa.array([found[row].failure for row in numbers], pa.string())
            table = table.set_column(table.column_names.index(FAILURE), FAILURE, failures)
            return table.append_column(FACES, pa.array([found[row].to_json() for row in numbers], pa.string()))

    def _detect(self, pictures: Sequence[bytes]) -> list["Found"]:
        return [self._detect_one(encoded) for encoded in pictures]

    def _detect_one(self, encoded: bytes) -> "Found":
        try:
            return Found(self.detector.detect(decode_picture(encoded, self.max_pixels)))
        except Exception as error:
            if kind_of(error) is not FaultKind.ROW:
                raise
            return Found(None, reason_of(error))


@dataclass(frozen=True)
class Found:
    """What detection made of one picture. failure: why it is not anonymized, or ""."""

    faces: list[Face] | None
    failure: str = ""

    def to_json(self) -> str | None:
        """The faces as they travel, None where there is a failure instead."""
        return None if self.faces is None else json.dumps([face.to_dict() for face in self.faces])


def _failed(_: bytes, reason: str) -> Found:
    return Found(None, reason)


def _is_found(found: Found) -> bool:
    return not found.failure

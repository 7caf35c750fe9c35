"""The detecting stage of a run, a Ray Data actor on CPUs.

Every row that comes in goes out, exactly once, whatever happens to it. This module keeps clear of torch, which takes seconds
of CPU time to load and which detection does not need.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from jobs.blocks import ENCODED, FACES, FAILURE
from jobs.progress import Monitor
from keyanon_core.errors import PictureError
from keyanon_core.faces import FaceModels, load_detector, load_face_models
from keyanon_core.faces.detection import Detector, Face
from keyanon_core.faces.looks import DEFAULT_MIN_FACE
from keyanon_core.imaging import decode_picture

logger = logging.getLogger("keyanon.stages")

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
        with monitor.reporting_failures():
            self.detector = models.load_detector(DETECTOR_THREADS)
        self.max_pixels = max_pixels

    def __call__(self, table: pa.Table) -> pa.Table:
        faces: list[str | None] = []
        failures: list[str] = []
        for encoded, failure in zip(table.column(ENCODED), table.column(FAILURE), strict=True):
            found, reason = (None, failure.as_py()) if failure.as_py() else self._detect(encoded.as_py())
            faces.append(None if found is None else json.dumps([face.to_dict() for face in found]))
            failures.append(reason)
        table = table.set_column(table.column_names.index(FAILURE), FAILURE, pa.array(failures, pa.string()))
        return table.append_column(FACES, pa.array(faces, pa.string()))

    def _detect(self, encoded: bytes) -> tuple[list[Face] | None, str]:
        try:
            return self.detector.detect(decode_picture(encoded, self.max_pixels)), ""
        except PictureError as error:
            return None, f"{error.reason}: {error}"
        except Exception as error:  # noqa: BLE001  any defect met by one picture costs that picture only
            return None, internal_error(error)


def internal_error(error: Exception) -> str:
    """The reason for a row that met a defect. Neither row nor log quote the message: it could hold anything, a key
    included."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = (
        f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else "unknown place"
    )
    logger.error("one picture was quarantined: %s at %s", type(error).__name__, place)
    return f"internal_error: {type(error).__name__} at {place}"

"""The detecting stage of a run, a Ray Data actor on CPUs.

Every row that comes in goes out, exactly once, whatever happens to it. This module keeps clear of torch, which takes seconds
of CPU time to load and which detection does not need.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from jobs.blocks import ENCODED, FACES, FAILURE, GIVEN, KEPT_FACES
from jobs.progress import Monitor
from keyanon_core.errors import PictureError
from keyanon_core.faces import FaceModels, load_detector, load_face_models
from keyanon_core.faces.detection import Detector, Face
from keyanon_core.faces.given import ChosenFaces, FaceChoice, GivenFaces, choose_faces
from keyanon_core.imaging import decode_picture

logger = logging.getLogger("keyanon.stages")

DETECTOR_THREADS = 1  # detection runs beside the denoiser: it must not take its CPUs


@dataclass(frozen=True)
class FaceModelChoice:
    """Which face models an actor loads. weights: directory, where the kind needs one."""

    kind: str
    weights: Path | None = None

    def load(self, threads: int, device: str = "cpu") -> FaceModels:
        """Raises FaceModelError."""
        return load_face_models(self.kind, self.weights, threads, device)

    def load_detector(self, threads: int) -> Detector:
        """The detector alone, on the CPU. Raises FaceModelError."""
        return load_detector(self.kind, self.weights, threads)


class DetectFaces:
    """Finds the faces of each picture of a block, and joins them with those given; adds `FACES` and `KEPT_FACES`. A picture
    that can not be decoded, or that its given faces do not fit, gets a `FAILURE`."""

    def __init__(
        self, models: FaceModelChoice, max_pixels: int, monitor: Monitor, faces: FaceChoice = "detect"
    ) -> None:
        with monitor.reporting_failures():
            self.detector = models.load_detector(DETECTOR_THREADS)
        self.max_pixels, self.faces = max_pixels, faces

    def __call__(self, table: pa.Table) -> pa.Table:
        made: dict[str, list[str | None]] = {FAILURE: [], FACES: [], KEPT_FACES: []}
        columns = (table.column(name) for name in (ENCODED, FAILURE, GIVEN))
        for encoded, failure, given in zip(*columns, strict=True):
            reason = failure.as_py()
            found, reason = (None, reason) if reason else self._detect(encoded.as_py(), given.as_py())
            made[FAILURE].append(reason)
            made[FACES].append(None if found is None else _as_json(found.faces))
            made[KEPT_FACES].append(None if found is None else _as_json(found.kept))
        table = table.set_column(table.column_names.index(FAILURE), FAILURE, pa.array(made[FAILURE], pa.string()))
        for name in (FACES, KEPT_FACES):
            table = table.append_column(name, pa.array(made[name], pa.large_string()))
        return table

    def _detect(self, encoded: bytes, given: str | None) -> tuple[ChosenFaces | None, str]:
        try:
            said = GivenFaces() if given is None else GivenFaces.from_json(given)
            return choose_faces(decode_picture(encoded, self.max_pixels), self.detector, said, self.faces), ""
        except PictureError as error:
            return None, f"{error.reason}: {error}"
        except Exception as error:  # noqa: BLE001  any defect met by one picture costs that picture only
            return None, internal_error(error)


def _as_json(faces: list[Face]) -> str:
    return json.dumps([face.to_dict() for face in faces])


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

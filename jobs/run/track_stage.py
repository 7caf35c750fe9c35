"""The stage that goes through clips before they are anonymized, a Ray Data actor: who is in each frame, and how they look.

Identity vectors do not travel further than to the driver, which tells from them who is who in a clip (`jobs.run.tracks`).
"""

import base64
import json
from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.blocks import ENCODED, FAILURE, ROW
from jobs.faults import FaultKind, kind_of
from jobs.run.detect_stage import FaceModelChoice
from jobs.run.progress import Monitor
from jobs.run.rows_in_hand import RowsInHand
from keyanon_core.clips.frames import decode_piece
from keyanon_core.clips.piece import Piece
from keyanon_core.clips.tracking import SeenFace
from keyanon_core.errors import PictureError
from keyanon_core.faces.detection import Face, Pixels

SEEN: Final = "keyanon_seen"  # JSON of what a piece's frames show; null where they can not be decoded
VIEW: Final = (16, 12)  # px of a frame as cuts between scenes are told from
EMBEDDED_EVERY: Final = 8  # frames of which the faces' identity vectors are computed, beside a piece's last one


class FindInPieces:
    """Finds the faces in each frame of the pieces of a block; gives `SEEN` of each row."""

    def __init__(self, models: FaceModelChoice, threads: int, max_pixels: int, monitor: Monitor) -> None:
        """Load detector and recognizer. Raises FaceModelError, MachineError."""
        self.max_pixels = max_pixels
        self.hands = RowsInHand[bytes, str | None](
            "track", monitor, work=self._find, quarantine=_nothing, is_witness=bool
        )
        with self.hands.reporting_faults():
            self.models = models.load(threads)

    def __call__(self, table: pa.Table) -> pa.Table:
        with self.hands.reporting_faults():
            rows = zip(
                table.column(ROW).to_pylist(), table.column(ENCODED), table.column(FAILURE).to_pylist(), strict=True
            )
            found = self.hands.work_through({row: encoded.as_py() for row, encoded, failure in rows if not failure})
            numbers = table.column(ROW).to_pylist()
            seen = pa.array([found.get(row) for row in numbers], pa.large_string())
            return pa.table({ROW: pa.array(numbers, pa.int64()), SEEN: seen})

    def _find(self, pieces: Sequence[bytes]) -> list[str | None]:
        return [self._find_in(piece) for piece in pieces]

    def _find_in(self, encoded: bytes) -> str | None:
        try:
            strip = decode_piece(Piece.from_bytes(encoded), self.max_pixels)
        except Exception as error:
            if kind_of(error) is not FaultKind.ROW:
                raise
            return None  # it is quarantined where it is to be anonymized, for this reason
        frames = list(strip.frames())
        return json.dumps([self._frame(frame, at, len(frames)) for at, frame in enumerate(frames)])

    def _frame(self, frame: Pixels, at: int, frames: int) -> dict[str, Any]:
        frame = np.ascontiguousarray(frame)
        faces = self.models.detector.detect(frame)
        vectors = self._vectors(frame, faces) if at % EMBEDDED_EVERY == 0 or at == frames - 1 else [None] * len(faces)
        view = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), VIEW, interpolation=cv2.INTER_AREA)
        return {
            "view": _text(view),
            "faces": [
                {**face.to_dict(), "vector": None if vector is None else _text(vector)}
                for face, vector in zip(faces, vectors, strict=True)
            ],
        }

    def _vectors(self, frame: Pixels, faces: Sequence[Face]) -> list[npt.NDArray[np.float32] | None]:
        vectors: list[npt.NDArray[np.float32] | None] = []
        for face in faces:
            try:
                vectors.append(self.models.recognizer.embed([(frame, face)])[0])
            except PictureError:  # landmarks that show it no face
                vectors.append(None)
        return vectors


def seen_faces(said: str) -> tuple[list[list[SeenFace]], npt.NDArray[np.float32]]:
    """The faces of each of a piece's n frames, and views of them, (n, 192) grey levels, from `SEEN`."""
    frames = json.loads(said)
    faces = [[_seen(face) for face in frame["faces"]] for frame in frames]
    views = [np.frombuffer(base64.b64decode(frame["view"]), np.uint8) for frame in frames]
    return faces, np.array(views, np.float32)


def _seen(said: dict[str, Any]) -> SeenFace:
    vector = said["vector"]
    found = None if vector is None else np.frombuffer(base64.b64decode(vector), np.float32)
    return SeenFace(Face.from_dict(said), found)


def _text(values: npt.NDArray[np.generic]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _nothing(_: bytes, __: str) -> None:
    return None

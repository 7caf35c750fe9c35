"""The stage that goes through clips before they are anonymized, a Ray Data actor: who is in each frame, and how they look.

Identity vectors do not travel further than to the driver, which tells from them who is who in a clip (`jobs.run.tracks`).
"""

import base64
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.blocks import ENCODED, FAILURE, GIVEN, ROW
from jobs.faults import FaultKind, kind_of
from jobs.run.detect_stage import FaceModelChoice
from jobs.run.progress import Monitor
from jobs.run.rows_in_hand import RowsInHand
from keyanon_core.clips.frames import decode_piece
from keyanon_core.clips.piece import Piece
from keyanon_core.clips.tracking import SeenFrames
from keyanon_core.errors import PictureError
from keyanon_core.faces.detection import LANDMARK_COUNT, Face, Pixels, without_duplicates

SEEN: Final = "keyanon_seen"  # JSON of what a piece's frames show; null where they can not be decoded
VIEW: Final = (16, 12)  # px of a frame as cuts between scenes are told from
FACE_NUMBERS: Final = 4 + 2 * LANDMARK_COUNT + 1  # a face's box, landmarks and score
BESIDE: Final = 0.1  # of a box that may lie in another face's which is taken to be beside it
NARROW: Final = (
    0.55  # width over height of a face's box that a side of the frame cuts by a third; of whole ones about 0.75
)
LOW: Final = 1.1  # the same, cut above or below
EMBEDDED_EVERY: Final = 8  # frames of which the faces' identity vectors are computed, beside a piece's last one

_Number = TypeVar("_Number", np.float32, np.uint8)


class FindInPieces:
    """Finds the faces in each frame of the pieces of a block; gives `SEEN` of each row. Where a row's `GIVEN` says which faces
    there are (`SeenPiece.places`), none is looked for."""

    def __init__(self, models: FaceModelChoice, threads: int, max_pixels: int, monitor: Monitor) -> None:
        """Load detector and recognizer. Raises FaceModelError, MachineError."""
        self.max_pixels = max_pixels
        self.hands = RowsInHand[tuple[bytes, str | None], str | None](
            "track", monitor, work=self._find, quarantine=_nothing, is_witness=bool
        )
        with self.hands.reporting_faults():
            self.models = models.load(threads)

    def __call__(self, table: pa.Table) -> pa.Table:
        with self.hands.reporting_faults():
            numbers, failures = table.column(ROW).to_pylist(), table.column(FAILURE).to_pylist()
            pieces = zip(numbers, table.column(ENCODED), table.column(GIVEN), failures, strict=True)
            found = self.hands.work_through(
                {row: (encoded.as_py(), known.as_py()) for row, encoded, known, failure in pieces if not failure}
            )
            seen = pa.array([found.get(row) for row in numbers], pa.large_string())
            return pa.table({ROW: pa.array(numbers, pa.int64()), SEEN: seen})

    def _find(self, pieces: Sequence[tuple[bytes, str | None]]) -> list[str | None]:
        return [self._find_in(*piece) for piece in pieces]

    def _find_in(self, encoded: bytes, known: str | None) -> str | None:
        try:
            strip = decode_piece(Piece.from_bytes(encoded), self.max_pixels)
        except Exception as error:
            if kind_of(error) is not FaultKind.ROW:
                raise
            return None  # it is quarantined where it is to be anonymized, for this reason
        frames = [np.ascontiguousarray(frame) for frame in strip.frames()]
        found = map(self._faces, frames) if known is None else faces_of(known)
        return json.dumps(
            [self._frame(*one, at, len(frames)) for at, one in enumerate(zip(frames, found, strict=True))]
        )

    def _frame(self, frame: Pixels, faces: list[Face], at: int, frames: int) -> dict[str, Any]:
        vectors = self._vectors(frame, faces) if at % EMBEDDED_EVERY == 0 or at == frames - 1 else [None] * len(faces)
        view = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), VIEW, interpolation=cv2.INTER_AREA)
        return {
            "view": _text(view),
            "faces": [
                {**face.to_dict(), "vector": None if vector is None else _text(vector)}
                for face, vector in zip(faces, vectors, strict=True)
            ],
        }

    def _faces(self, frame: Pixels) -> list[Face]:
        """What the first search sees, and what the second does beside these: it is somebody's too, and shown alike from frame to
        frame if it is known before any frame is made. What it sees within one of them may be nobody, and would take pixels from
        it: whoever anonymizes the piece looks again. A first search that saw nothing was both.
        """
        found = self.models.detector.detect(frame)
        again = without_duplicates(self.models.detector.look_again(frame)) if found else []
        return found + [face for face in again if not any(_overlaps(face, one, frame) for one in found)]

    def _vectors(self, frame: Pixels, faces: Sequence[Face]) -> list[npt.NDArray[np.float32] | None]:
        return [None if _is_cut(face, frame) else self._vector(frame, face) for face in faces]

    def _vector(self, frame: Pixels, face: Face) -> npt.NDArray[np.float32] | None:
        try:
            return np.asarray(self.models.recognizer.embed([(frame, face)])[0])
        except PictureError:  # landmarks that show it no face
            return None


@dataclass(frozen=True, eq=False)
class SeenPiece:
    """What a piece's n frames show, as it is held until its clip is tracked: of an hour there are thousands.

    counts: (n,) faces of each frame. faces: (m, 15) float64, of each its box, landmarks and score. embedded: (m,) bool, of which
    there are identity vectors; vectors: (k, d) float32, those. views: (n, 192) uint8 grey levels.
    """

    counts: npt.NDArray[np.int64]
    faces: npt.NDArray[np.float64]
    embedded: npt.NDArray[np.bool_]
    vectors: npt.NDArray[np.float32]
    views: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, said: str) -> Self:
        """From `SEEN`."""
        frames = json.loads(said)
        found = [face for frame in frames for face in frame["faces"]]
        faces = [[*face.box, *face.landmarks.ravel(), face.score] for face in map(Face.from_dict, found)]
        vectors = [_numbers(face["vector"], np.float32) for face in found if face["vector"] is not None]
        return cls(
            np.array([len(frame["faces"]) for frame in frames], np.int64),
            np.array(faces, np.float64).reshape(-1, FACE_NUMBERS),
            np.array([face["vector"] is not None for face in found], np.bool_),
            np.array(vectors, np.float32),
            np.array([_numbers(frame["view"], np.uint8) for frame in frames]),
        )

    def places(self) -> str:
        """JSON of where its faces are, without identity vectors and views; floats survive exactly."""
        return json.dumps({"counts": self.counts.tolist(), "faces": self.faces.tolist()}, allow_nan=False)

    def embeddings(self) -> Iterator[npt.NDArray[np.float32] | None]:
        """The identity vectors of its faces, None where there is none."""
        vectors = iter(self.vectors)
        return (next(vectors) if embedded else None for embedded in self.embedded.tolist())

    @staticmethod
    def frames(pieces: Sequence["SeenPiece"]) -> SeenFrames:
        """The frames of some pieces in a row."""
        faces = np.concatenate([np.zeros((0, FACE_NUMBERS)), *(piece.faces for piece in pieces)])
        return SeenFrames(
            np.concatenate([np.zeros(0, np.int64), *(piece.counts for piece in pieces)]),
            faces[:, :-1].reshape(-1, 2 + LANDMARK_COUNT, 2),
            faces[:, -1],
            [vector for piece in pieces for vector in piece.embeddings()],
        )

    @classmethod
    def unseen(cls, frames: int) -> Self:
        """In the place of a piece that can not be decoded: before and after it a scene may begin."""
        nothing = np.zeros((0, FACE_NUMBERS))
        return cls(
            np.zeros(frames, np.int64),
            nothing,
            np.zeros(0, np.bool_),
            nothing.astype(np.float32),
            np.zeros((frames, 0), np.uint8),
        )


def faces_of(places: str) -> list[list[Face]]:
    """The faces of each frame, from `SeenPiece.places`."""
    said = json.loads(places)
    faces = iter(
        [
            Face((x0, y0, x1, y1), np.array(marks).reshape(LANDMARK_COUNT, 2), score)
            for x0, y0, x1, y1, *marks, score in said["faces"]
        ]
    )
    return [list(itertools.islice(faces, count)) for count in said["counts"]]


def _overlaps(face: Face, other: Face, frame: Pixels) -> bool:
    """Whether what is in the frame of a face's box lies to some part in another's. At the border two searches see one face by
    boxes that reach more or less beyond it."""
    low, high = _inside(face, frame)
    shared = np.minimum(high, other.box[2:]) - np.maximum(low, other.box[:2])
    return bool(np.maximum(shared, 0).prod() > BESIDE * np.maximum(high - low, 0).prod())


def _inside(face: Face, frame: Pixels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The corners of what is in the frame of a face's box."""
    return np.maximum(face.box[:2], 0), np.minimum(face.box[2:], frame.shape[1::-1])


def _is_cut(face: Face, frame: Pixels) -> bool:
    """Whether a face at the border is so narrow, or so low, that much of it is outside: what is left looks like others."""
    ((x0, y0), (x1, y1)), (height, width) = _inside(face, frame), frame.shape[:2]
    narrow, low = x1 - x0 < NARROW * (y1 - y0), x1 - x0 > LOW * (y1 - y0)
    return bool((narrow and (x0 <= 1 or x1 >= width - 1)) or (low and (y0 <= 1 or y1 >= height - 1)))


def _text(values: npt.NDArray[np.generic]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _numbers(text: str, kind: type[_Number]) -> npt.NDArray[_Number]:
    return np.frombuffer(base64.b64decode(text), kind)


def _nothing(_: tuple[bytes, str | None], __: str) -> None:
    return None

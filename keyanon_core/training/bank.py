"""Stored faces: cut from pictures once, drawn from at every step.

A bank is a directory: `faces.raw` (n, M, M, 3) uint8 and `covered.raw` (n, M, M) bool, mapped into memory and not read, so a bank
may be larger than memory; `about.npz` holds the small columns. M is `PriorSettings.bank_side`.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.errors import KeyanonError
from keyanon_core.faces import FaceModels
from keyanon_core.faces.alignment import similarity
from keyanon_core.faces.crop_kernel import CropKernel
from keyanon_core.faces.detection import Face
from keyanon_core.faces.landmarks import ShapePredictor
from keyanon_core.training.settings import PriorSettings

FACES_FILE: Final = "faces.raw"
COVERED_FILE: Final = "covered.raw"
ABOUT_FILE: Final = "about.npz"
COLOUR_CHROMA: Final = 6.0  # CIELAB units; below this mean chroma a picture counts as grey
BLUR_SIGMA: Final = 1.5  # px of the stored face: what this blur takes away is its detail


@dataclass(frozen=True)
class StoredFace:
    """One face ready to be stored. face: (M, M, 3) uint8, what lies outside the picture in its mean colour; covered: (M, M)
    bool, inside the picture; shape: (68, 2) float32 landmarks in its pixels; embedding: identity (128,) float32.

    chroma: mean CIELAB chroma. detail: share of its contrast above BLUR_SIGMA. tone: individual typology angle of the skin in
    degrees (Chardon et al. 1991), light skin high; NaN for grey pictures. enlargement: stored pixels per picture pixel.
    """

    face: npt.NDArray[np.uint8]
    covered: npt.NDArray[np.bool_]
    shape: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]
    chroma: float
    detail: float
    tone: float
    enlargement: float


def cut_face(
    pixels: npt.NDArray[np.uint8], face: Face, models: FaceModels, predictor: ShapePredictor, prior: PriorSettings
) -> StoredFace:
    """Cut one detected face from a picture (H, W, 3). Raises PictureError for landmarks that are no face's."""
    affine = similarity(face.landmarks, prior.bank_template)
    kernel = CropKernel(affine, prior.bank_side, pixels.shape)
    values, covered = kernel.warp(pixels), kernel.coverage()
    if covered.any():
        values[~covered] = values[covered].mean(axis=0)
    cut = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    shape = predictor.points(pixels, face) @ affine[:, :2].T + affine[:, 2]
    inner = covered & _inner(shape, prior.bank_side)
    lab = cv2.cvtColor(cut.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    chroma = float(np.hypot(lab[..., 1], lab[..., 2])[covered].mean()) if covered.any() else 0.0
    return StoredFace(
        face=cut,
        covered=covered,
        shape=shape.astype(np.float32),
        embedding=models.recognizer.embed([(pixels, face)])[0],
        chroma=chroma,
        detail=_detail(lab[..., 0], inner),
        tone=_tone(lab, inner) if chroma >= COLOUR_CHROMA else float("nan"),
        enlargement=float(np.linalg.norm(affine[0, :2])),
    )


def _inner(shape: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.bool_]:
    """The face between brows and mouth."""
    canvas = np.zeros((side, side), np.uint8)
    cv2.fillConvexPoly(canvas, cv2.convexHull(shape[17:].astype(np.float32)).astype(np.int32), 1)
    return canvas.astype(np.bool_)


def _detail(light: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_]) -> float:
    if not inside.any():
        return 0.0
    fine = light - cv2.GaussianBlur(light, (0, 0), BLUR_SIGMA)
    return float(fine[inside].std() / max(float(light[inside].std()), 1.0))


def _tone(lab: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_]) -> float:
    """`atan((L* - 50) / b*)` of the median colour."""
    if not inside.any():
        return float("nan")
    light, yellow = float(np.median(lab[..., 0][inside])), float(np.median(lab[..., 2][inside]))
    return float(np.degrees(np.arctan2(light - 50.0, max(yellow, 1e-3))))


@dataclass(frozen=True)
class FaceBank:
    """Stored faces and what is known of each; arrays are (n, ...), faces and covered memory-mapped.

    weight: how often a face is drawn, relative; 0 for those that are not trained on. held_out: kept for measuring. The other
    columns are those of `StoredFace`.
    """

    faces: npt.NDArray[np.uint8]
    covered: npt.NDArray[np.bool_]
    shape: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]
    ids: npt.NDArray[np.str_]
    weight: npt.NDArray[np.float64]
    held_out: npt.NDArray[np.bool_]
    chroma: npt.NDArray[np.float64]
    detail: npt.NDArray[np.float64]
    tone: npt.NDArray[np.float64]
    enlargement: npt.NDArray[np.float64]

    @classmethod
    def open(cls, directory: Path) -> "FaceBank":
        """Map a bank into memory. Raises KeyanonError when files are missing or do not fit each other."""
        try:
            with np.load(directory / ABOUT_FILE) as about:
                columns = {name: about[name] for name in about.files}
            side = int(columns.pop("side"))
            shape = (len(columns["ids"]), side, side, 3)
            faces = np.memmap(directory / FACES_FILE, np.uint8, "r", shape=shape)
            covered = np.memmap(directory / COVERED_FILE, np.bool_, "r", shape=shape[:3])
            return cls(faces=faces, covered=covered, **columns)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise KeyanonError(f"{directory} holds no usable faces ({error}); delete it and run again") from error

    def __len__(self) -> int:
        return len(self.ids)


class FaceBankWriter:
    """Writes a bank face by face; `close` makes it complete."""

    def __init__(self, directory: Path, side: int) -> None:
        """side: M in pixels."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._side = directory, side
        self._columns: dict[str, list[Any]] = {name: [] for name in ("ids", *_COLUMNS)}
        with ExitStack() as stack:
            self._faces = stack.enter_context((directory / FACES_FILE).open("wb"))
            self._covered = stack.enter_context((directory / COVERED_FILE).open("wb"))
            self._files = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def add(self, name: str, face: StoredFace) -> None:
        """Store one face under the id of its picture."""
        self._faces.write(face.face.tobytes())
        self._covered.write(face.covered.tobytes())
        self._columns["ids"].append(name)
        for column in _COLUMNS:
            self._columns[column].append(getattr(face, column))

    @property
    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The small columns so far, by name."""
        return {name: np.array(values) for name, values in self._columns.items()}

    def close(self, weight: npt.NDArray[np.float64], held_out: npt.NDArray[np.bool_]) -> None:
        """Finish the bank. weight, held_out: (n,), as in `FaceBank`."""
        self._files.close()
        np.savez(
            self._directory / ABOUT_FILE,
            side=self._side,
            weight=weight,
            held_out=held_out,
            allow_pickle=False,
            **self.columns,
        )


_COLUMNS: Final = ("shape", "embedding", "chroma", "detail", "tone", "enlargement")


def sampling_weights(
    chroma: npt.NDArray[np.float64],
    detail: npt.NDArray[np.float64],
    tone: npt.NDArray[np.float64],
    *,
    colour: float,
    rare_tone: float,
) -> npt.NDArray[np.float64]:
    """How often each face (n,) is drawn, relative: grey, blurred and often seen ones less.

    colour: weight of a colour picture over a grey one. rare_tone: at most this factor for skin tones that are rare in the data;
    tones are told apart in bins of 15 degrees.
    """
    weight = np.where(chroma >= COLOUR_CHROMA, colour, 1.0)
    weight = weight * np.clip(detail / max(float(np.quantile(detail, 0.6)), 1e-9), 0.05, 1.0) ** 2
    known = np.isfinite(tone)
    if known.any():
        bins = np.floor(tone[known] / 15.0).astype(int)
        _, position, count = np.unique(bins, return_inverse=True, return_counts=True)
        weight[known] *= np.clip(count.max() / count[position], 1.0, rare_tone)
    return np.asarray(weight, np.float64)

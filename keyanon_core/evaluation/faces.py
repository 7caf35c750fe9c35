"""What is measured of each face of a picture, in every version of it: anonymized, recovered, blurred and so on.

Faces are searched in the source, and each is looked at in the versions where it stood: an attacker knows where faces were. All
that is compared with other faces later (identity vectors) is kept; all else becomes a number here.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from keyanon_core.errors import PictureError
from keyanon_core.evaluation.geometry import face_change
from keyanon_core.evaluation.groups import skin_tone_of
from keyanon_core.evaluation.likeness import mean_absolute_error, peak_signal_to_noise, structural_similarity
from keyanon_core.evaluation.quality import edge_contrast
from keyanon_core.faces import FaceModels
from keyanon_core.faces.detection import Embedder, Face, Pixels, same_face
from keyanon_core.faces.landmarks import ShapePredictor
from keyanon_core.faces.masks import PictureMask, disjoint_masks
from keyanon_core.faces.parsing import DEFAULT_REGIONS
from keyanon_core.faces.recognition import DlibRecognizer
from keyanon_core.imaging import encode_image

SOURCE: Final = "source"  # the version that all others are compared with
TEXTURE: Final = "texture"  # among the vectors: features of the embedded recognizer that tell no people apart
INCEPTION: Final = "inception:2048"  # the same of `Inception`, by a name that no recognizer can have
FEATURES: Final = (TEXTURE, INCEPTION)
VIEW_SIDE: Final = 112  # px of a face's thumbnail
CROP_SIDE: Final = 299  # px of what a network sees of a face
VIEW_MARGIN: Final = 0.35  # of the box, on each side
VIEW_QUALITY: Final = 85
GREY: Final = 128  # where there is nothing to be seen
CHANGED_LEVELS: Final = 8  # of 255, in one channel: by less a pixel only looks re-encoded
EXACT_DB: Final = 100.0  # stands for equal pixels
MIN_SIMILAR: Final = 3  # px of a mask's window, below which there is no structure
SEAM_WIDTH: Final = 4  # px of the bands on either side of a mask's edge
GEOMETRY: Final = {
    "landmarks_5": "landmark_shift",
    "landmarks_68": "landmark_shift_68",
    "yaw": "yaw",
    "pitch": "pitch",
    "roll": "roll",
    "iou": "mask_iou",
    "dice": "mask_dice",
}  # of a `FaceChange`, by its fields
FACE_METRICS: Final = (
    "found",
    *GEOMETRY.values(),
    "psnr_face",
    "ssim_face",
    "mae_face",
    "changed_face",
    "psnr_picture",
    "same_outside",
    "seam_colour",
)
"""Of a face in a version; `keyanon_core.evaluation.metrics` says what they mean."""

Vector = npt.NDArray[np.float32]
Look = Callable[[Sequence[tuple[Pixels, Face]]], npt.NDArray[np.float32]]
Distance = Callable[[Sequence[Pixels], Sequence[Pixels]], npt.NDArray[np.float64]]  # (n,) of n pairs of pictures
Features = Callable[[Sequence[Pixels]], npt.NDArray[np.float32]]  # (n, d) of n pictures


@dataclass(frozen=True)
class FaceInVersion:
    """One face of a picture in one version of it.

    face: its index among the picture's faces. tone: of the source's skin, see `skin_tone_of`. values: by the names of
    FACE_METRICS, NaN for what can not be told, `lpips_face` where it is asked for, `distance:` of each recognizer, and
    `accepted:` of the models' own, whose bound is known; empty for the source. vectors: by the recognizer's name, without those
    that saw no face, and of FEATURES. view: JPEG of the face, VIEW_SIDE px high.
    """

    face: int
    version: str
    tone: str
    values: dict[str, float]
    vectors: dict[str, Vector]
    view: bytes = field(repr=False)


class FaceMeasurer:
    """Finds faces in sources, and measures them in the versions of their pictures."""

    def __init__(
        self,
        models: FaceModels,
        others: Sequence[Embedder] = (),
        inception: Features | None = None,
        lpips: Distance | None = None,
    ) -> None:
        """others: recognizers beside that of the models, no two of one name. inception, lpips: `Inception` and `Lpips`, which are
        shown crops of CROP_SIDE px."""
        self.models, self.recognizers = models, [models.recognizer, *others]
        self._predictor, self._inception, self._lpips = ShapePredictor(), inception, lpips

    def faces_of(self, source: Pixels) -> tuple[list[Face], list[PictureMask]]:
        """The faces found in a picture (H, W, 3) uint8, and their pixels. Raises PictureError ("no_face")."""
        faces = self.models.detector.detect(source)
        masks = []
        outlined = []
        for face in faces:
            try:
                masks.append(self.models.parser.mask(source, face, DEFAULT_REGIONS))
            except PictureError:  # beyond the border: nothing of it is in the picture
                continue
            outlined.append(face)
        if not outlined:
            raise PictureError("no_face", "no face was found in the source; nothing can be measured")
        return outlined, disjoint_masks(masks)

    def measure(
        self, source: Pixels, faces: Sequence[Face], masks: Sequence[PictureMask], versions: Mapping[str, Pixels]
    ) -> list[FaceInVersion]:
        """Each face in the source and in each version, all of them (H, W, 3) uint8 of the same size.

        Raises PictureError ("other_size") for a version of another size.
        """
        for name, pixels in versions.items():
            if pixels.shape != source.shape:
                raise PictureError(
                    "other_size",
                    f"{name} is {pixels.shape[1]} x {pixels.shape[0]} px and the source {source.shape[1]} x {source.shape[0]}; "
                    "figures are of pictures of one size",
                )
        tones = [skin_tone_of(source, face.landmarks) for face in faces]
        everywhere = {SOURCE: source, **versions}
        vectors = self._vectors(everywhere, faces)
        found = []
        for name, pixels in everywhere.items():
            values: list[dict[str, float]] = [{} for _ in faces]
            if name != SOURCE:
                values = self._values(source, pixels, faces, masks)
            for index, face in enumerate(faces):
                seen = vectors[name, index]
                if name != SOURCE:
                    values[index] |= self._distances(vectors[SOURCE, index], seen)
                found.append(FaceInVersion(index, name, tones[index], values[index], seen, face_view(pixels, face)))
        return found

    def _values(
        self, source: Pixels, version: Pixels, faces: Sequence[Face], masks: Sequence[PictureMask]
    ) -> list[dict[str, float]]:
        difference = np.abs(source.astype(np.int16) - version).max(axis=2)
        same = difference == 0
        outside = np.ones(same.shape, np.bool_)
        for mask in masks:
            x0, y0, x1, y1 = mask.window
            outside[y0:y1, x0:x1][mask.bits] = False
        picture = {
            "psnr_picture": decibel(peak_signal_to_noise(source, version)),
            "same_outside": float(same[outside].mean()) if outside.any() else math.nan,
        }
        seen = self.models.detector.detect(version)
        values = [
            {**picture, **self._of_face(source, version, difference, face, mask, seen)}
            for face, mask in zip(faces, masks, strict=True)
        ]
        if self._lpips is not None:
            distances = self._lpips(_crops(source, faces), _crops(version, faces))
            for of_face, distance in zip(values, distances.tolist(), strict=True):
                of_face["lpips_face"] = distance
        return values

    def _of_face(
        self,
        source: Pixels,
        version: Pixels,
        difference: npt.NDArray[np.int16],
        face: Face,
        mask: PictureMask,
        seen: Sequence[Face],
    ) -> dict[str, float]:
        again = next((one for one in seen if same_face(face, one)), None)
        values = {"found": float(again is not None), **self._geometry((source, face), (version, again))}
        if not mask.count:  # all of it is another face's in front
            return {**dict.fromkeys(FACE_METRICS, math.nan), **values}
        x0, y0, x1, y1 = mask.window
        before, after = source[y0:y1, x0:x1], version[y0:y1, x0:x1]
        contrast = edge_contrast(version, mask, SEAM_WIDTH).colour, edge_contrast(source, mask, SEAM_WIDTH).colour
        return {
            **values,
            "psnr_face": decibel(peak_signal_to_noise(before, after, mask.bits)),
            "ssim_face": (
                structural_similarity(before, after, mask.bits) if min(mask.bits.shape) >= MIN_SIMILAR else math.nan
            ),
            "mae_face": mean_absolute_error(before, after, mask.bits),
            "changed_face": float((difference[y0:y1, x0:x1][mask.bits] > CHANGED_LEVELS).mean()),
            "seam_colour": contrast[0] / contrast[1] if contrast[1] > 0 else math.nan,
        }

    def _geometry(self, before: tuple[Pixels, Face], after: tuple[Pixels, Face | None]) -> dict[str, float]:
        """Of a face that was found again; NaN else."""
        unknown = dict.fromkeys(GEOMETRY.values(), math.nan)
        pixels, again = after
        if again is None:
            return unknown
        try:
            change = face_change(before, (pixels, again), self._predictor, self.models.parser, DEFAULT_REGIONS)
        except PictureError:
            return unknown
        return {name: getattr(change, field) for field, name in GEOMETRY.items()}

    def _distances(self, before: Mapping[str, Vector], after: Mapping[str, Vector]) -> dict[str, float]:
        """From the own source, and whether that is within what the recognizer takes for one person."""
        values = {}
        for recognizer in self.recognizers:
            name = recognizer.name
            if name in before and name in after:
                values[f"distance:{name}"] = distance = recognizer.distance(before[name], after[name])
                if recognizer is self.models.recognizer:
                    values[f"accepted:{name}"] = float(distance < self.models.recognizer.threshold)
        return values

    def _vectors(
        self, pictures: Mapping[str, Pixels], faces: Sequence[Face]
    ) -> dict[tuple[str, int], dict[str, Vector]]:
        at = [(name, index) for name in pictures for index in range(len(faces))]
        views = [(pictures[name], faces[index]) for name, index in at]
        found: dict[tuple[str, int], dict[str, Vector]] = {place: {} for place in at}
        looks: dict[str, Look] = {recognizer.name: recognizer.embed for recognizer in self.recognizers}
        if isinstance(self.models.recognizer, DlibRecognizer):
            looks[TEXTURE] = self.models.recognizer.features
        for name, look in looks.items():
            for place, vector in zip(at, embedded(look, views), strict=True):
                if vector is not None:
                    found[place][name] = vector
        if self._inception is not None:
            for name, pixels in pictures.items():
                for index, vector in enumerate(self._inception(_crops(pixels, faces))):
                    found[name, index][INCEPTION] = vector
        return found


def embedded(look: Look, views: Sequence[tuple[Pixels, Face]]) -> list[Vector | None]:
    """Vectors of faces; None where a recognizer can make nothing of one."""
    try:
        vectors = list(look(views))
    except PictureError:
        if len(views) == 1:
            return [None]
        return [embedded(look, [view])[0] for view in views]
    return [vector if np.isfinite(vector).all() else None for vector in vectors]


def decibel(value: float) -> float:
    """EXACT_DB for infinity: medians of what comes back exactly are to be numbers."""
    return min(value, EXACT_DB)


def _crops(pixels: Pixels, faces: Sequence[Face]) -> list[Pixels]:
    """What a network sees of faces."""
    return [face_crop(pixels, face, CROP_SIDE) for face in faces]


def face_view(pixels: Pixels, face: Face) -> bytes:
    """A JPEG of a face as in `face_crop`, VIEW_SIDE px high."""
    buffer = io.BytesIO()
    Image.fromarray(face_crop(pixels, face, VIEW_SIDE)).save(buffer, "JPEG", quality=VIEW_QUALITY)
    return buffer.getvalue()


def face_crop(pixels: Pixels, face: Face, crop_side: int) -> Pixels:
    """The square around a face's box, VIEW_MARGIN wider on each side, as (crop_side, crop_side, 3); grey where the picture ends.
    Averaged where it is reduced, bilinear where it is enlarged.
    """
    x0, y0, x1, y1 = face.box
    side = (1 + 2 * VIEW_MARGIN) * max(x1 - x0, y1 - y0)
    scale = crop_side / side
    left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
    column, row = max(math.floor(left) - 1, 0), max(math.floor(top) - 1, 0)
    reduced = pixels[row : math.ceil(top + side) + 1, column : math.ceil(left + side) + 1]
    left, top = left - column, top - row
    if scale < 1:  # area averaging first, else a reduced face is all aliasing
        reduced = cv2.resize(reduced, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        left, top, scale = left * scale, top * scale, 1.0
    affine = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
    size = (crop_side, crop_side)
    return np.asarray(cv2.warpAffine(reduced, affine, size, flags=cv2.INTER_LINEAR, borderValue=(GREY,) * 3), np.uint8)


def masked_view(pixels: Pixels, face: Face, mask: PictureMask) -> bytes:
    """The face as in `face_view` inside its mask alone, grey around it: of a result, no pixel of its source."""
    inside = mask.full(pixels.shape)[..., None]
    return face_view(np.where(inside, pixels, np.uint8(GREY)), face)


def sheet(tiles: Sequence[Pixels], a_row: int, most_bytes: int) -> bytes:
    """A JPEG of tiles of one size (h, w, 3), none left out, so many a row on white; as good as `most_bytes` allow, to quality 40.
    Raises ValueError without a tile, or for tiles of several sizes.
    """
    blank = np.full_like(tiles[0], 255) if tiles else None
    if blank is None or any(tile.shape != blank.shape for tile in tiles):
        raise ValueError(f"a sheet is of tiles of one size, not of {sorted({tile.shape for tile in tiles})}")
    across = min(len(tiles), a_row)
    filled = [*tiles, *[blank] * (-len(tiles) % across)]
    canvas = np.vstack([np.hstack(filled[start : start + across]) for start in range(0, len(filled), across)])
    picture = Image.fromarray(canvas)
    for quality in range(90, 39, -5):
        if len(jpeg := encode_image(picture, "JPEG", quality=quality)) <= most_bytes:
            break
    return jpeg

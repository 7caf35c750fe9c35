"""The protocol, picture by picture: what is made of it by `making`, and what is measured of each version.

The pictures are `pictures.lfw_view`s and `celeba_view`s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keyanon_core.errors import PictureError
from keyanon_core.evaluation.faces import SOURCE, FaceInVersion, Vector, decibel, embedded, face_view
from keyanon_core.evaluation.geometry import mask_overlap
from keyanon_core.evaluation.likeness import mean_absolute_error, peak_signal_to_noise, structural_similarity
from keyanon_core.evaluation.paper.making import Made, Maker
from keyanon_core.evaluation.paper.models import PaperModels, load_paper_models
from keyanon_core.evaluation.paper.pictures import SIDE
from keyanon_core.evaluation.paper.versions import EXACT, FEATURES, OTHER, PAPER, QUALITIES, recovered_of
from keyanon_core.faces.detection import Face, Pixels, same_face
from keyanon_core.faces.facexlib_models import paper_mask
from keyanon_core.faces.masks import PictureMask
from keyanon_core.procedure import PAPER_STEPS
from keyanon_core.transforms import MIN_COORDINATES

__all__ = ["Asked", "Made", "PaperModels", "PaperProtocol", "load_paper_models"]


@dataclass(frozen=True)
class Asked:
    """A picture to be anonymized, (256, 256, 3) uint8. other: another one of the same person, LFW's first of the pair. degraded:
    whether it is recovered from JPEG copies and with wrong keys, too: the protocol asks for it of 1,000 pictures.
    """

    picture: Pixels
    other: Pixels | None = None
    degraded: bool = False


class PaperProtocol:
    """Anonymizes pictures by both methods, recovers them, and measures what became of each."""

    def __init__(
        self, models: PaperModels, steps: int = PAPER_STEPS, degraded_qualities: Sequence[int] = QUALITIES
    ) -> None:
        """steps: DDIM steps one way of method `paper`. degraded_qualities: of JPEG, in the order of the versions."""
        self.models, self._maker = models, Maker(models, steps, degraded_qualities)

    def measure(self, picture: Pixels, other: Pixels | None = None, *, degraded: bool = False) -> list[FaceInVersion]:
        """The face of a picture in every version, face 0 without a tone: of `faces.SOURCE`, OTHER where it is given, PAPER and
        EXACT, `recovered_of` each, and `wrong_key_of` each where `degraded`. Arguments as in `Asked`.

        values: detected, found, psnr_picture, ssim_picture, mae_picture and `distance:` of each recognizer, all against the
        source; mask_iou and mask_dice of what is anonymized, solved of what `exact` recovers; of OTHER the distances only.
        vectors: by the recognizer's name, and of whole pictures, JPEG copies and wrong keys left out, `versions.FEATURES` + the
        features' name. Raises PictureError ("other_size", "no_face").
        """
        (found,) = self.measure_all([Asked(picture, other, degraded)])
        if isinstance(found, PictureError):
            raise found
        return found

    def measure_all(self, asked: Sequence[Asked]) -> list[list[FaceInVersion] | PictureError]:
        """`measure` of several pictures, whose faces go through the prior together, which a GPU is much faster at. One that can
        not be measured costs the others nothing.
        """
        return [made if isinstance(made, PictureError) else self._measured(made) for made in self.make_all(asked)]

    def make_all(self, asked: Sequence[Asked]) -> list[Made | PictureError]:
        """The versions of several pictures, as in `measure_all`."""
        begun = [self._begun(one) for one in asked]
        works = [(one, made) for one, made in zip(asked, begun, strict=True) if isinstance(made, Made)]
        if works:
            degraded = [at for at, (one, _) in enumerate(works) if one.degraded]
            self._maker.make([made for _, made in works], degraded)
        return begun

    def _begun(self, asked: Asked) -> Made | PictureError:
        """The source alone, and the person's other picture."""
        given = {SOURCE: asked.picture} | ({} if asked.other is None else {OTHER: asked.other})
        faces = {}
        for name, pixels in given.items():
            if pixels.shape != (SIDE, SIDE, 3) or pixels.dtype != np.uint8:
                what = f"{pixels.shape} {pixels.dtype}, not ({SIDE}, {SIDE}, 3) uint8"
                return PictureError("other_size", f"the {name} picture is {what}")
            faces[name] = self.models.detector.detect(pixels)
            if not faces[name]:
                return PictureError("no_face", f"{self.models.detector.name} finds no face in the {name} picture")
        classes = self.models.parser.classes(asked.picture)
        if (seen := self._maker.coordinates(classes)) < MIN_COORDINATES:
            return PictureError(
                "no_face",
                f"{self.models.parser.name} outlines {seen} coordinates of a face in the {SOURCE} picture; "
                f"{MIN_COORDINATES} are needed",
            )
        return Made(_chosen(faces[SOURCE]), given, {SOURCE: classes}, {})

    def _measured(self, made: Made) -> list[FaceInVersion]:
        seen = {name: self.models.detector.detect(pixels) for name, pixels in made.versions.items()}
        again = {
            name: faces if name == OTHER else [one for one in faces if same_face(made.face, one)]
            for name, faces in seen.items()
        }
        stands = {name: _chosen(faces) if faces else made.face for name, faces in again.items()}
        vectors = self._vectors(made, stands)
        return [
            FaceInVersion(
                0,
                name,
                "",
                self._values(made, name, (seen[name], again[name]), vectors),
                vectors[name],
                face_view(pixels, stands[name]),
            )
            for name, pixels in made.versions.items()
        ]

    def _vectors(self, made: Made, stands: Mapping[str, Face]) -> dict[str, dict[str, Vector]]:
        views = [(pixels, stands[name]) for name, pixels in made.versions.items()]
        found: dict[str, dict[str, Vector]] = {name: {} for name in made.versions}
        for recognizer in self.models.recognizers:
            for name, vector in zip(made.versions, embedded(recognizer.embed, views), strict=True):
                if vector is not None:
                    found[name][recognizer.name] = vector
        if self.models.features is not None:
            whole = [one for one in (SOURCE, PAPER, EXACT, recovered_of(PAPER), recovered_of(EXACT)) if one in found]
            of_pictures = self.models.features([made.versions[name] for name in whole])
            for name, vector in zip(whole, of_pictures, strict=True):
                found[name][FEATURES + self.models.features.name] = vector
        return found

    def _values(
        self,
        made: Made,
        name: str,
        faces: tuple[Sequence[Face], Sequence[Face]],
        vectors: Mapping[str, Mapping[str, Vector]],
    ) -> dict[str, float]:
        """faces: anywhere in the version, and where the source's stood."""
        if name == SOURCE:
            return {}
        before, after = vectors[SOURCE], vectors[name]
        distances = {
            f"distance:{one.name}": one.distance(before[one.name], after[one.name])
            for one in self.models.recognizers
            if one.name in before and one.name in after
        }
        if name == OTHER:
            return distances
        source, pixels = made.versions[SOURCE], made.versions[name]
        values = {
            "detected": float(bool(faces[0])),
            "found": float(bool(faces[1])),
            "psnr_picture": decibel(peak_signal_to_noise(source, pixels)),
            "ssim_picture": structural_similarity(source, pixels, gaussian=True),
            "mae_picture": mean_absolute_error(source, pixels),
        }
        if name in made.classes:
            masks = [PictureMask.from_full(paper_mask(made.classes[one], SIDE)) for one in (SOURCE, name)]
            overlap = mask_overlap(*masks)
            values |= {"mask_iou": overlap.iou, "mask_dice": overlap.dice}
        if name in made.solved:
            values["solved"] = float(made.solved[name])
        return values | distances


def _chosen(faces: Sequence[Face]) -> Face:
    """Whom a picture is taken for that shows several: by the size of the box less what it is off the middle, as the authors have
    facenet-pytorch's MTCNN choose ("center_weighted_size").
    """

    def weight(face: Face) -> float:
        x0, y0, x1, y1 = face.box
        return (x1 - x0) * (y1 - y0) - 2 * (((x0 + x1 - SIDE) / 2) ** 2 + ((y0 + y1 - SIDE) / 2) ** 2)

    return max(faces, key=weight)

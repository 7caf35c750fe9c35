"""A picture while it is worked on: its source, its result so far, and its faces on their way through the prior. Secret, so that
nothing of it shows in a repr.
"""

import uuid
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from keyanon_core.faces.detection import Face
from keyanon_core.faces.masks import PictureMask
from keyanon_core.formats.published import SourceFile
from keyanon_core.keys import face_key, new_image_key
from keyanon_core.methods.exact import Walker
from keyanon_core.pictures.crops import AlignedFace, Crop
from keyanon_core.pictures.key import FaceGeometry
from keyanon_core.pictures.painting import paint_over
from keyanon_core.pictures.settings import PictureTask
from keyanon_core.pseudonyms import MAX_CARRIERS, Pseudonym, carrier_key

BESIDE = 33  # px: a pixel shares a JPEG's block with one that is at most so far away, or lies beside such a block


@dataclass(eq=False, repr=False)
class FaceAtWork:
    """One face on its way through the prior.

    attempt: which of its keys it is under, counted from 0; a key serves one crop and is never used for another. first_attempt:
    the one that this crop began with.
    surroundings: of the crop, encoded as a sidecar holds them; b"" until they are needed.
    latents: of the crop and of its surroundings, (C, h, w) float64 each; None until they are needed.
    latent (C, h, w) float64 as it is stored, scale: what the attempt made, for sidecar and record. shown: (3, S, S) float32 in
    [-1, 1], the crop that its frame of a clip would show by itself; None in pictures. noise (C, h, w) float64: the
    inversion's, it serves the next attempt. walker: how far the present attempt has come. distance: the recognizer's, from the
    source; NaN until it is measured. subject: whom it stands for, pseudonym: theirs; None where it stands for nobody.
    painted_mask: where it is painted over, and does not come back.
    """

    aligned: AlignedFace
    index: int
    picture: "OpenedPicture"
    attempt: int = 0
    first_attempt: int = 0
    surroundings: bytes = b""
    latents: tuple[torch.Tensor, torch.Tensor] | None = None
    latent: npt.NDArray[np.float64] | None = None
    shown: npt.NDArray[np.float32] | None = None
    scale: float = 1.0
    noise_rms: float = 0.0
    noise: torch.Tensor | None = None
    walker: Walker | None = None
    distance: float = float("nan")
    source_embedding: npt.NDArray[np.float32] | None = None
    subject: str | None = None
    pseudonym: Pseudonym | None = None
    painted_mask: PictureMask | None = None

    @property
    def is_painted(self) -> bool:
        """Whether it is painted over, and stands for nobody any more."""
        return self.painted_mask is not None

    @property
    def part(self) -> "Part":
        """Whose key its own is derived from."""
        return self.picture.parts[self.picture.task.part_of(self.index)]

    @property
    def keys_tried(self) -> int:
        """Keys that this crop has been under."""
        return self.attempt - self.first_attempt + 1

    @property
    def detected(self) -> Face:
        """Where the face was found."""
        return self.aligned.detected

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """(2, 3) float64, picture -> crop."""
        return self.aligned.affine

    @property
    def mask(self) -> PictureMask:
        """The picture's pixels that are anonymized with this face."""
        return self.aligned.mask

    @property
    def crop(self) -> Crop:
        """The aligned crop of the source."""
        return self.aligned.crop

    @property
    def restored(self) -> PictureMask:
        """The pixels that recovery brings back: the mask's, and, where all are to, those beside it that encoding changed.

        In a JPEG those share a block with masked ones. None of another face's is among them.
        """
        if self.picture.changed is None or not self.mask.count:
            return self.mask
        width, height = self.picture.source.shape[1], self.picture.file.frame_height
        x0, y0, x1, y1 = self.mask.window
        begin = y0 // height * height  # of its frame
        left, top, right, bottom = (
            max(x0 - BESIDE, 0),
            max(y0 - BESIDE, begin),
            min(x1 + BESIDE, width),
            min(y1 + BESIDE, begin + height),
        )
        bits = self.picture.changed[top:bottom, left:right].copy()
        for face in self.picture.faces:
            if face is not self:
                bits &= ~(face.painted_mask or face.mask).crop((left, top, right, bottom))
        return PictureMask((left, top, right, bottom), bits | self.mask.crop((left, top, right, bottom))).trimmed()

    @property
    def is_settled(self) -> bool:
        """Whether it is decided on which of its subject's carriers this face is."""
        return self.pseudonym is not None and self.pseudonym.number is not None

    @property
    def carrier_number(self) -> int:
        """Which of its subject's carriers this face is on: the settled one, else one after another with its keys."""
        settled = None if self.pseudonym is None else self.pseudonym.number
        return (self.keys_tried - 1) % MAX_CARRIERS if settled is None else settled

    @property
    def carrier_key(self) -> bytes | None:
        """That carrier's key of 32 bytes; None where the face stands for no subject."""
        return None if self.pseudonym is None else carrier_key(self.pseudonym.secret, self.carrier_number)

    def key(self, transform: str) -> bytes:
        """The 32-byte key of this face's present attempt."""
        return face_key(self.part.image_key, self.index, self.attempt, transform, self.carrier_key)

    def geometry(self) -> FaceGeometry:
        """What the key record says of this face."""
        x0, y0, x1, y1 = (float(v) for v in self.detected.box)
        a, b, c, d, e, f = (float(v) for v in self.affine.ravel())
        box, affine = (x0, y0, x1, y1), (a, b, c, d, e, f)
        return FaceGeometry(self.index, self.attempt, box, affine, self.scale, self.restored, self.carrier_key)

    def next_key(self) -> None:
        """Another attempt at the same crop."""
        self.attempt += 1
        self.latent, self.shown, self.walker, self.distance = None, None, None, float("nan")

    def paint(self) -> None:
        """Paint over what the picture shows of it. No key holds it any more."""
        paint_over(self.picture.result, self.mask)
        self.painted_mask = self.mask
        self.aligned = replace(self.aligned, mask=PictureMask((0, 0, 0, 0), np.zeros((0, 0), np.bool_)))
        self.latent, self.shown, self.walker = None, None, None

    def go_over_to(self, number: int) -> None:
        """Stand on a subject's settled carrier, under the next key."""
        assert self.pseudonym is not None, "a face that stands for no subject has no carrier"
        self.pseudonym = replace(self.pseudonym, number=number)
        self.next_key()
        self.first_attempt = self.attempt

    def start_again(self, aligned: AlignedFace) -> None:
        """Another crop of the same face, under the next key."""
        self.next_key()
        self.aligned, self.noise, self.surroundings, self.latents = aligned, None, b"", None
        self.first_attempt = self.attempt


@dataclass(frozen=True, repr=False)
class Part:
    """What the key record begins with that some of a picture's faces have together: those of one person, or all."""

    image_key: bytes = field(default_factory=new_image_key)
    record_id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True, eq=False, repr=False)
class Seams:
    """Of somebody in a piece of a clip: the crops of its first frame and of the one that follows it, which the pieces beside it
    have as well. None where they are not there.
    """

    first: Crop | None
    following: Crop | None


@dataclass(eq=False, repr=False)
class OpenedPicture:
    """One decoded picture. source (H, W, 3) uint8 stays untouched; faces are pasted into result, of the same shape.

    fidelity: how its faces are to come back, never `auto`. file: decides how it is published. encoded: what would be published of
    the present result. shown: how that looks while it is judged; None until then. changed: (H, W) bool, pixels that this shows
    otherwise than the source, where recovery is to bring back every one of them. parts: by what `PictureTask.part_of` says of a
    face. kept: faces found so far that are left alone. missed: those of a piece of a clip that only searches of its result found.
    seams: of a piece of a clip, by whom its faces stand for. failure: why it can not be published, "" so far.
    """

    task: PictureTask
    source: npt.NDArray[np.uint8]
    result: npt.NDArray[np.uint8]
    file: SourceFile
    fidelity: str
    encoded: bytes = b""
    shown: npt.NDArray[np.uint8] | None = None
    changed: npt.NDArray[np.bool_] | None = None
    parts: defaultdict[str | None, Part] = field(default_factory=lambda: defaultdict(Part))
    faces: list[FaceAtWork] = field(default_factory=list)
    kept: list[Face] = field(default_factory=list)
    missed: list[Face] = field(default_factory=list)
    seams: Mapping[str, "Seams"] = field(default_factory=dict)
    rounds: int = 1
    failure: str = ""

    @property
    def painted(self) -> int:
        """How many of its faces are painted over."""
        return sum(face.is_painted for face in self.faces)

    @property
    def paints(self) -> bool:
        """True for a piece of a clip, where what can not be anonymized is painted over."""
        return self.task.subjects is not None

    @property
    def alone(self) -> bool:
        """True when recovery will have nothing of its faces but the picture."""
        return self.fidelity == "image"

"""How pictures are anonymized: the settings of one run, and what goes in and comes out for each picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from keyanon_core.errors import KeyanonError, PriorError
from keyanon_core.faces.detection import Face
from keyanon_core.faces.given import FACE_CHOICES, FaceChoice, GivenFaces
from keyanon_core.faces.parsing import DEFAULT_REGIONS
from keyanon_core.imaging import DEFAULT_JPEG_QUALITY, DEFAULT_MAX_PIXELS
from keyanon_core.pictures.key import PictureKey
from keyanon_core.procedure import (
    DEFAULT_METHOD,
    UNDECLARED_MIN_STEPS,
    Procedure,
    check_conditioning,
)

LOSSLESS_FORMATS = ("png", "webp")  # that show every pixel as it was meant, whatever the source is
Status = Literal["anonymized", "no_face", "quarantined"]
Fidelity = Literal["latent", "lossless", "image", "auto"]
OutputFormat = Literal["same", "png", "webp", "jpeg"]
FIDELITIES: tuple[Fidelity, ...] = get_args(Fidelity)
DEFAULT_FIDELITY: Fidelity = "latent"

SIDECAR_BITS_LIMITS = (10.0, 16.0)  # below, a face comes back at less than 50 dB
DEFAULT_SIDECAR_BITS = 11.5  # 60 dB in 32 KB of the embedded prior's crop (`benchmarks/recovery.py`)
DEFAULT_PAYLOAD_SHARE = 0.2  # of faces on a carrier: one person's pictures show one face (`benchmarks/pseudonyms.py`)
DEFAULT_GATE_THRESHOLD = 0.935  # of the distance that strangers have from a source
DEFAULT_MAX_ATTEMPTS = 32  # keys tried for one face before its picture is quarantined
DEFAULT_CHECK_EVERY = 1000  # faces; the first one and then one in so many are restored before they are published
DEFAULT_FACE_BATCH = 8  # faces in one denoiser call


def chosen_sidecar_bits(payload_share: float) -> float:
    """Those of a run that asks for none: what rides on a carrier is stored finer by as much as its share is smaller."""
    return min(DEFAULT_SIDECAR_BITS - math.log2(payload_share), SIDECAR_BITS_LIMITS[1])


@dataclass(frozen=True)
class AnonymizeSettings:
    """The algorithm's settings.

    method, transform, inversion, steps: see `Procedure`. transform "", inversion "", steps and sidecar_bits 0 are chosen.
    payload_share: below 1, a picture's subject gets a face of its own, see `pseudonyms`; the source's share in its noise.
    fidelity: `auto` is decided picture by picture: `image` where the picture alone brings its faces back, else `latent`.
    sidecar_bits: how finely a sidecar holds a face: bits of a latent's range from -1 to 1, whole or not; each costs 6 dB.
    gate_threshold: see `gate`; the least distance of a face from its source, as a share of the one that strangers have.
    check_every: see `way_back`; no value does without the first face.
    doubtful: of clips, what becomes of faces that no key makes unlike their source.
    reversible: False makes every picture permanent, whatever its task says.
    """

    method: str = DEFAULT_METHOD
    transform: str = ""
    inversion: str = ""
    steps: int = 0
    fidelity: str = DEFAULT_FIDELITY
    payload_share: float = 1.0
    sidecar_bits: float = 0.0
    regions: frozenset[str] = DEFAULT_REGIONS
    faces: FaceChoice = "detect"
    reversible: bool = True
    gate_threshold: float = DEFAULT_GATE_THRESHOLD
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    check_every: int = DEFAULT_CHECK_EVERY
    no_face: Literal["quarantine", "pass"] = "quarantine"
    doubtful: Literal["paint", "quarantine"] = "paint"
    output_format: OutputFormat = "same"
    jpeg_quality: int = DEFAULT_JPEG_QUALITY
    face_batch: int = DEFAULT_FACE_BATCH
    max_pixels: int = DEFAULT_MAX_PIXELS

    def __post_init__(self) -> None:
        """Raise KeyanonError for a value no run can use."""
        for name, allowed in (("fidelity", FIDELITIES), ("faces", FACE_CHOICES)):
            if getattr(self, name) not in allowed:
                raise KeyanonError(f"{name} {getattr(self, name)!r} is unknown; choose one of {', '.join(allowed)}")
        for name in ("max_attempts", "check_every", "face_batch", "max_pixels"):
            if getattr(self, name) < 1:
                raise KeyanonError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.sidecar_bits:
            object.__setattr__(self, "sidecar_bits", chosen_sidecar_bits(self.payload_share))
        least, most = SIDECAR_BITS_LIMITS
        if not least <= self.sidecar_bits <= most:
            raise KeyanonError(f"sidecar_bits must be from {least:g} to {most:g}, not {self.sidecar_bits}")
        if self.reversible and self.fidelity == "image" and self.output_format not in LOSSLESS_FORMATS:
            raise KeyanonError(
                "fidelity image recovers from the picture alone, which a JPEG does not hold well enough; choose output format "
                f"png or webp instead of {self.output_format}"
            )
        if self.reversible and self.payload_share < 1 and self.fidelity in ("image", "auto"):
            raise KeyanonError(
                f"fidelity {self.fidelity} reads a face from the picture, which holds too little of one that rides on a carrier; "
                "choose latent or lossless"
            )
        if self.reversible and self.fidelity == "auto" and self.method != "exact":
            raise KeyanonError(
                f"fidelity auto is for faces that come back nearly exactly, which those of method {self.method} never do; choose "
                "latent"
            )
        try:
            procedure = Procedure(
                self.method, self.transform, self.inversion, self.steps, payload_share=self.payload_share
            )
        except ValueError as error:
            raise KeyanonError(str(error)) from error
        for name in ("transform", "inversion", "steps"):
            object.__setattr__(self, name, getattr(procedure, name))

    @property
    def procedure(self) -> Procedure:
        """How each face is made, but for the noise in one that its picture alone will hold."""
        share = self.payload_share
        return Procedure(self.method, self.transform, self.inversion, self.steps, payload_share=share)

    def procedure_at(self, fidelity: str) -> Procedure:
        """How a face is made that is to come back at a fidelity, one but `auto`."""
        return self.procedure.shown() if fidelity == "image" else self.procedure

    def check_prior(self, declared: Mapping[str, int], conditioning: str, prior: str) -> None:
        """Raise PriorError when the method is not for such a prior, or recovery could not invert so few steps of it. declared:
        its own limits by inversion.

        `lossless` stores the source, the paper's methods solve nothing, of permanent pictures nothing is recovered: they may
        take as few as they like.
        """
        check_conditioning(self.method, conditioning, prior)
        least = declared.get(self.inversion, UNDECLARED_MIN_STEPS[self.inversion])
        inverted = self.reversible and self.method == "exact" and self.fidelity != "lossless"
        if inverted and self.steps < least:
            raise PriorError(
                f"steps {self.steps} of prior {prior} can not be inverted by method exact, inversion {self.inversion}; use at "
                f"least {least}, or fidelity lossless"
            )


@dataclass(frozen=True)
class PictureTask:
    """One picture to anonymize.

    faces: None lets the anonymizer find them itself. kept: those found that are to be left alone. given: what the user says of
    the picture. permanent: its key is forgotten, so that nothing restores it. subject: whose picture it is; None where nobody
    says. subjects: of each of `faces`, where each stands for somebody of its own. is_part: of a clip in which somebody was found,
    so that it is published where nobody is. following: faces of the frame after a piece of a clip, by whom they stand for.
    """

    image_id: str
    encoded: bytes = field(repr=False)
    faces: list[Face] | None = None
    kept: list[Face] = field(default_factory=list)
    given: GivenFaces = field(default_factory=GivenFaces)
    permanent: bool = False
    subject: str | None = field(default=None, repr=False)
    subjects: Sequence[str | None] | None = field(default=None, repr=False)
    is_part: bool = False
    following: Mapping[str, Face] = field(default_factory=dict, repr=False)

    def part_of(self, index: int) -> str | None:
        """Under whose key the face of that index is, see `PictureKey.part`: one that was found later is nobody's."""
        if self.subjects is None:
            return None
        return (self.subjects[index] if index < len(self.subjects) else None) or ""


@dataclass(frozen=True)
class PictureResult:
    """What became of one picture.

    encoded and sidecar are publishable; they are None unless status is `anonymized` (or `no_face` under `no_face="pass"` or
    with kept faces, then encoded is the picture re-encoded without metadata). key is secret and None unless anonymized. reason is
    "" when anonymized, else a short code followed by ": " and an explanation.
    further_keys: secret; where the picture's faces stand for several people, `key` is of the first face's, these are the others'.
    source_hmac: names the source for holders of the key alone; publishable, None unless anonymized.
    A permanent picture has neither sidecar, key nor source_hmac. kept: faces left alone because they were to be.
    metrics: numbers about the source (keys tried, distances, noise); for measuring, never published.
    """

    image_id: str
    status: Status
    reason: str = ""
    encoded: bytes | None = field(default=None, repr=False)
    sidecar: bytes | None = field(default=None, repr=False)
    key: PictureKey | None = None
    further_keys: tuple[PictureKey, ...] = ()
    source_hmac: str | None = None
    faces: int = 0
    kept: int = 0
    metrics: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def keys(self) -> tuple[PictureKey, ...]:
        """All of them; none where `key` is None."""
        return () if self.key is None else (self.key, *self.further_keys)

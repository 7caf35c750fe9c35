"""What a run's settings make of a picture under keys that are thrown away.

The keys of a run lie in its keystore, and measuring is no reason to release one. So what recovery gives back, and what a wrong
key shows, is measured on the same pictures anonymized anew: same prior, same settings, same code, other keys.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from keyanon_core.errors import ConvergenceError, KeyanonError, NotReversibleError, SidecarError
from keyanon_core.evaluation.forms import BESIDE, COPIES, STORED
from keyanon_core.evaluation.hiding import normality
from keyanon_core.faces import FaceModels
from keyanon_core.faces.detection import Face, Pixels
from keyanon_core.imaging import decode_picture, encode_picture
from keyanon_core.keys import new_image_key
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.key import PictureKey
from keyanon_core.pictures.recoverer import PictureRecoverer, RecoveredPicture
from keyanon_core.pictures.settings import AnonymizeSettings, PictureResult, PictureTask
from keyanon_core.priors import Prior
from keyanon_core.procedure import CONDITIONING
from keyanon_core.pseudonyms import EphemeralPseudonyms

REHEARSAL: Final = "rehearsal"
RECOVERED: Final = "rehearsal-recovered"
WRONG_KEY: Final = "rehearsal-wrong-key"
OTHER_KEY: Final = "rehearsal-other-key"
SIDECAR: Final = "rehearsal-sidecar"
COPY: Final = "rehearsal-jpeg-75-recovered"
COPY_QUALITY: Final = 75
SAME_BOX: Final = 1.0  # px by which two boxes of one face differ at most
PERMANENT: Final = "permanent: the run keeps no key, and nothing is recovered"
OTHER_SIZE: Final = "refused: the picture is of another size than what was published"
REHEARSED: Final = (REHEARSAL, RECOVERED, COPY, WRONG_KEY, OTHER_KEY)
"""Versions of a picture: anonymized; recovered from that with the right key; from a JPEG copy of it; with a wrong key, its
refusal overridden; anonymized again under another key."""


Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Rehearsed:
    """versions: by the names of REHEARSED, of forms and of the paper's method, (H, W, 3) uint8. stored_bytes: of the published
    picture and of its sidecar, by REHEARSAL and SIDECAR; of the sidecars of forms and of the paper's method, by `...-beside`.
    missing: why a version is not there, by its name. normality: `hiding.normality` of the noise that each face of REHEARSAL was
    made from, by the face's box; of none where recovery walks no way back, as at fidelity lossless."""

    versions: dict[str, Pixels]
    stored_bytes: dict[str, int]
    missing: dict[str, str] = field(default_factory=dict)
    normality: dict[Box, float] = field(default_factory=dict)

    def normality_of(self, face: Face) -> float:
        """Of a face that was found in the same picture; NaN where it is not known."""
        near = (p for box, p in self.normality.items() if np.abs(np.subtract(box, face.box)).max() < SAME_BOX)
        return next(near, math.nan)


class Rehearsal:
    """Holds a prior and face models; no key leaves it."""

    def __init__(self, prior: Prior, models: FaceModels, settings: AnonymizeSettings) -> None:
        """settings: of the run. Raises PriorError."""
        self._prior, self._models, self._settings = prior, models, settings
        self._pseudonyms = EphemeralPseudonyms()
        self._anonymizer = self._by(settings)
        self._recoverer = PictureRecoverer(prior)
        self._others: dict[str, PictureAnonymizer | str] = {}  # or why there is none
        paper = next(method for method, conditioning in CONDITIONING.items() if conditioning == prior.conditioning)
        self._paper = None if settings.method in CONDITIONING else paper

    def __call__(
        self, encoded: bytes, faces: list[Face] | None = None, *, subject: str | None = None, forms: bool = False
    ) -> Rehearsed:
        """One encoded picture. faces: that were found in it. subject: whose pseudonym it gets where the run gave one, one of this
        object; the other key stands on it too, and so shows the same face. forms: try the other forms of
        `keyanon_core.evaluation.forms` too. Where nothing would be published no version is there, for the reason that a run would
        give."""
        task = PictureTask(REHEARSAL, encoded, faces, subject=subject)
        try:
            result, again = self._anonymizer([task, replace(task, image_id=OTHER_KEY)])
        except NotReversibleError as error:  # would end a run; here it is what was to be found out
            return Rehearsed({}, {}, dict.fromkeys(REHEARSED, str(error)))
        picture = result.encoded
        if picture is None or result.status != "anonymized":
            return Rehearsed({}, {}, dict.fromkeys(REHEARSED, result.reason or result.status))
        found = Rehearsed(
            {REHEARSAL: self._shown(picture)}, {REHEARSAL: len(picture), SIDECAR: len(result.sidecar or b"")}
        )
        if again.encoded is None:
            found.missing[OTHER_KEY] = again.reason
        else:
            found.versions[OTHER_KEY] = self._shown(again.encoded)
        shown = found.versions[REHEARSAL]
        self._recover(found, result, [(RECOVERED, picture), (COPY, encode_picture(shown, "jpeg", COPY_QUALITY))])
        stranger = None if result.key is None else replace(result.key, image_key=new_image_key())
        self._recover(found, result, [(WRONG_KEY, picture)], wrong=stranger)  # which shows nothing of a lossless JPEG
        if self._paper is not None:
            # The paper has no gate: its first key stands.
            changes = {"method": self._paper, "transform": "", "inversion": "", "steps": 0, "gate_threshold": 0.0}
            changes |= {"payload_share": 1.0}
            self._made_anew(found, self._paper, task, {**changes, "fidelity": "latent", "reversible": True}, show=True)
        if forms:
            self._recover(found, result, ((name, copy(shown)) for name, copy in COPIES.items()))
            for name, stored in STORED.items():
                if self._settings.reversible:
                    self._made_anew(found, name, task, stored)
                else:
                    found.missing[f"{name}-recovered"] = PERMANENT
        return found

    def _made_anew(
        self, found: Rehearsed, name: str, task: PictureTask, changes: Mapping[str, Any], *, show: bool = False
    ) -> None:
        """The picture by other settings, what comes back of it, and the bytes beside it."""
        anonymizer = self._other(name, changes)
        if isinstance(anonymizer, str):
            found.missing[name if show else f"{name}-recovered"] = anonymizer
            return
        (result,) = anonymizer([task])
        if result.encoded is None or result.sidecar is None:
            found.missing[name if show else f"{name}-recovered"] = result.reason or result.status
            return
        if show:
            found.versions[name] = self._shown(result.encoded)
        found.stored_bytes[f"{name}{BESIDE}"] = len(result.sidecar)
        self._recover(found, result, [(f"{name}-recovered", result.encoded)])

    def _other(self, name: str, changes: Mapping[str, Any]) -> PictureAnonymizer | str:
        if name not in self._others:
            try:
                made = self._by(replace(self._settings, **changes))
                made.way_back.take_for_tried()  # it is measured here
                self._others[name] = made
            except KeyanonError as error:
                self._others[name] = str(error)
        return self._others[name]

    def _by(self, settings: AnonymizeSettings) -> PictureAnonymizer:
        pseudonyms = self._pseudonyms if settings.payload_share < 1 else None
        return PictureAnonymizer(self._prior, self._models, settings, pseudonyms)

    def _recover(
        self,
        found: Rehearsed,
        result: PictureResult,
        copies: Iterable[tuple[str, bytes]],
        wrong: PictureKey | None = None,
    ) -> None:
        """What comes back of a result's picture, or of copies of it, by its key or by a wrong one."""
        for name, encoded in copies:
            if result.key is None or result.sidecar is None:
                found.missing[name] = PERMANENT
                continue
            try:
                back = self._recoverer.recover(encoded, result.sidecar, wrong or result.key, check_key=wrong is None)
                found.versions[name] = self._in_colours(back)
            except (ConvergenceError, SidecarError) as error:
                of_size = decode_picture(encoded, self._settings.max_pixels).shape == found.versions[REHEARSAL].shape
                found.missing[name] = str(error) if of_size else OTHER_SIZE
                continue
            if name == RECOVERED and back.keyed_noise:
                boxes = [face.box for face in result.key.faces]
                found.normality.update(zip(boxes, map(normality, back.keyed_noise), strict=True))

    def _in_colours(self, back: RecoveredPicture) -> Pixels:
        return (
            back.pixels
            if back.profile is None
            else self._shown(encode_picture(back.pixels, "png", profile=back.profile))
        )

    def _shown(self, encoded: bytes) -> Pixels:
        return decode_picture(encoded, self._settings.max_pixels)

"""What a run's settings make of a picture under keys that are thrown away.

The keys of a run lie in its keystore, and measuring is no reason to release one. So what recovery gives back, and what a wrong
key shows, is measured on the same pictures anonymized anew: same prior, same settings, same code, other keys.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from keyanon_core.errors import ConvergenceError, NotReversibleError, SidecarError
from keyanon_core.faces import FaceModels
from keyanon_core.faces.detection import Face, Pixels
from keyanon_core.imaging import decode_picture, encode_picture
from keyanon_core.keys import new_image_key
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.key import PictureKey
from keyanon_core.pictures.recoverer import PictureRecoverer
from keyanon_core.pictures.settings import AnonymizeSettings, PictureTask
from keyanon_core.priors import Prior

REHEARSAL: Final = "rehearsal"
RECOVERED: Final = "rehearsal-recovered"
WRONG_KEY: Final = "rehearsal-wrong-key"
OTHER_KEY: Final = "rehearsal-other-key"
SIDECAR: Final = "rehearsal-sidecar"
COPY: Final = "rehearsal-jpeg-75-recovered"
COPY_QUALITY: Final = 75
REHEARSED: Final = (REHEARSAL, RECOVERED, COPY, WRONG_KEY, OTHER_KEY)
"""Versions of a picture: anonymized; recovered from that with the right key; from a JPEG copy of it; with a wrong key, its
refusal overridden; anonymized again under another key."""


@dataclass(frozen=True)
class Rehearsed:
    """versions: by the names of REHEARSED, (H, W, 3) uint8. stored_bytes: of the published picture and of its sidecar, by
    REHEARSAL and SIDECAR. missing: why a version is not there, by its name."""

    versions: dict[str, Pixels]
    stored_bytes: dict[str, int]
    missing: dict[str, str] = field(default_factory=dict)


class Rehearsal:
    """Holds a prior and face models; no key leaves it."""

    def __init__(self, prior: Prior, models: FaceModels, settings: AnonymizeSettings) -> None:
        """settings: of the run. Raises PriorError."""
        self._settings = settings
        self._anonymizer = PictureAnonymizer(prior, models, settings)
        self._recoverer = PictureRecoverer(prior)

    def __call__(self, encoded: bytes, faces: list[Face] | None = None) -> Rehearsed:
        """One encoded picture. faces: that were found in it. Where nothing would be published no version is there, for the reason
        that a run would give."""
        try:
            result, again = self._anonymizer([PictureTask(name, encoded, faces) for name in (REHEARSAL, OTHER_KEY)])
        except NotReversibleError as error:  # would end a run; here it is what was to be found out
            return Rehearsed({}, {}, dict.fromkeys(REHEARSED, str(error)))
        picture = result.encoded
        if picture is None or result.status != "anonymized":
            return Rehearsed({}, {}, dict.fromkeys(REHEARSED, result.reason or result.status))
        versions, missing = {REHEARSAL: self._shown(picture)}, dict[str, str]()
        if again.encoded is None:
            missing[OTHER_KEY] = again.reason
        else:
            versions[OTHER_KEY] = self._shown(again.encoded)
        key, sidecar = result.key, result.sidecar
        if key is None or sidecar is None:
            missing |= dict.fromkeys(
                (RECOVERED, COPY, WRONG_KEY), "permanent: the run keeps no key, and nothing is recovered"
            )
        else:
            stranger = replace(key, image_key=new_image_key())
            copy = encode_picture(versions[REHEARSAL], "jpeg", COPY_QUALITY)
            for name, stored, tried in ((RECOVERED, picture, key), (COPY, copy, key), (WRONG_KEY, picture, stranger)):
                try:
                    versions[name] = self._recovered(stored, sidecar, tried, checked=tried is key)
                except (ConvergenceError, SidecarError) as error:  # a wrong key shows nothing of a lossless JPEG
                    missing[name] = str(error)
        return Rehearsed(versions, {REHEARSAL: len(picture), SIDECAR: len(sidecar or b"")}, missing)

    def _recovered(self, picture: bytes, sidecar: bytes, key: PictureKey, *, checked: bool) -> Pixels:
        back = self._recoverer.recover(picture, sidecar, key, check_key=checked)
        return (
            back.pixels
            if back.profile is None
            else self._shown(encode_picture(back.pixels, "png", profile=back.profile))
        )

    def _shown(self, encoded: bytes) -> Pixels:
        return decode_picture(encoded, self._settings.max_pixels)

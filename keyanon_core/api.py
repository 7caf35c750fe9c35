"""The front door for programs: load once, anonymize one picture, recover it.

With `Keyanon(pseudonyms=EphemeralPseudonyms())` all pictures of one `subject` show one new face, as long as the object lives.

No keystore stands behind it: who holds the `PictureKey` that `anonymize` returns restores the picture. It is secret; to keep keys
where two people must agree to their release, run `keyanon anonymize`.
"""

from typing import Any

from keyanon_core.errors import PictureError
from keyanon_core.faces import load_face_models
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.key import PictureKey
from keyanon_core.pictures.recoverer import PictureRecoverer, RecoveredPicture
from keyanon_core.pictures.settings import DEFAULT_PAYLOAD_SHARE, AnonymizeSettings, PictureResult, PictureTask
from keyanon_core.priors import load_prior
from keyanon_core.pseudonyms import EphemeralPseudonyms, Pseudonyms

__all__ = ["EphemeralPseudonyms", "Keyanon", "PictureKey", "PictureResult", "Pseudonyms", "RecoveredPicture"]


class Keyanon:
    """A prior and face models, loaded; the settings are those of `AnonymizeSettings`, by name."""

    def __init__(
        self,
        prior: str = "embedded",
        face_models: str = "embedded",
        pseudonyms: Pseudonyms | None = None,
        **settings: Any,
    ) -> None:
        """prior: `embedded`, a directory or a hub id. pseudonyms: of the subjects that `anonymize` is told.

        Raises KeyanonError.
        """
        loaded = load_prior(prior, precision="auto")
        if pseudonyms is not None:
            settings = {"payload_share": DEFAULT_PAYLOAD_SHARE, **settings}
        chosen = AnonymizeSettings(**settings)
        self._anonymizer = PictureAnonymizer(loaded, load_face_models(face_models), chosen, pseudonyms)
        self._recoverer = PictureRecoverer(loaded)

    def anonymize(self, encoded: bytes, name: str = "picture", subject: str | None = None) -> PictureResult:
        """One encoded picture, of a subject where it is said. The result's `encoded` and `sidecar` may be published, its `key` is
        secret.

        Raises PictureError, its `reason` a run's ("no_face", "corrupt", ...), where there is nothing to publish;
        NotReversibleError when a face would not come back.
        """
        (result,) = self._anonymizer([PictureTask(name, encoded, subject=subject)])
        if result.encoded is None:
            raise PictureError(*result.reason.split(": ", 1))
        return result

    def recover(self, encoded: bytes, sidecar: bytes, key: PictureKey) -> RecoveredPicture:
        """The picture with its source's faces, `pixels` (H, W, 3) uint8. Raises WrongKeyError, SidecarError, PictureError."""
        return self._recoverer.recover(encoded, sidecar, key)

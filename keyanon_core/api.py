"""The front door for programs: load once, anonymize one picture, recover it.

No keystore stands behind it: who holds the `PictureKey` that `anonymize` returns restores the picture. It is secret; to keep keys
where two people must agree to their release, run `keyanon anonymize`.
"""

from typing import Any

from keyanon_core.errors import PictureError
from keyanon_core.faces import load_face_models
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.key import PictureKey
from keyanon_core.pictures.recoverer import PictureRecoverer, RecoveredPicture
from keyanon_core.pictures.settings import AnonymizeSettings, PictureResult, PictureTask
from keyanon_core.priors import load_prior

__all__ = ["Keyanon", "PictureKey", "PictureResult", "RecoveredPicture"]


class Keyanon:
    """A prior and face models, loaded; the settings are those of `AnonymizeSettings`, by name."""

    def __init__(self, prior: str = "embedded", face_models: str = "embedded", **settings: Any) -> None:
        """prior: `embedded`, a directory or a hub id. Raises KeyanonError."""
        loaded = load_prior(prior, precision="auto")
        self._anonymizer = PictureAnonymizer(loaded, load_face_models(face_models), AnonymizeSettings(**settings))
        self._recoverer = PictureRecoverer(loaded)

    def anonymize(self, encoded: bytes, name: str = "picture") -> PictureResult:
        """One encoded picture. The result's `encoded` and `sidecar` may be published, its `key` is secret.

        Raises PictureError, its `reason` a run's ("no_face", "corrupt", ...), where there is nothing to publish;
        NotReversibleError when a face would not come back.
        """
        (result,) = self._anonymizer([PictureTask(name, encoded)])
        if result.encoded is None:
            raise PictureError(*result.reason.split(": ", 1))
        return result

    def recover(self, encoded: bytes, sidecar: bytes, key: PictureKey) -> RecoveredPicture:
        """The picture with its source's faces, `pixels` (H, W, 3) uint8. Raises WrongKeyError, SidecarError, PictureError."""
        return self._recoverer.recover(encoded, sidecar, key)

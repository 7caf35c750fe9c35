"""The errors of keyanon_core: one small tree, each saying what happened, to what, and what to do next."""


class KeyanonError(Exception):
    """Base of every error keyanon raises on purpose; its message is fit to be shown to a user and holds no secret."""


class PriorError(KeyanonError):
    """A prior could not be loaded or is not what it says it is; names the file and the remedy."""


class DeviceError(KeyanonError):
    """A device is none, is not there, or can not compute as asked; says what would do."""


class PictureError(KeyanonError):
    """A picture can not be used. `reason` is a short code such as "corrupt" or "too_large", kept in the row's status."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class FaceModelError(KeyanonError):
    """A detector, parser or recognizer is missing, or its weights are not the ones it declares."""


class WrongKeyError(KeyanonError):
    """The key commitment says that this key did not anonymize this face; nothing was computed with it."""


class ConvergenceError(KeyanonError):
    """A step of the inverse could not be solved to its tolerance; the message holds the numbers."""


class NotReversibleError(KeyanonError):
    """A face did not come back from what is about to be published; the message holds the numbers. Ends the run."""


class SidecarError(KeyanonError):
    """A sidecar is missing, malformed, or belongs to another picture."""


class EvaluationError(KeyanonError):
    """A figure can not be computed from what was given, or a package for it is missing; says what would do."""

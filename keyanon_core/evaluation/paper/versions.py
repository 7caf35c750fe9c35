"""What the protocol's versions of a picture are called, beside `faces.SOURCE`."""

from typing import Final

from keyanon_core.evaluation.metrics import CLEAN

__all__ = ["CLEAN", "EXACT", "FEATURES", "OTHER", "PAPER", "QUALITIES", "recovered_of", "wrong_key_of"]

OTHER: Final = "other"  # version: another picture of the person, LFW's first of the pair
PAPER: Final = "paper"  # version: anonymized by the paper's method
EXACT: Final = "exact"  # the same by keyanon's own
QUALITIES: Final = (100, 90, 75, 50)  # of JPEG
FEATURES: Final = "features:"  # how the names of vectors begin that tell pictures apart, and no people


def recovered_of(method: str, quality: int | None = None) -> str:
    """The version that is recovered under the right key, from a JPEG copy of that quality where one is given:
    `paper-recovered`, `paper-jpeg-75-recovered`."""
    return f"{method}-recovered" if quality is None else f"{method}-jpeg-{quality}-recovered"


def wrong_key_of(method: str) -> str:
    """The version that a wrong key, a fresh random one, makes of the anonymized picture: `paper-wrong-key`."""
    return f"{method}-wrong-key"

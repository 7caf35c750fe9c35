"""Figures by groups of people: what hurts one group more than others hides in a figure of all."""

from collections.abc import Mapping, Sequence
from typing import Final

from keyanon_core.evaluation.quality import cheek_typology_angle, skin_tone
from keyanon_core.faces.detection import Landmarks, Pixels

MIN_FACES: Final = 20
"""Of a group. Of fewer no figure is given: it would say little of the group, and much of its people."""
UNKNOWN: Final = "unknown"


def skin_tone_of(pixels: Pixels, landmarks: Landmarks) -> str:
    """Label by the cheeks' typology angle in the picture: "light", "intermediate", "dark", or "grey" where it can not be told.

    It is the tone that the picture shows, with its light and its white balance, not a person's.
    """
    return skin_tone(cheek_typology_angle(pixels, landmarks))


def labels_of(ids: Sequence[str], column: Mapping[str, str]) -> list[str]:
    """Labels out of a column of the user's own, such as age or gender; UNKNOWN where it has none."""
    return [column.get(one, UNKNOWN) for one in ids]

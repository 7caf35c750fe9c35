"""Figures by groups of people: what hurts one group more than others hides in a figure of all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from keyanon_core.evaluation.intervals import Estimate
from keyanon_core.evaluation.quality import cheek_typology_angle, skin_tone
from keyanon_core.faces.detection import Landmarks, Pixels

MIN_FACES: Final = 20
"""Of a group. Of fewer no figure is given: it would say little of the group, and much of its people."""
UNKNOWN: Final = "unknown"

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Group:
    """figure: None for a group of fewer faces than a figure is given of."""

    label: str
    n: int
    figure: Estimate | None


def skin_tone_of(pixels: Pixels, landmarks: Landmarks) -> str:
    """Label by the cheeks' typology angle in the picture: "light", "intermediate", "dark", or "grey" where it can not be told.

    It is the tone that the picture shows, with its light and its white balance, not a person's.
    """
    return skin_tone(cheek_typology_angle(pixels, landmarks))


def labels_of(ids: Sequence[str], column: Mapping[str, str]) -> list[str]:
    """Labels out of a column of the user's own, such as age or gender; UNKNOWN where it has none or an empty one."""
    return [column.get(one, "").strip() or UNKNOWN for one in ids]


def by_group(
    values: Values, labels: Sequence[str], statistic: Callable[[Values], Estimate], smallest: int = MIN_FACES
) -> list[Group]:
    """The statistic of each group's rows, in order of label.

    values: (n, ...); labels: (n,). smallest: faces (>= 1) below which no figure is given. Raises ValueError where there is not
    one label for each row, and what the statistic raises.
    """
    if len(values) != len(labels):
        raise ValueError(f"{len(values)} values have {len(labels)} labels: one each is needed")
    if smallest < 1:
        raise ValueError(f"the smallest group that a figure is given of has a face or more, not {smallest}")
    known, groups = np.asarray(labels, np.str_), []
    for label in sorted(set(labels)):
        rows = values[known == label]
        groups.append(Group(label, len(rows), statistic(rows) if len(rows) >= smallest else None))
    return groups

"""The protocol's tables: from what was measured of each picture to the paper's figures, and the paper's own beside them."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from keyanon_core.evaluation.summary import FaceTable, Figure

DataSet = Literal["lfw", "celeba-hq"]

CELEBA_PART: Final = 2_500  # pictures of CelebA-HQ in one of its 12 parts, over which a FID is taken


@dataclass(frozen=True)
class Published:
    """A number that others published of a data set. recognizer: as they call it, "" where it is of none. source: where it
    stands."""

    data_set: DataSet
    version: str
    metric: str
    recognizer: str
    value: float
    source: str


PUBLISHED: tuple[Published, ...] = ()


def paper_figures(
    table: FaceTable,
    part: npt.NDArray[np.int64],
    data_set: DataSet,
    person: npt.NDArray[np.int64] | None = None,
) -> list[Figure]:
    """The paper's figures of every version, in a stable order.

    table: what `PaperProtocol` measured, each picture under a number of its own. part: (n,), of each row of the table, the part
    of the data set that its picture is in; all 0 where there is one. person: (n,), of each row, who is seen: pairs of one person
    are no impostors; None takes every picture for another person's, which LFW's pairs are not.
    """
    raise NotImplementedError

"""Sources that are read again after the run that read them: which have changed since, and a few of many."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from jobs.errors import SourceError
from jobs.sources.source import NO_FILE, Source

IS_ANOTHER: Final = "the file has another size or modification time than when the run read it"


def changed_since(
    source: Source, positions: npt.NDArray[np.int64], then: Sequence[int | None], *, elsewhere: bool
) -> npt.NDArray[np.bool_]:
    """(n,): which of n rows have another file now. then: the `version_of` the file of each that a run wrote down, None where none
    did.

    elsewhere: the source was named anew. The times of copies may be other ones altogether: only where most are as they were, the
    others have changed. Raises SourceError where all have.
    """
    now = source.versions[positions].tolist()
    changed = np.array([was not in (None, NO_FILE, is_) for was, is_ in zip(then, now, strict=True)], np.bool_)
    if elsewhere and changed.sum() * 2 > len(changed):
        changed[:] = False
    if len(changed) and changed.all():
        raise SourceError(
            f"{source.ids[int(positions[0])]} and all other sources of the run: {IS_ANOTHER}; where these are its pictures all "
            "the same, or copies of them, name them by --source"
        )
    return changed


def spread(positions: npt.NDArray[np.int64], most: int | None) -> npt.NDArray[np.int64]:
    """At most so many of them, evenly, the first and the last among them; None for all."""
    if most is None or most >= len(positions):
        return positions
    return positions[np.linspace(0, len(positions) - 1, most).round().astype(np.int64)] if most else positions[:0]

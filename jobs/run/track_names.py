"""How a track is called among the subjects of a data set: as nobody else, in whatever clip that takes the name of its clip."""

import re
from typing import Final

_TRACK: Final = re.compile(r"track (\d+) of clip .*", re.DOTALL)


def track_subject(track: int, clip: str, version: int) -> str:
    """Whom a track stands for. clip, version: of its clip, see `jobs.sources.clips.Clip`."""
    return f"track {track} of clip {clip} {version:04x}"


def track_of(subject: str) -> int | None:
    """The number of a subject's track; None of "", which is nobody. Raises ValueError for a subject that is no track."""
    if not subject:
        return None
    found = _TRACK.fullmatch(subject)
    if found is None:
        raise ValueError("a subject that no track is called by")
    return int(found[1])

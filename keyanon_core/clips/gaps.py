"""Faces that a search of a piece of a clip found in some of its frames, and missed in some between them."""

from collections.abc import Sequence

from keyanon_core.clips.association import Floats
from keyanon_core.clips.tracking import SeenFace, SeenFrames, track_faces
from keyanon_core.faces.detection import Face


def unseen_between(faces: Sequence[Face], times: Floats, size: tuple[int, int]) -> list[Face]:
    """Where faces are in the frames between two in which they were found; by place alone, so of what stayed where it was or moved
    steadily. Such a face has the score of the one nearest in time.

    faces: of a strip, in px of it. times: (n,) s of its frames, rising. size: (width, height) px of each of them.
    Raises ValueError as `track_faces`.
    """
    height = size[1]
    frames: list[list[SeenFace]] = [[] for _ in times]
    for face in faces:
        frames[face.frame].append(SeenFace(face.moved(-face.frame * height, 0)))
    tracked = track_faces(SeenFrames.of(frames), times, size, lambda one, other: False, least_seen=1)
    found: dict[int, list[int]] = {}
    for number, there in enumerate(tracked):
        for one in there:
            if not one.filled:
                found.setdefault(one.track, []).append(number)
    return [
        one.face.moved(number * height, number)
        for number, there in enumerate(tracked)
        for one in there
        if one.filled and found[one.track][0] < number < found[one.track][-1]
    ]

"""The faces of one piece of a clip as they travel to who anonymizes them: whose each is, and whether anybody is in the clip."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from keyanon_core.errors import PictureError
from keyanon_core.faces.detection import Face


@dataclass(frozen=True)
class PieceFaces:
    """faces: in px of the piece's strip. subjects: whom each stands for, None for nobody. somebody: whether anybody is in the
    clip. following: the faces of the frame after the piece, in its px, by whom they stand for.
    """

    faces: Sequence[Face]
    subjects: Sequence[str | None]
    somebody: bool
    following: Mapping[str, Face] = field(default_factory=dict)

    def to_json(self) -> str:
        """Floats survive exactly."""
        faces = [[subject, face.to_dict()] for subject, face in zip(self.subjects, self.faces, strict=True)]
        following = {subject: face.to_dict() for subject, face in self.following.items()}
        return json.dumps({"faces": faces, "somebody": self.somebody, "following": following}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | None) -> Self:
        """Inverse of `to_json`. Raises PictureError ("not_tracked") where nothing is said."""
        if text is None:
            raise PictureError("not_tracked", "nobody looked for the faces of its clip; run the same command again")
        said = json.loads(text)
        faces = [Face.from_dict(face) for _, face in said["faces"]]
        following = {str(subject): Face.from_dict(face) for subject, face in said["following"].items()}
        subjects = [None if subject is None else str(subject) for subject, _ in said["faces"]]
        return cls(faces, subjects, bool(said["somebody"]), following)

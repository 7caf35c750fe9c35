"""Face models that see what a test says, for tests of everything but finding faces."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from keyanon_core.clips.frames import Strip
from keyanon_core.errors import KeyanonError, PictureError
from keyanon_core.faces import PictureMask
from keyanon_core.faces.detection import Face
from keyanon_core.faces.landmarks import template_in_box
from keyanon_core.formats.published import Published, SourceFile

Pixels = npt.NDArray[np.uint8]
Seen = list[Face] | KeyanonError


def face_at(x: float, y: float, side: float = 40.0, score: float = 0.9) -> Face:
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    return Face(box, template_in_box(box), score)


def plain_photograph(width: int, height: int, number: int = 1) -> Image.Image:
    """Smooth colours with a little noise, far from black and white; the first value tells which picture it is."""
    down, across = np.mgrid[:height, :width]
    planes = [
        128 + 60 * np.sin(across / 17) * np.cos(down / 13),
        120 + 50 * np.cos(across / 11 + down / 23),
        110 + 40 * np.sin(down / 9),
    ]
    noise = np.random.default_rng(number).normal(0, 4, (height, width, 3))
    pixels = np.clip(np.stack(planes, -1) + noise, 5, 250).astype(np.uint8)
    pixels[:16, :16] = number  # a whole block, so that a JPEG of it tells as well
    return Image.fromarray(pixels)


class StripOf(SourceFile):
    """Frames of a piece and the one after them, for tests that publish nothing: no clip is needed."""

    def __init__(self, strip: Strip) -> None:
        self.pixels, self._strip = strip.pixels, strip

    @property
    def frame_height(self) -> int:
        return self._strip.height

    @property
    def following(self) -> Pixels | None:
        return self._strip.following

    @property
    def is_exact(self) -> bool:
        return True

    def publish(self, result: Pixels, masks: Sequence[PictureMask]) -> Published:
        raise AssertionError("nothing is published here")


LEFT, RIGHT, BELOW, AWAY = face_at(50, 50), face_at(150, 50), face_at(50, 150), face_at(250, 150)


@dataclass
class Told:
    """A detector, parser and recognizer that see what they are told. log: the searches, in order.

    first, again: what one search after the other finds, by the picture's first value; the last one is repeated. one: there is one
    picture, whose first value may change, numbered 1.
    """

    first: dict[int, Seen] = field(default_factory=dict)
    again: dict[int, list[Seen]] = field(default_factory=dict)
    log: list[tuple[str, int]] = field(default_factory=list)
    refused: list[Face] = field(default_factory=list)
    empty: list[Face] = field(default_factory=list)
    measured: float = 1.0
    name: str = "told"
    digest: str = "0" * 64
    threshold: float = 0.0
    one: bool = False

    def detect(self, pixels: Pixels) -> list[Face]:
        return self._say("detect", pixels, [self.first[self._number(pixels)]])

    def look_again(self, pixels: Pixels) -> list[Face]:
        return self._say("look_again", pixels, self.again.get(self._number(pixels), [[]]))

    def _number(self, pixels: Pixels) -> int:
        return 1 if self.one else int(pixels[0, 0, 0])

    def _say(self, search: str, pixels: Pixels, answers: list[Seen]) -> list[Face]:
        self.log.append((search, self._number(pixels)))
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, KeyanonError):
            raise answer
        return answer

    def mask(self, pixels: Pixels, face: Face, regions: frozenset[str]) -> PictureMask:
        if any(face is one for one in self.refused):
            raise PictureError("face_outside", "nowhere")
        full = np.zeros(pixels.shape[:2], np.bool_)
        x0, y0, x1, y1 = (round(value) for value in face.box)
        full[max(y0, 0) : y1, max(x0, 0) : x1] = not any(face is one for one in self.empty)
        return PictureMask.from_full(full)

    def embed(self, views: Sequence[tuple[Pixels, Face]], *, coarse: bool = False) -> npt.NDArray[np.float32]:
        return np.zeros((len(views), 1), np.float32)

    def distance(self, first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
        return self.measured

    def stranger_distance(self, embedding: npt.NDArray[np.float32]) -> float:
        return 1.0

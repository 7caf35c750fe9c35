"""The embedded detector: two networks that learned from different pictures.

The first search is CenterFace's. The search of a result is made by both, at other scales, mirrored, lightened and for less
certain faces; our own network sees what is small, turned, blurred or cut.
"""

import hashlib
from dataclasses import replace

from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE, likeness
from keyanon_core.faces.centerface import CenterFace
from keyanon_core.faces.closer import confirmed, view
from keyanon_core.faces.detection import Face, Pixels, in_order, without_duplicates
from keyanon_core.faces.landmarks import MAX_SPREAD, roll_degrees, spread, template_in_box
from keyanon_core.faces.looks import DEFAULT_MIN_FACE, Network, Search, check_min_face, lightened, look
from keyanon_core.faces.scene_network import SceneNetwork

# Measured over 1,780 doubted places, 96 of them faces. From 0.35 on, a closer look of CenterFace confirms 92 % of the faces and 1
# of 800 other places; from 0.28 on, 95 % and 1 of 250.
FIRST = Search(shown=16.0, tile=1536, mirrored=False, gamma=1.0, sure=0.35, doubt=0.05, confirmed=0.35)
SECOND = Search(shown=18.0, tile=1280, mirrored=True, gamma=0.5, sure=0.35, doubt=0.1, confirmed=0.28)
# In 20 composed scenes with 317 faces of 20 px and more three upright views confirm all but two, and no other place; one in 12
# megapixels of backgrounds. Without the third view a badge was a face; believed at once from 0.4 on, so were 0.7 places per
# megapixel.
# Half hidden and half cut faces are confirmed by as little as 0.2 where something else speaks for them: they are doubted at 0.3
# and more beside a face, at 0.65 at the border. In 80 megapixels of other pictures two places more are, of 150 portraits none.
SCENES = Search(
    shown=18.0,
    tile=1152,
    mirrored=True,
    gamma=1.0,
    sure=0.8,
    doubt=0.15,
    confirmed=0.35,
    turns=(),
    views=((96, False), (96, True), (128, False)),
    hinted=0.18,
)
LOWEST_ON_CHIP = 0.35  # score below which an upright view is not believed
CHIP_SIDE = 192  # px; the upright second look at one face
UPRIGHT_DEGREES = 15.0  # roll up to which CenterFace's landmarks are used
QUARTER_TURNS = (0.0, 180.0, 90.0, -90.0)  # degrees added to the seen roll, tried in this order
SURE_FACE_LIKENESS = 0.95  # the same, from which a set is believed without a second look
MIN_FACE_LIKENESS = 0.8  # correlation of five landmarks with an upright face; a worse set is replaced


class EmbeddedDetector:
    """Both networks, on the CPU. min_face: px, height of the smallest face that is searched for; time falls with its square."""

    def __init__(self, threads: int = 1, min_face: int = DEFAULT_MIN_FACE) -> None:
        """Raises FaceModelError."""
        check_min_face(min_face)
        center_face, scenes = CenterFace(threads), SceneNetwork(threads)
        self.digest = hashlib.sha256(f"{center_face.digest} {scenes.digest}".encode()).hexdigest()
        self.center_face: Network = center_face
        self.scenes: Network = scenes
        self.min_face = min_face
        self.name = f"centerface+scenes@{min_face}px"

    def detect(self, pixels: Pixels) -> list[Face]:
        """All faces of an (H, W, 3) uint8 RGB picture, in a stable order. Raises PictureError ("too_many_faces")."""
        found = without_duplicates(self._search(pixels, self.center_face, FIRST))
        if not found:
            return in_order(without_duplicates(self.look_again(pixels)))
        return in_order(without_duplicates([self._upright(pixels, face) for face in found]))

    def look_again(self, pixels: Pixels) -> list[Face]:
        """What may be a face in an anonymized (H, W, 3) uint8 RGB picture, in no order, before suppression. Raises PictureError
        ("too_many_faces").
        """
        ours = self._search(pixels, self.scenes, SCENES)
        theirs = self._search(pixels, self.center_face, SECOND)
        return [_shaped(face) for face in ours] + [self._upright(pixels, face) for face in theirs]

    def _search(self, pixels: Pixels, network: Network, search: Search) -> list[Face]:
        network = lightened(network, search.gamma)
        return confirmed(pixels, network, search, look(pixels, network, search, self.min_face), self.min_face)

    def _upright(self, pixels: Pixels, face: Face) -> Face:
        """A face of CenterFace with landmarks read off an upright chip when it is rolled, and a template's when they make no
        face.
        """
        roll = roll_degrees(face.landmarks)
        x0, y0, x1, y1 = face.box
        if _is_shaped(face, SURE_FACE_LIKENESS) and abs(roll) <= UPRIGHT_DEGREES and x1 - x0 <= y1 - y0:
            return face
        best: Face | None = None
        for turn in QUARTER_TURNS:
            angle, seen = roll + turn, None
            for _ in range(2):  # the second look corrects what the first underestimated
                seen = view(pixels, self.center_face, face, angle, CHIP_SIDE, LOWEST_ON_CHIP)
                if seen is None:
                    break
                rest = (roll_degrees(seen.landmarks) - angle + 180.0) % 360.0 - 180.0
                angle += rest
            if seen is None or abs(rest) > UPRIGHT_DEGREES:
                continue
            if likeness(seen.landmarks, UPRIGHT_TEMPLATE) >= MIN_FACE_LIKENESS and (
                best is None or seen.score > best.score
            ):
                best = seen
        return _shaped(face) if best is None else replace(face, landmarks=best.landmarks)


def _shaped(face: Face) -> Face:
    """The face, with a template's landmarks when its own make none."""
    return face if _is_shaped(face, MIN_FACE_LIKENESS) else replace(face, landmarks=template_in_box(face.box))


def _is_shaped(face: Face, least: float) -> bool:
    """Whether a face's landmarks are as like a face's as `least`, and of the size of its box."""
    ratio = spread(face.landmarks) / spread(template_in_box(face.box))
    return bool(likeness(face.landmarks, UPRIGHT_TEMPLATE) >= least and 1 / MAX_SPREAD < ratio < MAX_SPREAD)

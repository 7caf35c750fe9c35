"""What recovery of one picture needs: its image key, the geometry of its faces, and the run's facts. Secret.

A picture whose faces stand for several people, a piece of a clip, has a key for each of them, which opens no other's faces.
"""

from dataclasses import dataclass, field

from keyanon_core.faces.masks import PictureMask
from keyanon_core.keys import face_key
from keyanon_core.procedure import Procedure, is_of_paper


@dataclass(frozen=True)
class FaceGeometry:
    """Where one anonymized face lies and which attempt made it.

    box: (x0, y0, x1, y1) in picture pixels. affine: (2, 3) row-major, picture pixel -> crop pixel. scale: what the keyed
    transform divided out of its input (1.0 for transforms that do not scale). carrier_key: 32 secret bytes of the carrier that it
    rides on; None where it has none.
    """

    index: int
    attempt: int
    box: tuple[float, float, float, float]
    affine: tuple[float, float, float, float, float, float]
    scale: float
    mask: PictureMask
    carrier_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PictureKey:
    """The content of a key record. `image_key` (32 bytes) never shows in a repr.

    part: whom `faces` are of, where the picture's others are under other keys; "": of nobody; None: they are all there are.
    inversion, grid, payload_share: as in `Procedure`; the defaults are what older records, which do not say, were made with.
    """

    image_key: bytes = field(repr=False)
    record_id: str
    image_id: str
    faces: tuple[FaceGeometry, ...]
    method: str
    transform: str
    steps: int
    fidelity: str
    prior_digest: str
    source_sha256: str
    output_sha256: str
    sidecar_sha256: str
    inversion: str = "ddim"
    grid: tuple[int, ...] = ()
    payload_share: float = 1.0
    part: str | None = None

    @property
    def procedure(self) -> Procedure:
        """How the faces were made. Until `paper` was its authors' procedure it meant what is `paper-inpaint` now, on every prior:
        the grid tells which.
        """
        older = self.method == "paper" and not is_of_paper(self.grid)
        method = "paper-inpaint" if older else self.method
        share = self.payload_share
        return Procedure(method, self.transform, self.inversion, self.steps, self.grid, payload_share=share)

    def face_key(self, face: FaceGeometry) -> bytes:
        """The 32-byte key that made this face."""
        return face_key(self.image_key, face.index, face.attempt, self.transform, face.carrier_key)

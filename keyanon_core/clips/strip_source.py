"""A piece of a clip as a picture: its frames one below the other, published as a piece again."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from keyanon_core.clips.encoding import encode_piece
from keyanon_core.clips.frames import Strip, decode_piece, decode_published
from keyanon_core.clips.piece import Piece
from keyanon_core.errors import PictureError
from keyanon_core.faces.masks import PictureMask
from keyanon_core.formats.published import Pixels, Published, SourceFile


@dataclass(frozen=True, eq=False)
class StripSource(SourceFile):
    """pixels: (n * frame_height, W, 3), following: (frame_height, W, 3), see `Strip`."""

    pixels: Pixels = field(repr=False)
    piece: Piece = field(repr=False)
    height: int
    following: Pixels | None = field(default=None, repr=False)

    @classmethod
    def of(cls, encoded: bytes, max_pixels: int) -> "StripSource":
        """Decode a piece. Raises PictureError as `decode_piece`."""
        piece = Piece.from_bytes(encoded)
        strip = decode_piece(piece, max_pixels)
        return cls(strip.pixels, piece, strip.height, strip.following)

    @property
    def frame_height(self) -> int:
        return self.height

    @property
    def frame_times(self) -> npt.NDArray[np.float64]:
        return np.array([float(time * self.piece.form.time_base) for time in self.piece.times])

    @property
    def is_exact(self) -> bool:
        return False

    def publish(self, result: Pixels, masks: Sequence[PictureMask]) -> Published:
        piece = self.piece
        encoded = encode_piece(Strip(result, self.height, piece.times), piece.form, piece.until)
        shown = decode_published(encoded, result.shape[0] * result.shape[1])
        if shown.pixels.shape != result.shape:
            raise PictureError("unsupported", "its encoder makes frames of another size")
        return Published(encoded, shown.pixels)

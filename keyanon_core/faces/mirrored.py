"""A recognizer that sees faces in a mirror: another view of a face by the same judge.

The gate chooses keys by what the embedded recognizer sees, so what that recognizer says of published faces flatters them. Of a
mirrored face the same network makes another vector, which nothing was chosen by. That is a second view and no second judge: what
the network can not see at all, it can not see in a mirror either.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keyanon_core.faces.detection import Embedder, Face, Pixels, mirrored


def mirrored_view(pixels: Pixels, face: Face) -> tuple[Pixels, Face]:
    """A picture (H, W, 3) and its face seen in a mirror; the landmarks keep their order, image-left first."""
    box, landmarks = mirrored(np.array(face.box).reshape(2, 2), face.landmarks, pixels.shape[1])
    x0, y0, x1, y1 = (float(value) for value in box.ravel())
    return np.ascontiguousarray(pixels[:, ::-1]), Face((x0, y0, x1, y1), landmarks, face.score)


class Mirrored:
    """An `Embedder` that shows another one the mirrored picture."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.name, self.digest = f"{embedder.name}-mirrored", embedder.digest

    def embed(self, views: Sequence[tuple[Pixels, Face]]) -> npt.NDArray[np.float32]:
        """(n, d) float32 of n faces, each given with its picture as it is. Raises what the embedder raises."""
        return self._embedder.embed([mirrored_view(pixels, face) for pixels, face in views])

    def distance(self, first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
        """The embedder's own."""
        return self._embedder.distance(first, second)

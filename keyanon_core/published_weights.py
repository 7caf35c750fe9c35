"""Weight files that somebody published, known by their digests.

They are pickles. One is opened only when its sha256 is the published digest, and then by `torch.load(weights_only=True)`.
"""

import hashlib
import io
import pickle  # for the name of its error only
from dataclasses import dataclass
from pathlib import Path

import torch

from keyanon_core.errors import FaceModelError

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PublishedWeights:
    """A published weight file: its name without the suffix, where it is to be had, and its sha256."""

    stem: str
    url: str
    sha256: str

    def check(self, path: Path) -> bytes:
        """The bytes of that file. Raises FaceModelError when it can not be read or is another one."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise FaceModelError(f"{path} can not be read: {error.strerror}") from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise FaceModelError(
                f"{path.name}: sha256 {digest} is not the published {self.sha256}, and a pickle with another digest is never "
                f"opened; fetch it again from {self.url}"
            )
        return content

    def read(self, path: Path) -> State:
        """What `check` says, as tensors on the CPU. Raises FaceModelError."""
        try:
            state: State = torch.load(io.BytesIO(self.check(path)), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise FaceModelError(f"{path.name} holds more than numbers, or is broken") from error
        if not isinstance(state, dict) or not all(isinstance(one, torch.Tensor) for one in state.values()):
            raise FaceModelError(f"{path.name} holds something else than the weights of a network by their names")
        return state


def fill(network: torch.nn.Module, state: State, name: str) -> None:
    """Give a network its weights, all of them, and set it to evaluation. name: of their file. Raises FaceModelError."""
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).splitlines()[:2])[:300]
        raise FaceModelError(f"{name} does not fit {type(network).__name__}: {first}") from error
    if not all(torch.isfinite(tensor).all() for tensor in network.state_dict().values()):
        raise FaceModelError(f"{name} holds numbers that are not finite")
    network.eval()

"""The sidecar: what is stored next to an anonymized picture so that recovery does not suffer from storage error.

One safetensors file per picture (the container parses without executing anything). Its metadata holds one JSON text under
`keyanon`; its tensors are, for face number i,

    i.commitment   uint8 (32,)         key commitment: tells a right key from a wrong one before any pixel is computed
    i.latent       float16 (C, h, w)   the whole anonymized crop, inside and outside the mask   (fidelity latent, lossless)
    i.source       uint8 (n,)          the source's pixels inside the mask, AES-256-GCM          (fidelity lossless)

Nothing in it is secret: without the key, `latent` is one more anonymized face, and `source` is ciphertext.

Whoever can write into a run's output can write a sidecar, so it is read as hostile bytes: its two JSON headers are short,
have no member twice, no floating-point number and no text that is not Unicode; every number is in its range; what does
not fit raises SidecarError before anything of its claimed size is allocated.
"""

import json
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from keyanon_core.errors import SidecarError
from keyanon_core.imaging import MAX_SIDE

FORMAT = "keyanon-sidecar/1"
MAX_SIDECAR_BYTES = 256 * 2**20  # bytes; a larger file is refused unread
MAX_HEADER_BYTES = 2 * 2**20  # bytes of the container's JSON; that of MAX_FACES faces with all their parts has 1.2 MB
MAX_FACES = 4096  # faces in one picture
PARTS = ("commitment", "latent", "source")  # of a face, as its tensors are called after its number
COMMITMENT_BYTES = 32


@dataclass(frozen=True)
class SidecarFace:
    """One face's part of a sidecar: commitment (32 bytes), latent (C, h, w) float16 or None, source ciphertext or None."""

    commitment: bytes
    latent: npt.NDArray[np.float16] | None = None
    source: bytes | None = None


@dataclass(frozen=True)
class Sidecar:
    """The parsed sidecar of one picture. `shape` is (height, width) of the picture in pixels."""

    record_id: str
    image_id: str
    fidelity: str
    prior_digest: str
    shape: tuple[int, int]
    faces: tuple[SidecarFace, ...]

    def to_bytes(self) -> bytes:
        """Serialize; equal sidecars give equal bytes."""
        tensors: dict[str, npt.NDArray[Any]] = {}
        for index, face in enumerate(self.faces):
            tensors[f"{index}.commitment"] = np.frombuffer(face.commitment, np.uint8)
            if face.latent is not None:
                tensors[f"{index}.latent"] = np.ascontiguousarray(face.latent, np.float16)
            if face.source is not None:
                tensors[f"{index}.source"] = np.frombuffer(face.source, np.uint8)
        header = {
            "format": FORMAT,
            "record_id": self.record_id,
            "image_id": self.image_id,
            "fidelity": self.fidelity,
            "prior_digest": self.prior_digest,
            "shape": list(self.shape),
            "faces": len(self.faces),
        }
        return safetensors.numpy.save(tensors, metadata={"keyanon": json.dumps(header, sort_keys=True)})

    @staticmethod
    def from_bytes(data: bytes) -> "Sidecar":
        """Parse untrusted bytes. Raises SidecarError when they are not a well-formed sidecar of this version."""
        if len(data) > MAX_SIDECAR_BYTES:
            raise SidecarError(f"sidecar of {len(data)} bytes exceeds the limit of {MAX_SIDECAR_BYTES} bytes")
        try:
            header = _header(data)
            count = _whole(header, "faces", 0, MAX_FACES)
            tensors = safetensors.numpy.load(data)
            strays = set(tensors) - {f"{index}.{part}" for index in range(count) for part in PARTS}
            if strays:
                raise SidecarError(f"sidecar of {count} faces holds a part of none of them: {min(strays)!r:.100}")
            faces = tuple(_face(tensors, index) for index in range(count))
            height, width = header["shape"]
            return Sidecar(
                record_id=_text(header, "record_id"),
                image_id=_text(header, "image_id"),
                fidelity=_text(header, "fidelity"),
                prior_digest=_text(header, "prior_digest"),
                shape=(
                    _whole({"height": height}, "height", 1, MAX_SIDE),
                    _whole({"width": width}, "width", 1, MAX_SIDE),
                ),
                faces=faces,
            )
        except (safetensors.SafetensorError, LookupError, ValueError, TypeError, RecursionError) as error:
            raise SidecarError(
                f"not a readable sidecar ({type(error).__name__}: {error}); restore it from the run's output"
            ) from error


def _header(data: bytes) -> dict[str, Any]:
    """Read the metadata of a safetensors file: 8 bytes little-endian length, then JSON (safetensors format)."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise SidecarError(f"not a readable sidecar (truncated at {len(data)} bytes); restore it from the run's output")
    if length > MAX_HEADER_BYTES:
        raise SidecarError(f"a sidecar's header of {length} bytes exceeds the limit of {MAX_HEADER_BYTES} bytes")
    container = _strict_json(data[8 : 8 + length].decode())
    header: dict[str, Any] = _strict_json(container["__metadata__"]["keyanon"])
    if header["format"] != FORMAT:
        raise SidecarError(
            f"sidecar format {header['format']!r:.100} is not {FORMAT!r}; use the keyanon version that wrote it"
        )
    return header


def _strict_json(text: str) -> Any:
    """JSON of texts and whole numbers. Raises ValueError for a member given twice or a fraction, and RecursionError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a member is given twice")
        return found

    def no_number(word: str) -> NoReturn:
        raise ValueError(f"{word[:20]} is no whole number")

    return json.loads(text, object_pairs_hook=unique, parse_float=no_number, parse_constant=no_number)


def _whole(header: dict[str, Any], name: str, least: int, most: int) -> int:
    value = header[name]
    if type(value) is not int or not least <= value <= most:
        raise SidecarError(f"a sidecar's {name} must be a whole number from {least} to {most}")
    return value


def _text(header: dict[str, Any], name: str) -> str:
    """A member that is Unicode text; JSON can spell lone surrogates, which nothing can encode. Raises ValueError."""
    value = header[name]
    if type(value) is not str:
        raise SidecarError(f"a sidecar's {name} must be a text")
    value.encode()
    return value


def _face(tensors: dict[str, npt.NDArray[Any]], index: int) -> SidecarFace:
    commitment = tensors[f"{index}.commitment"]
    if commitment.dtype != np.uint8 or commitment.shape != (COMMITMENT_BYTES,):
        raise SidecarError(f"face {index}: commitment is not {COMMITMENT_BYTES} bytes")
    latent = tensors.get(f"{index}.latent")
    if latent is not None and not (
        latent.dtype == np.float16 and latent.ndim == 3 and latent.size and np.isfinite(latent).all()
    ):
        raise SidecarError(f"face {index}: latent is not a finite float16 array of three axes")
    source = tensors.get(f"{index}.source")
    if source is not None and (source.dtype != np.uint8 or source.ndim != 1):
        raise SidecarError(f"face {index}: source is not a byte string")
    return SidecarFace(commitment.tobytes(), latent, None if source is None else source.tobytes())

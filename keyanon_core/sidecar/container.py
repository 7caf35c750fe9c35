"""The file: one safetensors container per picture (it parses without executing anything).

Its metadata holds one JSON text under `keyanon`; its tensors are, for face number i,

    i.commitment     uint8 (32,)       key commitment: tells a right key from a wrong one before any pixel is computed
    i.surroundings   uint8 (n,)        the crop outside the mask, as `surroundings` encodes it    (fidelity latent, lossless)
    i.codes          uint8 (n,)        the anonymized latent inside it, times `levels`, as `coding` packs it    (likewise)
    i.source         uint8 (n,)        the source's pixels inside the mask, AES-256-GCM    (fidelity lossless)

Version 1, which is read and not made any more, has instead of surroundings and codes

    i.latent         float16 (C, h, w) the whole anonymized crop, inside and outside the mask

Nothing in it is secret: without the key, the latent is one more anonymized face, and `source` is ciphertext.

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

FORMAT = "keyanon-sidecar"
MAX_SIDECAR_BYTES = 256 * 2**20  # bytes; a larger file is refused unread
MAX_HEADER_BYTES = 2 * 2**20  # bytes of the container's JSON; that of MAX_FACES faces with all their parts has 1.2 MB
MAX_FACES = 4096  # faces in one picture
PARTS = {1: ("commitment", "latent", "source"), 2: ("commitment", "surroundings", "codes", "source")}
"""Of a face, as its tensors are called after its number, by version."""
COMMITMENT_BYTES = 32
MIN_LEVELS, MAX_LEVELS = 1, 2**16  # in which a latent's 1 is stored


@dataclass(frozen=True)
class SidecarFace:
    """One face's part of a sidecar.

    commitment: 32 bytes. surroundings, codes: what lies around the mask, and in it; None at fidelity `image`. source: ciphertext
    or None. latent: (C, h, w) float16, of version 1 alone, in place of surroundings and codes.
    """

    commitment: bytes
    surroundings: bytes | None = None
    codes: bytes | None = None
    source: bytes | None = None
    latent: npt.NDArray[np.float16] | None = None


@dataclass(frozen=True)
class Sidecar:
    """The parsed sidecar of one picture. `shape` is (height, width) of the picture in pixels, `levels` how finely its latents are
    stored: so many to 1; 0 in version 1.
    """

    record_id: str
    image_id: str
    fidelity: str
    prior_digest: str
    shape: tuple[int, int]
    levels: int
    faces: tuple[SidecarFace, ...]
    version: int = 2

    def to_bytes(self) -> bytes:
        """Serialize; equal sidecars give equal bytes."""
        tensors: dict[str, npt.NDArray[Any]] = {}
        for index, face in enumerate(self.faces):
            for part in PARTS[self.version]:
                value = getattr(face, part)
                if isinstance(value, bytes):
                    tensors[f"{index}.{part}"] = np.frombuffer(value, np.uint8)
                elif value is not None:
                    tensors[f"{index}.{part}"] = np.ascontiguousarray(value, np.float16)
        header = {
            "format": f"{FORMAT}/{self.version}",
            "record_id": self.record_id,
            "image_id": self.image_id,
            "fidelity": self.fidelity,
            "prior_digest": self.prior_digest,
            "shape": list(self.shape),
            "faces": len(self.faces),
        }
        if self.version > 1:
            header["levels"] = self.levels
        return safetensors.numpy.save(tensors, metadata={"keyanon": json.dumps(header, sort_keys=True)})

    @staticmethod
    def from_bytes(data: bytes) -> "Sidecar":
        """Parse untrusted bytes. Raises SidecarError when they are not a well-formed sidecar of a known version."""
        if len(data) > MAX_SIDECAR_BYTES:
            raise SidecarError(f"sidecar of {len(data)} bytes exceeds the limit of {MAX_SIDECAR_BYTES} bytes")
        try:
            version, header = _header(data)
            count = _whole(header, "faces", 0, MAX_FACES)
            tensors = safetensors.numpy.load(data)
            strays = set(tensors) - {f"{index}.{part}" for index in range(count) for part in PARTS[version]}
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
                levels=0 if version == 1 else _whole(header, "levels", MIN_LEVELS, MAX_LEVELS),
                faces=faces,
                version=version,
            )
        except (safetensors.SafetensorError, LookupError, ValueError, TypeError, RecursionError) as error:
            raise SidecarError(
                f"not a readable sidecar ({type(error).__name__}: {error}); restore it from the run's output"
            ) from error


def header_numbers(data: bytes) -> dict[str, int]:
    """Every number in the header of a sidecar that was parsed, by its name: those too that this version makes nothing of."""
    _, header = _header(data)
    numbers = {}
    for name, value in header.items():
        for at, one in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(one, int):
                numbers[f"{name} {at}" if isinstance(value, list) else name] = one
    return numbers


def _header(data: bytes) -> tuple[int, dict[str, Any]]:
    """The version, and the metadata of a safetensors file: 8 bytes little-endian length, then JSON (safetensors format)."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise SidecarError(f"not a readable sidecar (truncated at {len(data)} bytes); restore it from the run's output")
    if length > MAX_HEADER_BYTES:
        raise SidecarError(f"a sidecar's header of {length} bytes exceeds the limit of {MAX_HEADER_BYTES} bytes")
    container = _strict_json(data[8 : 8 + length].decode())
    header: dict[str, Any] = _strict_json(container["__metadata__"]["keyanon"])
    version = {f"{FORMAT}/{number}": number for number in PARTS}.get(header["format"])
    if version is None:
        raise SidecarError(
            f"sidecar format {header['format']!r:.100} is none of {FORMAT}/{list(PARTS)}; use the keyanon version that wrote it"
        )
    return version, header


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
    return SidecarFace(
        commitment.tobytes(),
        _bytes(tensors, index, "surroundings"),
        _bytes(tensors, index, "codes"),
        _bytes(tensors, index, "source"),
        latent,
    )


def _bytes(tensors: dict[str, npt.NDArray[Any]], index: int, part: str) -> bytes | None:
    value = tensors.get(f"{index}.{part}")
    if value is not None and (value.dtype != np.uint8 or value.ndim != 1):
        raise SidecarError(f"face {index}: {part} is not a byte string")
    return None if value is None else value.tobytes()

"""Sidecars survive a round trip, and hostile bytes are refused with a clear error."""

import json

import numpy as np
import pytest
import safetensors.numpy

from keyanon_core.errors import SidecarError, WrongKeyError
from keyanon_core.faces.masks import PictureMask
from keyanon_core.keys import face_key, new_image_key
from keyanon_core.sidecar import Sidecar, SidecarFace, open_source, seal_source

FACE = SidecarFace(bytes(range(32)), np.linspace(-1, 1, 12, dtype=np.float16).reshape(3, 2, 2), b"ciphertext")
SIDECAR = Sidecar("record", "image", "lossless", "digest", (20, 30), (FACE, SidecarFace(bytes(32))))


def test_round_trip_keeps_every_field() -> None:
    again = Sidecar.from_bytes(SIDECAR.to_bytes())
    assert (again.record_id, again.image_id, again.fidelity, again.prior_digest, again.shape) == (
        "record",
        "image",
        "lossless",
        "digest",
        (20, 30),
    )
    assert again.faces[0].commitment == FACE.commitment
    assert again.faces[0].source == FACE.source
    assert FACE.latent is not None
    assert again.faces[0].latent is not None
    assert np.array_equal(again.faces[0].latent, FACE.latent)
    assert again.faces[1].latent is None
    assert again.to_bytes() == SIDECAR.to_bytes()


@pytest.mark.parametrize("length", [0, 1, 7, 8, 40, 200])
def test_truncated_bytes_are_refused(length: int) -> None:
    with pytest.raises(SidecarError, match="not a readable sidecar"):
        Sidecar.from_bytes(SIDECAR.to_bytes()[:length])


def _with_header(**changes: object) -> bytes:
    header = {
        "format": "keyanon-sidecar/1",
        "record_id": "r",
        "image_id": "i",
        "fidelity": "latent",
        "prior_digest": "d",
        "shape": [2, 2],
        "faces": 1,
        **changes,
    }
    tensors = {"0.commitment": np.zeros(32, np.uint8)}
    return safetensors.numpy.save(tensors, metadata={"keyanon": json.dumps(header)})


@pytest.mark.parametrize(
    "changes",
    [{"format": "keyanon-sidecar/9"}, {"faces": 2}, {"faces": -1}, {"faces": 10**9}, {"shape": [1]}, {"shape": "x"}],
)
def test_headers_that_lie_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SidecarError):
        Sidecar.from_bytes(_with_header(**changes))


def test_latents_that_are_not_numbers_are_refused() -> None:
    broken = SidecarFace(bytes(32), np.full((3, 2, 2), np.nan, np.float16))
    with pytest.raises(SidecarError, match="latent"):
        Sidecar.from_bytes(Sidecar("r", "i", "latent", "d", (2, 2), (broken,)).to_bytes())


def _sealed() -> tuple[np.ndarray, PictureMask, bytes, bytes]:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    mask = PictureMask((4, 5, 14, 17), rng.random((12, 10)) < 0.6)
    key = face_key(new_image_key(), 0, 0, "rotation")
    return pixels, mask, key, seal_source(pixels, mask, key, "record", 0)


def test_source_pixels_come_back_exactly_and_only_those_inside_the_mask() -> None:
    pixels, mask, key, sealed = _sealed()
    window = open_source(sealed, mask, key, "record", 0)
    assert np.array_equal(window[mask.bits], pixels[5:17, 4:14][mask.bits])
    assert not window[~mask.bits].any()


def test_a_changed_byte_another_key_record_or_face_is_refused() -> None:
    _, mask, key, sealed = _sealed()
    changed = bytes([sealed[0] ^ 1]) + sealed[1:]
    other = face_key(new_image_key(), 0, 0, "rotation")
    for attempt in (
        (changed, key, "record", 0),
        (sealed, other, "record", 0),
        (sealed, key, "r2", 0),
        (sealed, key, "record", 1),
    ):
        with pytest.raises(WrongKeyError, match="does not verify"):
            open_source(attempt[0], mask, *attempt[1:])

"""Source pixels come back exactly from their sealed form, and from nothing else."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyanon_core.errors import SidecarError, WrongKeyError
from keyanon_core.faces.masks import PictureMask
from keyanon_core.imaging import encode_picture
from keyanon_core.keys import face_key, new_image_key, subkey
from keyanon_core.sidecar import open_source, seal_source


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


def test_authentic_pixels_that_do_not_fit_the_face_are_a_sidecar_error() -> None:
    _, mask, key, _ = _sealed()
    cipher = AESGCM(subkey(key, "lossless"))
    for plain in (
        b"no picture",
        encode_picture(np.zeros((5, 5, 3), np.uint8), "png"),
        encode_picture(np.zeros((50, 50, 3), np.uint8), "png"),
    ):
        with pytest.raises(SidecarError, match="stored pixels"):
            open_source(cipher.encrypt(bytes(12), plain, b"keyanon-sidecar/1\nrecord\n0"), mask, key, "record", 0)

"""The source's pixels inside a mask, encrypted under the face key: what makes recovery at fidelity `lossless` exact."""

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyanon_core.errors import WrongKeyError
from keyanon_core.faces.masks import PictureMask
from keyanon_core.imaging import encode_picture
from keyanon_core.keys import subkey
from keyanon_core.sidecar.parts import decode_part

LOSSLESS_NONCE = bytes(12)  # constant: every lossless key encrypts exactly one message
CONTEXT = "keyanon-sidecar/1"  # of the associated data; that of every version, since what is sealed never changed


def seal_source(pixels: npt.NDArray[np.uint8], mask: PictureMask, face_key: bytes, record_id: str, index: int) -> bytes:
    """Encrypt a picture's pixels inside `mask` under the face key; the tag proves pixel-exact recovery.

    pixels (H, W, 3) uint8; only those inside the mask enter. They are compressed losslessly first (PNG, outside of the mask
    zero). AES-256-GCM, key by HKDF from the face key, associated data binding record and face.
    """
    x0, y0, x1, y1 = mask.window
    window = np.where(mask.bits[..., None], pixels[y0:y1, x0:x1], np.uint8(0))
    plain = encode_picture(window, "png")
    return AESGCM(subkey(face_key, "lossless")).encrypt(LOSSLESS_NONCE, plain, _source_context(record_id, index))


def open_source(sealed: bytes, mask: PictureMask, face_key: bytes, record_id: str, index: int) -> npt.NDArray[np.uint8]:
    """Decrypt what `seal_source` wrote: (h, w, 3) uint8 over the mask's window.

    Raises WrongKeyError if the tag fails, SidecarError when what it protects is no picture of the window's size.
    """
    try:
        plain = AESGCM(subkey(face_key, "lossless")).decrypt(LOSSLESS_NONCE, sealed, _source_context(record_id, index))
    except InvalidTag as error:
        raise WrongKeyError(
            f"face {index} of record {record_id}: the source pixels' tag does not verify; the sidecar was changed or the "
            "key is another one's"
        ) from error
    height, width = mask.bits.shape
    return decode_part(plain, height, width, f"stored pixels of face {index} of record {record_id}")


def _source_context(record_id: str, index: int) -> bytes:
    return f"{CONTEXT}\n{record_id}\n{index}".encode()

"""The sidecar: what is stored next to an anonymized picture so that recovery does not suffer from storage error.

`container` is the file, `surroundings` and `coding` what it holds of a crop outside and inside the mask, `sealed_source` the
encrypted source, `parts` reads the pictures among them.
"""

from keyanon_core.sidecar.coding import MAX_CODE, pack, unpack
from keyanon_core.sidecar.container import (
    MAX_FACES,
    MAX_HEADER_BYTES,
    MAX_SIDECAR_BYTES,
    Sidecar,
    SidecarFace,
    header_numbers,
)
from keyanon_core.sidecar.sealed_source import open_source, seal_source
from keyanon_core.sidecar.surroundings import decode_surroundings, encode_surroundings

__all__ = [
    "MAX_CODE",
    "MAX_FACES",
    "MAX_HEADER_BYTES",
    "MAX_SIDECAR_BYTES",
    "Sidecar",
    "SidecarFace",
    "decode_surroundings",
    "encode_surroundings",
    "header_numbers",
    "open_source",
    "pack",
    "seal_source",
    "unpack",
]

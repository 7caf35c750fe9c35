"""The sidecar: what is stored next to an anonymized picture so that recovery does not suffer from storage error."""

from keyanon_core.sidecar.container import MAX_FACES, MAX_HEADER_BYTES, MAX_SIDECAR_BYTES, Sidecar, SidecarFace
from keyanon_core.sidecar.sealed_source import LOSSLESS_NONCE, open_source, seal_source

__all__ = [
    "LOSSLESS_NONCE",
    "MAX_FACES",
    "MAX_HEADER_BYTES",
    "MAX_SIDECAR_BYTES",
    "Sidecar",
    "SidecarFace",
    "open_source",
    "seal_source",
]

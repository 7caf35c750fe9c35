"""Well-formed inputs that mutations start from, each of at most a few kilobytes."""

import hashlib
import io
import json
import struct
import tarfile
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import ExifTags, Image, ImageCms, ImageDraw

from keyanon_core.clips.encoding import encode_piece
from keyanon_core.clips.frames import decode_piece
from keyanon_core.clips.piece import Piece
from keyanon_core.faces.masks import PictureMask
from keyanon_core.sidecar import Sidecar, SidecarFace
from keystore.audit.checkpoint import verifier_key
from keystore.audit.signers import ORIGIN_PREFIX
from keystore.crypto import hybrid
from keystore.intake.ingest_key import IngestKey
from keystore.intake.records import FaceRecord, KeyRecord
from keystore.intake.sealing import seal_record, split_head
from keystore.intake.shards import SHARD_MAGIC
from tests.keyanon_core.clips.tiny_clips import pieces_of, tiny_clip
from tests.keyanon_core.faces.tiny_recognizers import tiny_recognizer

FACE = {"box": [3.5, 4.0, 40.25, 60.0], "landmarks": [[10, 20], [30, 20], [20, 30], [12, 44], [28, 44]], "score": 0.9}

PIECE_START = {"start": 512, "time_base": [1, 12_800]}
PIECE_TIME = json.dumps({"keyanon_piece": PIECE_START})


def _drawing() -> Image.Image:
    y, x = np.mgrid[:24, :36]
    picture = Image.fromarray(np.stack([x * 7, y * 10, 255 - x * 3 - y * 4], -1).astype(np.uint8))
    ImageDraw.Draw(picture).ellipse((8, 4, 28, 20), fill=(200, 120, 90))
    return picture


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The file of a picture."""
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@cache
def pieces() -> dict[str, bytes]:
    """A piece of six frames by its codec."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            encoder: pieces_of(
                tiny_clip(
                    Path(folder) / f"{encoder}.mkv", encoder=encoder, times=range(0, 240, 40), tick=Fraction(1, 1000)
                )
            )[0].to_bytes()
            for encoder in ("libx264", "libx265", "libvpx", "libvpx-vp9", "libsvtav1")
        }


@cache
def published_pieces() -> dict[str, bytes]:
    """A published piece by its container."""
    piece = Piece.from_bytes(pieces()["libvpx-vp9"])
    strip = decode_piece(piece, 1_000_000)
    return {
        container: encode_piece(strip, replace(piece.form, container=container), piece.until)
        for container in ("mp4", "matroska", "webm")
    }


@cache
def exif_bytes() -> bytes:
    """Orientation, a GPS position, a maker's note."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "maker"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (51.0, 30.0, 0.5)
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = b"note" * 4
    return exif.tobytes()


@cache
def profile_bytes() -> bytes:
    """An RGB profile that is not recognised as sRGB, so that it is converted."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return made.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))


@cache
def pictures() -> dict[str, bytes]:
    """One file of every format and kind of sample that is read."""
    rgb = _drawing()
    grey, alpha = rgb.convert("L"), Image.merge("RGBA", (*rgb.split(), rgb.convert("L")))
    deep = Image.fromarray(np.asarray(grey, np.uint16) * 257)
    described = {"exif": exif_bytes(), "icc_profile": profile_bytes()}
    files = {
        "jpeg": encoded(rgb, "JPEG", **described),
        "jpeg-progressive": encoded(rgb, "JPEG", progressive=True),
        "jpeg-cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "jpeg-of-two": encoded(rgb, "MPO", save_all=True, append_images=[rgb.rotate(180)]),
        "png": encoded(rgb, "PNG", **described),
        "png-alpha": encoded(alpha, "PNG"),
        "png-palette": encoded(rgb.quantize(8), "PNG", transparency=1),
        "png-deep": encoded(deep, "PNG"),
        "png-bits": encoded(grey.convert("1"), "PNG"),
        "png-animated": encoded(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)]),
        "webp": encoded(rgb, "WEBP", **described),
        "webp-lossless": encoded(alpha, "WEBP", lossless=True),
        "bmp": encoded(rgb, "BMP"),
        "bmp-palette": encoded(rgb.quantize(8), "BMP"),
        "gif": encoded(rgb.quantize(16), "GIF"),
        "gif-animated": encoded(rgb.quantize(16), "GIF", save_all=True, append_images=[rgb.rotate(90).quantize(4)]),
    }
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        files[f"tiff-{compression}"] = encoded(rgb, "TIFF", compression=compression, icc_profile=profile_bytes())
    files["tiff-deep"] = encoded(deep, "TIFF")
    files["tiff-group4"] = encoded(grey.convert("1"), "TIFF", compression="group4")
    files["tiff-pages"] = encoded(rgb, "TIFF", save_all=True, append_images=[rgb.rotate(90)])
    files["tiff-cmyk"] = encoded(rgb.convert("CMYK"), "TIFF")
    files["tiff-lab"] = encoded(rgb.convert("LAB"), "TIFF")
    return files


SIDECAR_HEADER = {
    "format": "keyanon-sidecar/2",
    "record_id": "1b4e28ba-2fa1-41d2-883f-0016d3cca427",
    "image_id": "a/b.png",
    "fidelity": "lossless",
    "prior_digest": "0" * 64,
    "shape": [20, 30],
    "faces": 2,
    "levels": 1448,
}


@cache
def sidecar(version: int = 2) -> bytes:
    """Two faces, one with all its parts."""
    commitment = bytes(range(32))
    whole = SidecarFace(
        commitment, source=b"ciphertext", latent=np.linspace(-1, 1, 12, dtype=np.float16).reshape(3, 2, 2)
    )
    coded = SidecarFace(commitment, b"surroundings", b"codes", b"ciphertext")
    names = {name: SIDECAR_HEADER[name] for name in ("record_id", "image_id", "fidelity", "prior_digest", "levels")}
    faces = (coded if version == 2 else whole, SidecarFace(bytes(32)))
    return Sidecar(**names, shape=(20, 30), faces=faces, version=version).to_bytes()  # type: ignore[arg-type]


def sidecar_of(container: str, body: bytes) -> bytes:
    """A safetensors file of any header text."""
    header = container.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(header)) + header + body


@cache
def masks() -> list[bytes]:
    """An empty mask, a small one, and one whose bits fill no whole bytes."""
    disc = np.hypot(*np.mgrid[-8:9, -6:7]) < 7
    return [
        mask.to_bytes()
        for mask in (
            PictureMask.from_full(np.zeros((3, 3), np.bool_)),
            PictureMask.from_full(disc),
            PictureMask((5, 6, 18, 23), disc),
        )
    ]


@cache
def record() -> bytes:
    """A key record in its canonical bytes."""
    return _record().canonical_bytes()


def _record() -> KeyRecord:
    geometry = {"index": 0, "attempt": 0, "box": (1.5, 2.25, 90.0, 120.125), "affine": (0.1, 0.2, 3.3, -0.2, 0.1, 4.4)}
    return KeyRecord(
        record_id="1b4e28ba-2fa1-41d2-883f-0016d3cca427",
        run_id="run-1",
        dataset="photos",
        image_id="a.png",
        source_sha256="0" * 64,
        image_key=bytes(32),
        faces=[FaceRecord(**geometry, scale=1.8, mask=masks()[1], mask_shape=(8, 8))],
        method="exact",
        transform="rotation",
        steps=12,
        fidelity="latent",
        prior_digest="0" * 64,
        environment={"torch": "2"},
        created_at=datetime(2026, 11, 22, tzinfo=UTC),
    )


@cache
def sealed() -> bytes:
    """A record sealed to a key that nobody holds."""
    return seal_record(_record(), hybrid.HybridPrivateKey.generate().public_bytes)


def shard_of(body: bytes, magic: bytes = SHARD_MAGIC) -> bytes:
    """A shard whose digest is right, whatever its body says."""
    framed = magic + body
    return framed + hashlib.sha256(framed).digest()


@cache
def shard() -> bytes:
    """The body of a shard of two records, without magic and digest."""
    head, rest = split_head(sealed())
    assert head is not None
    record = struct.pack(">II", 0, len(rest)) + rest
    return struct.pack(">II", 1, len(head)) + head + struct.pack(">I", 2) + record + record


@cache
def old_shard() -> bytes:
    """The same of version 1."""
    return struct.pack(">I", 2) + b"".join(struct.pack(">I", len(one)) + one for one in (sealed(), sealed()))


@cache
def ingest_key() -> bytes:
    """The public keys of a keystore that nobody has."""
    signer = Ed25519PrivateKey.generate().public_key()
    vkey = verifier_key(ORIGIN_PREFIX + "0" * 32, signer)
    return IngestKey(hybrid.HybridPrivateKey.generate().public_bytes, vkey).text().encode()


@cache
def parquet() -> bytes:
    """Three rows of a picture, an id and a subject, in two row groups, uncompressed so that mutations reach the values."""
    table = pa.table(
        {"image": [b"one", None, b"three"], "id": ["a", "b", None], "subject": ["x", None, "y"], "n": [1, 2, 3]}
    )
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=2, compression="none")
    return out.getvalue()


@cache
def tars() -> dict[str, bytes]:
    """Two pictures and a caption, of each format, one name too long for a header and one with a time of its own."""
    return {name: _tar(kind) for name, kind in (("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT))}


def _tar(kind: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as made:
        for name, content in (("a.jpg", b"one" * 100), ("a.json", b"{}"), (f"b/{'n' * 120}.png", b"two")):
            header = tarfile.TarInfo(name)
            header.size = len(content)
            header.pax_headers = {"mtime": "1.5"}
            made.addfile(header, io.BytesIO(content))
    return out.getvalue()[:-8192]  # without most of what fills it up


def face_text() -> str:
    """A face as JSON."""
    return json.dumps(FACE)


@cache
def recognizer() -> bytes:
    """A network that reduces a face to 64 tiles."""
    with tempfile.TemporaryDirectory() as folder:
        return tiny_recognizer(Path(folder) / "network.onnx", 160, pool=20).read_bytes()

"""What is fuzzed: each target takes bytes, and fails when anything but the documented error comes out of the reader.

A target returns whether the bytes were accepted, so that a test can tell a fuzzer that never gets past the first check.
"""

import json
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from jobs.blocks import ENCODED, FAILURE, ID, ROW
from jobs.errors import SourceError
from jobs.output.reader import OutputError, inspect_picture
from jobs.sources.config import InputConfig
from jobs.sources.source import open_source
from keyanon_core.clips.encoding import PieceTime
from keyanon_core.clips.frames import decode_piece, decode_published
from keyanon_core.clips.piece import Piece
from keyanon_core.errors import FaceModelError, PictureError, SidecarError
from keyanon_core.faces.detection import Face
from keyanon_core.faces.masks import PictureMask
from keyanon_core.faces.onnx_recognizer import OnnxRecognizer
from keyanon_core.formats.opening import open_source as open_picture
from keyanon_core.imaging import decode_picture
from keyanon_core.sidecar import Sidecar
from keystore.errors import InvalidRecordError, TamperedError
from keystore.intake.ingest_key import IngestKey
from keystore.intake.records import KeyRecord
from keystore.intake.sealing import sealed_header
from keystore.intake.shards import parse_shard

MAX_PIXELS = 250_000  # of a picture that a target decodes
MAX_GROWTH = 192 * 2**20  # bytes by which one small input may raise the process's peak
REASONS = {"empty", "not_an_image", "unsupported", "too_large", "truncated", "corrupt"}


@contextmanager
def little_memory() -> Iterator[None]:
    """Fails when the work inside raised the peak of the process's memory by more than MAX_GROWTH."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown <= MAX_GROWTH, f"one input took {grown // 2**20} MiB"


def picture(data: bytes) -> bool:
    """`decode_picture` gives pixels of a legal size or a PictureError of a known reason."""
    with little_memory():
        try:
            pixels = decode_picture(data, max_pixels=MAX_PIXELS)
        except PictureError as error:
            assert error.reason in REASONS and str(error)
            return False
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS
    return True


def republished(data: bytes) -> bool:
    """A source is published in its own format, with a mask in a corner, as its file then shows it; or is a PictureError."""
    with little_memory():
        try:
            source = open_picture(data, "same", 95, MAX_PIXELS)
            result = source.pixels.copy()
            result[:9, :9] = 255 - result[:9, :9]
            corner = np.ones(result[:9, :9].shape[:2], np.bool_)
            published = source.publish(result, [PictureMask((0, 0, corner.shape[1], corner.shape[0]), corner)])
        except PictureError as error:
            assert error.reason in REASONS and str(error)
            return False
    assert published.shown.shape == result.shape
    assert np.array_equal(decode_picture(published.encoded, convert=False), published.shown)
    return True


def inspected(data: bytes) -> bool:
    """`keyanon inspect` of a file says what kind it is, or gives an OutputError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(data)
        try:
            found = inspect_picture(path)
        except OutputError as error:
            str(error).encode()
            return False
    json.dumps(found).encode()
    return True


def piece(data: bytes) -> bool:
    """`Piece.from_bytes` gives a piece that survives a round trip and decodes to its frames, or a PictureError."""
    with little_memory():
        try:
            parsed = Piece.from_bytes(data)
            assert Piece.from_bytes(parsed.to_bytes()) == parsed
            strip = decode_piece(parsed, MAX_PIXELS)
        except PictureError as error:
            assert error.reason in REASONS and str(error)
            return False
        except MemoryError:
            return False
    assert strip.times == parsed.times
    assert strip.pixels.shape[0] == strip.height * len(strip.times) and strip.pixels.size <= 3 * MAX_PIXELS
    return True


def published_piece(data: bytes) -> bool:
    """`decode_published` gives frames that may be held, or a PictureError."""
    with little_memory():
        try:
            strip = decode_published(data, MAX_PIXELS)
        except PictureError as error:
            assert error.reason in REASONS and str(error)
            return False
        except MemoryError:
            return False
    assert strip.pixels.shape[0] == strip.height * len(strip.times) and strip.pixels.size <= 3 * MAX_PIXELS
    return True


def piece_time(data: bytes) -> bool:
    """`PieceTime.from_comment` gives a time that survives a round trip, or a PictureError."""
    try:
        parsed = PieceTime.from_comment(data.decode("utf-8", "replace"))
    except PictureError as error:
        assert error.reason in REASONS
        return False
    assert PieceTime.from_comment(parsed.to_comment()) == parsed
    return True


def sidecar(data: bytes) -> bool:
    """`Sidecar.from_bytes` gives a sidecar that can be written again, or a SidecarError."""
    with little_memory():
        try:
            parsed = Sidecar.from_bytes(data)
        except SidecarError as error:
            str(error).encode()  # can be printed and logged
            return False
    again = Sidecar.from_bytes(parsed.to_bytes())
    assert again.to_bytes() == parsed.to_bytes()
    for name in (parsed.record_id, parsed.image_id, parsed.prior_digest):
        assert type(name) is str and name.encode().decode() == name
    assert all(type(n) is int and n > 0 for n in parsed.shape)
    return True


def mask(data: bytes) -> bool:
    """`PictureMask.from_bytes` gives a mask that survives a round trip, or a FaceModelError."""
    with little_memory():
        try:
            parsed = PictureMask.from_bytes(data)
        except FaceModelError:
            return False
    assert PictureMask.from_bytes(parsed.to_bytes()) == parsed
    parsed.trimmed(), parsed.count, list(parsed.tiles())
    return True


def face(data: bytes) -> bool:
    """`Face.from_dict` of any JSON value gives a face of finite numbers, or a FaceModelError."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return False
    try:
        parsed = Face.from_dict(document)
    except FaceModelError:
        return False
    assert np.isfinite([*parsed.box, *parsed.landmarks.ravel(), parsed.score]).all()
    assert Face.from_dict(parsed.to_dict()).box == parsed.box
    return True


def record(data: bytes) -> bool:
    """`KeyRecord.from_canonical_bytes` gives a record that survives a round trip, or an InvalidRecordError."""
    try:
        parsed = KeyRecord.from_canonical_bytes(data)
    except InvalidRecordError:
        return False
    assert KeyRecord.from_canonical_bytes(parsed.canonical_bytes()) == parsed
    return True


def sealed(data: bytes) -> bool:
    """`sealed_header` gives four texts, or an InvalidRecordError."""
    try:
        header = sealed_header(data)
    except InvalidRecordError as error:
        str(error).encode()
        return False
    assert all(type(value) is str and value.encode().decode() == value for value in vars(header).values())
    return True


def shard(data: bytes) -> bool:
    """`parse_shard` gives byte strings, or a TamperedError."""
    try:
        return all(type(one) is bytes for one in parse_shard(data, "name"))
    except TamperedError:
        return False


def ingest_key(data: bytes) -> bool:
    """`IngestKey.parse` gives keys that survive a round trip, or a TamperedError."""
    try:
        parsed = IngestKey.parse(data, "name")
    except TamperedError:
        return False
    assert IngestKey.parse(parsed.text().encode(), "name") == parsed and type(parsed.keystore_id) is str
    return True


def parquet(data: bytes) -> bool:
    """A Parquet input gives every row once, each with an id and either bytes or a reason, or is refused as a whole."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photos" / "a.parquet"
        path.parent.mkdir()
        path.write_bytes(data)
        with little_memory():
            return any([read_parquet(path), read_parquet(path, id_column="id", subject_column="subject")])


def read_parquet(path: Path, **settings: str) -> bool:
    """The same for a file and the names of its columns."""
    return read_listed(path, rows_at_once=3, **settings)


def read_listed(path: Path, rows_at_once: int, **settings: str) -> bool:
    """What a source promises of the rows in a file's folder."""
    config = InputConfig.model_validate({"photos": path.parent, "output": path.parent.parent / "out", **settings})
    try:
        source = open_source(config)
    except SourceError as error:
        str(error).encode()
        return False
    rows: list[int] = []
    for unit in source.units((), lambda left: rows_at_once):
        for block in unit.read():
            for row in block.select([ROW, ID, ENCODED, FAILURE]).to_pylist():
                rows.append(row[ROW])
                assert type(row[ID]) is str
                assert (row[ENCODED] is None) == bool(row[FAILURE])
    assert sorted(rows) == list(range(source.total))
    return True


def tar(data: bytes) -> bool:
    """Tar shards give every picture once, each with an id and either bytes or a reason, or are refused as a whole."""
    with tempfile.TemporaryDirectory() as folder, little_memory():
        path = Path(folder) / "photos" / "a.tar"
        path.parent.mkdir()
        path.write_bytes(data)
        return read_listed(path, rows_at_once=2)


def recognizer(data: bytes) -> bool:
    """An ONNX file is a recognizer that answers with a vector of length 1, or a FaceModelError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(data)
        with little_memory():
            try:
                loaded = OnnxRecognizer("name", path, "facenet")
            except FaceModelError as error:
                str(error).encode()
                return False
            (vector,) = loaded.embed(
                [(np.full((90, 80, 3), 77, np.uint8), Face((9.0, 9.0, 60.0, 80.0), np.zeros((5, 2)), 1.0))]
            )
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-3
    return True


TARGETS: dict[str, Callable[[bytes], bool]] = {
    made.__name__: made
    for made in (
        picture,
        republished,
        piece,
        published_piece,
        piece_time,
        inspected,
        sidecar,
        mask,
        face,
        record,
        sealed,
        shard,
        ingest_key,
        parquet,
        tar,
        recognizer,
    )
}

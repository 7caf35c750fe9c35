"""What a run publishes beside the pictures agrees no more between two copies of one source than between two sources."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest
import safetensors
from PIL import Image

from jobs.config import AnonymizeConfig
from jobs.output.layout import REPORT_FILE, RUN_DIRECTORY
from jobs.run.anonymize import run_anonymize
from keyanon_core.keys import source_hmac
from tests.jobs.conftest import ONE_WORKER

NAMES_AND_SIZES = {"row", "image_id", "output", "sidecar", "shape"}
SAME_CHARACTERS = 0.4  # share from which two texts agree; two random hexadecimal texts share 0.06
SAME_NUMBER = 1e-3  # relative difference up to which two numbers agree
SOURCE, COPY, ENCODING, OTHER = "astronaut.png", "copy.png", "astronaut.jpg", "grace.png"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published(
    without_a_cluster: None, tmp_path_factory: pytest.TempPathFactory, face_png: bytes, face_jpeg: bytes
) -> dict[str, dict[str, Any]]:
    """By picture: everything that one run publishes about it but the pictures themselves."""
    root = tmp_path_factory.mktemp("published")
    photos = root / "photos"
    photos.mkdir()
    contents = {SOURCE: face_png, COPY: face_png, ENCODING: _as(face_png, "JPEG"), OTHER: _as(face_jpeg, "PNG")}
    for name, content in contents.items():
        (photos / name).write_bytes(content)
    places = {"photos": photos, "output": root / "out", "keystore": root / "keystore"}
    run_anonymize(AnonymizeConfig.load(None, {**places, "steps": 8, **ONE_WORKER, "gate_threshold": 0.01}))
    report = json.loads((root / "out" / RUN_DIRECTORY / REPORT_FILE).read_text())
    assert report["statuses"] == {"anonymized": len(contents)}
    assert not {"key_attempts", "further_keys", "mean_metrics"} & report.keys()
    rows = [row for shard in (root / "out" / "rows").glob("*.parquet") for row in pq.read_table(shard).to_pylist()]
    return {
        row["image_id"]: dict(_facts("row", row)) | _sidecar((root / "out" / row["sidecar"]).read_bytes())
        for row in rows
    }


def _as(encoded: bytes, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(encoded)).save(buffer, kind)
    return buffer.getvalue()


def _facts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of everything in a published value, however deep, without names and sizes."""
    if isinstance(value, str) and value.startswith("{"):
        value = json.loads(value)
    if isinstance(value, dict):
        for key in value.keys() - NAMES_AND_SIZES:
            yield from _facts(f"{name}.{key}", value[key])
    else:
        yield name, value


def _sidecar(data: bytes) -> dict[str, Any]:
    """A sidecar's header and commitments. Its latents are pictures."""
    with io.BytesIO(data) as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))["__metadata__"]["keyanon"]
    tensors = {f"sidecar.{name}": bytes(tensor["data"]).hex() for name, tensor in safetensors.deserialize(data)}
    return dict(_facts("sidecar", header)) | {name: data for name, data in tensors.items() if "commitment" in name}


def _agree(first: Any, second: Any) -> bool:
    if isinstance(first, str) and isinstance(second, str) and first:
        return sum(map(str.__eq__, first, second)) >= SAME_CHARACTERS * max(len(first), len(second))
    if isinstance(first, float) and isinstance(second, float):
        return abs(first - second) <= SAME_NUMBER * max(abs(first), abs(second))
    return bool(first == second)


@pytest.mark.parametrize("again", [COPY, ENCODING])
def test_no_field_agrees_between_two_results_of_one_source_unless_it_does_between_any_two(
    published: dict[str, dict[str, Any]], again: str
) -> None:
    one, same, other = published[SOURCE], published[again], published[OTHER]
    assert one.keys() == same.keys() == other.keys()
    assert {"row.record_id", "row.source_hmac", "row.output_sha256", "sidecar.0.commitment"} <= one.keys()
    linking = {name for name in one if _agree(one[name], same[name]) and not _agree(one[name], other[name])}
    assert linking == set()


def test_the_source_is_named_for_holders_of_the_image_key_alone() -> None:
    key, other = bytes(32), bytes(31) + b"\1"
    assert source_hmac(key, b"file") == source_hmac(key, b"file")
    assert len({source_hmac(key, b"file"), source_hmac(key, b"eliF"), source_hmac(other, b"file")}) == 3

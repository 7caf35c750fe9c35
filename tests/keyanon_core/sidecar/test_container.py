"""Sidecars survive a round trip, and hostile bytes are refused with a clear error."""

import json
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from keyanon_core.errors import SidecarError
from keyanon_core.imaging import MAX_SIDE
from keyanon_core.sidecar import (
    MAX_FACES,
    MAX_HEADER_BYTES,
    MAX_SIDECAR_BYTES,
    Sidecar,
    SidecarFace,
)

CODED = SidecarFace(bytes(range(32)), b"surroundings", b"codes", b"ciphertext")
WHOLE = SidecarFace(
    bytes(range(32)), source=b"ciphertext", latent=np.linspace(-1, 1, 12, dtype=np.float16).reshape(3, 2, 2)
)
SIDECAR = Sidecar("record", "image", "lossless", "digest", (20, 30), 1448, (CODED, SidecarFace(bytes(32))))
FIRST = replace(SIDECAR, levels=0, faces=(WHOLE, SidecarFace(bytes(32))), version=1)


def test_round_trip_keeps_every_field() -> None:
    again = Sidecar.from_bytes(SIDECAR.to_bytes())
    assert again == SIDECAR
    assert again.to_bytes() == SIDECAR.to_bytes()


def test_a_sidecar_of_version_1_is_read() -> None:
    again = Sidecar.from_bytes(FIRST.to_bytes())
    assert (again.record_id, again.shape, again.version, again.levels) == ("record", (20, 30), 1, 0)
    assert (again.faces[0].commitment, again.faces[0].source) == (WHOLE.commitment, WHOLE.source)
    assert WHOLE.latent is not None
    assert again.faces[0].latent is not None
    assert np.array_equal(again.faces[0].latent, WHOLE.latent)
    assert (again.faces[1].latent, again.faces[0].codes) == (None, None)
    assert again.to_bytes() == FIRST.to_bytes()


@pytest.mark.parametrize("length", [0, 1, 7, 8, 40, 200])
def test_truncated_bytes_are_refused(length: int) -> None:
    with pytest.raises(SidecarError, match="not a readable sidecar"):
        Sidecar.from_bytes(SIDECAR.to_bytes()[:length])


def _with_header(**changes: object) -> bytes:
    header = {
        "format": "keyanon-sidecar/2",
        "record_id": "r",
        "image_id": "i",
        "fidelity": "latent",
        "prior_digest": "d",
        "shape": [2, 2],
        "faces": 1,
        "levels": 100,
        **changes,
    }
    tensors = {"0.commitment": np.zeros(32, np.uint8)}
    return safetensors.numpy.save(tensors, metadata={"keyanon": json.dumps(header)})


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "keyanon-sidecar/9"},
        {"format": ["keyanon-sidecar/2"]},
        *({"levels": value} for value in (0, -1, 2**16 + 1, 10**30, True, "1", None)),
        {"format": None},
        *(
            {"faces": value}
            for value in (0, 2, -1, 10**9, 10**30, True, 1.0, "1", None, [1], float("inf"), float("nan"))
        ),
        *(
            {"shape": value}
            for value in ([1], [1, 2, 3], "x", "12", 5, [0, 2], [2, -2], [2, 2.0], [2, 10**9], [2, True])
        ),
        *(
            {name: value}
            for name in ("record_id", "image_id", "prior_digest", "fidelity")
            for value in (None, 7, [], "\ud800")
        ),
    ],
)
def test_headers_that_lie_are_refused(changes: dict[str, object]) -> None:
    Sidecar.from_bytes(_with_header())
    with pytest.raises(SidecarError):
        Sidecar.from_bytes(_with_header(**changes))


def _container(text: str, body: bytes = bytes(32)) -> bytes:
    """A safetensors file whose JSON is any text."""
    encoded = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded + body


def _around(header: str) -> bytes:
    """A container that is right around a header that may not be."""
    tensor = '"0.commitment":{"dtype":"U8","shape":[32],"data_offsets":[0,32]}'
    return _container('{"__metadata__":{"keyanon":' + json.dumps(header) + "}," + tensor + "}")


RIGHT = (
    '{"format":"keyanon-sidecar/1","record_id":"r","image_id":"i","fidelity":"latent",'
    '"prior_digest":"d","shape":[2,2],"faces":1}'
)
DEEP = 100_000  # brackets; far more than the interpreter's stack holds


def test_json_that_breaks_parsers_is_refused_like_any_other() -> None:
    Sidecar.from_bytes(_around(RIGHT))
    hostile = {
        "nested header": _around("[" * DEEP),
        "nested container": _container("[" * DEEP),
        "nested member": _around(RIGHT.replace('"i"', "[" * DEEP + "]" * DEEP)),
        "number without end": _around(RIGHT.replace('"faces":1', '"faces":' + "9" * 10_000)),
        "infinite number": _around(RIGHT.replace('"faces":1', '"faces":1e400')),
        "infinite side": _around(RIGHT.replace("[2,2]", "[1e400,2]")),
        "not a number": _around(RIGHT.replace('"faces":1', '"faces":NaN')),
        "fraction that nothing reads": _around(RIGHT.replace('"faces":1', '"faces":1,"more":1e400')),
        "member twice": _around(RIGHT.replace('"faces":1', '"faces":0,"faces":1')),
        "tensor twice": _container(
            '{"__metadata__":{"keyanon":'
            + json.dumps(RIGHT)
            + "},"
            + ",".join(['"0.commitment":{"dtype":"U8","shape":[32],"data_offsets":[0,32]}'] * 2)
            + "}"
        ),
        "another character set": _container("")[:8] + RIGHT.encode("utf-16"),
        "not Unicode": struct.pack("<Q", 4) + b'"\xff\xfe"' + bytes(32),
        "header that is a text": _around('"format"'),
        "metadata that is a list": _container('{"__metadata__":[]}'),
    }
    for name, data in hostile.items():
        with pytest.raises(SidecarError) as error:
            Sidecar.from_bytes(data)
        assert len(str(error.value)) < 500, name


def _claiming(dtype: str, shape: str, name: str = "0.latent", size: int = 0, header: str = RIGHT) -> bytes:
    tensor = f'"0.commitment":{{"dtype":"U8","shape":[32],"data_offsets":[0,32]}},"{name}":'
    tensor += f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":[32,{32 + size}]}}'
    return _container('{"__metadata__":{"keyanon":' + json.dumps(header) + "}," + tensor + "}", bytes(32 + size))


def test_tensors_that_are_not_what_a_face_has_are_refused() -> None:
    assert Sidecar.from_bytes(_claiming("F16", "[3,2,2]", size=24)).faces[0].latent is not None
    for data in (
        _claiming("F16", "[0,4611686018427387904,4]"),
        _claiming("F16", "[3,0,2]"),
        _claiming("F16", "[-3,-2,2]", size=24),
        _claiming("F16", "[3,4]", size=24),
        _claiming("F32", "[3,2,1]", size=24),
        _claiming("BF16", "[3,2,2]", size=24),
        _claiming("I8", "[24]", name="0.source", size=24),
        _claiming("U8", "[4,6]", name="0.source", size=24),
        _claiming("U8", "[24]", name="1.source", size=24),
        _claiming("U8", "[24]", name="00.source", size=24),
        _claiming("F16", "[3,2,2]", size=24)[:-1],
        _claiming("U8", "[24]", name="0.codes", size=24),  # of version 2
    ):
        with pytest.raises(SidecarError):
            Sidecar.from_bytes(data)
    of_version_2 = RIGHT.replace('/1"', '/2"').replace('"faces":1', '"faces":1,"levels":9')
    for name in ("codes", "surroundings"):
        right = _claiming("U8", "[24]", name=f"0.{name}", size=24, header=of_version_2)
        assert getattr(Sidecar.from_bytes(right).faces[0], name) == bytes(24)
        for dtype, shape in (("I8", "[24]"), ("U8", "[4,6]")):
            with pytest.raises(SidecarError):
                Sidecar.from_bytes(_claiming(dtype, shape, name=f"0.{name}", size=24, header=of_version_2))
    half = safetensors.numpy.save({"0.commitment": np.full(16, np.nan, np.float16)}, metadata={"keyanon": RIGHT})
    with pytest.raises(SidecarError, match="commitment"):
        Sidecar.from_bytes(half)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 40_000_000,
        '{"a":' * 9_000_000,
        "[" + "[]," * 9_000_000,
        _around(RIGHT.replace('"faces":1', '"faces":4096')),
    ],
)
def test_a_hostile_header_takes_no_more_memory_than_a_right_one_could(text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else _container(text, b"")
    tracemalloc.start()
    try:
        with pytest.raises(SidecarError):
            Sidecar.from_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < 64 * MAX_HEADER_BYTES
    finally:
        tracemalloc.stop()


def test_the_largest_number_of_faces_fits_into_the_header() -> None:
    face = SidecarFace(bytes(32), b"1234567890", b"1234567890", b"1234567890")
    most = Sidecar("r" * 1024, "é" * 1024, "lossless", "0" * 64, (MAX_SIDE, MAX_SIDE), 2**16, (face,) * MAX_FACES)
    assert Sidecar.from_bytes(most.to_bytes()).to_bytes() == most.to_bytes()
    with pytest.raises(SidecarError, match="faces"):
        Sidecar.from_bytes(replace(most, faces=(face,) * (MAX_FACES + 1)).to_bytes())


def test_another_version_is_called_by_its_name() -> None:
    with pytest.raises(SidecarError, match="'keyanon-sidecar/9' is none of"):
        Sidecar.from_bytes(_with_header(format="keyanon-sidecar/9"))


def test_a_file_above_the_limit_is_refused_unread() -> None:
    with pytest.raises(SidecarError, match="exceeds the limit"):
        Sidecar.from_bytes(bytes(MAX_SIDECAR_BYTES + 1))


def test_latents_that_are_not_numbers_are_refused() -> None:
    broken = SidecarFace(bytes(32), latent=np.full((3, 2, 2), np.nan, np.float16))
    with pytest.raises(SidecarError, match="latent"):
        Sidecar.from_bytes(replace(FIRST, faces=(broken,)).to_bytes())

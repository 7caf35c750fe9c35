"""JPEGs taken apart strictly: what is refused is encoded anew, and nothing foreign reaches the C library."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyanon_core.errors import PictureError
from keyanon_core.faces.masks import PictureMask
from keyanon_core.formats import jpeg_coefficients
from keyanon_core.formats.jpeg_coefficients import read_coefficients, write_coefficients
from keyanon_core.formats.jpeg_header import CoefficientsError, JpegHeader, joined, read_header
from keyanon_core.formats.opening import open_source
from keyanon_core.imaging import decode_picture
from tests.keyanon_core.formats.pictures import as_file, decoded, scene

PLAIN = as_file(scene(50, 40), quality=80, subsampling="4:2:0")
FRAME = PLAIN.index(b"\xff\xc0")
TABLE = PLAIN.index(b"\xff\xdb")


def changed(at: int, new: bytes, source: bytes = PLAIN) -> bytes:
    return source[:at] + new + source[at + len(new) :]


# without the JFIF marker, and with components called 0, 1, 2: libjpeg guesses, others do not
RENAMED = PLAIN[:2] + changed(FRAME + 10, b"\0", changed(FRAME + 13, b"\1", changed(FRAME + 16, b"\2")))[20:]


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        (b"", "SOI"),
        (as_file(scene(8, 8), "PNG"), "SOI"),
        (PLAIN[:-2], "without EOI"),
        (PLAIN[:-2] + b"\xff", "without EOI"),
        (PLAIN[:300], "cut short|without EOI"),
        (changed(FRAME + 1, b"\xc9"), "c9"),  # arithmetic coding
        (changed(FRAME + 1, b"\xc3"), "c3"),  # lossless
        (changed(FRAME + 4, b"\x0c"), "12 bits"),
        (changed(FRAME + 5, b"\0\0"), "50 x 0"),
        (changed(FRAME + 11, b"\x31"), "powers of two"),
        (changed(FRAME + 11, b"\x00"), "powers of two"),
        (changed(FRAME + 11, b"\x84"), "powers of two"),
        (changed(FRAME + 11, b"\x11\x00\x02\x22"), "subsampled"),
        (changed(FRAME + 11, b"\x44\x00\x02\x44\x01\x03\x44"), "ten blocks"),
        (changed(FRAME + 13, b"\x01"), "components"),  # two of one name
        (changed(FRAME + 12, b"\x03"), "quantization table"),
        (changed(TABLE + 5, b"\0"), "step of zero"),
        (changed(TABLE + 4, b"\x20"), "broken quantization"),
        (PLAIN[:FRAME] + PLAIN[FRAME : FRAME + 19] + PLAIN[FRAME:], "two frames"),
        (PLAIN[:-2] + PLAIN[TABLE : TABLE + 69] + PLAIN[-2:], "after the first scan"),
        (PLAIN[:-2] + b"\xff\xdc\x00\x04\x00\x08" + PLAIN[-2:], "dc"),
        (PLAIN[:2] + b"\xff\xb1\x00\x02" + PLAIN[2:], "unknown marker"),
        (PLAIN[:2] + b"x" + PLAIN[2:], "between"),
        (PLAIN[:2] + b"\xff\xfe\x00\x02" * 5000 + PLAIN[2:], "more than"),
        (as_file(scene(8, 8), mode="CMYK"), "4 components"),
        (PLAIN[:FRAME] + b"\xff\xd9", "no picture"),
        (PLAIN[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\0" + PLAIN[2:], "YCbCr beyond doubt"),
        (RENAMED, "YCbCr beyond doubt"),
    ],
)  # fmt: skip
def test_what_is_not_regular_is_refused(encoded: bytes, why: str) -> None:
    with pytest.raises(CoefficientsError, match=why):
        read_header(encoded)


def test_fill_bytes_and_everything_after_the_picture_are_left_behind() -> None:
    odd = PLAIN[:2] + b"\xff\xff\xff\xfe\x00\x08SECRET" + PLAIN[2:] + b"SECRET" + PLAIN
    header = read_header(odd)
    assert b"SECRET" not in header.entropy_stream
    assert np.array_equal(decoded(header.entropy_stream), decoded(PLAIN))
    assert len(header.entropy_stream) <= len(PLAIN)


def test_tables_of_sixteen_bits_and_three_different_ones_come_through() -> None:
    tables = [[999] + [400] * 63, [17] * 64, [3] * 64]
    picture = scene(40, 30, noise=0)
    encoded = as_file(picture, qtables=tables[:2], subsampling=0)
    # a third table for the third component
    at = encoded.index(b"\xff\xc0") if b"\xff\xc0" in encoded else encoded.index(b"\xff\xc1")
    third = b"\xff\xdb\x00\x43\x02" + bytes(tables[2])
    encoded = encoded[:at] + third + changed(18, b"\x02", encoded[at:])
    header = read_header(encoded)
    assert [component.table[0, 0] for component in header.components] == [999, 17, 3]
    blocks = read_coefficients(header)
    again = read_header(joined(write_coefficients(header, blocks)))
    assert [component.identifier for component in again.components] == [1, 2, 3]
    assert np.array_equal(decoded(again.entropy_stream), decoded(encoded))


def test_coefficients_that_do_not_fit_their_header_are_not_written() -> None:
    header = read_header(PLAIN)
    blocks = read_coefficients(header)
    with pytest.raises(CoefficientsError, match="do not fit"):
        write_coefficients(header, [blocks[0][1:], *blocks[1:]])


def test_what_was_written_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    header = read_header(PLAIN)
    blocks = read_coefficients(header)

    def otherwise(made: JpegHeader) -> list[np.ndarray]:
        read = read_coefficients(made)
        read[2][0, 0, 7, 7] += 1
        return read

    monkeypatch.setattr(jpeg_coefficients, "read_coefficients", otherwise)
    with pytest.raises(CoefficientsError, match="coefficients are others"):
        write_coefficients(header, blocks)


def test_no_file_is_written_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file")

    for name in ("NamedTemporaryFile", "mkstemp", "TemporaryFile"):
        monkeypatch.setattr(f"tempfile.{name}", no_file)
    source = open_source(PLAIN, "same", 95, 10**6)
    assert np.array_equal(source.publish(source.pixels, []).shown, source.pixels)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_damaged_files_are_refused_or_published_as_pillow_sees_them(data: st.DataObject) -> None:
    """Bytes changed anywhere, headers and entropy-coded data alike: a PictureError, or a picture that shows what was meant."""
    source = data.draw(st.sampled_from(DAMAGED))
    encoded = bytearray(source)
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(2, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del encoded[data.draw(st.integers(2, len(encoded) - 1)) :]
    try:
        opened = open_source(bytes(encoded), "same", 95, 10**6)
    except PictureError:
        return
    mask = PictureMask.from_full(np.ones((min(opened.pixels.shape[0], 9), min(opened.pixels.shape[1], 13)), np.bool_))
    result = opened.pixels.copy()
    result[:9, :13] = 77
    made = opened.publish(result, [mask])
    assert np.array_equal(decode_picture(made.encoded, convert=False), made.shown)
    assert made.shown.shape == opened.pixels.shape


DAMAGED = [
    as_file(scene(70, 50), quality=60, progressive=True, subsampling="4:2:0"),
    as_file(scene(70, 50), quality=90, restart_marker_blocks=3, subsampling="4:4:4"),
    as_file(scene(70, 50), mode="L"),
    PLAIN,
]

"""A JPEG's quantized DCT coefficients, read and written without loss by libjpeg-turbo, through jpeglib.

jpeglib's public functions copy a source into a temporary file, and sources of this project are written to no file. So the C
functions below them are called, on anonymous memory (`memfd_create`, Linux; elsewhere CoefficientsError, and pictures are
encoded anew as a whole). They trust what they are told about sizes: they see only streams that `jpeg_header` put together, whose
one frame has the sizes that the buffers were made for, and pictures that Pillow decoded before. What was written is read back and
compared. libjpeg's remarks on damaged data go to stderr; they name no picture.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from keyanon_core.formats.jpeg_header import FRAMES, SOS, CoefficientsError, JpegHeader, Segment, read_header

LIBRARY: Final = "turbo210"  # of the libraries that jpeglib holds; the kind that Pillow decodes with
OPTIMIZE_CODING: Final = 1 << 6  # jpeglib's flag: Huffman tables made for the picture
GREYSCALE, YCBCR = 1, 3  # J_COLOR_SPACE of jpeglib.h
COMPONENTS: Final = 4  # that jpeglib has arguments for

Coefficients = npt.NDArray[np.int16]


def read_coefficients(header: JpegHeader) -> list[Coefficients]:
    """For each component its blocks (rows, columns, 8, 8) int16, quantized, vertical frequency first.

    Raises CoefficientsError, for damaged data too. libjpeg fills up what is missing at the end: decode the picture before, and
    refuse it where it is truncated.
    """
    blocks = [np.zeros((*header.blocks(component), 8, 8), np.int16) for component in header.components]
    with _memory(header.entropy_stream) as (_, path):
        # jpeglib 1.0.2 closes a file it never opened when `read_jpeg_dct` fails at the header, and dies: ask another function,
        # which fails properly, whether the header can be read. The stream holds none of the markers that this one collects.
        if not _library().read_jpeg_markers(path, ctypes.create_string_buffer(1)):
            raise CoefficientsError("libjpeg can not read its header")
        if not _library().read_jpeg_dct(path, *_pointers(blocks), None, None):
            raise CoefficientsError("its coefficients can not be read")
    return blocks


def write_coefficients(header: JpegHeader, blocks: Sequence[Coefficients]) -> tuple[Segment, ...]:
    """The segments of a sequential JPEG of these coefficients with the tables and sampling of `header`, and no metadata.

    Components are called 1, 2, 3. Raises CoefficientsError.
    """
    count = len(header.components)
    if [b.shape for b in blocks] != [(*header.blocks(component), 8, 8) for component in header.components]:
        raise CoefficientsError("coefficients that do not fit their header")
    held = [np.ascontiguousarray(b, np.int16) for b in blocks]
    factors = [1, 1] if header.grey else [f for c in header.components for f in (c.vertical, c.horizontal)]
    tables, slots = _tables(header)
    with _memory() as (descriptor, path):
        written = _library().write_jpeg_dct(
            None,  # no source: nothing of one can get into the result but through `blocks`
            path,
            *_pointers(held),
            _ints([header.height, header.width]),
            _ints([number for component in header.components for number in header.blocks(component)]),
            _ints(factors),
            GREYSCALE if header.grey else YCBCR,
            count,
            tables.ctypes.data_as(ctypes.POINTER(ctypes.c_ushort)),
            ctypes.c_short(-1),
            (ctypes.c_short * COMPONENTS)(*slots, *[-1] * (COMPONENTS - count)),
            0,
            None,
            None,
            None,
            ctypes.c_uint(OPTIMIZE_CODING),
            ctypes.c_uint(OPTIMIZE_CODING),
        )
        if not written:
            raise CoefficientsError("its coefficients can not be written")
        made = read_header(_content(descriptor))
    _compare(header, held, made)
    return tuple(_renumbered(segment, count) for segment in made.segments)


def _compare(wanted: JpegHeader, blocks: Sequence[Coefficients], made: JpegHeader) -> None:
    """Raises CoefficientsError unless what was written is what was to be."""
    size = (made.width, made.height) == (wanted.width, wanted.height)
    tables = [c.table.tobytes() for c in made.components] == [c.table.tobytes() for c in wanted.components]
    sampling = [made.steps(c) for c in made.components] == [wanted.steps(c) for c in wanted.components]
    if not (size and tables and sampling):
        raise CoefficientsError("the written header is another")
    if not all(np.array_equal(a, b) for a, b in zip(read_coefficients(made), blocks, strict=True)):
        raise CoefficientsError("the written coefficients are others")


def _tables(header: JpegHeader) -> tuple[npt.NDArray[np.uint16], list[int]]:
    """The different quantization tables, (4, 8, 8) uint16, and which each component has."""
    tables = np.ones((COMPONENTS, 8, 8), np.uint16)
    slots: list[int] = []
    found: list[bytes] = []
    for component in header.components:
        content = component.table.tobytes()
        if content not in found:
            tables[len(found)] = component.table
            found.append(content)
        slots.append(found.index(content))
    return tables, slots


def _renumbered(segment: Segment, count: int) -> Segment:
    """A frame's or a scan's header with its components called 1, 2, 3: jpeglib counts them from 0, which JFIF does not."""
    body = bytearray(segment.body)
    if segment.marker in FRAMES:
        body[6::3] = range(1, count + 1)
    elif segment.marker == SOS:
        ends = 1 + 2 * body[0]
        body[1:ends:2] = [identifier + 1 for identifier in body[1:ends:2]]
    return Segment(segment.marker, bytes(body), segment.data)


def _pointers(blocks: Sequence[Coefficients]) -> list[Any]:
    kind = ctypes.POINTER(ctypes.c_short)
    return [b.ctypes.data_as(kind) for b in blocks] + [None] * (COMPONENTS - len(blocks))


def _ints(values: Sequence[int]) -> Any:
    return (ctypes.c_int * len(values))(*values)


@cache
def _library() -> Any:
    """libjpeg-turbo as jpeglib binds it. Loaded on first use."""
    import jpeglib

    jpeglib.version.set(LIBRARY)
    return jpeglib.version._get_lib()


@contextlib.contextmanager
def _memory(content: bytes = b"") -> Iterator[tuple[int, bytes]]:
    """Anonymous memory with that content: its descriptor, and a path by which this process alone can open it."""
    try:
        descriptor = os.memfd_create("keyanon-picture", os.MFD_CLOEXEC)
    except AttributeError as error:
        raise CoefficientsError("this system has no anonymous files") from error
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        yield descriptor, f"/proc/self/fd/{descriptor}".encode()
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> bytes:
    """All bytes of an open file."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return file.read()

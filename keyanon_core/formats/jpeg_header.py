"""What a JPEG says before its pixels: ITU-T T.81 (09/92), Annex B, with the markers of JFIF and Adobe.

Strict on purpose. A file is taken apart here only if every decoder must read the same from it; any other is refused with
`CoefficientsError`, and its picture is encoded anew as a whole. What is handed on to a decoder (`entropy_stream`) is put
together here from the parts that carry the picture, so that a C library never sees a marker segment that this module has not
read: no metadata, no second frame, nothing after the end of the image.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from keyanon_core.errors import KeyanonError

SOI, EOI, SOS, DQT, DHT, DRI, DNL = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xDC
APP0, APP1, APP2, APP14, COM = 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
FRAMES: Final = {
    0xC0: False,
    0xC1: False,
    0xC2: True,
}  # baseline, extended and progressive, Huffman-coded: is it progressive
OTHER_FRAMES: Final = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xCC, 0xDE})
RESTARTS: Final = range(0xD0, 0xD8)
ZIGZAG: Final = np.array(
    [
        *(
            0,
            1,
            8,
            16,
            9,
            2,
            3,
            10,
            17,
            24,
            32,
            25,
            18,
            11,
            4,
            5,
            12,
            19,
            26,
            33,
            40,
            48,
            41,
            34,
            27,
            20,
            13,
            6,
            7,
            14,
            21,
            28,
        ),
        *(
            35,
            42,
            49,
            56,
            57,
            50,
            43,
            36,
            29,
            22,
            15,
            23,
            30,
            37,
            44,
            51,
            58,
            59,
            52,
            45,
            38,
            31,
            39,
            46,
            53,
            60,
            61,
            54,
            47,
            55,
            62,
            63,
        ),
    ]
)  # T.81 figure A.6: where the k-th coefficient of a block lies
MAX_SCANS: Final = 100  # a progressive JPEG in use has 10 or so; each costs a pass over the picture
MAX_SEGMENTS: Final = 4096

Table = npt.NDArray[np.uint16]


class CoefficientsError(KeyanonError):
    """A JPEG whose coefficients can not be kept; its picture can still be decoded and encoded anew."""


@dataclass(frozen=True)
class Segment:
    """A marker segment without marker and length; data: the entropy-coded data that follows a scan's header."""

    marker: int
    body: bytes = field(repr=False)
    data: bytes = field(default=b"", repr=False)

    def to_bytes(self) -> bytes:
        return bytes([0xFF, self.marker]) + (len(self.body) + 2).to_bytes(2, "big") + self.body + self.data


def joined(segments: Iterable[Segment]) -> bytes:
    """A file of these segments, between SOI and EOI."""
    return b"\xff\xd8" + b"".join(segment.to_bytes() for segment in segments) + b"\xff\xd9"


@dataclass(frozen=True)
class Component:
    """One colour component. horizontal, vertical: sampling factors, 1 to 4. table: (8, 8) uint16, 1 to 65535, quantization."""

    identifier: int
    horizontal: int
    vertical: int
    table: Table = field(repr=False)


@dataclass(frozen=True)
class JpegHeader:
    """One frame. width, height: px, as stored. restart_interval: MCUs, 0 for none. segments: those that the picture needs."""

    width: int
    height: int
    components: tuple[Component, ...]
    progressive: bool
    restart_interval: int
    segments: "tuple[Segment, ...]" = field(repr=False)

    @property
    def entropy_stream(self) -> bytes:
        """A JPEG file of the picture alone."""
        return joined(self.segments)

    @property
    def grey(self) -> bool:
        return len(self.components) == 1

    @property
    def most(self) -> tuple[int, int]:
        """The largest vertical and horizontal sampling factor."""
        return max(c.vertical for c in self.components), max(c.horizontal for c in self.components)

    def steps(self, component: Component) -> tuple[int, int]:
        """Picture rows and columns that one sample of a component stands for; 1, 2 or 4 each."""
        rows, columns = self.most
        return rows // component.vertical, columns // component.horizontal

    def samples(self, component: Component) -> tuple[int, int]:
        """Rows and columns of a component's samples (T.81 A.1.1)."""
        down, across = self.steps(component)
        return -(-self.height // down), -(-self.width // across)

    def blocks(self, component: Component) -> tuple[int, int]:
        """Rows and columns of a component's 8 x 8 blocks, those that only fill up an MCU left out (T.81 A.2.4)."""
        rows, columns = self.samples(component)
        return -(-rows // 8), -(-columns // 8)


def read_header(encoded: bytes) -> JpegHeader:
    """Take a JPEG apart. Raises CoefficientsError for one that is not Huffman-coded, grey or YCbCr, of 8 bits, and regular."""
    return _Reader(encoded).read()


class _Reader:
    """Walks through the marker segments of the first image in a file."""

    def __init__(self, encoded: bytes) -> None:
        self._data, self._at = encoded, 2
        self._tables: dict[int, Table] = {}
        self._frame: tuple[int, bytes] | None = None
        self._kept: list[Segment] = []
        self._jfif = False
        self._adobe: int | None = None
        self._restart = 0
        self._scans = 0

    def read(self) -> JpegHeader:
        if self._data[:2] != b"\xff\xd8":
            raise CoefficientsError("no JPEG: it does not begin with SOI")
        for _ in range(MAX_SEGMENTS):
            marker = self._marker()
            if marker == EOI:
                return self._header()
            self._segment(marker, self._body())
        raise CoefficientsError(f"more than {MAX_SEGMENTS} marker segments")

    def _marker(self) -> int:
        if self._data[self._at : self._at + 1] != b"\xff":
            raise CoefficientsError("bytes between marker segments")
        while self._data[self._at : self._at + 1] == b"\xff":  # fill bytes, T.81 B.1.1.2
            self._at += 1
        if self._at >= len(self._data):
            raise CoefficientsError("it ends without EOI")
        self._at += 1
        return self._data[self._at - 1]

    def _body(self) -> bytes:
        length = int.from_bytes(self._data[self._at : self._at + 2], "big")
        body = self._data[self._at + 2 : self._at + length]
        if length < 2 or len(body) != length - 2:
            raise CoefficientsError("a marker segment is cut short")
        self._at += length
        return body

    def _segment(self, marker: int, body: bytes) -> None:
        if marker == DQT:
            self._read_tables(body)
        elif marker in FRAMES:
            if self._frame is not None or self._scans:
                raise CoefficientsError("two frames")
            self._frame = marker, body
        elif marker == SOS:
            self._read_scan(body)
            return
        elif marker == DRI:
            if len(body) != 2:
                raise CoefficientsError("a DRI segment of wrong length")
            self._restart = int.from_bytes(body, "big")
        elif marker == APP0 and body[:5] == b"JFIF\0":
            self._jfif = True
        elif marker == APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            self._adobe = body[11]
        elif marker in OTHER_FRAMES or marker == DNL:
            raise CoefficientsError(f"a kind of JPEG (marker {marker:02x}) whose coefficients are not read")
        if marker in (DQT, DHT, DRI) or marker in FRAMES:
            self._kept.append(Segment(marker, body))
        elif not (marker in range(APP0, APP0 + 16) or marker == COM):
            raise CoefficientsError(f"an unknown marker {marker:02x}")

    def _read_tables(self, body: bytes) -> None:
        """T.81 B.2.4.1. All tables stand before the first scan, or a component's could change on the way."""
        if self._scans:
            raise CoefficientsError("quantization tables after the first scan")
        while body:
            wide, slot = body[0] >> 4, body[0] & 15
            size = 128 if wide else 64
            if wide > 1 or slot > 3 or len(body) < 1 + size:
                raise CoefficientsError("a broken quantization table")
            values = np.frombuffer(body[1 : 1 + size], ">u2" if wide else np.uint8)
            table = np.zeros(64, np.uint16)
            table[ZIGZAG] = values
            if not table.all():
                raise CoefficientsError("a quantization step of zero")
            self._tables[slot] = table.reshape(8, 8)
            body = body[1 + size :]

    def _read_scan(self, body: bytes) -> None:
        """A scan header and its entropy-coded data, up to the next marker that is no restart (T.81 B.2.3)."""
        self._scans += 1
        if self._frame is None or self._scans > MAX_SCANS:
            raise CoefficientsError("a scan before its frame, or too many scans")
        start = end = self._at
        while True:
            end = self._data.find(b"\xff", end)
            if end < 0 or end + 1 >= len(self._data):
                raise CoefficientsError("it ends without EOI")
            following = self._data[end + 1]
            if following not in RESTARTS and following != 0:
                break
            end += 2
        self._at = end
        self._kept.append(Segment(SOS, body, self._data[start:end]))

    def _header(self) -> JpegHeader:
        if self._frame is None or not self._scans:
            raise CoefficientsError("it holds no picture")
        marker, body = self._frame
        if len(body) < 6 or len(body) != 6 + 3 * body[5]:
            raise CoefficientsError("a broken frame header")
        bits, height, width, count = struct.unpack(">BHHB", body[:6])
        if bits != 8 or not height or not width:
            raise CoefficientsError(f"{bits} bits a sample, {width} x {height} px")
        components = tuple(self._component(body[6 + 3 * i : 9 + 3 * i]) for i in range(count))
        header = JpegHeader(width, height, components, FRAMES[marker], self._restart, tuple(self._kept))
        self._check(header)
        return header

    def _component(self, body: bytes) -> Component:
        horizontal, vertical, slot = body[1] >> 4, body[1] & 15, body[2]
        if slot not in self._tables:
            raise CoefficientsError("a component without its quantization table")
        return Component(body[0], horizontal, vertical, self._tables[slot])

    def _check(self, header: JpegHeader) -> None:
        """Refuse what colour or geometry makes ambiguous."""
        identifiers = [c.identifier for c in header.components]
        if len(identifiers) not in (1, 3) or len(set(identifiers)) != len(identifiers):
            raise CoefficientsError(f"{len(identifiers)} components; only grey and YCbCr keep their coefficients")
        if len(identifiers) == 3 and not self._is_ycbcr(identifiers):
            raise CoefficientsError("three components that are not YCbCr beyond doubt")
        most = header.most
        for component in header.components:
            for factor, largest in ((component.vertical, most[0]), (component.horizontal, most[1])):
                if factor not in (1, 2, 4) or largest > 4 or largest % factor:
                    raise CoefficientsError("sampling factors that are no powers of two")
        first = header.components[0]
        if (first.vertical, first.horizontal) != most:
            raise CoefficientsError("a luminance that is subsampled")
        if sum(c.vertical * c.horizontal for c in header.components) > 10:  # T.81 B.2.3
            raise CoefficientsError("more than ten blocks in an MCU")

    def _is_ycbcr(self, identifiers: list[int]) -> bool:
        """What JFIF, Adobe's marker or the usual identifiers say, as long as nothing contradicts (libjpeg guesses on)."""
        if self._adobe is not None:
            return self._adobe == 1
        return self._jfif or identifiers == [1, 2, 3]

"""Whether a Matroska or WebM file (RFC 9559) is all there. FFmpeg reads one that was cut as if it were shorter."""

from pathlib import Path
from typing import BinaryIO, Final

_HEADER: Final = bytes.fromhex("1a45dfa3")  # EBML (RFC 8794, 11.2.1)
_SEGMENT: Final = bytes.fromhex("18538067")
_LONGEST: Final = 8  # bytes of a size (RFC 8794, 6.1)


def missing_bytes(file: BinaryIO | str) -> int:
    """How many bytes lie beyond the end of a file that it says it has; 0 where it does not say, or is no Matroska file. An open
    file stays where it is. Raises OSError.
    """
    if isinstance(file, str):
        with Path(file).open("rb") as opened:
            return missing_bytes(opened)
    here = file.tell()
    try:
        end = _end(file)
        return max(end - file.seek(0, 2), 0) if end else 0
    finally:
        file.seek(here)


def _end(file: BinaryIO) -> int | None:
    """Where the first segment ends; None where that is unknown, as in what was streamed live."""
    file.seek(0)
    if file.read(len(_HEADER)) != _HEADER:
        return None
    file.seek(_size(file) or 0, 1)
    if file.read(len(_SEGMENT)) != _SEGMENT:
        return None
    size = _size(file)
    return None if size is None else file.tell() + size


def _size(file: BinaryIO) -> int | None:
    """The size of an element (RFC 8794, 6): the place of the first bit that is set says of how many bytes it is; all ones are an
    unknown one.
    """
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = _LONGEST + 1 - first[0].bit_length()
    bits = int.from_bytes(first + file.read(length - 1)) & (1 << 7 * length) - 1
    return None if bits == (1 << 7 * length) - 1 else bits

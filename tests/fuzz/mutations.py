"""Ways of breaking bytes that parsers stumble over: blind ones, and ones that keep a container's frame intact."""

import json
import struct
import zlib
from typing import Any

from hypothesis import strategies as st

INTERESTING = (0, 1, 2, 3, 127, 128, 254, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_MUTATIONS = 6
MAX_RUN = 64  # bytes that one mutation inserts, removes or repeats

NASTY_NUMBERS = (
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "-1",
    "0",
    "1.5",
    "9" * 30,
    "9" * 400,
    "9" * 5000,
    "18446744073709551616",
)
NASTY_TEXTS = ('"\\ud800"', '""', '"\\u0000"', '"' + "a" * 3000 + '"', "null", "true", "[]", "{}", '"1"', "[" * 3000)


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes after one to MAX_MUTATIONS changes at random places."""
    broken = bytearray(data)
    for _ in range(draw(st.integers(1, MAX_MUTATIONS))):
        at = draw(st.integers(0, len(broken)))
        length = draw(st.integers(1, MAX_RUN))
        match draw(st.sampled_from(("overwrite", "number", "insert", "remove", "repeat", "cut"))):
            case "overwrite":
                broken[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "number":
                order, width = draw(st.sampled_from(("little", "big"))), draw(st.sampled_from((1, 2, 4)))
                value = draw(st.sampled_from(INTERESTING)) % 256**width
                broken[at : at + width] = value.to_bytes(width, order)  # type: ignore[arg-type]
            case "insert":
                broken[at:at] = draw(st.binary(min_size=1, max_size=MAX_RUN))
            case "remove":
                del broken[at : at + length]
            case "repeat":
                broken[at:at] = broken[at : at + length]
            case "cut":
                del broken[at:]
    return bytes(broken)


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(type, body) of every chunk of a well-formed PNG."""
    chunks, at = [], len(PNG_SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += length + 12
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks, with right lengths and check sums."""
    framed = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return PNG_SIGNATURE + b"".join(framed)


PNG_KINDS = (
    b"IHDR",
    b"PLTE",
    b"IDAT",
    b"IEND",
    b"tRNS",
    b"iCCP",
    b"eXIf",
    b"zTXt",
    b"iTXt",
    b"acTL",
    b"fcTL",
    b"fdAT",
    b"gAMA",
    b"cHRM",
    b"pHYs",
    b"sRGB",
)


@st.composite
def mutated_png(draw: st.DrawFn, data: bytes) -> bytes:
    """A PNG whose chunks were changed, moved, repeated or added, behind check sums that are right."""
    chunks = png_chunks(data)
    for _ in range(draw(st.integers(1, MAX_MUTATIONS))):
        if not chunks:
            break
        at = draw(st.integers(0, len(chunks) - 1))
        kind, body = chunks[at]
        match draw(st.sampled_from(("body", "kind", "remove", "repeat", "add", "bomb"))):
            case "body":
                chunks[at] = (kind, draw(mutated(body)))
            case "kind":
                chunks[at] = (draw(st.sampled_from(PNG_KINDS)), body)
            case "remove":
                del chunks[at]
            case "repeat":
                chunks.insert(draw(st.integers(0, len(chunks))), chunks[at])
            case "add":
                chunks.insert(at, (draw(st.sampled_from(PNG_KINDS)), draw(st.binary(max_size=MAX_RUN))))
            case "bomb":
                kind = draw(st.sampled_from((b"iCCP", b"zTXt", b"iTXt", b"IDAT")))
                head = b"a\0\1\0\0\0" if kind == b"iTXt" else b"" if kind == b"IDAT" else b"a\0\0"
                chunks.insert(at, (kind, head + zlib.compress(bytes(2**20 * draw(st.sampled_from((1, 8)))))))
    return png_of(chunks)


def json_texts() -> st.SearchStrategy[str]:
    """JSON texts, well-formed or nearly so, of any shape and of the numbers and words that parsers get wrong."""
    leaves = st.one_of(
        st.sampled_from((*NASTY_NUMBERS, *NASTY_TEXTS)), st.integers().map(str), st.text(max_size=8).map(json.dumps)
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4).map(lambda parts: "[" + ",".join(parts) + "]"),
            st.lists(st.tuples(st.text(max_size=6).map(json.dumps), inner), max_size=4).map(
                lambda pairs: "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}"
            ),
        ),
        max_leaves=8,
    )


@st.composite
def mutated_json(draw: st.DrawFn, document: dict[str, Any]) -> str:
    """A JSON object with members replaced, left out, repeated or added."""
    pairs = [(json.dumps(name), json.dumps(value)) for name, value in document.items()]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(pairs) - 1, 0)))
        match draw(st.sampled_from(("replace", "remove", "repeat", "add", "inside"))):
            case "replace" if pairs:
                pairs[at] = (pairs[at][0], draw(json_texts()))
            case "remove" if pairs:
                del pairs[at]
            case "repeat" if pairs:
                pairs.append((pairs[at][0], draw(json_texts())))
            case "add":
                pairs.append((json.dumps(draw(st.text(max_size=6))), draw(json_texts())))
            case "inside" if pairs:
                text = draw(mutated(pairs[at][1].encode()))
                pairs[at] = (pairs[at][0], text.decode("utf-8", "replace"))
            case _:
                pass
    return "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}"

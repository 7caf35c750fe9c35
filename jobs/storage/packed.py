"""Many contents in one object, as an Arrow stream: it is the number of requests to a bucket that costs."""

from collections.abc import Iterable

import pyarrow as pa

_SCHEMA = pa.schema([("name", pa.string()), ("content", pa.large_binary())])


def pack(entries: Iterable[tuple[str, bytes]]) -> bytes:
    """Names and contents in one."""
    names, contents = ([], []) if not (listed := list(entries)) else zip(*listed, strict=True)
    table = pa.table([pa.array(names, pa.string()), pa.array(contents, pa.large_binary())], schema=_SCHEMA)
    packed = pa.BufferOutputStream()
    with pa.ipc.new_stream(packed, _SCHEMA) as stream:
        stream.write_table(table)
    return bytes(packed.getvalue())


def unpack(packed: bytes) -> dict[str, bytes]:
    """Contents by name; nothing where it is not whole, or was not made by `pack`."""
    try:
        table = pa.ipc.open_stream(packed).read_all()
    except (pa.ArrowException, OSError):
        return {}
    if not table.schema.equals(_SCHEMA):
        return {}
    return dict(zip(table["name"].to_pylist(), table["content"].to_pylist(), strict=True))

"""Whatever bytes are put before a reader, the error it documents comes out, or a value that is whole; nothing else.

Examples are few and fixed in the normal suite. `KEYANON_FUZZ_EXAMPLES=100000 pytest tests/fuzz --timeout 0` searches for long;
what it finds goes into `bad_input.json` with the fix.
"""

import io
import json
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keyanon_core.clips.piece import MAGIC
from keystore.intake.shards import OLD_SHARD_MAGIC
from tests.fuzz import seeds, targets
from tests.fuzz.conftest import PROFILE
from tests.fuzz.mutations import json_texts, mutated, mutated_json, mutated_png

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on what it reads

FORMATS = sorted(seeds.pictures())
searched = settings(settings.get_profile(PROFILE))


def seeds_are_accepted() -> list[tuple[str, bytes]]:
    still = [
        ("picture", data) for name, data in seeds.pictures().items() if "animated" not in name and "pages" not in name
    ]
    return [
        *still,
        *(("piece", data) for data in seeds.pieces().values()),
        *(("published_piece", data) for data in seeds.published_pieces().values()),
        ("piece_time", seeds.PIECE_TIME.encode()),
        ("sidecar", seeds.sidecar()),
        ("sidecar", seeds.sidecar(version=1)),
        *(("mask", data) for data in seeds.masks()),
        ("face", seeds.face_text().encode()),
        ("record", seeds.record()),
        ("sealed", seeds.sealed()),
        ("shard", seeds.shard_of(seeds.shard())),
        ("ingest_key", seeds.ingest_key()),
        ("parquet", seeds.parquet()),
        ("recognizer", seeds.recognizer()),
        *(("tar", data) for data in seeds.tars().values()),
    ]


def test_every_reader_accepts_what_the_mutations_start_from() -> None:
    for name, data in seeds_are_accepted():
        assert targets.TARGETS[name](data), name


@pytest.mark.parametrize("name", FORMATS)
@searched
@given(data=st.data())
def test_pictures_with_broken_bytes(name: str, data: st.DataObject) -> None:
    broken = data.draw(mutated(seeds.pictures()[name]))
    targets.picture(broken)
    targets.inspected(broken)
    targets.republished(broken)


@pytest.mark.parametrize("name", [name for name in FORMATS if name.startswith("png")])
@searched
@given(data=st.data())
def test_pngs_with_broken_chunks_behind_right_check_sums(name: str, data: st.DataObject) -> None:
    targets.picture(data.draw(mutated_png(seeds.pictures()[name])))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@searched
@given(exif=mutated(seeds.exif_bytes()), profile=st.one_of(st.none(), mutated(seeds.profile_bytes())))
def test_pictures_with_broken_metadata(kind: str, exif: bytes, profile: bytes | None) -> None:
    picture = Image.fromarray(np.full((8, 8, 3), 77, np.uint8))
    out = io.BytesIO()
    try:
        picture.save(out, kind, icc_profile=profile, **({} if kind == "TIFF" else {"exif": exif}))
    except Exception:  # noqa: BLE001 - Pillow would not write it; the reader is what is tried
        return
    targets.inspected(out.getvalue())
    assert targets.picture(out.getvalue()), "broken metadata costs nobody the picture"
    assert targets.republished(out.getvalue())


@searched
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_by_every_reader(data: bytes) -> None:
    for name in (
        "picture",
        "piece",
        "published_piece",
        "piece_time",
        "sidecar",
        "mask",
        "face",
        "record",
        "sealed",
        "shard",
        "ingest_key",
        "recognizer",
    ):
        targets.TARGETS[name](data)


@pytest.mark.parametrize("codec", sorted(seeds.pieces()))
@searched
@given(data=st.data())
def test_pieces_with_broken_bytes(codec: str, data: st.DataObject) -> None:
    targets.piece(data.draw(mutated(seeds.pieces()[codec])))


@searched
@given(data=st.data())
def test_pieces_whose_header_lies(data: st.DataObject) -> None:
    whole = seeds.pieces()["libx264"]
    at = len(MAGIC) + 8
    length = int.from_bytes(whole[len(MAGIC) : at])
    header = json.loads(whole[at : at + length])
    form = data.draw(st.one_of(st.just(json.dumps(header["form"])), mutated_json(header["form"])))
    rest = {name: value for name, value in header.items() if name != "form"}
    said = data.draw(st.one_of(st.just(json.dumps(rest)), mutated_json(rest)))
    text = ('{"form":' + form + "," + said.lstrip()[1:]).encode("utf-8", "surrogatepass")
    targets.piece(MAGIC + len(text).to_bytes(8) + text + whole[at + length :])


@pytest.mark.parametrize("container", sorted(seeds.published_pieces()))
@searched
@given(data=st.data())
def test_published_pieces_with_broken_bytes(container: str, data: st.DataObject) -> None:
    targets.published_piece(data.draw(mutated(seeds.published_pieces()[container])))


@searched
@given(text=st.one_of(mutated_json(json.loads(seeds.PIECE_TIME)), mutated_json(seeds.PIECE_START), json_texts()))
def test_places_of_pieces_of_any_json(text: str) -> None:
    targets.piece_time(text.encode("utf-8", "surrogatepass"))
    targets.piece_time(('{"keyanon_piece":' + text + "}").encode("utf-8", "surrogatepass"))


@searched
@given(data=st.sampled_from([seeds.sidecar(), seeds.sidecar(version=1)]).flatmap(mutated))
def test_sidecars_with_broken_bytes(data: bytes) -> None:
    targets.sidecar(data)


@searched
@given(header=st.one_of(mutated_json(seeds.SIDECAR_HEADER), json_texts()))
def test_sidecars_whose_header_lies(header: str) -> None:
    length = struct.unpack_from("<Q", seeds.sidecar())[0]
    container = json.loads(seeds.sidecar()[8 : 8 + length])
    container["__metadata__"]["keyanon"] = header
    targets.sidecar(seeds.sidecar_of(json.dumps(container), seeds.sidecar()[8 + length :]))


@searched
@given(data=st.data())
def test_sidecars_whose_container_lies(data: st.DataObject) -> None:
    length = struct.unpack_from("<Q", seeds.sidecar())[0]
    container = json.loads(seeds.sidecar()[8 : 8 + length])
    for name in data.draw(st.lists(st.sampled_from(sorted(container)), max_size=2)):
        if name != "__metadata__" and isinstance(container[name], dict):
            text = data.draw(mutated_json(container[name]))
            try:
                container[name] = json.loads(text)
            except (ValueError, RecursionError):
                continue
    text = data.draw(st.one_of(st.just(json.dumps(container)), mutated_json(container)))
    targets.sidecar(
        seeds.sidecar_of(text, data.draw(st.one_of(st.just(seeds.sidecar()[8 + length :]), st.binary(max_size=64))))
    )


@searched
@given(data=st.sampled_from(seeds.masks()).flatmap(mutated))
def test_masks_with_broken_bytes(data: bytes) -> None:
    targets.mask(data)


@searched
@given(text=st.one_of(mutated_json(seeds.FACE), json_texts()))
def test_faces_of_any_json(text: str) -> None:
    targets.face(text.encode("utf-8", "surrogatepass"))


@searched
@given(text=st.one_of(mutated_json(json.loads(seeds.record())), json_texts()))
def test_records_of_any_json(text: str) -> None:
    targets.record(text.encode("utf-8", "surrogatepass"))


@searched
@given(data=mutated(seeds.sealed()))
def test_sealed_records_with_broken_bytes(data: bytes) -> None:
    targets.sealed(data)


@searched
@given(text=st.one_of(json_texts(), mutated_json(dict.fromkeys(("record_id", "run_id", "dataset", "key_id"), "x"))))
def test_sealed_records_whose_header_lies(text: str) -> None:
    header = text.encode("utf-8", "surrogatepass")
    targets.sealed(b"KASEAL01" + struct.pack(">I", len(header)) + header + b"ciphertext")
    head = struct.pack(">I", len(header)) + header + b"ciphertext"
    targets.sealed(b"KASEAL02" + struct.pack(">I", len(head)) + head + b"x" * 200)


@searched
@given(body=st.one_of(mutated(seeds.shard()), st.binary(max_size=64)))
def test_shards_behind_a_right_digest(body: bytes) -> None:
    targets.shard(seeds.shard_of(body))


@searched
@given(body=st.one_of(mutated(seeds.old_shard()), st.binary(max_size=64)))
def test_shards_of_version_1_behind_a_right_digest(body: bytes) -> None:
    targets.shard(seeds.shard_of(body, OLD_SHARD_MAGIC))


@searched
@given(data=mutated(seeds.ingest_key()))
def test_ingest_keys_with_broken_bytes(data: bytes) -> None:
    targets.ingest_key(data)


@searched
@given(data=mutated(seeds.parquet()))
def test_parquet_files_with_broken_bytes(data: bytes) -> None:
    targets.parquet(data)


@searched
@given(data=mutated(seeds.recognizer()))
def test_recognizers_with_broken_bytes(data: bytes) -> None:
    targets.recognizer(data)


@searched
@given(data=st.data())
def test_tar_shards_with_broken_bytes(data: st.DataObject) -> None:
    targets.tar(data.draw(mutated(seeds.tars()[data.draw(st.sampled_from(sorted(seeds.tars())))])))


HEADER_FIELDS = (
    (0, 100),
    (100, 8),
    (124, 12),
    (136, 12),
    (148, 8),
    (156, 1),
    (157, 100),
    (257, 8),
    (345, 155),
    (386, 97),
)
FIELD_VALUES = st.one_of(
    st.binary(max_size=12),
    st.integers(-(2**70), 2**70).map(lambda number: b"%o\0" % number if number >= 0 else b"-%o" % -number),
    st.integers(0, 2**90).map(lambda number: b"\x80" + number.to_bytes(12, "big")[1:]),
    st.sampled_from(list(b"0123456789xgLKSD")).map(lambda kind: bytes([kind])),
    st.sampled_from([b"../a.jpg", b"/a.jpg", b"./", b"a.jpg", b"1.1 a=b\n", b"99999999 size=1\n", b"14 size=9999\n"]),
)


@searched
@given(
    kind=st.sampled_from(sorted(seeds.tars())),
    changes=st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from(HEADER_FIELDS), FIELD_VALUES), min_size=1, max_size=4
    ),
    summed=st.booleans(),
)
def test_tar_shards_whose_headers_lie_behind_right_check_sums(
    kind: str, changes: list[tuple[int, tuple[int, int], bytes]], summed: bool
) -> None:
    """summed: blocks that are no header, as those of PAX attributes, are changed as well, without a sum."""
    shard = bytearray(seeds.tars()[kind])
    for block, (at, size), value in changes:
        start = block * 512
        if start + 512 <= len(shard) and (summed or shard[start + 257 : start + 262] == b"ustar"):
            shard[start + at : start + at + min(size, len(value))] = value[:size]
            if shard[start + 257 : start + 262] == b"ustar":
                shard[start + 148 : start + 156] = b" " * 8
                shard[start + 148 : start + 156] = b"%06o\0 " % sum(shard[start : start + 512])
    targets.tar(bytes(shard))


VALUES = {
    pa.binary(): st.binary(max_size=8),
    pa.large_binary(): st.binary(max_size=8),
    pa.string(): st.text(max_size=8),
    pa.large_string(): st.text(max_size=8),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float64(): st.floats(),
    pa.bool_(): st.booleans(),
    pa.binary(4): st.binary(min_size=4, max_size=4),
    pa.list_(pa.binary()): st.lists(st.binary(max_size=4), max_size=3),
    pa.null(): st.none(),
    pa.dictionary(pa.int32(), pa.string()): st.sampled_from(["a", "b"]),
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]): st.one_of(
        st.none(),
        st.fixed_dictionaries({"bytes": st.one_of(st.none(), st.binary(max_size=4)), "path": st.text(max_size=4)}),
    ),
    pa.struct([("bytes", pa.binary())]): st.fixed_dictionaries({"bytes": st.one_of(st.none(), st.binary(max_size=4))}),
    pa.struct([("bytes", pa.string())]): st.fixed_dictionaries({"bytes": st.text(max_size=4)}),
    pa.struct([("path", pa.string())]): st.fixed_dictionaries({"path": st.text(max_size=4)}),
}
NAMES = (
    "image",
    "id",
    "subject",
    "status",
    "image_id",
    "source_status",
    "keyanon_row",
    "keyanon_id",
    "",
    "ä",
    "record_id",
)


@st.composite
def odd_tables(draw: st.DrawFn) -> pa.Table:
    """Up to five rows of columns of any type, under names that the output's own columns have or the options ask for."""
    rows = draw(st.integers(0, 5))
    names = draw(st.lists(st.sampled_from(NAMES), max_size=5, unique=draw(st.booleans())))
    if draw(st.booleans()):
        names = ["image", *(name for name in names if name != "image")]
    columns, fields = [], []
    for name in names:
        likely = [kind for kind in VALUES if "binary" in str(kind) or pa.types.is_struct(kind)]
        kind = draw(st.sampled_from(likely if name == "image" else list(VALUES)))
        nullable = kind == pa.null() or draw(st.booleans())
        value = st.one_of(st.none(), VALUES[kind]) if nullable else VALUES[kind]
        if not nullable and pa.types.is_struct(kind):
            value = value.filter(lambda item: item is not None)
        columns.append(pa.array(draw(st.lists(value, min_size=rows, max_size=rows)), kind))
        fields.append(pa.field(name, kind, nullable))
    return pa.table(columns, schema=pa.schema(fields))


@searched
@given(
    table=odd_tables(),
    chosen=st.fixed_dictionaries(
        {}, optional={"id_column": st.sampled_from(NAMES[1:]), "subject_column": st.sampled_from(NAMES[1:])}
    ),
    group=st.integers(1, 4),
)
def test_parquet_of_any_schema(
    tmp_path_factory: pytest.TempPathFactory, table: pa.Table, chosen: dict[str, str], group: int
) -> None:
    path = tmp_path_factory.mktemp("odd") / "photos" / "a.parquet"
    path.parent.mkdir()
    pq.write_table(table, path, row_group_size=group)
    targets.read_parquet(path, **chosen)

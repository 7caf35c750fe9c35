"""Clips in a column of Parquet, without Ray: read as those of a folder are, and each row that can not be used says why."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import LocalFileSystem

from jobs.blocks import ENCODED, FAILURE, ID, ROW, SUBJECT
from jobs.errors import SourceError
from jobs.sources import clip_cells
from jobs.sources.clips import Clips
from jobs.sources.parquet import ParquetSource
from jobs.sources.source import open_source
from keyanon_core.clips.frames import decode_piece
from keyanon_core.clips.piece import Piece
from keystore.intake.records import MAX_NAME_CHARACTERS
from tests.jobs.conftest import MakeConfig
from tests.jobs.seaweed import BUCKET, Seaweed
from tests.jobs.sources.test_clips import open_clips, pieces_of, read_all, reasons
from tests.jobs.tiny_clips import HEIGHT, WIDTH, tiny_clip

MAX_PIXELS = 10**7
SHORT = 3  # frames


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A clip of two pieces, and a short one of each container."""
    folder = tmp_path_factory.mktemp("clips")
    short = {kind: tiny_clip(folder / f"short.{kind}", frames=SHORT, shade=90) for kind in ("mp4", "mov", "mkv")}
    return {"long": tiny_clip(folder / "long.mp4"), **short}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def write(path: Path, columns: dict[str, Any], group: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)


def shades(source: Clips) -> dict[str, list[int]]:
    """The grey levels of each clip's frames, as its pieces decode."""
    found: dict[str, list[int]] = {}
    for row in read_all(source):
        strip = decode_piece(Piece.from_bytes(row[ENCODED]), MAX_PIXELS)
        assert strip.pixels.shape[1:] == (WIDTH, 3) and strip.height == HEIGHT
        found.setdefault(row[ID].rpartition("/")[0], []).extend(int(frame.mean()) for frame in strip.frames())
    return found


def named(source: Clips) -> dict[str, str]:
    """Codes of the reasons why clips can not be used, "" of the others, by the clips' names."""
    said = reasons(source)
    return {clip.name: said[source.ids[clip.rows[0]]] for clip in source.clips}


def bytes_read() -> int:
    """By this process, of all files."""
    said = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(said["rchar"])


@pytest.mark.parametrize("group", [1, 2, 100])
def test_each_piece_of_a_column_of_clips_is_a_row_that_decodes(
    photos: Path, make_config: MakeConfig, made: dict[str, bytes], group: int
) -> None:
    columns = {"id": ["b", "sub/a.mp4", "c"], "image": [made["long"], made["mp4"], made["mkv"]]}
    write(photos / "clips.parquet", columns, group)
    source = open_clips(make_config, id_column="id")
    rows = read_all(source, rows=3)
    ids = [*pieces_of("b.mp4"), "c.mkv/000000000.mkv", "sub/a.mp4/000000000.mp4"]
    assert [row[ID] for row in rows] == ids == [source.ids[at] for at in range(source.total)]
    assert [row[ROW] for row in rows] == [0, 1, 2, 3] and not any(row[FAILURE] for row in rows)
    found = shades(source)
    assert [len(found[name]) for name in ("b.mp4", "c.mkv", "sub/a.mp4")] == [40, SHORT, SHORT]
    assert max(abs(shade - 3 * at) for at, shade in enumerate(found["b.mp4"])) <= 3
    assert max(abs(shade - 90 - 3 * at) for at, shade in enumerate(found["c.mkv"])) <= 3
    assert (source.kind, source.schema, source.image_column) == ("clips", None, None)
    later = read_all(source, frozenset({0, 2}))
    assert [(row[ROW], row[ID]) for row in later] == [(1, ids[1]), (3, ids[3])], "a resumed run reads no other"


def test_rows_without_an_id_column_are_called_by_file_and_row_and_their_container(
    photos: Path, make_config: MakeConfig, made: dict[str, bytes]
) -> None:
    cells = [{"bytes": made[kind], "path": f"of {kind}"} for kind in ("mp4", "mov", "mkv")]
    write(photos / "more" / "x.parquet", {"video": cells, "label": [1, 2, 3]}, 2)
    source = open_clips(make_config, image_column="video")
    expected = [f"more/x.parquet#{at}.{kind}" for at, kind in enumerate(("mp4", "mov", "mkv"))]
    assert [clip.name for clip in source.clips] == expected
    assert set(reasons(source).values()) == {""}
    alone = open_clips(make_config, image_column="video", photos=photos / "more" / "x.parquet")
    assert alone.clips[0].name == "x.parquet#0.mp4"


def test_each_row_that_can_not_be_used_says_why_and_costs_no_other(
    photos: Path, make_config: MakeConfig, made: dict[str, bytes], face_png: bytes
) -> None:
    good = made["mp4"]
    rows: list[tuple[str | None, bytes | None]] = [
        ("null", None),
        ("empty", b""),
        ("broken", good[:40] + b"\0" * 400),
        ("cut.mp4", made["long"][: len(made["long"]) // 2]),
        ("noise.mp4", b"\0" * 400),
        ("picture", face_png[:200]),
        ("large", made["long"]),
        (None, good),
        ("", good),
        ("../up", good),
        ("/rooted.mp4", good),
        ("a/../../b.mp4", good),
        ("n" * 2000, good),
        ("nul\0", good),
        ("twice", good),
        ("twice", made["mkv"]),
        ("twice.mp4", good),
        ("twice.mp4.json/in", good),
        ("fine", good),
        ("fine.mp4/in", good),
        ("above/in", good),
        ("above", b"no clip"),
        ("m" * (MAX_NAME_CHARACTERS - 5), good),
        ("beside.mp4.json/in", good),
        ("beside.mp4", good),
    ]
    write(photos / "x.parquet", {"id": [name for name, _ in rows], "image": [clip for _, clip in rows]}, 5)
    source = open_clips(make_config, id_column="id", max_file_bytes=len(made["long"]) - 1)
    assert named(source) == {
        "null": "null_image",
        "empty": "not_a_clip",
        "broken.mp4": "not_a_clip",
        "cut.mp4": "not_a_clip",
        "noise.mp4": "not_a_clip",
        "picture": "not_a_clip",
        "large": "too_large",
        "x.parquet#7": "missing_id",
        "x.parquet#8": "missing_id",
        "x.parquet#9": "bad_id",
        "x.parquet#10": "bad_id",
        "x.parquet#11": "bad_id",
        "x.parquet#12": "bad_id",
        "x.parquet#13": "bad_id",
        "twice.mp4": "",
        "x.parquet#15": "duplicate_id",
        "x.parquet#16": "duplicate_id",
        "x.parquet#17": "output_clash",
        "fine.mp4": "",
        "x.parquet#19": "output_clash",
        "above/in.mp4": "",
        "x.parquet#21": "output_clash",
        "x.parquet#22": "bad_id",
        "beside.mp4.json/in.mp4": "",
        "x.parquet#24": "output_clash",
    }
    said = {row[ID]: row[FAILURE] for row in read_all(source)}
    assert said["x.parquet#16"] == "duplicate_id: x.parquet#14 has the same id, or one that makes the same name"
    assert "pictures are run apart" in said["picture"] and "no plain path" in said["x.parquet#9"]
    usable = [row for row in read_all(source) if row[ENCODED] is not None]
    assert len(usable) == 4 and all(decode_piece(Piece.from_bytes(row[ENCODED]), MAX_PIXELS) for row in usable)


def test_an_id_that_another_row_is_called_by_its_place_meets_none(
    photos: Path, make_config: MakeConfig, made: dict[str, bytes]
) -> None:
    clips = [b"no clip", made["mp4"], None, made["mp4"]]
    write(photos / "d" / "x.parquet", {"id": ["d/x.parquet#2", "good", None, "d"], "image": clips})
    assert named(open_clips(make_config, id_column="id")) == {
        "d/x.parquet#2": "not_a_clip",
        "good.mp4": "",
        "d~x.parquet#2~": "missing_id",
        "d.mp4": "",
    }


def test_a_damaged_row_group_costs_its_own_rows(photos: Path, make_config: MakeConfig, made: dict[str, bytes]) -> None:
    path = photos / "x.parquet"
    write(path, {"id": ["a", "b", "c", "d"], "image": [made["mp4"]] * 4}, 2)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(1)
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    damaged = bytearray(path.read_bytes())
    damaged[begin : begin + 200] = b"\xff" * 200
    path.write_bytes(damaged)
    source = open_clips(make_config, id_column="id")
    assert named(source) == {"a.mp4": "", "b.mp4": "", "c": "unreadable", "d": "unreadable"}
    (said,) = [row[FAILURE] for row in read_all(source) if row[ID] == "c"]
    assert said.startswith("unreadable: row group 1 of its file is damaged")


def test_subjects_hold_for_the_pieces_of_their_rows(
    photos: Path, make_config: MakeConfig, made: dict[str, bytes]
) -> None:
    clips = [made["long"], made["mp4"], made["mp4"], made["mp4"]]
    write(photos / "x.parquet", {"who": ["anna", None, "", "bert"], "id": [1, 2, 3, 4], "image": clips})
    source = open_clips(make_config, id_column="id", subject_column="who")
    rows = {row[ID]: (row[SUBJECT], (row[FAILURE] or "").split(":")[0]) for row in read_all(source)}
    assert rows == {
        **dict.fromkeys(pieces_of("1.mp4"), ("anna", "")),
        "2.mp4/000000000.mp4": (None, ""),
        "x.parquet#2": (None, "bad_subject"),
        "4.mp4/000000000.mp4": ("bert", ""),
    }


def test_all_other_columns_stand_beside_what_is_published(
    photos: Path, make_config: MakeConfig, made: dict[str, bytes]
) -> None:
    clips = [{"bytes": one, "path": "x"} for one in (made["mp4"], b"none", made["mkv"])]
    first = {"id": ["a", "b", "c"], "image": clips, "label": [1, 2, 3], "said": [{"text": "x", "n": [1]}, None, None]}
    write(photos / "kind=x" / "one.parquet", first, 2)
    write(photos / "kind=y" / "two.parquet", {name: values[:1] for name, values in first.items()} | {"id": ["d"]})
    source = open_clips(make_config, id_column="id")
    found = source.rows_of_clips({"a.mp4": "clips/a.mp4", "d.mp4": "clips/d.mp4"})
    assert found is not None
    schema, tables = found
    table = pa.concat_tables(tables)
    assert table.schema.equals(schema) and schema.names == ["id", "image", "label", "said", "kind"]
    assert table.to_pydict() == {
        "id": ["a", "b", "c", "d"],
        "image": ["clips/a.mp4", None, None, "clips/d.mp4"],
        "label": [1, 2, 3, 1],
        "said": [*first["said"], first["said"][0]],
        "kind": ["x", "x", "x", "y"],
    }
    (photos / "kind=y" / "two.parquet").unlink()
    with pytest.raises(OSError):
        list(source.rows_of_clips({})[1])  # type: ignore[index]


def test_a_column_of_clips_alone_tells_what_is_published(
    photos: Path, make_config: MakeConfig, made: dict[str, bytes]
) -> None:
    write(photos / "x.parquet", {"image": [b"none", made["mp4"]]})
    source = open_clips(make_config)
    _, tables = source.rows_of_clips({"x.parquet#1.mp4": "clips/x.parquet#1.mp4"}) or (None, iter(()))
    assert pa.concat_tables(tables).to_pydict() == {"image": [None, "clips/x.parquet#1.mp4"]}
    write(photos / "x.parquet", {"image": [made["mp4"]]})
    with pytest.raises(ValueError, match="has 1 rows, and had 2"):
        list(source.rows_of_clips({})[1])  # type: ignore[index]


@pytest.mark.parametrize("first", ["a clip", "a picture"])
def test_what_a_column_begins_with_says_what_it_holds(
    photos: Path, make_config: MakeConfig, made: dict[str, bytes], face_png: bytes, first: str
) -> None:
    both = [made["mov"], face_png] if first == "a clip" else [face_png, made["mov"]]
    write(photos / "x.parquet", {"image": [None, b"", b"neither", *both]}, 2)
    source = open_source(make_config())
    assert isinstance(source, Clips if first == "a clip" else ParquetSource)


@pytest.mark.parametrize("compression", ["none", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("as_structs", [False, True])
def test_of_pictures_no_page_is_read_before_the_run(
    photos: Path,
    made: dict[str, bytes],
    face_png: bytes,
    face_jpeg: bytes,
    compression: str,
    *,
    as_structs: bool,
) -> None:
    path, noise = photos / "x.parquet", os.urandom(1_000_000)
    for first, is_clip in ((made["mp4"], True), (face_png, False), (face_jpeg, False)):
        values: list[Any] = [first + noise] * 8
        cells = [{"bytes": one, "path": "x"} for one in values] if as_structs else values
        pq.write_table(pa.table({"n": range(8), "image": cells}), path, compression=compression)
        before = bytes_read()
        assert clip_cells.hold_clips(LocalFileSystem(), [str(path)], "image") == is_clip
        assert (bytes_read() - before > len(noise)) == is_clip


@pytest.mark.parametrize("cells", [[None, None], [b"", b"x"], pa.array([], pa.binary())])
def test_a_column_without_a_clip_is_one_of_pictures(photos: Path, make_config: MakeConfig, cells: Any) -> None:
    write(photos / "x.parquet", {"image": pa.array(cells, pa.binary())})
    write(photos / "y.parquet", {"image": [b"x"]})
    assert isinstance(open_source(make_config()), ParquetSource)


def test_it_is_not_looked_for_a_clip_without_end(
    photos: Path, make_config: MakeConfig, made: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(photos / "x.parquet", {"image": pa.array([None] * 5 + [b"x"] * 3 + [made["mp4"]], pa.binary())}, 3)
    assert isinstance(open_source(make_config()), Clips)
    monkeypatch.setattr(clip_cells, "LOOKED_AT", 3)
    assert isinstance(open_source(make_config()), ParquetSource)
    monkeypatch.setattr(clip_cells, "LOOKED_AT", 4)
    assert isinstance(open_source(make_config()), Clips)
    monkeypatch.setattr(clip_cells, "LOOKED_THROUGH", 8)
    assert isinstance(open_source(make_config()), ParquetSource)


@pytest.mark.parametrize("as_structs", [False, True])
def test_clips_that_a_column_names_are_read_below_the_photos_alone(
    photos: Path, make_config: MakeConfig, made: dict[str, bytes], as_structs: bool
) -> None:
    (photos / "videos").mkdir()
    (photos / "videos" / "a.mp4").write_bytes(made["long"])
    (photos / "videos" / "b.mkv").write_bytes(made["mkv"])
    (photos.parent / "secret.mp4").write_bytes(made["mp4"])
    (photos / "videos" / "link.mp4").symlink_to(photos.parent / "secret.mp4")
    os.mkfifo(photos / "videos" / "pipe.mp4")
    names = ["videos/a.mp4", f"file://{photos}/videos/b.mkv", "videos/gone.mp4", "../secret.mp4"]
    names += ["videos/link.mp4", "http://localhost/a.mp4", None, "videos/pipe.mp4"]  # type: ignore[list-item]
    ids = list("abcdefgh")
    cells: list[Any] = [{"bytes": None, "path": name} for name in names] if as_structs else names
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if as_structs else pa.string()
    write(photos / "x.parquet", {"id": ids, "image": pa.array(cells, kind)}, 3)
    source = open_clips(make_config, id_column="id", include=["*.parquet"])
    assert named(source) == {
        "a.mp4": "",
        "b.mkv": "",
        "c": "missing_image",
        "d": "bad_reference",
        "e": "bad_reference",
        "f": "bad_reference",
        "g": "null_image",
        "h": "unreadable",
    }
    before = source.versions[:].tolist()
    os.utime(photos / "videos" / "a.mp4", (1, 1))
    changed = open_clips(make_config, id_column="id", include=["*.parquet"]).versions[:].tolist()
    assert [one != other for one, other in zip(before, changed, strict=True)] == [True, True, *[False] * 7]
    (photos / "videos" / "b.mkv").unlink()
    (photos / "videos" / "b.mkv").symlink_to(photos.parent / "secret.mp4")
    assert reasons(source)["b.mkv/000000000.mkv"] == "bad_reference", "what became a link leads nowhere else"


def test_files_of_named_clips_and_of_clips_are_run_apart(
    photos: Path, make_config: MakeConfig, made: dict[str, bytes]
) -> None:
    (photos / "a.mp4").write_bytes(made["mp4"])
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    write(photos / "0.parquet", {"image": pa.array([], kind)})
    write(photos / "1.parquet", {"image": pa.array([{"bytes": None, "path": "a.mp4"}], kind)})
    assert named(open_clips(make_config, include=["*.parquet"])) == {"1.parquet#0.mp4": ""}
    write(photos / "2.parquet", {"image": pa.array([{"bytes": made["mp4"], "path": "a.mp4"}], kind)})
    with pytest.raises(SourceError, match=r"2\.parquet: column 'image' of one of the files holds clips"):
        open_clips(make_config, include=["*.parquet"])


@pytest.mark.parametrize("became", ["another clip", "nothing", "null", "no Parquet", "fewer rows"])
def test_a_cell_that_changes_after_listing_has_rows_with_a_reason(
    photos: Path, make_config: MakeConfig, made: dict[str, bytes], became: str
) -> None:
    path, columns = photos / "x.parquet", {"id": ["a", "b"], "image": [made["long"], made["mp4"]]}
    write(path, columns)
    source = open_clips(make_config, id_column="id")
    if became == "nothing":
        path.unlink()
    elif became == "no Parquet":
        path.write_bytes(b"nothing of Parquet")
    elif became == "fewer rows":
        write(path, {"id": ["b"], "image": [made["mp4"]]})
    else:
        write(path, {**columns, "image": [None if became == "null" else made["mov"], made["mp4"]]})
    first = {"another clip": "changed", "null": "null_image", "fewer rows": "changed"}.get(became, "unreadable")
    other = "" if became in ("another clip", "null") else "unreadable"
    expected = {**dict.fromkeys(pieces_of("a.mp4"), first), "b.mp4/000000000.mp4": other}
    assert reasons(source) == expected


def test_a_touched_file_is_another_listing(photos: Path, make_config: MakeConfig, made: dict[str, bytes]) -> None:
    write(photos / "x.parquet", {"image": [made["mp4"]]})
    first, again = open_clips(make_config), open_clips(make_config)
    assert (first.digest, first.versions[:].tolist()) == (again.digest, again.versions[:].tolist())
    os.utime(photos / "x.parquet", (1, 1))
    touched = open_clips(make_config)
    assert touched.digest != first.digest and touched.versions[:].tolist() != first.versions[:].tolist()


def test_sound_is_read_from_the_cell(photos: Path, tmp_path: Path, make_config: MakeConfig) -> None:
    heard = tiny_clip(tmp_path / "heard.mp4", frames=SHORT, sound=True)
    write(photos / "x.parquet", {"image": [heard, heard]})
    source = open_clips(make_config)
    with source.opened(source.clips[1].path) as file:
        assert file.read() == heard


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"boxes_column": "who"}, "boxes_column who is of pictures"),
        ({"permanent_column": "who"}, "permanent_column who is of pictures"),
        ({"image_root": "."}, "holds clips and no names; leave out image_root"),
        ({"id_column": "nowhere"}, "no column called 'nowhere'"),
    ],
)
def test_settings_that_are_not_of_clips_are_refused(
    photos: Path, make_config: MakeConfig, made: dict[str, bytes], settings: dict[str, str], message: str
) -> None:
    write(photos / "x.parquet", {"who": ["anna"], "image": [made["mp4"]]})
    with pytest.raises(SourceError, match=message):
        open_clips(make_config, **settings)


def test_a_file_of_subjects_is_refused_for_a_column(
    photos: Path, make_config: MakeConfig, made: dict[str, bytes]
) -> None:
    write(photos / "x.parquet", {"image": [made["mp4"]]})
    subjects = photos.parent / "subjects.csv"
    subjects.write_text("file,subject\nx.parquet#0.mp4,anna\n")
    with pytest.raises(SourceError, match="for Parquet name a column: subject_column"):
        open_clips(make_config, subjects=subjects)


def test_commands_of_pictures_refuse_a_column_of_clips(
    photos: Path, make_config: MakeConfig, made: dict[str, bytes]
) -> None:
    write(photos / "x.parquet", {"image": [made["mp4"]]})
    with pytest.raises(SourceError, match="this command works on pictures"):
        open_source(make_config(), clips=False)


def test_parquet_of_clips_in_a_bucket_is_read(
    s3: Seaweed, photos: Path, make_config: MakeConfig, made: dict[str, bytes]
) -> None:
    client, root = s3.client(), f"s3://{BUCKET}/clips-of-parquet"
    write(photos / "x.parquet", {"image": [made["long"], made["mkv"]]})
    write(photos / "y.parquet", {"image": ["v/a.mp4", f"{root}/v/a.mp4", "../secret.mp4"]})
    (photos / "v").mkdir()
    (photos / "v" / "a.mp4").write_bytes(made["mp4"])
    keys = {name: f"clips-of-parquet/{name}" for name in ("x.parquet", "y.parquet", "v/a.mp4")}
    try:
        for name, key in keys.items():
            client.upload_file(str(photos / name), BUCKET, key)
        held = shades(open_clips(make_config, photos=root, include=["x.parquet"]))
        named_there = open_clips(make_config, photos=root, include=["y.parquet"])
        reads = [len(row[ENCODED] or b"") > 0 for row in read_all(named_there)]
    finally:
        for key in keys.values():
            client.delete_object(Bucket=BUCKET, Key=key)
    assert {name: len(frames) for name, frames in held.items()} == {"x.parquet#0.mp4": 40, "x.parquet#1.mkv": SHORT}
    assert [clip.name for clip in named_there.clips] == ["y.parquet#0.mp4", "y.parquet#1.mp4", "y.parquet#2"]
    assert reads == [True, True, False]

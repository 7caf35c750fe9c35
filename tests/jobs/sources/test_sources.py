"""Listing and reading, without Ray: every row of the input comes out of the read units once, usable or with a reason."""

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from jobs.blocks import ENCODED, FAILURE, ID, RESULT_SCHEMA, ROW, STATUS, SUBJECT, with_results
from jobs.errors import MachineError, PublishError, SourceError
from jobs.names import as_text, clashing_names, image_name, sidecar_name
from jobs.output.layout import OutputLayout
from jobs.output.reader import Row
from jobs.output.sink import shard_table
from jobs.recovery import restored_name
from jobs.sources.file_columns import PictureFile
from jobs.sources.picture_files import PictureFiles
from jobs.sources.source import Source, open_source
from tests.jobs.conftest import MakeConfig


def read_all(source: Source, finished: frozenset[int] = frozenset(), rows: int = 2) -> list[dict[str, Any]]:
    return [
        row for unit in source.units(finished, lambda left: rows) for table in unit.read() for row in table.to_pylist()
    ]


def reasons(source: Source) -> dict[str, str]:
    blocks = [block.select([ID, FAILURE]) for unit in source.units((), lambda left: 2) for block in unit.read()]
    return {row[ID]: row[FAILURE].split(":")[0] for block in blocks for row in block.to_pylist()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def test_a_folder_is_listed_recursively_by_extension(photos: Path, make_config: MakeConfig) -> None:
    (photos / "sub" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "a.png", "b.WEBP", "sub/deep/c.JPEG", "notes.txt", "sub/d.psd"):
        (photos / name).write_bytes(name.encode())
    source = open_source(make_config())
    rows = read_all(source)
    assert {row[ID]: row[ENCODED] for row in rows} == {
        n: n.encode() for n in ("a.jpg", "a.png", "b.WEBP", "sub/deep/c.JPEG")
    }
    assert sorted(row[ROW] for row in rows) == [0, 1, 2, 3]
    assert source.ignored == 2


def test_finished_rows_are_not_read_again(photos: Path, make_config: MakeConfig) -> None:
    for name in "abcde":
        (photos / f"{name}.png").write_bytes(b"x")
    assert [row[ROW] for row in read_all(open_source(make_config()), frozenset({0, 3}))] == [1, 2, 4]


def test_globs_choose_by_the_path_below_the_folder(photos: Path, make_config: MakeConfig) -> None:
    for name in ("a.jpg", "b.png", "2024/a.jpg", "2024/raw/b.jpg", "2025/a.jpg", "2024/notes.txt"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"x")

    def names(**globs: list[str]) -> set[str]:
        return {row[ID] for row in read_all(open_source(make_config(**globs)))}

    assert names(include=["2024/*"]) == {"2024/a.jpg", "2024/raw/b.jpg"}, "* goes through folders"
    assert names(include=["2024/*", "b.*"], exclude=["*/raw/*"]) == {"2024/a.jpg", "b.png"}
    assert names(exclude=["*.jpg"]) == {"b.png"}
    assert names(include=["?.JPG", "[bc].png"]) == {"b.png"}, "case counts"
    assert open_source(make_config(include=["*.jpg"])).ignored == 0, "what is left out is not counted as of no use"
    with pytest.raises(SourceError, match="include and exclude"):
        open_source(make_config(include=["2026/*"]))
    with pytest.raises(SourceError, match="include and exclude"):
        open_source(make_config(photos=photos / "a.jpg", include=["*.png"]))
    boxes = photos.parent / "boxes.csv"
    boxes.write_text("file,x0,y0,x1,y1\n2025/a.jpg,0,0,9,9\n")
    config = make_config(boxes=boxes, exclude=["2025/*"])
    open_source(config, config.given())  # boxes of a picture that is left out are no mistake
    (photos / "2025/a.jpg").unlink()
    with pytest.raises(SourceError, match=r"2025/a\.jpg"):
        open_source(config, config.given())


def test_globs_choose_files_of_parquet(photos: Path, make_config: MakeConfig) -> None:
    for name in ("year=2024/a.parquet", "year=2025/a.parquet"):
        (photos / name).parent.mkdir()
        pq.write_table(pa.table({"image": [name.encode()]}), photos / name)
    (photos / "cover.jpg").write_bytes(b"x")
    (row,) = read_all(open_source(make_config(exclude=["*.jpg", "year=2024/*"])))
    assert row[ENCODED] == b"year=2025/a.parquet"


def test_a_folder_that_can_not_be_read_is_not_left_out_by_a_glob_of_files(
    photos: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "a.jpg").write_bytes(b"x")
    (photos / "closed").mkdir()
    scan = os.scandir

    def refuse(folder: str) -> object:  # root, as whom tests may run, is refused by no mode
        if folder.endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert reasons(open_source(make_config(include=["*.jpg"]))) == {"a.jpg": "", "closed/*": "unreadable"}
    assert reasons(open_source(make_config(exclude=["closed/*"]))) == {"a.jpg": ""}


def test_units_are_as_large_as_they_are_told(photos: Path, make_config: MakeConfig) -> None:
    for name in "abcdefg":
        (photos / f"{name}.png").write_bytes(b"x")
    units = list(open_source(make_config()).units({0}, lambda left: (left + 1) // 2))
    assert [unit.rows for unit in units] == [3, 2, 1]
    assert [row[ROW] for unit in units for table in unit.read() for row in table.to_pylist()] == [1, 2, 3, 4, 5, 6]


def test_odd_files_are_rows_with_a_reason_and_loops_end(photos: Path, make_config: MakeConfig) -> None:
    (photos / "good.png").write_bytes(b"x")
    (photos / "big.png").write_bytes(b"x" * 101)
    (photos / "broken.jpg").symlink_to(photos / "nowhere.jpg")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "sub").mkdir()
    (photos / "sub" / "loop").symlink_to(photos)
    (photos / "sub" / "itself.png").symlink_to(photos / "sub" / "itself.png")
    (photos / "strange \n * ünï 漢.png").write_bytes(b"x")
    (photos / os.fsdecode(b"latin\xe9.png")).write_bytes(b"x")
    (photos / "photo.jpg").mkdir()
    assert reasons(open_source(make_config(max_file_bytes=100))) == {
        "good.png": "",
        "big.png": "too_large",
        "broken.jpg": "unreadable",
        "pipe.jpg": "unreadable",
        "sub/itself.png": "unreadable",
        "strange \n * ünï 漢.png": "",
        "latin%E9.png": "unreadable",
    }


def test_a_file_that_vanishes_after_listing_is_a_quarantined_row(photos: Path, make_config: MakeConfig) -> None:
    (photos / "a.png").write_bytes(b"x")
    source = open_source(make_config())
    (photos / "a.png").unlink()
    assert reasons(source) == {"a.png": "unreadable"}


def test_output_names_stay_apart_and_inside(photos: Path, make_config: MakeConfig) -> None:
    assert image_name("a.jpg", "png") != image_name("a.png", "png")
    long = image_name("x" * 300 + ".jpg", "png"), image_name("x" * 301 + ".jpg", "png")
    assert long[0] != long[1] and all(len(Path(name).name) < 255 for name in long)
    for bad in ("../a.jpg", "/etc/a.jpg", "a//b.jpg", "a/./b.jpg", "a\0.jpg", ""):
        with pytest.raises(PublishError):
            image_name(bad, "png")
        with pytest.raises(PublishError):
            sidecar_name(bad)
    (photos / "a.jpg").write_bytes(b"x")
    (photos / "a.jpg.png").mkdir()
    (photos / "a.jpg.png" / "b.jpg").write_bytes(b"x")
    assert reasons(open_source(make_config())) == {"a.jpg": "output_clash", "a.jpg.png/b.jpg": ""}


def test_with_the_same_format_names_are_the_sources() -> None:
    for name in ("a.jpg", "a.png", "sub/A.JPEG", "x" * 251 + ".jpg", "a.jpg.png"):
        assert image_name(name, "same") == f"images/{name}"
    assert len(image_name("x" * 300 + ".jpg", "same").removeprefix("images/")) <= 255
    with pytest.raises(PublishError):
        image_name("../a.jpg", "same")
    assert clashing_names(["a.jpg", "a.png", "a.jpg.png"]) == set()
    assert clashing_names(["a.jpg", "a.jpg/b.jpg", "c.jpg"]) == {0}


def test_what_becomes_png_is_called_so_and_meets_no_other_picture() -> None:
    for name in ("a.heic", "sub/A.TIFF", "a.gif", "a.avif", "a.bmp", "a.tif", "a.heif"):
        assert image_name(name, "same") == image_name(name, "png") == f"images/{name}.png"
        assert image_name(name, "webp") == f"images/{name}.webp"
    assert clashing_names(["a.gif", "a.gif.png", "b.gif", "c.png", "c.png.png"]) == {0}


ODD_IDS = ("a//b.jpg", "a/../b.jpg", "./x.jpg", "/abs.jpg", "..", "n\0ul.jpg", "lone\ud800.jpg", "byte\udce9.jpg")


def test_ids_that_no_file_can_be_named_by_are_rows_with_a_reason(make_config: MakeConfig) -> None:
    """As object stores list them, whose keys are any text."""
    keys = [*ODD_IDS, "good.jpg", "line\nfeed.jpg"]
    files = [PictureFile(f"bucket/{key}", key, 1, 0) for key in keys]
    rows = read_all(PictureFiles(pafs._MockFileSystem(), files, make_config()))
    found = {row[ID]: row[FAILURE].split(":")[0] for row in rows}
    assert sorted(found) == sorted(as_text(key) for key in keys) and sorted(row[ROW] for row in rows) == list(range(10))
    assert {name for name, reason in found.items() if reason != "bad_id"} == {"good.jpg", "line\nfeed.jpg"}


def test_keys_with_empty_parts_are_listed_as_an_object_store_gives_them(make_config: MakeConfig) -> None:
    store = pafs.PyFileSystem(ListedKeys({"photos/a//b.jpg": b"x", "photos//c.jpg": b"x", "photos/d.jpg": b"x"}))
    assert reasons(PictureFiles.listed(store, "photos", make_config())) == {
        "a//b.jpg": "bad_id",
        "/c.jpg": "bad_id",
        "d.jpg": "",
    }


class ListedKeys(pafs.FileSystemHandler):
    """An object store: keys are any text, and reading raises `fault` if there is one."""

    def __init__(self, objects: dict[str, bytes], fault: Exception | None = None) -> None:
        self.objects, self.fault = objects, fault

    def get_type_name(self) -> str:
        return "listed keys"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        return [pafs.FileInfo(path, pafs.FileType.File, size=len(self.objects[path])) for path in paths]

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        return self.get_file_info([key for key in self.objects if key.startswith(selector.base_dir + "/")])

    def open_input_stream(self, path: str) -> pa.NativeFile:
        if self.fault is not None:
            raise self.fault
        return pa.BufferReader(self.objects[path])

    def _unused(self, *_: Any) -> Any:
        raise NotImplementedError

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = move = copy_file = _unused
    open_input_file = open_output_stream = open_append_stream = _unused


@pytest.mark.parametrize(
    "fault",
    [OSError(errno.EIO, "x"), OSError(errno.EMFILE, "x"), OSError("AWS Error NETWORK_CONNECTION during GetObject")],
    ids=["disk", "open files", "network"],
)
def test_a_disk_or_network_that_fails_is_no_verdict_on_a_row(make_config: MakeConfig, fault: Exception) -> None:
    store = pafs.PyFileSystem(ListedKeys({"photos/a.jpg": b"x"}, fault))
    with pytest.raises(MachineError, match=r"photos/a\.jpg could not be read: OSError.*run the same command again"):
        read_all(PictureFiles.listed(store, "photos", make_config()))


def test_a_single_picture_is_a_source(photos: Path, make_config: MakeConfig) -> None:
    (photos / "one.jpg").write_bytes(b"x")
    assert reasons(open_source(make_config(photos=photos / "one.jpg"))) == {"one.jpg": ""}


def test_unusable_inputs_are_refused_before_anything_runs(
    photos: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    with pytest.raises(SourceError, match=r"holds no picture.*\(0 other"):
        open_source(make_config())
    with pytest.raises(SourceError, match="does not exist"):
        open_source(make_config(photos=tmp_path / "missing"))
    (photos / "notes.txt").write_text("x")
    with pytest.raises(SourceError, match=r"neither a picture .* nor a clip"):
        open_source(make_config(photos=photos / "notes.txt"))
    with pytest.raises(SourceError, match=r"holds no picture.*\(1 other"):
        open_source(make_config())
    (photos / "a.parquet").write_bytes(b"not parquet")
    with pytest.raises(SourceError, match=r"a\.parquet can not be read as Parquet"):
        open_source(make_config())
    (photos / "a.png").write_bytes(b"x")
    with pytest.raises(SourceError, match="both pictures and Parquet"):
        open_source(make_config())
    with pytest.raises(SourceError, match="can not be opened"):
        open_source(make_config(photos="nonsense://x/y"))


def test_places_that_overlap_are_refused(photos: Path, tmp_path: Path, make_config: MakeConfig) -> None:
    (photos / "a.png").write_bytes(b"x")
    (tmp_path / "alias").symlink_to(photos)
    for changes in (
        {"output": photos},
        {"output": photos / "out"},
        {"output": tmp_path / "alias" / "out"},
        {"output": tmp_path},
        {"keystore": photos / "keys"},
        {"keystore": tmp_path / "out" / "keys"},
        {"keystore": tmp_path / "out"},
        {"output": tmp_path / "keystore" / "out"},
    ):
        with pytest.raises(SourceError, match=r"inside|overlap"):
            open_source(make_config(**changes))


def write_parquet(path: Path, table: pa.Table, group: int = 100) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path, row_group_size=group)


def test_parquet_rows_carry_ids_subjects_and_reasons(photos: Path, make_config: MakeConfig) -> None:
    table = pa.table(
        {
            "key": ["a", "b", "a", None, "", "x" * 2000, "n"],
            "person": ["P", None, "Q", "R", "S", "T", "U"],
            "image": pa.array([b"1", b"2", b"3", b"4", b"5", b"6", None]),
        }
    )
    write_parquet(photos / "one.parquet", table, group=3)
    source = open_source(make_config(id_column="key", subject_column="person"))
    rows = read_all(source)
    assert [row[FAILURE].split(":")[0] for row in rows] == [
        "", "", "duplicate_id", "missing_id", "missing_id", "bad_id", "null_image",
    ]  # fmt: skip
    assert [row[ENCODED] for row in rows] == [b"1", b"2", None, None, None, None, None]
    assert [row[SUBJECT] for row in rows][:2] == ["P", None]
    assert [row["key"] for row in rows] == table.column("key").to_pylist()
    assert [row[ROW] for row in read_all(source, frozenset({1, 2}))] == [0, 3, 4, 5, 6]


def unchecked_text(values: list[bytes]) -> pa.Array:
    """A column of text whose bytes nobody checked, as Parquet files can hold."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values).buffers())


def parquet_row(image_id: str, shard: Path) -> Row:
    """A published row that is not of files."""
    return Row(
        image_id=image_id, status="anonymized", reason="", record_id="record", output=None, sidecar=None, faces=1, kept=0,
        permanent=False, fidelity=None, shard=shard, position=0,
    )  # fmt: skip


def test_parquet_rows_may_have_any_id_that_a_restored_picture_can_be_named_by(
    photos: Path, make_config: MakeConfig
) -> None:
    ids = [*ODD_IDS[:6], "/", "x" * 1000]
    write_parquet(photos / "a.parquet", pa.table({"id": ids, "image": [b"x"] * len(ids)}))
    found = reasons(open_source(make_config(id_column="id")))
    assert found == {**dict.fromkeys(ids, ""), "..": "bad_id"}
    names = {restored_name(parquet_row(name, photos)) for name in ids if name != ".."}
    assert len(names) == len(ids) - 1 and all(len(name.parts) == 1 and "\0" not in str(name) for name in names)


def test_ids_and_subjects_that_are_no_utf8_are_rows_with_a_reason(photos: Path, make_config: MakeConfig) -> None:
    table = pa.table(
        {
            "image_id": unchecked_text([b"caf\xe9", b"good", b"also good"]),
            "who": unchecked_text([b"P", b"Q", b"\xff"]),
            "image": [b"x"] * 3,
        }
    )
    write_parquet(photos / "a.parquet", table)
    source = open_source(make_config(id_column="image_id", subject_column="who"))
    assert reasons(source) == {"caf%E9": "bad_id", "good": "", "also good": "bad_subject"}
    assert source.renamed == {"image_id": "source_image_id"}, "keyanon's own column says what the id became"


def test_duplicates_are_found_across_files_and_the_first_wins(photos: Path, make_config: MakeConfig) -> None:
    for name in ("a", "b"):
        write_parquet(photos / f"{name}.parquet", pa.table({"id": [7, 8], "image": [b"x", b"y"]}))
    rows = read_all(open_source(make_config(id_column="id")))
    assert [(row[ID], row[FAILURE].split(":")[0]) for row in rows] == [
        ("7", ""), ("8", ""), ("7", "duplicate_id"), ("8", "duplicate_id"),
    ]  # fmt: skip


def test_ids_without_a_column_are_file_and_row(photos: Path, make_config: MakeConfig) -> None:
    write_parquet(photos / "a.parquet", pa.table({"image": [b"x", b"y"]}))
    assert [row[ID] for row in read_all(open_source(make_config()))] == ["a.parquet#0", "a.parquet#1"]


def test_a_hugging_face_column_gives_its_bytes_once(photos: Path, make_config: MakeConfig) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": b"x", "path": "x.jpg"}, {"bytes": None, "path": "y.jpg"}, None]
    write_parquet(photos / "a.parquet", pa.table({"image": pa.array(cells, kind), "label": [1, 2, 3]}))
    rows = read_all(open_source(make_config()), rows=3)
    assert [row[ENCODED] for row in rows] == [b"x", None, None]
    assert [row["image"] for row in rows] == [{"bytes": None, "path": "x.jpg"}, {"bytes": None, "path": "y.jpg"}, None]


def test_folders_that_say_a_column_are_kept_as_one(photos: Path, make_config: MakeConfig) -> None:
    """As Hive writes them: text, with what no folder may be called escaped."""
    for folder in ("country=de/who=A%2FB", "country=__HIVE_DEFAULT_PARTITION__/who=", "country=fr/who=x=y"):
        path = photos / folder / "part-0.parquet"
        path.parent.mkdir(parents=True)
        write_parquet(path, pa.table({"image": [b"x"], "n": [1]}))
    source = open_source(make_config(subject_column="who", exclude=["*who=/*"]))
    rows = read_all(source)
    assert [(row["n"], row["country"], row["who"], row[SUBJECT]) for row in rows] == [
        (1, "de", "A/B", "A/B"),
        (1, "fr", "x=y", "x=y"),
    ]
    assert source.schema is not None and source.schema.names == ["image", "n", "country", "who"]
    assert [row["country"] for row in read_all(open_source(make_config(include=["country=__*"])))] == [None]
    named = photos / "country=de" / "image_id=7" / "part-0.parquet"
    named.parent.mkdir()
    write_parquet(named, pa.table({"image": [b"x"]}))
    (row,) = read_all(open_source(make_config(include=["*image_id=7*"])))
    assert row["source_image_id"] == "7" and row["country"] == "de", "as a column of that name is"


@pytest.mark.parametrize(
    ("folder", "changes", "message"),
    [
        ("n=1", {}, r"has a column 'n', and its folder n= says it as well"),
        ("a=1/a=2", {}, "two of its folders say the column 'a'"),
        ("a=%ff", {}, "says a column in no text"),
        ("a=1", {"id_column": "a"}, "id_column 'a' is a folder's"),
        ("a=1", {"image_column": "a"}, "image_column 'a' is a folder's"),
        ("a=1", {}, r"has other columns or types, those of its folders"),
    ],
)
def test_folders_that_can_not_be_columns_are_refused(
    photos: Path, make_config: MakeConfig, folder: str, changes: dict[str, Any], message: str
) -> None:
    path = photos / folder / "a.parquet"
    path.parent.mkdir(parents=True)
    write_parquet(path, pa.table({"image": [b"x"], "n": [1]}))
    write_parquet(photos / "b.parquet", pa.table({"image": [b"x"], "n": [1]}))
    with pytest.raises(SourceError, match=message):
        open_source(make_config(**changes))
    assert len(read_all(open_source(make_config(photos=path)))) == 1, "its own folder is not below it"


def test_folders_columns_are_kept_of_rows_that_can_not_be_read(photos: Path, make_config: MakeConfig) -> None:
    path = photos / "country=de" / "a.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"image": [os.urandom(5000)]}), path, compression="zstd", write_page_checksum=True)
    source = open_source(make_config())
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    (row,) = read_all(source)
    assert row[FAILURE].startswith("unreadable") and row["country"] == "de"


_NESTED = pa.struct([("a", pa.int64()), ("in", pa.struct([("x", pa.string())]))])
NULLS = {
    "struct": pa.array([None, {"a": 1, "in": None}, {"a": None, "in": {"x": None}}], _NESTED),
    "list": pa.array([None, [None, 1], []], pa.list_(pa.int64())),
    "structs": pa.array([None, [None, {"a": None}], []], pa.list_(pa.struct([("a", pa.int64())]))),
    "map": pa.array([None, [("k", None)], []], pa.map_(pa.string(), pa.int64())),
    "text": pa.array([None, "", "x"]),
    "bytes": pa.array([None, b"", b"x"]),
    "nothing": pa.nulls(3),
    "time": pa.array([None, 0, 1], pa.timestamp("us", tz="UTC")),
}  # fmt: skip


def test_nulls_of_every_kind_reach_the_rows_that_are_written(
    photos: Path, make_config: MakeConfig, tmp_path: Path
) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {"image": pa.array([None, {"bytes": b"x", "path": None}, {"bytes": None, "path": "p"}], kind), **NULLS}
    )
    write_parquet(photos / "a.parquet", table, group=2)
    source = open_source(make_config())
    layout = OutputLayout(tmp_path / "out", "png", source.schema, source.image_column)
    blocks = [block for unit in source.units((), lambda left: 1) for block in unit.read()]
    results = [{ROW: at, ID: f"a.parquet#{at}", STATUS: "quarantined"} for at in range(3)]
    block = with_results(pa.concat_tables(blocks), results)
    made = shard_table(layout, block, block.select(RESULT_SCHEMA.names).to_pylist())
    assert made.select(list(NULLS)).equals(table.select(list(NULLS)))
    assert made.column("image").to_pylist() == [None, {"bytes": None, "path": None}, {"bytes": None, "path": "p"}]


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        ({"picture": [b"x"]}, {}, r"no column called 'image' \(image_column\); its columns are picture"),
        ({"image": [1.5]}, {}, "column 'image' is double"),
        ({"image": [[1, 2]]}, {}, "column 'image' is list"),
        ({"image": [b"x"]}, {"id_column": "key"}, "no column called 'key'"),
        ({"image": [b"x"], "key": [1.5]}, {"id_column": "key"}, "column 'key' is double"),
    ],
)
def test_wrong_columns_are_refused_by_file_and_name(
    photos: Path, make_config: MakeConfig, table: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    write_parquet(photos / "a.parquet", pa.table(table))
    with pytest.raises(SourceError, match=rf"a\.parquet.*{message}"):
        open_source(make_config(**changes))


def test_a_second_file_of_another_schema_is_refused(photos: Path, make_config: MakeConfig) -> None:
    write_parquet(photos / "a.parquet", pa.table({"image": [b"x"], "n": [1]}))
    write_parquet(photos / "b.parquet", pa.table({"image": [b"x"], "n": ["1"]}))
    with pytest.raises(SourceError, match=r"b\.parquet has other columns"):
        open_source(make_config())


def test_a_damaged_row_group_costs_its_rows_only(photos: Path, make_config: MakeConfig) -> None:
    path = photos / "a.parquet"
    pq.write_table(
        pa.table({"id": [1, 2, 3, 4], "image": [os.urandom(5000) for _ in range(4)]}),
        path, row_group_size=2, compression="zstd", write_page_checksum=True,
    )  # fmt: skip
    source = open_source(make_config(id_column="id"))
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(content)
    assert reasons(source) == {"1": "", "2": "", "3": "unreadable", "4": "unreadable"}


def test_a_row_group_is_gone_through_and_not_held(photos: Path, make_config: MakeConfig) -> None:
    pictures = [os.urandom(1 << 20) for _ in range(64)]
    table = pa.table({"image": pa.array(pictures, pa.binary())})
    pq.write_table(table, photos / "large.parquet", compression="none", write_batch_size=1)  # a page for each picture
    del table
    (unit,) = open_source(make_config()).units((), lambda left: 1)
    pool, held, read = pa.default_memory_pool(), [], []
    before = pool.bytes_allocated()
    for block in unit.read():
        held.append(pool.bytes_allocated() - before)
        read += [row[ENCODED] for row in block.to_pylist()]
    assert read == pictures
    assert max(held) < 24 << 20, [at >> 20 for at in held]  # of 64 MiB


def test_the_listing_digest_sees_added_and_changed_files(photos: Path, make_config: MakeConfig) -> None:
    (photos / "a.png").write_bytes(b"x")
    before = open_source(make_config()).digest
    (photos / "notes.txt").write_bytes(b"x")
    assert open_source(make_config()).digest == before
    (photos / "a.png").write_bytes(b"xy")
    changed = open_source(make_config()).digest
    (photos / "b.png").write_bytes(b"x")
    assert len({before, changed, open_source(make_config()).digest}) == 3

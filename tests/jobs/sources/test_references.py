"""Parquet whose image column names the pictures: which are read, by which names, and what of a name is published."""

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

import jobs.sources.references
from jobs.blocks import ENCODED, FAILURE, ID, VERSION
from jobs.errors import ConfigError, MachineError, SourceError
from jobs.sources.config import InputConfig
from jobs.sources.parquet_rows import NAMED_PICTURE
from jobs.sources.references import References, RefusedError
from jobs.sources.source import NO_FILE, Source, open_source
from tests.jobs.conftest import MakeConfig
from tests.jobs.seaweed import BUCKET, OTHER_BUCKET, Seaweed

SECRET = "hunter2hunter2"


def table_of(names: list[str | None], **more: Any) -> pa.Table:
    return pa.table({"image": pa.array(names, pa.string()), **more})


def write(path: Path, names: list[str | None], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table_of(names), path, **options)
    return path


def read_all(source: Source, rows: int = 3) -> list[dict[str, Any]]:
    units = pickle.loads(pickle.dumps(list(source.units((), lambda left: rows))))  # as they travel
    return [row for unit in units for table in unit.read() for row in table.to_pylist()]


def outcomes(source: Source) -> list[bytes | str]:
    """What was read of each row, or the code of its reason."""
    return [
        row[FAILURE].split(":")[0] if row[ENCODED] is None else row[ENCODED]
        for row in sorted(read_all(source), key=lambda row: row[ID])
    ]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures in a folder of their own, and one outside."""
    folder = tmp_path / "photos"
    (folder / "faces").mkdir(parents=True)
    for name in ("faces/a.jpg", "faces/with space?.jpg", "b.png"):
        (folder / name).write_bytes(name.encode())
    (tmp_path / "outside.jpg").write_bytes(b"outside")
    return folder


def test_names_are_paths_from_their_files_folder_whole_paths_or_file_uris(
    photos: Path, make_config: MakeConfig
) -> None:
    names = ["../faces/a.jpg", f"{photos}/faces/a.jpg", f"file://{photos}/faces/with%20space%3F.jpg", "../b.png"]
    write(photos / "tables" / "one.parquet", [*names, f"file://localhost{photos}/b.png"], row_group_size=2)
    source = open_source(make_config(include=["*.parquet"]))
    rows = read_all(source)
    assert [row[ENCODED] for row in rows] == [b"faces/a.jpg"] * 2 + [b"faces/with space?.jpg"] + [b"b.png"] * 2
    assert [row["image"] for row in rows[:2]] == [{"bytes": None, "path": name} for name in names[:2]]
    assert source.schema is not None and source.schema.field("image").type == NAMED_PICTURE
    assert source.size_bytes == 2 * 11 + 21 + 2 * 5, "the pictures' own bytes: tasks are sized by them"
    assert rows[0][VERSION] == rows[1][VERSION] != rows[3][VERSION], "a row's version is its picture's"


@pytest.mark.parametrize(
    "name",
    [
        "../outside.jpg", "faces/../../outside.jpg", "{tmp}/outside.jpg", "file://{tmp}/outside.jpg", "link.jpg",
        "linked/outside.jpg", "file://{tmp}/photos/../outside.jpg", "file:///{tmp}/photos/%2e%2e/outside.jpg", "", ".", "faces",
        "file://elsewhere{tmp}/photos/b.png", "http://127.0.0.1/b.png", "https://example.org/b.png", "s3://bucket/b.png",
        "gs://bucket/b.png", "b.png\0", "file://{tmp}/photos/b.png%00", "x" * 5000, "/proc/self/environ", "../photos2/b.png",
        "file:b.png", "pipe.jpg", "file://{tmp}/photos/b.png?x=1",
    ],
    ids=range(24),
)  # fmt: skip
def test_what_leads_out_of_the_photos_or_is_no_file_costs_its_row(
    photos: Path, tmp_path: Path, make_config: MakeConfig, name: str
) -> None:
    (photos / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    (photos / "linked").symlink_to(tmp_path)
    (tmp_path / "photos2").mkdir()
    (tmp_path / "photos2" / "b.png").write_bytes(b"outside")
    os.mkfifo(photos / "pipe.jpg")
    write(photos / "one.parquet", ["b.png", name.replace("{tmp}", str(tmp_path))])
    good, bad = read_all(open_source(make_config(include=["*.parquet"])))
    assert good[ENCODED] == b"b.png" and bad[ENCODED] is None
    assert bad[FAILURE].split(":")[0] in ("bad_reference", "missing_image", "unreadable")
    assert bad["image"] is None and bad[VERSION] == NO_FILE, "no name is published that led to no picture"


def test_a_link_that_is_turned_after_listing_is_not_followed(
    photos: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    (photos / "link.jpg").symlink_to(photos / "b.png")
    write(photos / "one.parquet", ["link.jpg"])
    source = open_source(make_config(include=["*.parquet"]))
    (photos / "link.jpg").unlink()
    (photos / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    (row,) = read_all(source)
    assert row[ENCODED] is None and row[FAILURE].startswith("bad_reference")


def test_structs_that_hold_no_bytes_name_their_pictures(photos: Path, make_config: MakeConfig) -> None:
    def write_structs(name: str, *cells: tuple[bytes | None, str] | None) -> Path:
        values = [None if cell is None else {"bytes": cell[0], "path": cell[1]} for cell in cells]
        pq.write_table(pa.table({"image": pa.array(values, NAMED_PICTURE)}), photos / name, row_group_size=2)
        return photos / name

    path = write_structs("1.parquet", (None, "faces/a.jpg"), (None, "../outside.jpg"), None)
    source = open_source(make_config(photos=path))
    assert outcomes(source) == [b"faces/a.jpg", "bad_reference", "null_image"]
    assert [row["image"] for row in read_all(source)] == [{"bytes": None, "path": "faces/a.jpg"}, None, None]
    assert source.schema is not None and source.schema.field("image").type == NAMED_PICTURE
    path = write_structs("1.parquet", (None, "a.jpg"))
    assert outcomes(open_source(make_config(photos=path, image_root=photos / "faces"))) == [b"faces/a.jpg"]

    path = write_structs("2.parquet", (b"x", "elsewhere.jpg"), (None, "b.png"), None)
    rows = read_all(open_source(make_config(photos=path)))
    assert [(row[ENCODED], row[FAILURE].partition(": the cell ")[2][:15]) for row in rows] == [
        (b"x", ""),
        (None, "names a picture"),
        (None, "holds no pictur"),
    ]
    for more, message in (({"photos": photos}, "names alone"), ({"image_root": photos}, "leave out image_root")):
        with pytest.raises(SourceError, match=message):
            open_source(make_config(**{"photos": path, "include": ["*.parquet"], **more}))


def test_null_and_missing_cells_cost_their_rows_and_nothing_else(photos: Path, make_config: MakeConfig) -> None:
    write(photos / "one.parquet", [None, "gone.jpg", "b.png", "b.png"])
    config = make_config(include=["*.parquet"])
    assert outcomes(open_source(config)) == ["null_image", "missing_image", b"b.png", b"b.png"]
    source = open_source(config)
    (photos / "b.png").unlink()
    assert outcomes(source)[2:] == ["unreadable"] * 2
    with pytest.raises(SourceError, match="no row of its column 'image' names a picture that can be read"):
        open_source(config)


def test_a_missing_picture_does_not_free_its_id(photos: Path, make_config: MakeConfig) -> None:
    table = table_of(["gone.jpg", "b.png", "b.png"], id=["a", "a", "b"])
    pq.write_table(table, photos / "one.parquet")
    assert outcomes(open_source(make_config(include=["*.parquet"], id_column="id"))) == [
        "missing_image",
        "duplicate_id",
        b"b.png",
    ]


def test_image_root_is_where_names_begin_and_end(photos: Path, tmp_path: Path, make_config: MakeConfig) -> None:
    tables = write(
        tmp_path / "tables" / "one.parquet", ["a.jpg", f"{photos}/faces/a.jpg", f"{photos}/b.png", "../b.png"]
    )
    config = make_config(photos=tables.parent, image_root=photos / "faces")
    assert outcomes(open_source(config)) == [b"faces/a.jpg"] * 2 + ["bad_reference"] * 2
    with pytest.raises(SourceError, match=r"image_root .* is no folder"):
        open_source(make_config(photos=tables, image_root=photos / "b.png"))
    with pytest.raises(SourceError, match="lies inside the photos"):
        open_source(make_config(photos=tables, image_root=photos, output=photos / "out"))
    pq.write_table(pa.table({"image": [b"x"]}), tables)
    with pytest.raises(SourceError, match="holds pictures and no names"):
        open_source(make_config(photos=tables, image_root=photos))
    with pytest.raises(ConfigError) as raised:
        make_config(image_root=f"s3://ID:{SECRET}@bucket/x")
    assert SECRET not in str(raised.value)


def test_a_large_group_is_shared_out_among_tasks_and_each_reads_its_own(
    photos: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.sources.parquet, "NAMED_AT_ONCE", 4)
    for at in range(10):
        (photos / f"{at}.jpg").write_bytes(b"%d" % at)
    write(photos / "one.parquet", [f"{at}.jpg" for at in range(10)])
    source = open_source(make_config(include=["*.parquet"]))
    units = list(source.units({5}, lambda left: 3))
    assert [unit.rows for unit in units] == [4, 4, 1]
    assert [row[ENCODED] for unit in units for t in unit.read() for row in t.to_pylist()] == [
        b"%d" % at for at in range(10) if at != 5
    ]


def test_the_listing_digest_sees_a_changed_picture(photos: Path, make_config: MakeConfig) -> None:
    write(photos / "one.parquet", ["b.png"])
    config = make_config(include=["*.parquet"])
    before = open_source(config)
    (photos / "b.png").write_bytes(b"another")
    after = open_source(config)
    assert before.digest != after.digest and before.versions[0] != after.versions[0]


def test_a_disk_that_fails_is_no_verdict_on_a_row(
    photos: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(photos / "one.parquet", ["b.png"])

    def fail(path: str) -> None:
        raise OSError(errno.EIO, "x", path)

    monkeypatch.setattr(jobs.sources.references, "_local_info", fail)
    with pytest.raises(MachineError, match="could not be read"):
        open_source(make_config(include=["*.parquet"]))


def remote(root: str, *, beside_file: bool = True) -> References:
    return References(root, True, beside_file, None, 100)


def test_names_in_a_bucket_stay_below_their_root() -> None:
    below = remote("bucket/set")
    for name, key in (
        ("a.jpg", "bucket/set/t/a.jpg"),
        ("../a.jpg", "bucket/set/a.jpg"),
        ("s3://bucket/set/a b#%2e.jpg", "bucket/set/a b#%2e.jpg"),
    ):
        assert below.locate(name, "bucket/set/t") == key
    assert remote("bucket", beside_file=False).locate("x/a.jpg", "elsewhere") == "bucket/x/a.jpg"
    for name in (
        "../../a.jpg", "../../../a.jpg", "../../set2/a.jpg", "/a.jpg", "s3://bucket/a.jpg", "s3://bucket/set/../a.jpg",
        "s3://bucket/set2/a.jpg", "s3://other/set/a.jpg", "s3://bucket/set/./a.jpg", "s3://bucket/set//a.jpg", "s3://bucket//set/a.jpg",
        "s3://bucket/set/a.jpg/", "S3://bucket/set/a.jpg", "s3:/bucket/set/a.jpg", "s3://bucket/set", "a//b.jpg", "a/", "",
        "..", f"s3://ID:{SECRET}@bucket/set/a.jpg", f"s3://bucket/set/a.jpg?X-Amz-Signature={SECRET}", "file:///etc/passwd",
        "http://169.254.169.254/latest", f"https://u:{SECRET}@example.org/a.jpg", "s3a://bucket/set/a.jpg",
    ):  # fmt: skip
        with pytest.raises(RefusedError) as raised:
            below.locate(name, "bucket/set/t")
        assert str(raised.value).startswith("bad_reference: ") and SECRET not in str(raised.value)


def test_other_stores_than_local_and_s3_hold_no_named_pictures() -> None:
    config = InputConfig.model_validate({"photos": "gs://bucket/set", "output": "out"})
    with pytest.raises(SourceError, match="from a local folder and from S3 alone"):
        References.of(config, pafs._MockFileSystem(), "bucket/set")


@pytest.mark.slow
def test_pictures_in_a_bucket_are_named_by_keys_and_a_missing_one_costs_its_row(
    s3: Seaweed, tmp_path: Path, make_config: MakeConfig
) -> None:
    for key in ("faces/a ü.jpg", "b.png", "folder/c.jpg"):
        s3.put(f"named/{key}", key.encode())
    s3.put("outside.jpg", b"outside")
    names = [
        "../faces/a ü.jpg", f"s3://{BUCKET}/named/b.png", "../gone.jpg", "../folder", f"s3://{BUCKET}/outside.jpg",
        f"s3://ID:{SECRET}@{BUCKET}/named/b.png", "../../outside.jpg", f"s3://{OTHER_BUCKET}/named/b.png",
    ]  # fmt: skip
    expected = ["faces/a ü.jpg".encode(), b"b.png", "missing_image", "unreadable", *["bad_reference"] * 4]
    write(tmp_path / "list.parquet", names)
    s3.put("named/lists/one.parquet", (tmp_path / "list.parquet").read_bytes())
    assert outcomes(open_source(make_config(photos=f"s3://{BUCKET}/named", include=["*.parquet"]))) == expected
    local = write(tmp_path / "tables" / "two.parquet", [names[1], "b.png", "../outside.jpg", "/etc/passwd"])
    config = make_config(photos=local, image_root=f"s3://{BUCKET}/named", max_file_bytes=5)
    assert outcomes(open_source(config)) == [b"b.png", b"b.png", "bad_reference", "bad_reference"]
    source = open_source(make_config(photos=local, image_root=f"s3://{BUCKET}/named", max_file_bytes=4))
    assert outcomes(source)[:2] == ["too_large"] * 2

"""What every store promises, on a disk and on a real S3 server."""

import os
import pickle
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.errors import MachineError, PublishError
from jobs.output.row_shards import read_shard
from jobs.sources.source import read_object
from jobs.storage import multipart
from jobs.storage.connections import arrow_filesystem, client, forget_clients
from jobs.storage.opening import open_store
from jobs.storage.packed import pack, unpack
from jobs.storage.s3 import S3Store
from jobs.storage.store import ChangedError, Copy, Store
from tests.jobs.seaweed import BUCKET, KEY, OTHER_BUCKET, SECRET, Seaweed, without_aws_settings

NAME = "a/ü x+%41?#.png"


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        made = open_store(tmp_path / "out")
    else:
        request.getfixturevalue("s3")
        made = open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    made.make_folder("a")
    return made


def test_an_object_is_made_once(store: Store) -> None:
    store.create(NAME, b"one")
    with pytest.raises(FileExistsError):
        store.create(NAME, b"two")
    assert store.read(NAME) == b"one"


def test_an_empty_row_shard_is_damaged_and_no_fault_of_the_server(store: Store) -> None:
    store.create("a/shard.parquet", b"")
    with pytest.raises(PublishError, match="is damaged"):
        read_shard(store, "a/shard.parquet", ["row"])


def test_only_what_was_seen_is_replaced(store: Store) -> None:
    assert store.see(NAME) is None
    with pytest.raises(ChangedError):
        store.replace(NAME, b"x", "never seen")
    first = store.replace(NAME, b"one", None)
    with pytest.raises(ChangedError):
        store.replace(NAME, b"another", None)
    second = store.replace(NAME, b"two", first)
    with pytest.raises(ChangedError):
        store.replace(NAME, b"three", first)
    seen = store.see(NAME)
    assert seen is not None and (seen.content, seen.version) == (b"two", second)


def test_only_what_was_seen_is_removed(store: Store) -> None:
    first = store.replace(NAME, b"one", None)
    second = store.replace(NAME, b"two", first)
    with pytest.raises(ChangedError):
        store.delete(NAME, first)
    assert store.read(NAME) == b"two"
    store.delete(NAME, second)
    assert store.see(NAME) is None
    store.delete(NAME)
    with pytest.raises(FileNotFoundError):
        store.read(NAME)


def test_a_larger_object_than_asked_for_is_not_read(store: Store) -> None:
    store.create(NAME, bytes(11))
    assert store.read(NAME, 11) == bytes(11)
    with pytest.raises(OSError, match="more than 10"):
        store.read(NAME, 10)


def test_folders_are_listed_in_order(store: Store) -> None:
    for name in ("b.json", "a.json", "c.txt", "below/d.json"):
        store.make_folder("a/below")
        store.create(f"a/{name}", b"1234")
    assert list(store.children("a", ".json")) == ["a.json", "b.json"]
    assert list(store.children("a", ".json", after="a.json")) == ["b.json"]
    assert list(store.children("none", ".json")) == []
    assert dict(store.sizes("a")) == {"a/a.json": 4, "a/b.json": 4, "a/c.txt": 4, "a/below/d.json": 4}
    assert dict(store.sizes("")) == dict(store.sizes("a")), "names are those below the place"
    assert set(store.existing(["a/a.json", "a/none", "a/below/d.json"])) == {"a/a.json", "a/below/d.json"}


def test_many_objects_are_read_in_order(store: Store) -> None:
    names = [f"a/{at}" for at in range(40)]
    for at, name in enumerate(names):
        store.create(name, str(at).encode())
    assert store.read_all([*names, "a/none"]) == [*(str(at).encode() for at in range(40)), None]


def test_a_name_that_is_taken_is_not_published_over(store: Store) -> None:
    store.make_folder("staged")
    store.fill("staged", [("0", b"zero"), ("1", b"one")])
    with pytest.raises(FileExistsError):
        store.fill("staged", [("1", b"other")])
    assert store.filled("staged", ["1", "none", "0"]) == [b"one", None, b"zero"]
    assert store.filled("none", ["0"]) == [None]
    store.create("a/there", b"older")
    with pytest.raises(FileExistsError):
        store.publish([Copy("staged/0", "a/new", b"zero"), Copy("staged/1", "a/there", b"one")])
    assert store.read("a/there") == b"older"
    store.publish([Copy("staged/1", "deep/er/one", b"one")])
    assert store.read("deep/er/one") == b"one"


@pytest.mark.parametrize("size", [3, 11 << 20])
def test_an_object_of_any_size_is_there_whole_or_not_at_all(
    store: Store, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(multipart, "PART_BYTES", 5 << 20)
    content = bytes(size - 1) + b"x"
    with pytest.raises(KeyboardInterrupt), store.writing(NAME) as file:
        file.write(content)
        raise KeyboardInterrupt
    assert store.see(NAME) is None
    with store.writing(NAME) as file:
        for part in (content[:1], content[1:]):
            file.write(part)
        assert file.tell() == size and store.see(NAME) is None
    assert store.read(NAME) == content
    with pytest.raises(FileExistsError), store.writing(NAME) as file:
        file.write(content[::-1])
    assert store.read(NAME) == content
    if isinstance(store, S3Store):
        assert "Uploads" not in client(None).list_multipart_uploads(Bucket=BUCKET, Prefix=store.prefix)


def test_folders_are_removed_but_the_one_that_is_kept(store: Store) -> None:
    for folder in ("all/x", "all/xy", "all/keep"):
        store.make_folder(folder)
        store.create(f"{folder}/file", b"")
    store.remove_folders("all", keep="all/keep")
    assert [name for name, _ in store.sizes("all")] == ["all/keep/file"]
    store.make_folder("all/more")
    store.create("all/more/file", b"")
    store.remove_folder("all/keep")
    assert [name for name, _ in store.sizes("all")] == ["all/more/file"]
    store.remove_folders("all")
    store.remove_folder("all/keep")
    store.remove_folders("nothing")
    assert list(store.sizes("all")) == []


def test_a_request_that_met_its_own_effect_has_succeeded(s3: Seaweed) -> None:
    """A put whose answer was lost is sent again by botocore, and finds what it made itself."""
    store = open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    assert store.create("x", b"same") == store.create("x", b"same")
    version = store.replace("y", b"one", None)
    assert store.replace("y", b"two", version) == store.replace("y", b"two", version)


def test_no_request_removes_more_objects_than_amazon_takes(s3: Seaweed) -> None:
    store = open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    sent: list[int] = []

    def look(params: dict[str, Any], **_: object) -> None:
        sent.append(len(params["Delete"]["Objects"]))

    client(None).meta.events.register("before-parameter-build.s3.DeleteObjects", look)
    store.delete_all([str(at) for at in range(1001)])
    assert sent == [1000, 1]


@pytest.mark.parametrize("region", ["eu-central-1", None])
def test_columns_are_read_by_the_region_of_the_aws_settings(
    s3: Seaweed, monkeypatch: pytest.MonkeyPatch, region: str | None
) -> None:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", region) if region else monkeypatch.delenv("AWS_DEFAULT_REGION")
    forget_clients()
    assert arrow_filesystem(BUCKET, s3.url).region == (region or "us-east-1")


def test_what_travels_to_workers_holds_no_credentials(s3: Seaweed) -> None:
    store = open_store(f"s3://{BUCKET}/x", s3.url)
    store.check()
    travelling = pickle.dumps(store)
    assert SECRET.encode() not in travelling and KEY.encode() not in travelling
    assert pickle.loads(travelling) == store and SECRET not in repr(store)


def test_a_bucket_that_is_not_there_is_named(s3: Seaweed) -> None:
    with pytest.raises(OSError, match=f"there is no bucket '{OTHER_BUCKET}'"):
        open_store(f"s3://{OTHER_BUCKET}/x").check()
    assert OTHER_BUCKET not in [bucket["Name"] for bucket in s3.client().list_buckets()["Buckets"]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "another-secret"}, r"refuses access"),
        ({"AWS_ACCESS_KEY_ID": "UNKNOWNKEY"}, r"refuses access"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, r"no AWS credentials were found"),
        ({"AWS_PROFILE": "unknown"}, r"AWS settings can not be used \(ProfileNotFound\)"),
    ],
)
def test_wrong_credentials_are_said_without_them(
    s3: Seaweed, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], said: str
) -> None:
    for name, value in {**without_aws_settings(), **s3.environment, **settings}.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    forget_clients()
    store = open_store(f"s3://{BUCKET}/x")
    for act in (store.check, lambda: store.read("y"), lambda: store.create("y", b"")):
        with pytest.raises(OSError, match=said) as raised:
            act()
        text = str(raised.value)
        assert SECRET not in text and "another-secret" not in text and "UNKNOWNKEY" not in text
    with pytest.raises(MachineError, match=said):  # no verdict on the row whose picture it is
        read_object(None, f"{BUCKET}/x/y", 10)


def test_what_a_server_says_of_one_object_costs_its_row(s3: Seaweed) -> None:
    s3.put("one/y.jpg", b"picture")
    assert read_object(None, f"{BUCKET}/one/y.jpg", 7) == (b"picture", "")
    assert [read_object(None, f"{BUCKET}/one/{name}.jpg", 6)[1].split(":")[0] for name in "yz"] == [
        "too_large",
        "unreadable",
    ]
    with pytest.raises(MachineError, match="no bucket"):
        read_object(None, f"{OTHER_BUCKET}/y.jpg", 7)


def test_a_server_that_is_not_there_is_a_fault_of_the_machine(s3: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.storage.connections.ATTEMPTS", 1)
    forget_clients()
    with pytest.raises(MachineError, match=r"127\.0\.0\.1:1 can not be reached"):
        S3Store.of(f"s3://{BUCKET}/x", "http://127.0.0.1:1").check()


@pytest.mark.parametrize("files", [[], [("0.picture", b"")], [("0.picture", b"p" * 70_000), ("7.sidecar", b"s")]])
def test_what_is_packed_comes_back_and_what_is_cut_short_is_nothing(files: list[tuple[str, bytes]]) -> None:
    packed = pack(files)
    assert unpack(packed) == dict(files)
    if files:
        assert not any(unpack(packed[:end]) for end in range(0, len(packed) - 8, 1 + len(packed) // 50))
    assert unpack(b"") == unpack(b"nothing of ours") == {}
    other = pa.BufferOutputStream()
    with pa.ipc.new_stream(other, pa.schema([("name", pa.string()), ("content", pa.string())])) as stream:
        stream.write_table(pa.table({"name": ["0.picture"], "content": ["p"]}))
    assert unpack(other.getvalue().to_pybytes()) == {}, "a stream of another's"

"""Keys come to a keystore by way of a bucket, each once, whatever dies on the way; the receipts come back."""

import contextlib
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.commands.cli import app
from jobs.config import AnonymizeConfig
from jobs.errors import ConfigError, KeysWaitingError, MachineError, PublishError
from jobs.output.bucket_inbox import BucketInbox, Courier
from jobs.output.doors import DoorName
from jobs.output.inboxes import check_no_shard_waits, open_inbox
from jobs.output.ingest_keys import read_ingest_key
from jobs.output.keys import OutsideKeystore
from jobs.output.manifest import Manifest
from jobs.storage.local import LocalStore
from jobs.storage.opening import open_store
from jobs.storage.s3 import S3Store
from keystore.auditor import Auditor
from keystore.embedded import Keystore
from keystore.errors import ErasureError, ShardExistsError, TamperedError
from keystore.ingest_opening import IngestOpening
from keystore.intake.folder import FolderInbox
from keystore.intake.ingest_key import IngestKey
from tests.jobs.publishing import Killed, Place, block
from tests.jobs.seaweed import BUCKET, OTHER_BUCKET, Seaweed

SHARD, RECEIPT = ".keys", ".receipt"
AT_ONCE = 4


@pytest.fixture
def outside(place: Place, s3: Seaweed, tmp_path: Path) -> Place:
    """The output of a run that knows a public key and a bucket."""
    (tmp_path / "key").write_text(Auditor(place.keystore.path).ingest_key().text())
    inbox = f"s3://{BUCKET}/{place.run_id}/inbox"
    place.keys = DoorName(tmp_path / "key", inbox, s3.url, None, "d", patience=0.0).open()
    return place


@pytest.fixture
def inbox(outside: Place, s3: Seaweed) -> BucketInbox:
    return BucketInbox(open_store(f"s3://{BUCKET}/{outside.run_id}/inbox", s3.url))


@pytest.fixture
def courier(inbox: BucketInbox, outside: Place) -> Courier:
    return Courier(inbox, outside.keystore.path)


def publish(place: Place, *names: str) -> list[str]:
    """One block for each picture; the base names of their shards. The run waits for its keys."""
    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        shards = [attempt.sink().stage(block([place.result(row, name)])) for row, name in enumerate(names)]
        publisher.publish_complete()
        with pytest.raises(KeysWaitingError):
            attempt.complete(len(names))
    return shards


def complete(place: Place, rows: int) -> int:
    """The same run again: how many rows have a key."""
    with place.attempt() as attempt:
        attempt.publisher().open()
        return attempt.complete(rows).keyed.total()


def take_in(place: Place, courier: Courier) -> Any:
    with IngestOpening.open(place.keystore.path, receipts=True, inbox=courier.spool.root) as opened:
        opened.inbox(place.run_id, "d")
        return opened.ingest(place.run_id)


def held(inbox: BucketInbox, run_id: str) -> list[str]:
    """Shards and receipts of a run; of others there are none."""
    names = [name for name, _ in inbox.store.sizes("")]
    assert all(name.removeprefix("_receipts/").startswith(f"{run_id}/") for name in names)
    return sorted(name.rpartition("/")[2] for name in names)


def test_a_run_is_complete_when_a_receipt_of_each_shard_has_come_back(
    outside: Place, inbox: BucketInbox, courier: Courier
) -> None:
    shards = publish(outside, "x.jpg", "y.jpg")
    assert held(inbox, outside.run_id) == sorted(name + SHARD for name in shards)
    courier.fetch()
    assert take_in(outside, courier).ingested == 2
    courier.deliver()
    assert held(inbox, outside.run_id) == sorted(name + RECEIPT for name in shards), "what was taken in is gone"
    assert complete(outside, 2) == 2
    assert len(outside.keystore.find_records(run_id=outside.run_id)) == 2
    assert not list(courier.spool.root.glob("*/*"))


def test_a_settled_run_leaves_nothing_in_the_bucket_and_needs_nothing_there(
    outside: Place, inbox: BucketInbox, courier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = publish(outside, "x.jpg", "y.jpg")
    courier.fetch()
    take_in(outside, courier)
    courier.deliver()
    with monkeypatch.context() as patched:
        patched.setattr(
            OutsideKeystore, "settle", lambda *_: 1 / 0
        )  # killed when it was written down, before receipts went
        with pytest.raises(ZeroDivisionError):
            complete(outside, 2)
    assert held(inbox, outside.run_id) == sorted(name + RECEIPT for name in (first, second))
    for _ in range(2):
        assert complete(outside, 2) == 2
        assert held(inbox, outside.run_id) == []
    with outside.attempt() as attempt:  # the source has grown
        publisher = attempt.publisher()
        publisher.open()
        attempt.sink().stage(block([outside.result(2, "z.jpg")]))
        publisher.publish_complete()
        with pytest.raises(KeysWaitingError, match="keys of 1 rows wait"):
            attempt.complete(3)


def test_what_lists_settled_shards_is_read_with_suspicion(outside: Place, courier: Courier) -> None:
    publish(outside, "x.jpg")
    (outside.out / "_keyanon/settled").mkdir()
    for bad in (b"", b"[]", b'{"key_shards": [1]}', b"[" * 10**5):
        (outside.out / "_keyanon/settled/000000000000.json").write_bytes(bad)
        with pytest.raises(PublishError, match=r"settled/0+\.json is damaged"):
            complete(outside, 1)


def test_looking_for_shards_lists_no_receipts(inbox: BucketInbox) -> None:
    runs = ("A-run", "_", "run-1", "~")  # names before and beyond that of the receipts' folder
    for run in runs:
        inbox.put(run, "a.keys", b"1")
        inbox.put(run, "a.receipt", b"22")
    assert list(inbox.shards()) == [(f"{run}/a.keys", 1) for run in sorted(runs)]
    assert inbox.names("run-1", RECEIPT) == ["a.receipt"] == inbox.names("run-1", RECEIPT, after="a")
    assert inbox.names("run-1", RECEIPT, after="b") == [] and inbox.names("run-1", SHARD) == ["a.keys"]
    inbox.remove("run-1", ["a.receipt", "a.keys", "never there.receipt"])
    assert [path for path, _ in inbox.shards()] == ["A-run/a.keys", "_/a.keys", "~/a.keys"]


def test_what_a_run_left_in_its_inbox_is_found_and_taken_away(
    outside: Place, inbox: BucketInbox, courier: Courier, tmp_path: Path, s3: Seaweed
) -> None:
    begun(outside, inbox)
    published, orphan = publish(outside, "x.jpg"), "000000009-0123456789abcdef-0123456789ab"
    for name in (orphan + SHARD, orphan + RECEIPT):
        inbox.put(outside.run_id, name, b"of a killed attempt")
    command = ["reconcile", str(outside.out), "--endpoint-url", s3.url, "--json"]
    for more in ([], ["--inbox", str(inbox)], ["--delete"]):
        found = json.loads(CliRunner().invoke(app, [*command, *more]).stdout)
        assert found["counts"] == {"keys": 1, "receipt": 1}, found
    assert held(inbox, outside.run_id) == [name + SHARD for name in published], "a published row waits for its keys"
    courier.fetch()
    take_in(outside, courier)
    courier.deliver()
    assert json.loads(CliRunner().invoke(app, command).stdout)["orphans"] == [], (
        "its receipt is needed until it is settled"
    )
    complete(outside, 1)
    inbox.put(outside.run_id, published[0] + RECEIPT, b"late")
    assert json.loads(CliRunner().invoke(app, [*command, "--delete"]).stdout)["counts"] == {"receipt": 1}
    assert held(inbox, outside.run_id) == []


def begun(place: Place, inbox: BucketInbox) -> None:
    """The manifest of a run that has begun."""
    given = {
        "photos": "photos",
        "output": place.out,
        "ingest_key": place.out.with_name("key"),
        "inbox": str(inbox),
        "dataset": "d",
    }
    config = AnonymizeConfig.load(None, given).to_json()
    Manifest(place.run_id, place.keystore.id, "d", "", "", "files", 9, config, "then").write(LocalStore(place.out))


def test_ingest_keys_are_not_destroyed_while_a_shard_waits_anywhere(
    outside: Place, inbox: BucketInbox, s3: Seaweed, tmp_path: Path
) -> None:
    """The keystore remembers each inbox that it has taken in from."""
    with Keystore.create(tmp_path / "own") as own:
        path = own.path
    ingest = ["keystore", "ingest", str(path), "--accept", "d", "--endpoint-url", s3.url]
    retire = ["keystore", "renew-ingest-key", str(path), "--retire", "--as", "olga"]
    (tmp_path / "folder/run-1").mkdir(parents=True)
    for place in (str(inbox), str(tmp_path / "folder")):
        assert CliRunner().invoke(app, [*ingest, "--inbox", place]).exit_code == 0
    assert CliRunner().invoke(app, retire).exit_code == 0

    def refused(said: str) -> None:
        with pytest.raises(ErasureError, match=said):
            check_no_shard_waits(path)
        before = Auditor(path).ingest_key()
        assert CliRunner().invoke(app, retire).exit_code != 0
        assert Auditor(path).ingest_key() == before, "refused before a new key is made"

    inbox.put("run-9", "a.keys", b"sealed")
    refused("shards lie in s3://")
    inbox.remove("run-9", ["a.keys"])
    (tmp_path / "folder/run-1/a.keys").write_bytes(b"sealed")
    refused("shards lie in .*folder")
    shutil.rmtree(tmp_path / "folder")
    refused("can not be looked into .*there is no directory")
    (tmp_path / "folder").mkdir()
    (path / "spool/x/run-1").mkdir(parents=True)
    (path / "spool/x/run-1/a.keys").write_bytes(b"sealed")
    refused("take them in or remove them")
    (path / "spool/x/run-1/a.keys").unlink()
    (path / "inboxes/x.json").write_text("{")
    refused("inboxes/x.json names can not be looked into")


@pytest.mark.parametrize("dies_after", ["nothing", "fetched", "taken in", "receipt left", "shard removed"])
def test_a_courier_that_dies_at_any_point_leaves_what_the_next_goes_on_with(
    outside: Place, inbox: BucketInbox, courier: Courier, dies_after: str
) -> None:
    (name,) = publish(outside, "x.jpg")
    run_id = outside.run_id
    points = ["nothing", "fetched", "taken in", "receipt left", "shard removed"]
    reached = points.index(dies_after)
    if reached >= 1:
        courier.fetch()
    if reached >= 2:
        assert take_in(outside, courier).ingested == 1
    if reached >= 3:
        inbox.put(run_id, name + RECEIPT, courier.spool.get(run_id, name + RECEIPT, 10**6))
    if reached >= 4:
        inbox.remove(run_id, [name + SHARD])
    again = Courier(inbox, outside.keystore.path)
    again.deliver()
    again.fetch()
    if reached < 2:
        assert take_in(outside, again).ingested == 1
        again.deliver()
    assert held(inbox, run_id) == [name + RECEIPT]
    assert complete(outside, 1) == 1
    assert not list(courier.spool.root.glob("*/*"))


def killed_before(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], bool]:
    """Let a courier be killed before its step of that number, a request or an operation on its spool, and do no other one.
    Returns a function that says whether it came so far."""
    seen, counting = 0, threading.Lock()

    def counted(made: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            with counting:
                seen += 1
                if seen > number:
                    raise Killed
            return made(*arguments, **named)

        return step

    for owner, calls in ((S3Store, ("read", "create", "delete_all")), (FolderInbox, ("put", "remove"))):
        for call in calls:
            monkeypatch.setattr(owner, call, counted(getattr(owner, call)))
    return lambda: seen > number


def test_a_courier_killed_between_any_two_steps_loses_no_key(
    place: Place, s3: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(Auditor(place.keystore.path).ingest_key().text())
    for step in range(100):
        one = Place(tmp_path / str(step), place.keystore)
        inbox = BucketInbox(open_store(f"s3://{BUCKET}/{one.run_id}/inbox", s3.url))
        one.keys = DoorName(tmp_path / "key", str(inbox), s3.url, None, "d", patience=0.0).open()
        names = publish(one, "x.jpg", "y.jpg", "z.jpg")
        with monkeypatch.context() as patched:
            reached = killed_before(patched, step)
            with contextlib.suppress(Killed):
                round_of(Courier(inbox, one.keystore.path), one)
        left = held(inbox, one.run_id)
        assert all(name + SHARD in left or name + RECEIPT in left for name in names), (
            "a shard goes after its receipt came"
        )
        courier = Courier(inbox, one.keystore.path)
        for _ in range(2):
            round_of(courier, one)
        assert held(inbox, one.run_id) == sorted(name + RECEIPT for name in names)
        assert complete(one, 3) == 3 and not list(courier.spool.root.glob("*/*"))
        if not reached():
            assert step > 8
            return
    raise AssertionError("the courier did not end")


def round_of(courier: Courier, place: Place) -> None:
    """What ingest does in a round."""
    courier.deliver()
    courier.fetch()
    take_in(place, courier)
    courier.deliver()


@pytest.mark.parametrize("call", ["read", "create"])
def test_shards_and_receipts_are_carried_several_at_once(
    outside: Place, inbox: BucketInbox, courier: Courier, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A request is answered when as many others wait for their answers."""
    shards = publish(outside, *(f"{number}.jpg" for number in range(2 * AT_ONCE)))
    together, made = threading.Barrier(AT_ONCE, timeout=60), getattr(S3Store, call)

    def waiting(*arguments: Any) -> Any:
        together.wait()
        return made(*arguments)

    monkeypatch.setattr(S3Store, call, waiting)
    removed = counting(monkeypatch, "delete_all")
    courier.fetch()
    take_in(outside, courier)
    courier.deliver()
    assert held(inbox, outside.run_id) == sorted(name + RECEIPT for name in shards)
    assert len(removed) == 1, "all shards by one request"
    receipts = [name + RECEIPT for name in shards]
    assert [name for name, _ in inbox.get_many(outside.run_id, receipts, 10**6)] == receipts


def counting(monkeypatch: pytest.MonkeyPatch, call: str) -> list[Any]:
    """What is asked of the bucket by such a call."""
    asked, made = list[Any](), getattr(S3Store, call)

    def counted(store: S3Store, names: Any) -> Any:
        asked.append(names)
        return made(store, names)

    monkeypatch.setattr(S3Store, call, counted)
    return asked


def test_no_shard_is_taken_out_of_the_bucket_before_its_receipt_lies_there(
    outside: Place, inbox: BucketInbox, courier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes one receipt and no other one, and then all."""
    first, second = sorted(publish(outside, "x.jpg", "y.jpg"))
    courier.fetch()
    take_in(outside, courier)
    with monkeypatch.context() as patched:
        create = S3Store.create

        def refusing(store: S3Store, name: str, content: bytes) -> str:
            if name.endswith(second + RECEIPT):
                raise MachineError("the server is busy")
            return create(store, name, content)

        patched.setattr(S3Store, "create", refusing)
        with pytest.raises(MachineError):
            courier.deliver()
    assert held(inbox, outside.run_id) == sorted([first + SHARD, first + RECEIPT, second + SHARD])
    courier.deliver()
    assert held(inbox, outside.run_id) == [first + RECEIPT, second + RECEIPT]
    assert complete(outside, 2) == 2


def test_a_receipt_that_somebody_forged_stays_and_completes_nothing(
    outside: Place, inbox: BucketInbox, courier: Courier
) -> None:
    (name,) = publish(outside, "x.jpg")
    inbox.put(outside.run_id, name + RECEIPT, b"{}")
    courier.fetch()
    take_in(outside, courier)
    courier.deliver()
    assert inbox.get(outside.run_id, name + RECEIPT, 100) == b"{}"
    with pytest.raises(TamperedError, match="receipt"):
        complete(outside, 1)


def test_a_shard_of_which_something_is_rejected_stays_in_the_bucket(
    outside: Place, inbox: BucketInbox, courier: Courier
) -> None:
    (name,) = publish(outside, "x.jpg")
    data = bytearray(inbox.get(outside.run_id, name + SHARD, 10**7))
    data[40] ^= 1
    inbox.remove(outside.run_id, [name + SHARD])
    inbox.put(outside.run_id, name + SHARD, bytes(data))
    courier.fetch()
    with pytest.raises(TamperedError):
        take_in(outside, courier)
    courier.deliver()
    assert held(inbox, outside.run_id) == [name + SHARD]


def test_what_can_be_no_shard_is_left_where_it_lies_and_said(
    outside: Place, inbox: BucketInbox, courier: Courier, caplog: pytest.LogCaptureFixture
) -> None:
    (name,) = publish(outside, "x.jpg")
    for key in (f".hidden/x{SHARD}", f"{outside.run_id}/deep/x{SHARD}", f"{outside.run_id}/.x{SHARD}"):
        inbox.store.create(key, b"not a shard")
    inbox.store.create(f"{outside.run_id}/readme.txt", b"of no interest")
    courier.fetch()
    assert [path.name for path in courier.spool.root.glob("*/*")] == [name + SHARD]
    assert sum("is no key shard" in record.message for record in caplog.records) == 3


def test_a_shard_is_never_written_over(outside: Place, inbox: BucketInbox) -> None:
    inbox.put("run", "x.keys", b"1")
    with pytest.raises(FileExistsError):
        inbox.put("run", "x.keys", b"2")
    (name,) = publish(outside, "x.jpg")
    with pytest.raises(ShardExistsError):
        outside.keys._door.hand_in(outside.run_id, name, [b"other"])


def test_the_name_of_a_place_says_which_inbox_it_is(tmp_path: Path) -> None:
    assert isinstance(open_inbox(tmp_path, None), FolderInbox)
    assert str(open_inbox("s3://bucket/inbox", None)) == "s3://bucket/inbox"


def test_a_look_asks_a_bucket_and_leaves_a_folder_as_it_is(outside: Place, s3: Seaweed, tmp_path: Path) -> None:
    def look(inbox: Path | str) -> None:
        DoorName(tmp_path / "key", inbox, s3.url, None, "d", patience=0.0).open().look()

    look(f"s3://{BUCKET}/{outside.run_id}/inbox")
    with pytest.raises(OSError, match="there is no bucket"):
        look(f"s3://{OTHER_BUCKET}/inbox")
    (tmp_path / "folder").mkdir()
    look(tmp_path / "folder")
    assert not list((tmp_path / "folder").iterdir()), "no folder of a run that there is not"


def test_the_ingest_key_may_lie_in_a_bucket_and_is_the_one_of_its_pin(outside: Place, s3: Seaweed) -> None:
    key = Auditor(outside.keystore.path).ingest_key()
    store = open_store(f"s3://{BUCKET}/{outside.run_id}", s3.url)
    store.create("public/key", key.text().encode())
    store.create("large", b"A" * 20_000)
    with Keystore.create(outside.out.with_name("another")) as another:
        store.create("another", Auditor(another.path).ingest_key().text().encode())

    def read(name: str) -> IngestKey:
        return read_ingest_key(f"{store}/{name}#sha256={key.fingerprint}", s3.url)

    assert read("public/key") == key
    for name, message in (("another", "another ingest key"), ("nowhere", "no such object"), ("large", "more than")):
        with pytest.raises(ConfigError, match=message):
            read(name)


def test_the_command_takes_in_from_a_bucket(outside: Place, inbox: BucketInbox, s3: Seaweed) -> None:
    publish(outside, "x.jpg")
    command = ["keystore", "ingest", str(outside.keystore.path), "--inbox", str(inbox), "--endpoint-url", s3.url]
    done = CliRunner().invoke(app, [*command, "--accept", "d", "--json"])
    assert done.exit_code == 0, done.output
    assert [run["ingested"] for run in json.loads(done.stdout)["runs"]] == [1]
    assert complete(outside, 1) == 1
    again = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(again.stdout) == {"runs": []}


def test_a_bucket_that_is_not_there_and_a_folder_that_is_not_are_said(
    outside: Place, s3: Seaweed, tmp_path: Path
) -> None:
    for inbox in (f"s3://{OTHER_BUCKET}/inbox", str(tmp_path / "nowhere"), "s3://ID:SECRETWORD@bucket/x"):
        command = ["keystore", "ingest", str(outside.keystore.path), "--inbox", inbox, "--endpoint-url", s3.url]
        done = CliRunner().invoke(app, command)
        assert done.exception is not None
        assert "SECRETWORD" not in f"{done.output}{done.exception}"
    with pytest.raises((MachineError, OSError)):
        BucketInbox(open_store(f"s3://{OTHER_BUCKET}/inbox", s3.url)).put("run", "x.keys", b"1")

"""A job hands its keys in with a public key and a folder, and learns from signed receipts what became of them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keystore.audit.checkpoint import verifier_key
from keystore.audit.cosignature import witness_vkey
from keystore.auditor import Auditor
from keystore.door import IngestDoor
from keystore.embedded import Keystore
from keystore.errors import InvalidRecordError, ShardExistsError, StorageError, TamperedError
from keystore.ingest_opening import IngestOpening
from keystore.ingest_processes import ingest_by_processes
from keystore.intake.folder import FolderInbox
from keystore.intake.ingest_key import IngestKey
from keystore.intake.receipts import Receipt
from keystore.intake.sealing import seal_record

RUN = "run-9"


@pytest.fixture
def door(keystore, tmp_path: Path) -> IngestDoor:
    """A door that knows two files and the inbox."""
    (tmp_path / "given.key").write_text(Auditor(keystore.path).ingest_key().text())
    return IngestDoor(IngestKey.read(tmp_path / "given.key"), FolderInbox(keystore.path / "inbox"))


@pytest.fixture
def opened(keystore, clock):
    with IngestOpening.open(keystore.path, clock=clock, receipts=True) as opened:
        opened.inbox(RUN, "photos")
        yield opened


def hand_in(door: IngestDoor, shard: str, *records) -> Path:
    sealer = door.sealer(RUN, "photos")
    digest = door.hand_in(RUN, shard, [sealer.seal(one) for one in records])
    path = directory(door) / f"{shard}.keys"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    return path


def directory(door: IngestDoor, run: str = RUN) -> Path:
    assert isinstance(door.inbox, FolderInbox)
    return door.inbox.directory(run)


def receipts(door: IngestDoor, run_id: str = RUN) -> dict[str, Receipt]:
    return {one.shard: one for one in door.receipts(run_id, sorted(door.receipted(run_id)))}


def test_what_was_handed_in_is_receipted_and_removed(door: IngestDoor, opened, make) -> None:
    records = [make.record(f"{number}.png", run_id=RUN) for number in range(3)]
    path = hand_in(door, "part-1", *records)
    data = path.read_bytes()
    assert (door.waiting(RUN), receipts(door)) == (["part-1"], {})
    with pytest.raises(ShardExistsError):
        hand_in(door, "part-1", *records)
    assert opened.ingest(RUN).ingested == 3
    (receipt,) = receipts(door).values()
    assert set(receipt.stored) == {one.record_id for one in records}
    assert (receipt.shard, receipt.erased, receipt.rejected, door.waiting(RUN)) == ("part-1", [], [], [])
    path.write_bytes(data)  # as if the process had died between its commit and the removal
    assert opened.ingest(RUN).already_present == 3
    assert receipts(door)["part-1"] == receipt


def test_a_receipt_says_what_was_rejected_and_what_was_erased(door: IngestDoor, opened, keystore, make) -> None:
    before = datetime.now(UTC) - timedelta(days=1)
    good = make.record("d.png", run_id=RUN)
    gone = make.record("s.png", run_id=RUN, subject="p. smith", created_at=before)
    foreign = seal_record(make.record("f.png"), door.key.public_key)
    keystore.erase("photos", "Olga", subject="p. smith")
    sealer = door.sealer(RUN, "photos")
    door.hand_in(RUN, "part-1", [sealer.seal(good), sealer.seal(gone), foreign])
    opened.ingest(RUN)
    receipt = receipts(door)["part-1"]
    assert (receipt.stored, receipt.erased) == ([good.record_id], [gone.record_id])
    assert [one.index for one in receipt.rejected] == [2]
    assert door.waiting(RUN) == ["part-1"], "a shard with a rejected record stays"


def test_a_shard_without_pictures_is_discarded(door: IngestDoor, make) -> None:
    for name in ("part-1", "part-2"):
        hand_in(door, name, make.record(f"{name}.png", run_id=RUN))
    assert door.discard(RUN, ["part-2"]) == ["part-1"]
    assert door.waiting(RUN) == ["part-2"]
    for run in ("..", "a/b"):
        with pytest.raises(InvalidRecordError):
            directory(door, run)


def test_a_file_that_names_no_key_to_seal_to_or_another_log_is_no_ingest_key(door: IngestDoor, tmp_path: Path) -> None:
    key = door.key
    witness = witness_vkey("witness.example", Ed25519PrivateKey.generate().public_key())
    another = verifier_key("another.log/x", Ed25519PrivateKey.generate().public_key())
    for public, vkey in (
        (key.public_key[:-1], key.audit_vkey),
        (b"\xff" * len(key.public_key), key.audit_vkey),
        (key.public_key, witness),
        (key.public_key, another),
    ):
        (tmp_path / "wrong.key").write_text(IngestKey(public, vkey).text())
        with pytest.raises(TamperedError, match="is no ingest key"):
            IngestKey.read(tmp_path / "wrong.key")


def edited(text: str, name: str, value: object) -> str:
    document = json.loads(text)
    document["receipt"][name] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    "forge",
    [
        lambda text: edited(text, "stored", ["another"]),
        lambda text: edited(text, "run_id", "run-1"),
        lambda text: json.dumps(json.loads(text) | {"vkey": "keyanon.keystore/x/ingest+00000000+AA=="}),
        lambda text: json.dumps(json.loads(text) | {"certificate": "AAAA"}),
        lambda text: json.dumps(json.loads(text) | {"signature": "not base64"}),
        lambda text: "[]",
        lambda text: "",
        lambda text: text[:-20],
    ],
)
def test_a_receipt_that_the_keystore_did_not_sign_is_refused(door: IngestDoor, opened, make, forge) -> None:
    hand_in(door, "part-1", make.record("d.png", run_id=RUN))
    opened.ingest(RUN)
    path = directory(door) / "part-1.receipt"
    path.write_text(forge(path.read_text()))
    with pytest.raises(TamperedError):
        receipts(door)


def test_a_receipt_of_another_shard_run_or_keystore_is_refused(door: IngestDoor, opened, make, tmp_path: Path) -> None:
    hand_in(door, "part-1", make.record("d.png", run_id=RUN))
    opened.ingest(RUN)
    path = directory(door) / "part-1.receipt"
    shutil.copy(path, path.with_name("part-2.receipt"))
    with pytest.raises(TamperedError):
        receipts(door)
    path.with_name("part-2.receipt").unlink()
    shutil.copy(path, directory(door, "run-1") / "part-1.receipt")
    with pytest.raises(TamperedError, match="is of run run-9"):
        receipts(door, "run-1")
    with Keystore.create(tmp_path / "other") as other:
        elsewhere = IngestDoor(IngestKey(door.key.public_key, other.audit_vkey), door.inbox)
        with pytest.raises(TamperedError):
            receipts(elsewhere)
    path.unlink()
    path.mkdir()
    with pytest.raises(TamperedError):
        receipts(door)
    with pytest.raises(StorageError):
        list(door.receipts(RUN, ["part-3"]))


def test_a_door_holds_no_secret_and_the_keystore_leaves_no_receipt_unasked(door: IngestDoor, keystore, make) -> None:
    assert "inbox" in repr(door)
    make.deposit(keystore, [make.record("d.png")], "part-1")
    keystore.ingest(make.RUN)
    assert receipts(door, make.RUN) == {}
    make.deposit(keystore, [make.record("e.png")], "part-2")
    ingest_by_processes(keystore.path, None, make.RUN, ["part-2"], 2, receipts=True)
    assert list(receipts(door, make.RUN)) == ["part-2"]


def test_a_run_directory_that_is_a_link_stops_nobody(door: IngestDoor, opened, make, tmp_path: Path) -> None:
    hand_in(door, "part-1", make.record("d.png", run_id=RUN))
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(directory(door) / "part-1.keys", tmp_path / "elsewhere" / "part-1.keys")
    (opened.path / "inbox" / "linked").symlink_to(tmp_path / "elsewhere")
    assert opened.pending() == {RUN: ["part-1"]}
    assert (opened.knows(RUN), opened.knows("linked")) == (True, False)


def test_processes_that_take_in_end_with_a_killed_one_that_started_them(keystore, make, tmp_path: Path) -> None:
    for number in range(30):
        make.deposit(keystore, [make.record(f"{number}-{at}.png") for at in range(20)], f"part-{number}")
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom pathlib import Path\nfrom keystore.ingest_processes import ingest_by_processes\n"
        "if __name__ == '__main__':\n"
        f"    ingest_by_processes(Path({str(keystore.path)!r}), None, {make.RUN!r}, sys.argv[1:], 2)\n"
    )
    names = [f"part-{number}" for number in range(30)]
    decoy = tmp_path / "elsewhere" / "sqlalchemy.py"
    decoy.parent.mkdir()
    decoy.write_text("from pathlib import Path\nPath(__file__).with_name('was-run').touch()\n")
    started = subprocess.Popen([sys.executable, program, *names], cwd=decoy.parent)
    inbox = keystore.path / "inbox" / make.RUN
    deadline = time.monotonic() + 120
    while (
        len(children := _below(started.pid)) < 3
    ):  # what minds shared memory, what starts others, and the other that takes in
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    started.kill()
    started.wait()
    assert not decoy.with_name("was-run").exists(), "they run what lies where the program was started"
    while any(_is_alive(one) for one in children):
        assert time.monotonic() < deadline, "they outlive the process that started them"
        time.sleep(0.05)
    ingest_by_processes(keystore.path, None, make.RUN, [path.stem for path in inbox.glob("*.keys")], 2)
    stored = {view.image_id for view in keystore.find_records(run_id=make.RUN)}
    assert {f"{number}-{at}.png" for number in range(30) for at in range(20)} <= stored


def _below(pid: int | str) -> set[str]:
    children: set[str] = set()
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            children |= set(listed.read_text().split())
    return children.union(*map(_below, children))


def _is_alive(pid: str) -> bool:
    try:
        return (Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

"""Epoch keys: only they meet the KEK, each wraps a bounded number, and with one goes what lay under it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import select

from keystore.crypto import envelope
from keystore.embedded import Keystore
from keystore.errors import KekError, TamperedError, WrongKekError
from keystore.intake.ingest import ShardIntake
from keystore.kek.file import FileKek
from keystore.kek.provider import open_kek
from keystore.storage import schema
from keystore.vault import epochs, ingest_keys
from keystore.vault.keyring import INGEST_PURPOSE, SHRED_KIND, Keyring
from keystore.verification.verify import verify_audit
from tests.keystore.killing import killed_at_each_step
from tests.keystore.postgres import ON_BOTH


def rows(keystore: Keystore, table) -> list:
    with keystore._database.read() as connection:
        return list(connection.execute(select(table)).all())


def epochs_of(keystore: Keystore, purpose: str = "records") -> dict[str, str]:
    """The epochs of a purpose and their states, in order."""
    found = [one for one in rows(keystore, schema.epoch_keys) if one.purpose == purpose]
    return {one.epoch_id: one.state for one in sorted(found, key=lambda one: one.created_at)}


def open_all(keystore: Keystore) -> int:
    with keystore._database.read() as connection:
        images = [(one.record_id, one.dataset, one.image_id) for one in keystore.find_records()]
        return len(keystore._vault.open_images(connection, images))


@pytest.fixture
def small_epochs(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(epochs, "EPOCH_KEYS", 4)
    return 4


@pytest.fixture
def filled(keystore, make, clock, small_epochs: int) -> Keystore:
    """A keystore with three epochs of records beside that of a, b and c; a subject has keys in two of them."""
    make.deposit(keystore, [make.record(f"{number}.png") for number in range(3)], "part-1")
    keystore.ingest(make.RUN)
    clock.forward(seconds=1)
    records = [make.record(f"s{number}.png", subject="p. smith") for number in range(2)]
    make.deposit(keystore, [*records, *(make.record(f"n{number}.png") for number in range(4)), *more(make)], "part-2")
    keystore.ingest(make.RUN)
    return keystore


def more(make) -> list:
    return [make.record("s9.png", subject="p. smith")]


def test_epochs_are_bounded_and_what_lies_in_each_opens(filled: Keystore, small_epochs: int) -> None:
    held = [one.epoch_id for one in rows(filled, schema.shred_keys)]
    states = epochs_of(filled)
    assert list(states.values()) == ["deactivated", "deactivated", "deactivated", "active"][-len(states) :]
    assert max(held.count(one) for one in set(held)) == small_epochs
    assert open_all(filled) == 13
    report = verify_audit(filled.path)
    assert report.ok, report.problems


def test_only_epoch_keys_meet_the_kek(keystore, make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    for name in ("wrap", "unwrap"):
        real = getattr(FileKek, name)
        monkeypatch.setattr(
            FileKek, name, lambda self, data, context, real=real: (asked.append(context), real(self, data, context))[1]
        )
    keystore.close()
    with Keystore.open(keystore.path, clock=keystore._clock) as again:
        make.deposit(again, [make.record(f"{number}.png") for number in range(9)], "part-1")
        again.ingest(make.RUN)
        make.take(again, make.approved(again, "a.png", "1.png"))
        again.erase("photos", "Olga", image_id="2.png")
    kinds = {json.loads(context)["kind"] for context in asked}
    assert kinds == {f"epoch {purpose}" for purpose in ("audit", "index", "ingest", "people", "records")}
    assert len(asked) < 15, "the number of records does not matter to the KEK"


def test_an_erasure_destroys_the_epoch_keys_and_keeps_its_neighbours(filled: Keystore, make) -> None:
    before = {one.shred_key_id: one for one in rows(filled, schema.shred_keys)}
    with filled._database.read() as connection:
        owner = connection.execute(
            select(schema.shred_keys.c.owner)
            .join(schema.records, schema.records.c.shred_key_id == schema.shred_keys.c.shred_key_id)
            .where(schema.records.c.image_id == "s0.png")
        ).scalar_one()
    gone = {one.epoch_id for one in before.values() if one.owner == owner}
    assert len(gone) == 2, "the subject has a key in each of two epochs"
    wrapped = [one.wrapped for one in rows(filled, schema.epoch_keys) if one.epoch_id in gone]
    assert filled.erase("photos", "Olga", subject="p. smith") == 3
    after = {one.shred_key_id: one for one in rows(filled, schema.shred_keys)}
    assert {one.epoch_id for one in after.values()}.isdisjoint(gone)
    assert {epochs_of(filled)[one] for one in gone} == {"destroyed"}
    assert before.keys() - after.keys() == {one for one in before if before[one].owner == owner}
    assert open_all(filled) == 10
    # What a disk kept of the old rows opens under no epoch key that is left.
    with filled._database.read() as connection:
        keys = [
            filled._keys.keyring.epoch(connection, one, "records")
            for one, state in epochs_of(filled).items()
            if state != "destroyed"
        ]
    for row in before.values():
        if row.epoch_id in gone:
            for epoch in keys:
                with pytest.raises(TamperedError):
                    filled._keys.keyring.unseal(epoch, row.wrapped, SHRED_KIND, row.shred_key_id)
    stored = b"".join(path.read_bytes() for path in filled.path.rglob("*") if path.is_file())
    assert not any(one in stored for one in wrapped), "the old epoch keys are in no file"
    make.deposit(filled, [make.record("later.png")], "part-3")
    assert filled.ingest(make.RUN).ingested == 1
    report = verify_audit(filled.path)
    assert report.ok, report.problems


def test_a_key_that_was_the_last_of_its_epoch_leaves_none_behind(keystore) -> None:
    for name in ("a.png", "b.png", "c.png"):
        assert keystore.erase("photos", "Olga", image_id=name) == 1
    assert set(epochs_of(keystore).values()) == {"destroyed"}
    report = verify_audit(keystore.path)
    assert report.ok, report.problems


def test_an_erasure_that_meets_a_key_that_does_not_open_changes_nothing(filled: Keystore) -> None:
    with filled._database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE shred_keys SET wrapped = zeroblob(length(wrapped)) WHERE shred_key_id = "
            "(SELECT shred_key_id FROM records WHERE image_id = '1.png')"
        )
    with pytest.raises(TamperedError):
        filled.erase("photos", "Olga", subject="p. smith")
    assert len(filled.find_records()) == 13
    assert "destroyed" not in epochs_of(filled).values()


def test_a_retired_ingest_key_and_an_erased_person_take_their_epochs_with_them(keystore, make) -> None:
    request_id = make.approved(keystore)
    (people,) = epochs_of(keystore, "people")
    ingest = {one.key_id: one.epoch_id for one in rows(keystore, schema.ingest_keys)}
    keystore.renew_ingest_key("Olga")
    (retired,) = keystore.retire_ingest_keys("Olga")
    keystore.erase_person("Bob", "Olga")
    assert epochs_of(keystore, "ingest")[ingest[retired]] == "destroyed"
    assert sorted(epochs_of(keystore, "ingest").values()) == ["active", "active", "destroyed"], "each key has its own"
    states = epochs_of(keystore, "people")
    assert (states[people], sorted(states.values())) == ("destroyed", ["active", "destroyed"])
    make.approve(keystore, make.request(keystore, "b.png").request_id, "Carol")
    make.deposit(keystore, [make.record("d.png")], "part-1")
    assert keystore.ingest(make.RUN).ingested == 1
    assert keystore.show(request_id).state.value == "approved"
    report = verify_audit(keystore.path)
    assert report.ok, report.problems


NO_WAY = {
    "revived": "UPDATE epoch_keys SET state = 'active', wrapped = x'01', deactivated_at = NULL, destroyed_at = NULL",
    "half revived": "UPDATE epoch_keys SET wrapped = x'01'",
    "deleted": "DELETE FROM epoch_keys",
    "unknown": "UPDATE epoch_keys SET state = 'lost'",
}
NO_STEP = {
    "destroyed while active": "UPDATE epoch_keys SET state = 'destroyed', wrapped = x'', deactivated_at = 't', "
    "destroyed_at = 't'",
    "active with an end": "UPDATE epoch_keys SET deactivated_at = 't'",
    "deactivated without an end": "UPDATE epoch_keys SET state = 'deactivated'",
    "emptied": "UPDATE epoch_keys SET wrapped = x''",
}


@pytest.mark.parametrize(
    ("statement", "gone"), [*((one, True) for one in NO_WAY.values()), *((one, False) for one in NO_STEP.values())]
)
def test_the_database_itself_refuses_what_no_key_does(keystore, statement: str, gone: bool) -> None:
    if gone:
        keystore.erase("photos", "Olga", image_id="a.png")
    state = "destroyed" if gone else "active"
    keystore.close()
    connection = sqlite3.connect(keystore.path / "keystore.db")
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(f"{statement} WHERE purpose = 'records' AND state = '{state}'")
    connection.close()


def test_a_keyring_unwraps_epochs_of_its_own_purposes_only(keystore) -> None:
    kek = open_kek(f"file:{keystore.path}/kek.key")
    narrow = Keyring(kek, keystore.id, 1, frozenset({INGEST_PURPOSE}))
    with keystore._database.read() as connection:
        for purpose in ("audit", "index", "records"):
            (epoch_id,) = epochs_of(keystore, purpose)
            with pytest.raises(TamperedError):
                narrow.epoch(connection, epoch_id, purpose)
        epoch_id = next(iter(epochs_of(keystore, "ingest")))
        assert len(narrow.epoch(connection, epoch_id, "ingest").key) == envelope.KEY_BYTES
        with pytest.raises(TamperedError):
            narrow.epoch(connection, epoch_id, "audit")
        wide = Keyring(kek, keystore.id, 1)
        wrapped = kek.wrap(b"k" * 32, wide._context(SHRED_KIND, "x"))
        assert wide.unwrap(connection, None, wrapped, SHRED_KIND, "x") == b"k" * 32
        with pytest.raises(TamperedError, match="not this opening's"):
            narrow.unwrap(connection, None, wrapped, SHRED_KIND, "x")


def test_a_keyring_remembers_the_epochs_that_it_used_last_and_no_more(
    filled: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keystore.vault.keyring.EPOCH_KEYS_IN_MEMORY", 2)
    ring = Keyring(open_kek(f"file:{filled.path}/kek.key"), filled.id, 1)
    with filled._database.read() as connection:
        for epoch_id in epochs_of(filled):
            ring.epoch(connection, epoch_id, "records")
    assert [one.epoch_id for one in ring._recent.values()] == list(epochs_of(filled))[-2:]


def test_a_keystore_that_lost_its_ingest_keys_says_so(keystore) -> None:
    with keystore._database.write() as connection:
        connection.execute(schema.ingest_keys.delete())
        with pytest.raises(TamperedError, match="is missing"):
            ingest_keys.load(connection, keystore._keys.keyring)
        with pytest.raises(TamperedError, match="is missing"):
            ingest_keys.public_keys(connection)


def test_no_epoch_key_shows_in_a_repr(keystore) -> None:
    with keystore._database.read() as connection:
        (epoch_id,) = epochs_of(keystore)
        epoch = keystore._keys.keyring.epoch(connection, epoch_id, "records")
    assert epoch_id in repr(epoch)
    assert repr(epoch.key)[2:-1] not in repr(epoch) + repr(keystore.intake._inbox._store.__dict__) + repr(
        keystore._keys
    )


def erasing(keystore: Keystore) -> int:
    return keystore.erase("photos", "Olga", subject="p. smith")


@ON_BOTH
def test_an_erasure_killed_at_any_step_happened_wholly_or_not_at_all(
    filled: Keystore, tmp_path: Path, make, clock
) -> None:
    filled.close()
    seen = set()
    for copy in killed_at_each_step(filled.path, tmp_path, lambda path: Keystore.open(path, clock=clock), erasing):
        with Keystore.open(copy, clock=clock) as again:
            report = verify_audit(copy)
            assert report.ok, report.problems
            left, states = open_all(again), list(epochs_of(again).values())
            seen.add((left, states.count("destroyed")))
            assert erasing(again) == left - 10, "what was not done is done again, what was done is done"
            assert open_all(again) == 10
    assert seen == {(13, 0), (10, 2)}


def test_a_new_kek_wraps_epoch_keys_and_nothing_below_them(filled: Keystore, make, clock, tmp_path: Path) -> None:
    before = [(one.shred_key_id, one.wrapped) for one in rows(filled, schema.shred_keys)]
    request_id = make.approved(filled)
    assert filled.rotate_kek(f"file:{filled.path}/kek-2.key", "Olga") == len(rows(filled, schema.epoch_keys))
    assert [(one.shred_key_id, one.wrapped) for one in rows(filled, schema.shred_keys)] == before
    assert {one.kek_version for one in rows(filled, schema.epoch_keys)} == {2}
    assert "kek-2.key" in filled.warnings[-1]
    with pytest.raises(KekError, match="present one"):
        filled.rotate_kek(f"file:{filled.path}/kek-2.key", "Olga")
    assert len(make.take(filled, request_id)) == 1
    filled.close()
    (filled.path / "kek.key").unlink()
    shutil.move(filled.path, tmp_path / "moved")
    with Keystore.open(tmp_path / "moved", clock=clock) as again:
        assert open_all(again) == 13
        make.deposit(again, [make.record("later.png")], "part-3")
        assert again.ingest(make.RUN).ingested == 1
    report = verify_audit(tmp_path / "moved")
    assert report.ok, report.problems


def test_the_old_kek_opens_nothing_after_a_rotation(keystore) -> None:
    old = open_kek(f"file:{keystore.path}/kek.key")
    keystore.rotate_kek(f"file:{keystore.path}/kek-2.key", "Olga")
    keystore.close()
    with pytest.raises(WrongKekError):
        Keystore.open(keystore.path, f"file:{keystore.path}/kek.key")
    ring = Keyring(old, keystore.id, 2)
    with keystore._database.read() as connection:
        for row in connection.execute(select(schema.epoch_keys)).all():
            with pytest.raises(TamperedError):
                ring.epoch(connection, row.epoch_id, row.purpose)


def test_an_opening_that_outlived_its_kek_wraps_and_unwraps_nothing(keystore, make, clock) -> None:
    request_id = make.approved(keystore)
    assert keystore.intake.pending() == {}
    with Keystore.open(keystore.path, clock=clock) as other:
        other.rotate_kek(f"file:{keystore.path}/kek-2.key", "Olga")
    make.deposit(keystore, [make.record("d.png")], "part-1")
    for attempt in (
        lambda: keystore.ingest(make.RUN),
        lambda: make.take(keystore, request_id),
        lambda: keystore.erase("photos", "Olga", image_id="a.png"),
        lambda: keystore.rotate_kek(f"file:{keystore.path}/kek-3.key", "Olga"),
    ):
        with pytest.raises(WrongKekError, match="open it again"):
            attempt()
    with Keystore.open(keystore.path, clock=clock) as again:
        assert again.ingest(make.RUN).ingested == 1
        assert open_all(again) == 4
        assert len(make.take(again, request_id)) == 1
    report = verify_audit(keystore.path)
    assert report.ok, report.problems


def test_many_epochs_are_rotated_in_several_entries(filled: Keystore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "EPOCHS_PER_ENTRY", 2)
    count = filled.rotate_kek(f"file:{filled.path}/kek-2.key", "Olga")
    leaves = [json.loads(one) for one in filled.audit_entries()]
    said = [len(one["epochs"]) for one in leaves if one["type"] == "rotate"]
    assert (sum(said), max(said), len(said)) == (count, 2, (count + 1) // 2)
    report = verify_audit(filled.path)
    assert report.ok, report.problems


@ON_BOTH
def test_a_rotation_killed_at_any_step_leaves_one_kek_or_the_other(keystore, tmp_path: Path, clock) -> None:
    keystore.close()
    seen = set()
    for copy in killed_at_each_step(
        keystore.path,
        tmp_path,
        lambda path: Keystore.open(path, clock=clock),
        lambda opened: opened.rotate_kek(f"file:{opened.path}/kek-2.key", "Olga"),
    ):
        with Keystore.open(copy, clock=clock) as again:
            report = verify_audit(copy)
            assert report.ok, report.problems
            assert open_all(again) == 3
            seen.add(tuple({one.kek_version for one in rows(again, schema.epoch_keys)}))
    assert seen == {(1,), (2,)}


def test_an_ingest_goes_on_after_another_opening_erased_what_it_is_filling(keystore, make, clock) -> None:
    subject = [make.record(f"s{number}.png", subject="p. smith") for number in range(4)]
    make.deposit(keystore, subject[:2], "part-1")
    keystore.ingest(make.RUN)
    with Keystore.open(keystore.path, clock=clock) as other:
        assert other.erase("photos", "Olga", image_id=subject[0].image_id.replace("s0", "a")) == 1
        moved = epochs_of(other)
        assert other.erase("photos", "Olga", subject="nobody") == 0
        make.deposit(other, [make.record("o.png")], "part-2")
        assert other.ingest(make.RUN).ingested == 1, "the first epoch of another opening ends that of this one"
    make.deposit(keystore, [*subject[2:], make.record("k.png")], "part-3")
    assert keystore.ingest(make.RUN).ingested == 3
    assert len(epochs_of(keystore)) > len(moved)
    assert open_all(keystore) == 2 + 4 + 2
    keys = {one.epoch_id for one in rows(keystore, schema.shred_keys)}
    assert all(epochs_of(keystore)[one] != "destroyed" for one in keys)
    report = verify_audit(keystore.path)
    assert report.ok, report.problems


@pytest.mark.parametrize("records", [2, 9])
def test_an_ingest_goes_on_after_a_shard_that_was_rolled_back(
    keystore, make, monkeypatch: pytest.MonkeyPatch, small_epochs: int, records: int
) -> None:
    make.deposit(keystore, [make.record("before.png", subject="p. smith")], "part-0")
    keystore.ingest(make.RUN)
    names = [f"{number}.png" for number in range(records)]
    make.deposit(keystore, [make.record(name, subject="p. smith") for name in ("x.png", "y.png")], "part-1")
    make.deposit(keystore, [make.record(name) for name in names], "part-2")
    real = ShardIntake._remember_shard

    def fail_once(self, *given) -> None:
        monkeypatch.setattr(ShardIntake, "_remember_shard", real)
        raise TamperedError("as if this shard could not be taken in")

    monkeypatch.setattr(ShardIntake, "_remember_shard", fail_once)
    with pytest.raises(TamperedError):
        keystore.ingest(make.RUN)
    assert keystore.ingest(make.RUN).ingested == 2, "the shard that was rolled back"
    assert open_all(keystore) == 3 + 1 + 2 + records
    report = verify_audit(keystore.path)
    assert report.ok, report.problems

"""The vault: what it seals opens for its own row only, and shows nowhere."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sqlalchemy import text

from keystore.errors import RecordNotFound, TamperedError
from keystore.vault.accounts import account, key_digest, record_digest
from keystore.vault.storing import NewRecord

NEW = NewRecord("id", "run-1", "photos", "x.png", "keyed owner", "0" * 64, "s", 2, b"canary plaintext")


def image(keystore, name: str = "a.png") -> tuple[str, str, str]:
    (record,) = keystore.find_records([name])
    return record.record_id, record.dataset, record.image_id


def store(keystore, *records: NewRecord) -> dict[str, object]:
    """Store records in one transaction, as ingest does; what its entry said."""
    storing = keystore.intake._inbox._store
    with keystore._ledger.transaction("test", None, None) as (connection, log):
        batch = storing.begin(connection, log)
        for one in records:
            batch.add(storing.prepare(one), "n", "h")
        said = batch.finish()
        log.append("test", **said)
    storing.committed()
    return said


def test_a_record_to_be_stored_shows_its_bytes_nowhere() -> None:
    assert "canary" not in repr(NEW)
    assert "x.png" in repr(NEW)


def test_what_is_stored_is_accounted_for_and_opens(keystore) -> None:
    said = store(keystore, NEW, replace(NEW, record_id="id 2"), replace(NEW, record_id="id 3", owner="another"))
    leaf = json.loads(keystore.audit_entries()[-1])
    with keystore._database.read() as connection:
        at_entry = {"entry": leaf["seq"]}
        rows = connection.execute(text("SELECT * FROM records WHERE entry = :entry"), at_entry).mappings().all()
        keys = connection.execute(text("SELECT * FROM shred_keys WHERE entry = :entry"), at_entry).mappings().all()
        assert (len(rows), len(keys), said["keys"]) == (3, 2, 2)
        assert account(map(record_digest, rows)) == said["records_account"]
        ((epoch_id, of_keys),) = leaf["shred_keys"].items()
        assert of_keys == {"keys": 2, "account": account(map(key_digest, keys))}
        assert {one["epoch_id"] for one in keys} == {epoch_id}
        assert leaf["epochs"][epoch_id]["state"] == "active"
        ids = [one["shred_key_id"] for one in keys]
        assert ids == sorted(ids) and all(len(one) == 32 for one in ids), "in the order in which they were made"
        assert keystore._vault.open(connection, ("id", "photos", "x.png")) == b"canary plaintext"


@pytest.mark.parametrize("part", [1, 2])
def test_a_record_of_another_image_than_was_asked_for_is_refused(keystore, part: int) -> None:
    wanted = list(image(keystore))
    wanted[part] = "another"
    with keystore._database.read() as connection, pytest.raises(TamperedError, match="not of the image"):
        keystore._vault.open(connection, tuple(wanted))


@pytest.mark.parametrize(
    "column", ["run_id", "source_sha256", "record_version", "envelope_version", "shred_key_id", "envelope"]
)
def test_a_record_moved_to_another_row_does_not_open(keystore, column: str) -> None:
    with keystore._database.write() as connection:
        value = "(SELECT shred_key_id FROM records WHERE image_id = 'b.png')" if column == "shred_key_id" else "7"
        value = "zeroblob(500)" if column == "envelope" else value
        connection.execute(text(f"UPDATE records SET {column} = {value} WHERE image_id = 'a.png'"))
    with keystore._database.read() as connection, pytest.raises(TamperedError):
        keystore._vault.open(connection, image(keystore))


def test_a_record_that_is_gone_is_refused_by_name(keystore) -> None:
    with keystore._database.read() as connection:
        assert keystore._vault.open(connection, ("nobody", "photos", "a.png")) is None
        with pytest.raises(RecordNotFound, match=r"gone\.png"):
            keystore._vault.open_images(connection, [image(keystore), ("nobody", "photos", "gone.png")])


def test_an_account_is_of_a_set_and_of_each_of_its_digests() -> None:
    assert account(["a", "b"]) == account(["b", "a"])
    assert len({account(one) for one in ([], ["a"], ["a", "a"], ["a", "b"], ["ab"])}) == 5

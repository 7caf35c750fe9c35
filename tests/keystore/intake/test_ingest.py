"""Taking shards in: again is harmless, one bad record or shard never costs the others, and everything is on record."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from sqlalchemy import func, select

from keystore.crypto.hybrid import HybridPrivateKey
from keystore.embedded import Keystore
from keystore.errors import InvalidRecordError, TamperedError
from keystore.ingest_opening import IngestOpening
from keystore.intake.sealing import seal_record
from keystore.intake.shards import read_shard, write_shard
from keystore.storage import schema
from keystore.verification.verify import verify_audit
from tests.keystore.killing import killed_at_each_step
from tests.keystore.postgres import ON_BOTH


def shards_in(keystore: Keystore, run_id: str = "run-1") -> list[str]:
    return sorted(path.name for path in keystore.inbox(run_id).iterdir())


def test_a_run_is_taken_in_once_and_leaves_the_inbox(keystore, make) -> None:
    make.deposit(keystore, [make.record("d.png"), make.record("e.png")], "part-1")
    make.deposit(keystore, [make.record("f.png")], "part-2")
    first = keystore.ingest(make.RUN)
    assert (first.shards, first.ingested, first.already_present, first.rejected) == (["part-1", "part-2"], 3, 0, [])
    assert shards_in(keystore) == []
    again = keystore.ingest(make.RUN, ["part-1", "part-2", "part-1"])
    assert (again.ingested, again.already_present) == (0, 3)


def test_a_shard_left_behind_by_a_crash_is_recognised(keystore, make) -> None:
    path = make.deposit(keystore, [make.record("d.png")], "part-1")
    data = path.read_bytes()
    keystore.ingest(make.RUN)
    path.write_bytes(data)  # as if the process had died between its commit and the removal
    report = keystore.ingest(make.RUN)
    assert (report.ingested, report.already_present) == (0, 1)
    assert shards_in(keystore) == []
    assert verify_audit(keystore.path).ok


def test_only_the_shards_named_are_taken_in(keystore, make) -> None:
    make.deposit(keystore, [make.record("d.png")], "part-1")
    make.deposit(keystore, [make.record("e.png")], "part-2")
    assert keystore.ingest(make.RUN, ["part-2"]).ingested == 1
    assert shards_in(keystore) == ["part-1.keys"]


@pytest.mark.parametrize("damage", ["truncated", "edited", "emptied", "not a file of ours"])
def test_a_damaged_shard_is_named_and_the_others_are_taken_in(keystore, make, damage: str) -> None:
    paths = [make.deposit(keystore, [make.record(f"{name}.png")], f"part-{name}") for name in "xyz"]
    data = paths[1].read_bytes()
    paths[1].write_bytes(
        {
            "truncated": data[:-7],
            "edited": data[:60] + b"!" + data[61:],
            "emptied": b"",
            "not a file of ours": b"PK\x03\x04" * 40,
        }[damage]
    )
    with pytest.raises(TamperedError, match=r"part-y\.keys") as caught:
        keystore.ingest(make.RUN)
    assert caught.value.report is not None
    assert (caught.value.report.ingested, list(caught.value.report.failed_shards)) == (2, ["part-y"])
    assert shards_in(keystore) == ["part-y.keys"], "it stays for a person to look at"
    assert {"x.png", "z.png"} <= {one.image_id for one in keystore.find_records()}


def test_a_shard_that_vanished_is_an_error(keystore, make) -> None:
    with pytest.raises(TamperedError, match="neither in the inbox nor"):
        keystore.ingest(make.RUN, ["part-77"])
    assert json.loads(keystore.audit_entries()[-1])["type"] == "refused"


def test_a_rejected_record_does_not_cost_its_neighbours(keystore, make) -> None:
    good, other_run, altered = make.record("d.png"), make.record("e.png", run_id="run-2"), make.record("f.png")
    sealed = [seal_record(one, keystore.ingest_public_key) for one in (good, other_run, altered)]
    sealed[2] = sealed[2][:-1] + bytes([sealed[2][-1] ^ 1])
    sealed += [b"junk", seal_record(make.record("g.png"), HybridPrivateKey.generate().public_bytes)]
    path = write_shard(keystore.inbox(make.RUN), "part-1", sealed)
    report = keystore.ingest(make.RUN)
    assert report.ingested == 1
    assert [(one.index, one.record_id) for one in report.rejected][:3] == [
        (1, other_run.record_id),
        (2, altered.record_id),
        (3, None),
    ]
    assert len(report.rejected) == 4
    assert read_shard(path) == sealed, "a shard with a rejected record stays in the inbox"
    assert json.loads(keystore.audit_entries()[-1])["rejected"] == 4
    assert verify_audit(keystore.path).ok


def test_a_record_id_never_changes_its_meaning(keystore, make) -> None:
    first = make.record("d.png")
    make.deposit(keystore, [first], "part-1")
    keystore.ingest(make.RUN)
    make.deposit(keystore, [make.record("d.png", record_id=first.record_id, image_key=b"x" * 32)], "part-2")
    report = keystore.ingest(make.RUN)
    assert "never changes its meaning" in report.rejected[0].reason
    request = make.request(keystore, "d.png")
    for name in ("Bob", "Carol"):
        make.approve(keystore, request.request_id, name)
    assert make.take(keystore, request.request_id)[0].image_key == first.image_key


def test_records_of_one_subject_share_a_shred_key_and_others_do_not(keystore, make) -> None:
    records = [
        make.record("s1.png", subject="p. smith"),
        make.record("s2.png", subject="p. smith"),
        make.record("s3.png", subject="q. jones"),
        make.record("s4.png", subject="p. smith", dataset="other", run_id="run-2"),
        make.record("s5.png"),
        make.record("s6.png"),
        make.record("s5.png"),
    ]
    for run_id in (make.RUN, "run-2"):
        make.deposit(keystore, [one for one in records if one.run_id == run_id], "part-1", run_id)
        keystore.ingest(run_id)
    with keystore._database.read() as connection:
        rows = connection.execute(select(schema.records.c.record_id, schema.records.c.shred_key_id))
        key_of = {row.record_id: row.shred_key_id for row in rows}
    keys = [key_of[one.record_id] for one in records]
    assert keys[0] == keys[1]
    assert keys[4] == keys[6], "an image's records share one key, so that one deletion erases it"
    assert len(set(keys)) == 5


def test_orphans_are_removed_and_logged_and_committed_shards_stay(keystore, make) -> None:
    for number in range(3):
        make.deposit(keystore, [make.record(f"{number}.png")], f"part-{number}")
    assert keystore.reconcile(make.RUN, ["part-1"]) == ["part-0", "part-2"]
    assert shards_in(keystore) == ["part-1.keys"]
    entry = json.loads(keystore.audit_entries()[-1])
    assert (entry["type"], sorted(entry["removed"])) == ("reconcile", ["part-0", "part-2"])
    size = len(keystore.audit_entries())
    assert keystore.reconcile(make.RUN, ["part-1"]) == []
    assert len(keystore.audit_entries()) == size


def test_a_half_written_shard_is_not_seen_and_reconcile_clears_it(keystore, make) -> None:
    leftover = keystore.inbox(make.RUN) / ".part-1.keys.0123456789abcdef.tmp"
    leftover.write_bytes(b"half")
    assert keystore.ingest(make.RUN).shards == []
    keystore.reconcile(make.RUN, [])
    assert not leftover.exists()


@pytest.mark.parametrize("run_id", ["", "..", "../up", "a/b", ".hidden", "x" * 200])
def test_a_run_id_that_could_lead_elsewhere_is_refused(keystore, run_id: str) -> None:
    with pytest.raises(InvalidRecordError, match="run id"):
        keystore.inbox(run_id)


def test_a_stored_envelope_moved_to_another_row_does_not_open(keystore, make, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id = make.approved(keystore, "a.png")
    records = schema.records
    with keystore._database.write() as connection:
        rows = {row.image_id: row for row in connection.execute(select(records))}
        b = rows["b.png"]
        connection.execute(
            records.update()
            .where(records.c.image_id == "a.png")
            .values(envelope=b.envelope, shred_key_id=b.shred_key_id, source_sha256=b.source_sha256)
        )
    with pytest.raises(TamperedError, match="was altered"):
        make.take(keystore, request_id)


def test_a_dropped_record_is_noticed_by_the_audit(keystore, make) -> None:
    with keystore._database.write() as connection:
        connection.execute(schema.records.delete().where(schema.records.c.image_id == "a.png"))
        assert connection.execute(select(func.count()).select_from(schema.records)).scalar_one() == 2
    report = verify_audit(keystore.path)
    assert any("the records that entry 3 stored" in problem for problem in report.problems)


def secrets_of(make, *images: str) -> list[bytes]:
    keys = [make.record(name).image_key.get_secret_value() for name in images]
    return [
        form
        for key in keys
        for form in (key, key.hex().encode(), base64.b64encode(key)[:40], key.hex().upper().encode())
    ]


def test_known_image_keys_are_nowhere_on_disk_and_in_no_log(keystore, make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    make.deposit(keystore, [make.record("d.png", subject="canary subject")], "part-1")
    searched = b"".join(path.read_bytes() for path in keystore.path.rglob("*") if path.is_file())
    keystore.ingest(make.RUN)
    make.deposit(keystore, [make.record("e.png")], "part-2")
    make.take(keystore, make.approved(keystore, "a.png", "d.png"))
    files = [path for path in keystore.path.rglob("*") if path.is_file()]
    assert {"keystore.db", "keystore.db-wal", "part-2.keys"} <= {path.name for path in files}, (
        "the search covers what it claims"
    )
    searched += b"".join(path.read_bytes() for path in files) + caplog.text.encode()
    keystore.close()
    searched += b"".join(path.read_bytes() for path in Path(keystore.path).rglob("*") if path.is_file())
    for secret in secrets_of(make, "a.png", "b.png", "c.png", "d.png", "e.png"):
        assert secret not in searched
    assert b"canary subject" not in searched


@ON_BOTH
def test_an_ingest_killed_at_any_step_is_finished_later_and_nothing_is_taken_in_twice(
    keystore, make, tmp_path: Path, clock
) -> None:
    for number in range(2):
        records = [make.record(f"{number}-{one}.png", subject="p. smith") for one in range(2)]
        make.deposit(keystore, records, f"part-{number}")
    keystore.close()
    seen = set()
    for copy in killed_at_each_step(
        keystore.path,
        tmp_path,
        lambda path: IngestOpening.open(path, clock=clock),
        lambda one: one.ingest(make.RUN),
    ):
        with IngestOpening.open(copy, clock=clock) as again:
            report = again.ingest(make.RUN)
            seen.add((report.ingested, report.already_present))
            assert again.pending() == {}
        with Keystore.open(copy, clock=clock) as after:
            assert len(after.find_records()) == 7
        audit = verify_audit(copy)
        assert audit.ok, audit.problems
    assert seen == {(4, 0), (2, 0), (2, 2), (0, 2), (0, 0)}

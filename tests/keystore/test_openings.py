"""Three openings, each with the private keys that it needs and no others."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

import pytest

from keystore.audit.checkpoint import open_checkpoint
from keystore.audit.merkle import leaf_hash, tree_root, verify_consistency, verify_inclusion
from keystore.audit.signers import IngestSigner
from keystore.auditor import Auditor
from keystore.embedded import Keystore
from keystore.errors import AuditError, SchemaError, StorageError, TamperedError
from keystore.ingest_opening import IngestOpening
from keystore.ingest_processes import ingest_by_processes
from keystore.intake.report import ShardsNotTakenIn
from keystore.kek.file import FileKek
from keystore.storage import schema
from keystore.vault.records import RecordVault
from keystore.verification.verify import verify_audit
from tests.keystore.postgres import ON_BOTH


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The kinds of key that the KEK was asked to wrap and to unwrap, from now on."""
    kinds: dict[str, set[str]] = {"wrap": set(), "unwrap": set()}
    for name in kinds:
        real = getattr(FileKek, name)

        def ask(self, data, context, name=name, real=real):
            kinds[name].add(json.loads(context)["kind"])
            return real(self, data, context)

        monkeypatch.setattr(FileKek, name, ask)
    return kinds


@pytest.fixture
def ingest(keystore, clock) -> Iterator[IngestOpening]:
    keystore.close()
    with IngestOpening.open(keystore.path, clock=clock) as opened:
        yield opened


def test_an_ingest_unwraps_nothing_of_the_records_that_are_stored(keystore, make, clock, asked) -> None:
    make.deposit(keystore, [make.record("d.png"), make.record("s.png", subject="p. smith")], "part-1")
    keystore.close()
    for kinds in asked.values():
        kinds.clear()
    with IngestOpening.open(keystore.path, clock=clock) as opened:
        assert opened.pending() == {make.RUN: ["part-1"]}
        assert opened.ingest(make.RUN).ingested == 2
        assert opened.reconcile(make.RUN, []) == []
        assert opened.pending() == {}
    assert asked == {"wrap": {"epoch records"}, "unwrap": {"epoch ingest", "epoch index"}}
    report = verify_audit(keystore.path)
    assert report.ok, report.problems


def test_the_service_unwraps_nothing_of_ingest(keystore, make, clock, asked) -> None:
    keystore.close()
    with Keystore.open(keystore.path, clock=clock) as opened:
        make.take(opened, make.approved(opened))
        opened.erase("photos", "Olga", image_id="b.png")
        opened.renew_ingest_key("Olga")
        opened.retire_ingest_keys("Olga")
        opened.erase_person("Bob", "Olga")
        assert len(opened.ingest_public_key) == 1216
    assert "epoch ingest" not in asked["unwrap"]
    assert asked["unwrap"] == {"epoch audit", "epoch index", "epoch people", "epoch records"}
    report = verify_audit(keystore.path)
    assert report.ok, report.problems


def test_an_ingest_can_not_open_a_record(ingest: IngestOpening) -> None:
    vault = RecordVault(ingest._keys.keystore_id, ingest._keys.keyring)
    with ingest._database.read() as connection:
        row = connection.execute(schema.records.select()).first()
        with pytest.raises(TamperedError):
            vault.open(connection, (row.record_id, row.dataset, row.image_id))


@pytest.mark.parametrize(
    "kind", ["release", "grant", "approve", "erase", "policy", "enrol", "clock", "witness", "rotate"]
)
def test_an_ingest_writes_no_entry_that_is_not_its_own(ingest: IngestOpening, kind: str) -> None:
    with (
        pytest.raises(AuditError, match="not for this opening"),
        ingest._ledger.transaction("test", None, None) as (_, log),
    ):
        log.append(kind)
    assert verify_audit(ingest.path).ok


def forged(opened: IngestOpening, monkeypatch: pytest.MonkeyPatch, kind: str, **body: object) -> None:
    """What an ingest that was taken over can do: sign an entry whatever its program says."""
    monkeypatch.setattr(IngestSigner, "entries", None)
    with opened._ledger.transaction("test", None, None) as (_, log):
        log.append(kind, **body)


def test_a_decision_that_an_ingest_signed_is_found(ingest: IngestOpening, monkeypatch: pytest.MonkeyPatch) -> None:
    forged(ingest, monkeypatch, "clock", back=False, by=None)
    report = verify_audit(ingest.path)
    assert report.problems == [
        f"entry {report.size - 1} (clock) is signed by ingest, which may not write such an entry"
    ]


@pytest.mark.parametrize(
    "epoch", [{"purpose": "audit", "state": "active"}, {"purpose": "records", "state": "destroyed"}]
)
def test_an_epoch_that_an_ingest_may_not_touch_is_found(
    ingest: IngestOpening, monkeypatch: pytest.MonkeyPatch, epoch: dict[str, str]
) -> None:
    forged(ingest, monkeypatch, "reconcile", run="r", removed={}, epochs={"e": epoch | {"digest": "d"}})
    assert any("signed by ingest" in problem for problem in verify_audit(ingest.path).problems)


def test_what_the_audit_key_signs_after_an_ingest_does_not_cover_for_it(
    keystore, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged(keystore.intake, monkeypatch, "clock", back=False, by=None)
    make.request(keystore)
    assert any("signed by ingest" in problem for problem in verify_audit(keystore.path).problems)
    with pytest.raises(AuditError, match="nothing is released"):
        make.take(keystore, make.approved(keystore))


def test_a_key_that_the_audit_key_does_not_vouch_for_signs_nothing(keystore, clock) -> None:
    keystore.close()
    other = sqlite3.connect(keystore.path / "keystore.db")
    vkey = other.execute("SELECT ingest_vkey FROM identity").fetchone()[0]
    for statement in (
        "UPDATE identity SET ingest_certificate = zeroblob(64)",
        "UPDATE identity SET ingest_vkey = audit_vkey",
        "UPDATE identity SET ingest_vkey = NULL",
    ):
        with other:
            before = other.execute("SELECT ingest_vkey, ingest_certificate FROM identity").fetchone()
            other.execute(statement)
        assert not verify_audit(keystore.path).ok, statement
        for opening in (Keystore, IngestOpening):
            with pytest.raises((AuditError, SchemaError, StorageError)):
                opening.open(keystore.path, clock=clock)
        with other:
            other.execute("UPDATE identity SET ingest_vkey = ?, ingest_certificate = ?", before)
    other.close()
    assert vkey.startswith("keyanon.keystore/")
    assert verify_audit(keystore.path).ok


def test_a_checkpoint_is_given_out_with_the_audit_keys_signature(keystore, make) -> None:
    make.deposit(keystore, [make.record("d.png")], "part-1")
    keystore.ingest(make.RUN)
    with pytest.raises(AuditError):
        open_checkpoint(Auditor(keystore.path).checkpoint(), keystore.audit_vkey)
    note = keystore.checkpoint()
    assert open_checkpoint(note, keystore.audit_vkey).size == len(keystore.audit_entries())
    assert verify_audit(keystore.path, note, keystore.audit_vkey).intact
    make.request(keystore)
    assert keystore.checkpoint() == Auditor(keystore.path).checkpoint()


def test_an_auditor_needs_no_kek_and_writes_nothing(keystore, make) -> None:
    make.take(keystore, make.approved(keystore))
    keystore.close()
    (keystore.path / "kek.key").unlink()
    before = {path: path.read_bytes() for path in keystore.path.rglob("*") if path.is_file()}
    auditor = Auditor(keystore.path)
    entries, note = auditor.entries(), auditor.checkpoint()
    checkpoint = open_checkpoint(note, keystore.audit_vkey)
    hashes = [leaf_hash(one) for one in entries]
    assert checkpoint.root == tree_root(hashes)
    verify_inclusion(hashes[2], 2, len(hashes), auditor.prove_inclusion(2), checkpoint.root)
    verify_consistency(3, tree_root(hashes[:3]), len(hashes), checkpoint.root, auditor.prove_consistency(3))
    for wrong in (lambda: auditor.prove_inclusion(99), lambda: auditor.prove_consistency(99)):
        with pytest.raises(AuditError):
            wrong()
    assert auditor.verify(note, keystore.audit_vkey).intact
    assert {path: path.read_bytes() for path in keystore.path.rglob("*") if path.is_file()} == before
    with pytest.raises(StorageError):
        Auditor(keystore.path / "nowhere")


@ON_BOTH
def test_several_processes_take_in_one_run(keystore, make) -> None:
    for number in range(5):
        make.deposit(keystore, [make.record(f"{number}-{one}.png") for one in range(3)], f"part-{number}")
    names = keystore.intake.pending()[make.RUN]
    report = ingest_by_processes(keystore.path, None, make.RUN, names, 2)
    assert (report.shards, report.ingested, report.rejected) == (names, 15, [])
    assert keystore.intake.pending() == {}
    assert len(keystore.find_records()) == 18
    assert verify_audit(keystore.path).ok


def test_a_damaged_shard_of_several_processes_is_named_and_the_others_are_taken_in(keystore, make) -> None:
    for number in range(3):
        path = make.deposit(keystore, [make.record(f"{number}.png")], f"part-{number}")
    path.write_bytes(b"damaged")
    with pytest.raises(ShardsNotTakenIn, match=r"part-2\.keys") as caught:
        ingest_by_processes(keystore.path, None, make.RUN, ["part-0", "part-1", "part-2"], 2)
    assert (caught.value.report.ingested, list(caught.value.report.failed_shards)) == (2, ["part-2"])

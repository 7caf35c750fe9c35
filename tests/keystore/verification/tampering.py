"""Attacker x tampering x who notices: each tampering is done to a real keystore, and it is seen who notices.

    python -m tests.keystore.verification.tampering > docs/tampering.md

`test_tampering.py` does the same on both databases, and holds the committed table against what it saw.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, select, text

from keystore.approver_key import ApproverKey
from keystore.audit.log import Clock
from keystore.audit.merkle import Frontier, leaf_hash
from keystore.audit.signers import LogSigner
from keystore.audit.tree import stored_nodes
from keystore.crypto.canonical import canonical_json, utc_now
from keystore.decisions import approvers, changes
from keystore.decisions.api_token import Role
from keystore.decisions.bindings import Identity, binding_digest
from keystore.decisions.changes import Change
from keystore.decisions.policy import Policy
from keystore.decisions.proposals import Replacement
from keystore.decisions.requests import RequestDesk
from keystore.decisions.signatures import parse_public_line
from keystore.decisions.tokens import token_id_of
from keystore.embedded import Keystore
from keystore.errors import KeystoreError
from keystore.recipient import Recipient
from keystore.served import ServedKeystore
from keystore.storage import schema
from keystore.storage.places import database_of
from keystore.storage.sqlite import DATABASE_NAME
from keystore.vault.accounts import account, record_digest
from keystore.verification.verify import logged_decisions, verify_audit
from tests.keystore.conftest import Helpers
from tests.keystore.postgres import copy_keystore, database_name, remove_keystore

SUBJECT = "p. smith"
OBSERVERS = ("opening", "releasing", "audit verify", "with a checkpoint kept elsewhere")
GUARDED = ("log", "nodes", "checkpoints", "releases", "erased", "erasures")


@dataclass
class Scene:
    """A keystore that was in use, a backup from before its release and its erasure, and what was kept elsewhere."""

    path: Path
    backup: Path
    approved: str  # a request whose grant was not used
    released: str
    checkpoint: str
    vkey: str
    keys: dict[str, ApproverKey]  # of two approvers

    def copy(self, work: Path) -> Scene:
        return replace(self, path=copy_keystore(self.path, work / "ks"))

    def hours_later(self, work: Path) -> Scene:
        """The same, with another request whose grant was not used, when the others are over."""
        path = copy_keystore(self.path, work / "later")
        with ServedKeystore.open(path, clock=_hours_later) as keystore:
            approved = _approved(keystore, self.keys["Erin"])
            return replace(self, path=path, approved=approved, checkpoint=keystore.checkpoint())


def _hours_later() -> datetime:
    return utc_now() + timedelta(hours=4)


def _approved(keystore: ServedKeystore, own: ApproverKey) -> str:
    approved = Helpers.request(keystore, "b.png").request_id
    Helpers.approve(keystore, approved, "Bob")
    Helpers.sign(keystore, approved, Erin=own)
    return approved


def make_scene(template: Path, work: Path) -> Scene:
    """Use a copy of the tests' template: requests, a release, an erasure, a denial, approvers with keys of their own."""
    path, make = copy_keystore(template, work / "scene"), Helpers
    own, gone, other, late = (ApproverKey.generate() for _ in range(4))
    with Keystore.open(path) as keystore:
        make.deposit(keystore, [make.record("s1.png", subject=SUBJECT)], "part-5")
        keystore.ingest(make.RUN)
        released = make.approved(keystore, "a.png")
    backup = copy_keystore(path, work / "backup")
    with ServedKeystore.open(path) as keystore:
        make.take(keystore, released)
        keystore.erase("photos", "Olga", subject=SUBJECT)
        keystore.deny(make.request(keystore, "c.png").request_id, "Dora")
        keystore.set_policy(Policy(max_images=2), "Bob", "Carol")
        keystore.set_break_glass(["Gina"], "Bob", "Carol")
        keystore.break_glass("Gina", ["c.png"], "C-9", "a child is missing", "public-task: police act 12")
        keystore.enrol_approver("Gina", "legal", gone.public_line, "Bob", "Carol")
        keystore.remove_approver(gone.key_id, "Bob", "Carol")
        keystore.enrol_approver("Erin", "dpo", own.public_line, "Bob", "Carol")
        keystore.enrol_approver("Finn", "security", other.public_line, "Bob", "Carol")
        enrolment = keystore.enrol_approver("Hana", "security", late.public_line, "Bob")
        make.agree(keystore, enrolment, Erin=own, Finn=other)
        renewed = Replacement(key=late.key_id, public_line=ApproverKey.generate().public_line)
        make.agree(keystore, keystore.propose(renewed, "Bob"), Erin=own, Hana=late)
        make.sign(keystore, str(keystore.set_policy(Policy(max_images=7), "Bob")), Erin=own)
        for name, role in (("Erin", Role.APPROVER), ("Alice", Role.REQUESTER)):
            keystore.bind_identity(Identity("https://id.example", f"sub of {name}"), name, role, "Olga")
        keystore.unbind_identity(keystore.bindings()[0].binding_id, "Olga")
        lifetime = timedelta(days=9)
        keystore.revoke_token(token_id_of(keystore.issue_token("Eve", Role.AUDITOR, lifetime, "Olga")), "Olga")
        approved = _approved(keystore, own)
        kept = (keystore.checkpoint(), keystore.audit_vkey)
        return Scene(path, backup, approved, released, *kept, {"Erin": own, "Finn": other})


def edit(path: Path, *statements: str, **values: Any) -> None:
    """Edit the database as its operator could: triggers dropped first."""
    database = database_of(path)
    try:
        with database.write() as connection:
            for table in (*GUARDED, "epoch_keys"):
                triggers = ("states", "no_delete") if table == "epoch_keys" else ("no_update", "no_delete")
                for one in triggers:
                    of = f" ON {table}" if connection.dialect.name == "postgresql" else ""
                    connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {table}_{one}{of}")
            for statement in statements:
                said = text(statement)
                done = connection.execute(said, {name: values[name] for name in said._bindparams})
                assert done.rowcount, statement
    finally:
        database.close()


def rewrite(path: Path, keystore: Keystore, leaves: Iterable[dict[str, Any]], signer: LogSigner | None = None) -> None:
    """What the holder of database and KEK can do: write the log anew, renumbered and signed, with a witness that saw it."""
    signer = signer or keystore._keys.signer
    edit(path, "DELETE FROM log", "DELETE FROM checkpoints")
    frontier, note = Frontier(), ""
    database = database_of(path)
    with database.write() as connection:
        connection.execute(schema.nodes.delete())
        connection.execute(schema.milestone.delete())
        for seq, leaf in enumerate(leaves):
            data = canonical_json({**leaf, "seq": seq})
            connection.execute(insert(schema.log).values(seq=seq, leaf=data))
            frontier, completed = frontier.grown(leaf_hash(data))
            for node in stored_nodes(frontier.size, completed):
                connection.execute(insert(schema.nodes).values(**node))
        note = signer.sign(frontier)
        row = {"size": frontier.size, "note": note, "frontier": frontier.to_bytes()}
        connection.execute(insert(schema.checkpoints).values(**row))
    database.close()
    (path / "witness" / "checkpoint").write_text(note, encoding="utf-8")


def _leaves(keystore: Keystore) -> list[dict[str, Any]]:
    return [json.loads(leaf) for leaf in keystore.audit_entries()]


def _drop_entries(scene: Scene, kind: str) -> None:
    """Write the log without the first entry of a kind, renumbered, and have the tables follow."""
    with Keystore.open(scene.path) as keystore:
        gone = next(leaf["seq"] for leaf in _leaves(keystore) if leaf["type"] == kind)
        leaves = [leaf for leaf in _leaves(keystore) if leaf["seq"] != gone]
        edit(scene.path, "UPDATE identity SET keystore_id = keystore_id")  # drops the triggers
        for table, column in (
            ("records", "entry"),
            ("shred_keys", "entry"),
            ("erasures", "entry"),
            ("erased", "erased_entry"),
        ):
            with keystore._database.write() as connection:
                connection.exec_driver_sql(f"UPDATE {table} SET {column} = {column} - 1 WHERE {column} > {gone}")
        rewrite(scene.path, keystore, leaves)


def _drop_the_release(scene: Scene) -> None:
    """As if the next change of the policy had ended the request, its grant unused."""
    edit(scene.path, "DELETE FROM releases", "UPDATE requests SET state = 'denied' WHERE state = 'released'")
    _drop_entries(scene, "release")


def _make_by_names(scene: Scene, wanted: Callable[[str], Change]) -> None:
    """A change that no approver signed, as a program that does not ask for that would make it."""
    with Keystore.open(scene.path) as keystore, keystore._ledger.transaction("test", None, None) as (connection, log):
        by = [keystore._people.find_or_add(connection, name) for name in ("Bob", "Carol")]
        changes.make(connection, log, wanted(keystore._people.find_or_add(connection, "Mallory")), by)


def _enrol_by_names(scene: Scene) -> None:
    _make_by_names(
        scene, lambda person: changes.of_enrolment(person, "dpo", parse_public_line(ApproverKey.generate().public_line))
    )


def _set_policy_by_names(scene: Scene) -> None:
    _make_by_names(scene, lambda person: changes.of_policy(Policy(break_glass=(person,))))


def _enrol_before_signatures(scene: Scene) -> None:
    _drop_entries(scene, "signed-changes")
    _enrol_by_names(scene)


def _replace_by_names(scene: Scene) -> None:
    with Keystore.open(scene.path) as keystore, keystore._ledger.transaction("test", None, None) as (connection, log):
        bob, carol, erin = (keystore._people.find_or_add(connection, name) for name in ("Bob", "Carol", "Erin"))
        old, new = approvers.enrolled(connection, erin), parse_public_line(ApproverKey.generate().public_line)
        changes.make(connection, log, changes.of_replacement(connection, str(old.key_id), new), [bob, carol])


def _lose_no_keys(scene: Scene) -> None:
    with Keystore.open(scene.path) as keystore, keystore._ledger.transaction("test", None, None) as (connection, log):
        by = sorted(keystore._people.find_or_add(connection, name) for name in ("Bob", "Carol"))
        log.append("lost-keys", by=by, keys=[])


def _review_by_names(scene: Scene) -> None:
    with Keystore.open(scene.path) as keystore, keystore._ledger.transaction("test", None, None) as (connection, log):
        by = [keystore._people.find_or_add(connection, name) for name in ("Bob", "Carol")]
        logged = keystore._verified_decisions(connection)
        (broken,) = logged.breaks
        changes.make(connection, log, changes.of_review(broken, logged.requests[broken].requester, logged.breaks), by)


def _erase_an_approver(scene: Scene) -> None:
    with Keystore.open(scene.path) as keystore, keystore._ledger.transaction("test", None, None) as (connection, log):
        by = keystore._people.find_or_add(connection, "Bob")
        keystore._people.erase(connection, log, keystore._keys.keyring, "Finn", by)


def _policy_and_back(scene: Scene, *, ends_open: bool) -> None:
    """Approvers change the policy and change it back, in a program that keeps open what it should end, and that is released."""
    older = ("keystore.decisions.stored_policy.write", Helpers.write_older_policy)
    name, instead = ("keystore.decisions.stored_policy.void_open", lambda *_: None) if ends_open else older
    blind = patch("keystore.governed.logged_decisions", lambda *of: ([], logged_decisions(*of)[1]))
    with patch(name, instead), blind, Keystore.open(scene.path) as keystore:
        before = keystore.policy()
        for policy in (before.model_copy(update={"max_images": 1}), before):
            Helpers.agree(keystore, keystore.set_policy(policy, "Bob"), **scene.keys)
        Helpers.take(keystore, scene.approved)


def _ask_too_much(scene: Scene, *images: str, **asked: timedelta) -> None:
    """A request that the policy does not allow, and a grant that lives as long as it."""
    lax = patch("keystore.decisions.lifecycle.grant_expiry", lambda life, *_: life.expires_at)
    blind = patch.object(RequestDesk, "_check_policy", lambda *_: None)
    with lax, blind, Keystore.open(scene.path) as keystore:
        request_id = Helpers.request(keystore, *images, **asked).request_id
        Helpers.approve(keystore, request_id, "Bob")
        Helpers.sign(keystore, request_id, Erin=scene.keys["Erin"])


def _file_under_another_id(scene: Scene) -> None:
    named, filed = ApproverKey.generate().key_id, changes.of_enrolment
    with (
        patch.object(changes, "of_enrolment", lambda *of: filed(*of) | {"key": named}),
        Keystore.open(scene.path) as keystore,
    ):
        keystore.enrol_approver("Ivan", "dpo", ApproverKey.generate().public_line, "Bob")


def _exchange_a_change(scene: Scene) -> None:
    other = canonical_json({**changes.of_policy(Policy(max_images=100_000)), "was": Policy().content()})
    edit(scene.path, "UPDATE requests SET change = :other WHERE state = 'pending' AND change IS NOT NULL", other=other)


def _bind_to_a_second_person(scene: Scene) -> None:
    with (
        ServedKeystore.open(scene.path) as keystore,
        keystore._ledger.transaction("test", None, None) as (connection, log),
    ):
        bound = dict(connection.execute(select(schema.bindings).limit(1)).one()._mapping)
        mallory, olga = (keystore._people.find_or_add(connection, name) for name in ("Mallory", "Olga"))
        row = bound | {"binding_id": "0" * 16, "person": mallory, "role": "approver", "unbound_at": None}
        row["tag"] = keystore._bindings._tag(row)
        connection.execute(insert(schema.bindings).values(**row))
        said = {name: row[name] for name in ("identity", "person", "role")}
        log.append("bind-identity", binding="0" * 16, by=olga, digest=binding_digest(row), **said)


def _drop_a_record(scene: Scene) -> None:
    with Keystore.open(scene.path) as keystore:
        leaves = _leaves(keystore)
        with keystore._database.read() as connection:
            rows = [row._asdict() for row in connection.execute(select(schema.records))]
        entry = next(row["entry"] for row in rows if row["image_id"] == "c.png")
        left = [record_digest(row) for row in rows if row["entry"] == entry and row["image_id"] != "c.png"]
        leaves[entry] |= {"records_account": account(left), "ingested": leaves[entry]["ingested"] - 1}
        shard = {"run": leaves[entry]["run"], "name": leaves[entry]["shard"]}
        edit(scene.path, "DELETE FROM records WHERE image_id = 'c.png'")
        edit(scene.path, "UPDATE shards SET records = records - 1 WHERE run_id = :run AND name = :name", **shard)
        rewrite(scene.path, keystore, leaves)


def _exchange_the_key(scene: Scene) -> None:
    """A log of their own under an audit key of their own, with everything that names it."""
    with Keystore.open(scene.path) as keystore:
        signer = LogSigner(keystore.id, Ed25519PrivateKey.generate())
        leaves = _leaves(keystore)
        leaves[0]["vkey"] = signer.vkey
        rewrite(scene.path, keystore, [leaf for leaf in leaves if leaf["type"] != "deny"], signer)
    edit(scene.path, "UPDATE identity SET audit_vkey = :vkey", vkey=signer.vkey)
    (scene.path / "audit.pub").write_text(signer.vkey + "\n")


def _put_back_database(scene: Scene) -> None:
    name = database_name(scene.path)
    if name is None:
        for suffix in ("-wal", "-shm"):
            (scene.path / (DATABASE_NAME + suffix)).unlink(missing_ok=True)
        shutil.copyfile(scene.backup / DATABASE_NAME, scene.path / DATABASE_NAME)
        return
    copied = copy_keystore(scene.backup, scene.path.parent / "other")
    (scene.path / "database.uri").write_text((copied / "database.uri").read_text())
    shutil.rmtree(copied)


def _put_back_everything(scene: Scene) -> None:
    remove_keystore(scene.path)
    copy_keystore(scene.backup, scene.path)


def _put_back_what_was_erased(scene: Scene) -> None:
    old, new = database_of(scene.backup), database_of(scene.path)
    edit(scene.path, "UPDATE identity SET keystore_id = keystore_id")  # drops the triggers
    with old.read() as source, new.write() as target:
        key = source.execute(
            select(schema.shred_keys).join(schema.records).where(schema.records.c.image_id == "s1.png")
        ).one()
        epoch = source.execute(select(schema.epoch_keys).where(schema.epoch_keys.c.epoch_id == key.epoch_id)).one()
        record = source.execute(select(schema.records).where(schema.records.c.image_id == "s1.png")).one()
        table = schema.epoch_keys
        target.execute(table.update().where(table.c.epoch_id == key.epoch_id).values(**epoch._asdict()))
        target.execute(insert(schema.shred_keys).values(**key._asdict()))
        target.execute(insert(schema.records).values(**record._asdict()))
        target.execute(schema.erased.delete())
        target.execute(schema.erasures.delete())
    old.close(), new.close()


def _statements(*statements: str) -> Callable[[Scene], None]:
    zero = {"zero": bytes(64), "node": bytes(32), "far": "2099-01-01T00:00:00.000000Z"}
    return lambda scene: edit(scene.path, *statements, **zero)


LAST = "(SELECT max(seq) FROM log)"
DATABASE, KEK, BACKUPS = "has the database", "has the database and the KEK", "has backups"
TAMPERINGS: dict[tuple[str, str], Callable[[Scene], None]] = {
    (DATABASE, "an entry of the log is changed"): _statements("UPDATE log SET leaf = :zero WHERE seq = 3"),
    (DATABASE, "an entry is dropped"): _statements("DELETE FROM log WHERE seq = 4"),
    (DATABASE, "the last entries are cut off, with their checkpoints"): _statements(
        f"DELETE FROM checkpoints WHERE size > {LAST} - 2", f"DELETE FROM log WHERE seq >= {LAST} - 2"
    ),
    (DATABASE, "a checkpoint is exchanged"): _statements("UPDATE checkpoints SET note = replace(note, 'keyanon', 'KEYANON')"),
    (DATABASE, "a node of the log's tree is changed"): _statements("UPDATE nodes SET hash = :node"),
    (DATABASE, "a used grant is made unused"): _statements(
        "DELETE FROM releases", "UPDATE requests SET state = 'approved' WHERE state = 'released'"
    ),
    (DATABASE, "a grant lives longer"): _statements("UPDATE grants SET expires_at = :far"),
    (DATABASE, "a request's purpose is changed"): _statements("UPDATE requests SET purpose = 'harmless'"),
    (DATABASE, "a denial is taken back"): _statements(
        "UPDATE requests SET state = 'pending', denied_by = NULL WHERE state = 'denied'"
    ),
    (DATABASE, "an approval is added"): _statements(
        "INSERT INTO approvals SELECT r.request_id, r.digest, r.requester, a.signature, r.created_at, NULL, NULL, NULL "
        "FROM requests r, (SELECT signature FROM approvals LIMIT 1) a WHERE r.state = 'denied'"
    ),
    (DATABASE, "an approval is dropped"): _statements("DELETE FROM approvals"),
    (DATABASE, "a weaker policy is put in"): _statements("UPDATE policies SET document = :zero"),
    (DATABASE, "an approver's key is exchanged"): _statements("UPDATE people SET public_key = :node WHERE name = 'bob'"),
    (DATABASE, "an approver's name is exchanged"): _statements("UPDATE people SET name = 'mallory' WHERE name = 'bob'"),
    (DATABASE, "an approver's own key is exchanged"): _statements(
        "UPDATE approver_keys SET public_key = :node WHERE removed_at IS NULL"
    ),
    (DATABASE, "an own key is added to the list"): _statements(
        "INSERT INTO approver_keys SELECT 'added', person, :node, role, enrolled_at, NULL, NULL FROM approver_keys "
        "WHERE role = 'dpo'"
    ),
    (DATABASE, "a key that was removed is put back"): _statements(
        "UPDATE approver_keys SET removed_at = NULL WHERE role = 'legal'"
    ),
    (DATABASE, "a key that was replaced and the one in its place change places"): _statements(
        "UPDATE approver_keys SET removed_at = CASE WHEN removed_at IS NULL THEN enrolled_at ELSE NULL END "
        "WHERE person = (SELECT person FROM people WHERE name = 'hana')"
    ),
    (DATABASE, "an approver is put into another team"): _statements("UPDATE approver_keys SET role = 'legal' WHERE role = 'dpo'"),
    (DATABASE, "a signature of an own key is exchanged"): _statements(
        "UPDATE approvals SET signature = :zero WHERE key_id IS NOT NULL"
    ),
    (DATABASE, "an approval is said to be by a key of the keystore's"): _statements(
        "UPDATE approvals SET key_id = NULL WHERE key_id IS NOT NULL"
    ),
    (DATABASE, "a change that approvers are asked to sign is exchanged"): _exchange_a_change,
    (DATABASE, "a change that too few signed is said to be made"): _statements(
        "UPDATE requests SET state = 'applied' WHERE state = 'pending' AND change IS NOT NULL"
    ),
    (DATABASE, "an identity is bound to another person"): _statements(
        "UPDATE bindings SET person = (SELECT person FROM people WHERE name = 'bob') WHERE unbound_at IS NULL"
    ),
    (DATABASE, "an identity is bound in another role"): _statements(
        "UPDATE bindings SET role = 'operator' WHERE unbound_at IS NULL"
    ),
    (DATABASE, "a binding that ended is brought back"): _statements(
        "UPDATE bindings SET unbound_at = NULL WHERE unbound_at IS NOT NULL"
    ),
    (DATABASE, "a binding is added"): _statements(
        "INSERT INTO bindings SELECT 'added', identity, person, 'operator', dataset, bound_at, NULL, tag FROM bindings "
        "WHERE unbound_at IS NULL"
    ),
    (DATABASE, "a binding is dropped"): _statements("DELETE FROM bindings WHERE unbound_at IS NOT NULL"),
    (DATABASE, "hours later: a used grant is made unused, and its request lives longer"): _statements(
        "DELETE FROM releases", "UPDATE requests SET state = 'approved', expires_at = :far WHERE state = 'released'"
    ),
    (DATABASE, "hours later: a denial is taken back, and the request lives longer"): _statements(
        "UPDATE requests SET state = 'pending', denied_by = NULL, expires_at = :far WHERE state = 'denied'"
    ),
    (DATABASE, "hours later: a token that was revoked is brought back"): _statements(
        "UPDATE tokens SET revoked_at = NULL WHERE revoked_at IS NOT NULL"
    ),
    (DATABASE, "hours later: a used grant is made unused"): _statements(
        "DELETE FROM releases", "UPDATE requests SET state = 'approved' WHERE state = 'released'"
    ),
    (DATABASE, "hours later: the purpose of a request that was released is changed"): _statements(
        "UPDATE requests SET purpose = 'harmless' WHERE state = 'released'"
    ),
    (DATABASE, "hours later: what a request that was released asked for is dropped"): _statements(
        "DELETE FROM request_images WHERE request_id = (SELECT request_id FROM requests WHERE state = 'released')"
    ),
    (DATABASE, "a record is emptied"): _statements("UPDATE records SET envelope = :zero WHERE image_id = 'a.png'"),
    (DATABASE, "a record is dropped"): _statements("DELETE FROM records WHERE image_id = 'a.png'"),
    (DATABASE, "a record is renamed"): _statements("UPDATE records SET image_id = 'z.png' WHERE image_id = 'a.png'"),
    (DATABASE, "a subject's owner is exchanged"): _statements("UPDATE shred_keys SET owner = 'another' WHERE shred_key_id = "
        "(SELECT shred_key_id FROM records WHERE image_id = 'a.png')"),
    (DATABASE, "an erasure is taken off the list"): _statements("DELETE FROM erased", "DELETE FROM erasures"),
    (DATABASE, "a run's data set is changed"): _statements("UPDATE runs SET dataset = 'others'"),
    (KEK, "the release is dropped, the log renumbered and signed anew, the witness overwritten"): _drop_the_release,
    (KEK, "a record is dropped, and the entry that accounts for it written and signed anew"): _drop_a_record,
    (KEK, "an approver's key is enrolled by names alone, in an entry that is signed, after approvers sign that"): _enrol_by_names,
    (KEK, "a break-glass list is set by names alone, in an entry that is signed, after approvers sign that"):
        _set_policy_by_names,
    (KEK, "an approver's key is replaced by names alone, in an entry that is signed, after approvers sign that"):
        _replace_by_names,
    (KEK, "a break of the glass is reviewed by names alone, in an entry that is signed, after approvers sign that"):
        _review_by_names,
    (KEK, "an approver is erased whose key no approver signed off the list, in an entry that is signed"): _erase_an_approver,
    (KEK, "keys are said to be lost while enough are left to sign, in an entry that is signed"): _lose_no_keys,
    (KEK, "the same enrolment, and the log written and signed anew without the entry from which approvers sign changes"):
        _enrol_before_signatures,
    (KEK, "an identity is bound to a second person, in an entry that is signed"): _bind_to_a_second_person,
    (KEK, "a policy is changed and changed back, in entries that are signed, and what was approved before stays open"):
        lambda scene: _policy_and_back(scene, ends_open=True),
    (KEK, "the same, in entries that do not say that they end what is open, as older versions wrote them"):
        lambda scene: _policy_and_back(scene, ends_open=False),
    (KEK, "a request for more images than the policy allows is granted, in entries that are signed"):
        lambda scene: _ask_too_much(scene, "a.png", "b.png", "c.png"),
    (KEK, "a request that stands for longer than the policy allows is granted, in entries that are signed"):
        lambda scene: _ask_too_much(scene, "b.png", expires=timedelta(days=8)),
    (KEK, "a grant lives longer than the policy allows, in an entry that is signed"):
        lambda scene: _ask_too_much(scene, "b.png", expires=timedelta(days=2)),
    (KEK, "a key is filed for approvers to enrol under the id of another, in an entry that is signed"):
        _file_under_another_id,
    (KEK, "the log is written anew under another audit key, audit.pub exchanged"): _exchange_the_key,
    (BACKUPS, "the database of before the release is put back"): _put_back_database,
    (BACKUPS, "database and witness of before the release are put back"): _put_back_everything,
    (BACKUPS, "an erased record and its keys are put back, the erasure list emptied"): _put_back_what_was_erased,
}  # fmt: skip


@dataclass
class Seen:
    """Who noticed a tampering."""

    attacker: str
    tampering: str
    by: dict[str, bool] = field(default_factory=dict)


def observe(scene: Scene, clock: Clock = utc_now) -> dict[str, bool]:
    """Who notices, of those who are not told anything: whoever opens it, releases, or audits."""
    seen = dict.fromkeys(OBSERVERS, False)
    alone, against = verify_audit(scene.path), verify_audit(scene.path, scene.checkpoint, scene.vkey)
    seen["audit verify"], seen["with a checkpoint kept elsewhere"] = not alone.ok, not against.intact
    try:
        with Keystore.open(scene.path, clock=clock) as keystore:
            try:
                request_id = scene.approved if _has(keystore, scene.approved) else scene.released
                keystore.release(request_id, Recipient.generate().public_key, "Alice")
            except KeystoreError:
                seen["releasing"] = True
    except KeystoreError:
        seen["opening"] = seen["releasing"] = True  # what does not open releases nothing
    return seen


def _has(keystore: Keystore, request_id: str) -> bool:
    return any(one.request_id == request_id for one in keystore.requests())


def run(scene: Scene, work: Path) -> list[Seen]:
    """Do each tampering to a copy, and see who notices."""
    found, later = [], scene.hours_later(work)
    assert not any(observe(later.copy(work / "untouched later"), _hours_later).values()), "nobody cries wolf"
    for number, ((attacker, tampering), tamper) in enumerate(TAMPERINGS.items()):
        place = work / str(number)
        place.mkdir()
        is_later = tampering.startswith("hours later")
        copy = (later if is_later else scene).copy(place)
        tamper(copy)
        found.append(Seen(attacker, tampering, observe(copy, _hours_later if is_later else utc_now)))
        remove_keystore(copy.path)
    return found


def document(found: list[Seen]) -> str:
    """The page that is committed."""
    lines = [
        "# Who notices what: tampering with a keystore",
        "",
        "Written by `python -m tests.keystore.verification.tampering > docs/tampering.md` from what it saw;",
        "`tests/keystore/verification/test_tampering.py` does each of these to a keystore in SQLite and to one in",
        "PostgreSQL and holds this page against it. *Opening* and *releasing*: the keystore refuses by itself, whoever",
        "asks. *Audit verify*: `keyanon audit verify` with nothing but the directory. The last column: with a",
        "checkpoint and the verifier key from where the attacker can not write; only then the report says `intact`.",
        "",
        f"| attacker | tampering | {' | '.join(OBSERVERS)} |",
        "|---|---|" + "---|" * len(OBSERVERS),
    ]
    for one in found:
        cells = ["notices" if one.by[name] else "-" for name in OBSERVERS]
        lines.append(f"| {one.attacker} | {one.tampering} | {' | '.join(cells)} |")
    lines += [
        "",
        "What is not a change of what was written is noticed by nobody: who has the KEK of an embedded keystore can act",
        "as anyone in it (`--as`), and the log then says what was done, in somebody else's name. What was tampered with",
        "after the checkpoint that is given is noticed by a later one only. Where the log was written under another",
        "audit key, the private one was left as it was: one that is exchanged too is noticed by the verifier key only.",
        "",
        "*Hours later*: a release looks at tokens that are good, at what is open, and at what ended within the hour before. What",
        "was over before does not come back to life by its row; what else is done to that is noticed by an audit.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Write the page to standard output."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        with Keystore.create(work / "template") as keystore:
            make = Helpers
            make.deposit(keystore, [make.record(name) for name in ("a.png", "b.png", "c.png")])
            keystore.ingest(make.RUN)
        sys.stdout.write(document(run(make_scene(work / "template", work), work)))


if __name__ == "__main__":
    main()

"""The offline verifier: is the log whole, is it the one that was witnessed, and do the tables agree with it? Needs no KEK.

Whoever holds the KEK can write another log, sign it and replace database, witness and audit.pub together: from inside of the
directory that can not be seen. Therefore "intact" is said only against a checkpoint that was kept elsewhere.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from sqlalchemy import Connection, select

from keystore.audit.checkpoint import AUDIT_KEY_NAME, Checkpoint, open_checkpoint
from keystore.audit.log import leaf_hashes
from keystore.audit.merkle import Frontier, consistency_proof, frontier_of, leaf_hash
from keystore.audit.signers import INGEST_ENTRIES, certified_ingest_vkey, origin_of
from keystore.audit.witness import WITNESS_DIRECTORY, Witness, check_extends
from keystore.crypto.canonical import sha256_hex
from keystore.decisions.identity import name_commitment
from keystore.decisions.people import approval_message, signature_holds
from keystore.decisions.requests import images_of, request_digest
from keystore.errors import AuditError, StorageError, TamperedError
from keystore.storage import schema
from keystore.storage.database import DATABASE_NAME, check_schema, read_only
from keystore.vault.accounts import own_keys_account
from keystore.vault.epochs import EpochState
from keystore.vault.keyring import RECORDS_PURPOSE
from keystore.verification.holdings import holdings_problems
from keystore.verification.leaves import guarded, read_leaves
from keystore.verification.replay import LoggedRequest, LoggedState, replay
from keystore.verification.report import AuditReport


def verify_audit(path: Path | str, checkpoint: str | None = None, vkey: str | None = None) -> AuditReport:
    """Verify the audit trail of the keystore directory `path`, against its witness and, when given, a checkpoint kept elsewhere.

    Without `checkpoint` the log can be found wrong but not intact. `vkey` is the verifier key from a place you trust; without it,
    `audit.pub` of the directory is taken. The report's `limits` say what is not vouched for.
    Raises StorageError when the database can not be read at all; everything else is in the report's `problems`.
    """
    directory = Path(path)
    if not (directory / DATABASE_NAME).is_file():
        raise StorageError(f"{directory} is not a keystore: it has no {DATABASE_NAME}; check the path")
    problems: list[str] = []
    # Before the database: a keystore in use may move both on in between, and never the other way round.
    witness_note = _witness_note(directory, problems)
    with read_only(directory / DATABASE_NAME) as connection:
        check_schema(connection, directory / DATABASE_NAME)
        stored_vkey = str(connection.execute(select(schema.identity.c.audit_vkey)).scalar() or "")
        key = vkey or _published_key(directory, problems) or stored_vkey
        if key.strip() != stored_vkey:
            problems.append("the verifier key is not the one in the database")
        logged = _check_log(connection, key, problems)
        problems += logged.weaknesses + holdings_problems(connection, logged)
        vkeys = _vkeys(connection, key, [])
        witnessed = _witnessed_size(connection, witness_note, vkeys, problems)
        vouched = (
            None if checkpoint is None else _against(connection, checkpoint, vkeys, "the checkpoint given", problems)
        )
        frontier, note, origin = _summary(connection)
        return AuditReport(
            ok=not problems,
            intact=not problems and vouched is not None,
            origin=origin,
            size=frontier.size,
            root=frontier.root().hex(),
            checkpoint=note,
            witnessed_size=witnessed,
            vouched_size=vouched,
            problems=problems,
            limits=_limits(frontier.size, vouched, given_key=vkey is not None),
        )


def log_problems(connection: Connection, vkey: str) -> list[str]:
    """Return what is wrong with the log and with the decisions it explains: nothing, when all is well."""
    problems: list[str] = []
    _check_log(connection, vkey, problems)
    return problems


def _check_log(connection: Connection, vkey: str, problems: list[str]) -> LoggedState:
    leaves = read_leaves(connection, problems)
    logged = replay(leaves)
    problems += logged.problems
    for check in (_check_identity, _check_policies_and_people, _check_requests):
        guarded(lambda check=check: check(connection, logged, problems), problems)  # type: ignore[misc]
    guarded(lambda: _check_checkpoints(connection, leaves, vkey, problems), problems)
    return logged


def _vkeys(connection: Connection, vkey: str, problems: list[str]) -> list[str]:
    """Return whose checkpoints count: the audit key's, and those of the ingest key that it vouches for."""
    try:
        ingest_vkey = certified_ingest_vkey(connection, vkey)
    except (AuditError, TamperedError) as error:
        problems.append(str(error))
        return [vkey]
    return [vkey] if ingest_vkey is None else [vkey, ingest_vkey]


def _check_checkpoints(connection: Connection, leaves: list[bytes], vkey: str, problems: list[str]) -> None:
    vkeys = _vkeys(connection, vkey, problems)
    frontiers = [Frontier()]
    for leaf in leaves:
        frontiers.append(frontiers[-1].append(leaf_hash(leaf)))
    last = 0
    for row in connection.execute(select(schema.checkpoints).order_by(schema.checkpoints.c.size)):
        before, last = last, row.size
        try:
            checkpoint = open_checkpoint(row.note, *vkeys)
        except AuditError as error:
            problems.append(f"checkpoint {row.size}: {error}")
            continue
        if not 0 < row.size < len(frontiers):
            problems.append(f"checkpoint {row.size} is of entries that the log does not have: the log was truncated")
        elif (checkpoint.size, checkpoint.root) != (row.size, frontiers[row.size].root()):
            problems.append(
                f"checkpoint {row.size} has another root than the log: an entry before {row.size} was edited, dropped or moved"
            )
        elif row.frontier != frontiers[row.size].to_bytes():
            problems.append(f"checkpoint {row.size} has another frontier than the log")
        elif not _is_signed_by(row.note, vkey):
            _check_ingest_entries(leaves, before, row.size, problems)
    if last != len(leaves) or not leaves:
        problems.append(f"the log has {len(leaves)} entries and its last checkpoint covers {last}")


def _is_signed_by(note: str, vkey: str) -> bool:
    try:
        open_checkpoint(note, vkey)
    except AuditError:
        return False
    return True


def _check_ingest_entries(leaves: list[bytes], start: int, end: int, problems: list[str]) -> None:
    """What ingest signed is what an ingest writes: no decision, and of epoch keys those of records that begin or are full."""
    for seq in range(start, end):
        leaf = json.loads(leaves[seq])
        changed = leaf.get("epochs", {}).values()
        if leaf["type"] not in INGEST_ENTRIES or any(
            one["purpose"] != RECORDS_PURPOSE or one["state"] == EpochState.DESTROYED.value for one in changed
        ):
            problems.append(f"entry {seq} ({leaf['type']}) is signed by ingest, which may not write such an entry")


def _check_identity(connection: Connection, logged: LoggedState, problems: list[str]) -> None:
    row = connection.execute(select(schema.identity)).first()
    if row is None or logged.created is None:
        problems.append("the log does not begin with the creation of a keystore")
    elif (row.keystore_id, row.audit_vkey) != (logged.created.get("keystore"), logged.created.get("vkey")):
        problems.append("the keystore's identity is not the one it was created with")
    if logged.own_keys is not None and own_keys_account(connection) != logged.own_keys:
        problems.append("the keystore's own wrapped keys are not those of the log: one was added, dropped or exchanged")


def _check_policies_and_people(connection: Connection, logged: LoggedState, problems: list[str]) -> None:
    policies = connection.execute(select(schema.policies).order_by(schema.policies.c.version)).all()
    if [row.digest for row in policies] != logged.policies or any(
        sha256_hex(row.document) != row.digest for row in policies
    ):
        problems.append("the policies are not those of the log")
    enrolled: dict[str, str] = {}
    for row in connection.execute(select(schema.people)):
        if row.public_key is not None:
            enrolled[row.person] = base64.b64encode(row.public_key).decode()
        if row.name is not None and name_commitment(row.salt, row.name) != row.person:
            problems.append(f"the name on file for person {row.person[:12]} is not the one in the log")
        if row.person not in logged.mentioned:
            problems.append(f"person {row.person[:12]} is on file and never did anything")
        # People without a tag are of an older schema, which logged no erasure; they can not act any more.
        if row.tag is not None and (row.name is None) != (row.person in logged.erased_people):
            problems.append(
                f"the name of person {row.person[:12]} was erased, or put back, without an entry in the log"
            )
    if enrolled != logged.enrolled:
        problems.append("the approvers' public keys are not those of the log")


def _check_requests(connection: Connection, logged: LoggedState, problems: list[str]) -> None:
    keystore_id = str(connection.execute(select(schema.identity.c.keystore_id)).scalar())
    keys = {row.person: row.public_key for row in connection.execute(select(schema.people))}
    seen: dict[str, LoggedRequest] = {}
    for row in connection.execute(select(schema.requests)).all():
        images = images_of(connection, row.request_id)
        if request_digest(keystore_id, dict(row._mapping), images) != row.digest:
            problems.append(f"request {row.request_id} was altered: its content is not the one its digest stands for")
        seen[row.request_id] = LoggedRequest(
            row.requester,
            row.digest,
            row.revision,
            row.expires_at,
            row.approvals_required,
            len(images),
            row.state,
            row.denied_by,
        )
    for row in connection.execute(select(schema.approvals)):
        message = approval_message(keystore_id, row.request_id, row.digest, row.approver, row.approved_at)
        if not signature_holds(keys.get(row.approver), row.signature, message):
            problems.append(f"an approval of request {row.request_id} is not signed by its approver")
        if row.request_id in seen:
            seen[row.request_id].approvals[row.digest, row.approver] = base64.b64encode(row.signature).decode()
    for row in connection.execute(select(schema.grants)):
        if row.request_id in seen:
            seen[row.request_id].grants[row.digest] = (row.grant_id, row.expires_at)
    for request_id in sorted(seen.keys() | logged.requests.keys()):
        if seen.get(request_id) != logged.requests.get(request_id):
            problems.append(f"request {request_id}, its approvals or its grant are not those of the log")
    releases = {row.grant_id: row.recipient for row in connection.execute(select(schema.releases))}
    if releases != logged.releases:
        problems.append("the releases are not those of the log")


def _published_key(directory: Path, problems: list[str]) -> str | None:
    try:
        return (directory / AUDIT_KEY_NAME).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        problems.append(
            f"{AUDIT_KEY_NAME} is missing or unreadable; the key in the database was taken, which proves less"
        )
        return None


def _witness_note(directory: Path, problems: list[str]) -> str | None:
    try:
        note = Witness(directory / WITNESS_DIRECTORY, "").note()
    except (AuditError, StorageError) as error:
        problems.append(f"witness: {error}")
        return None
    if note is None:
        problems.append("the witness is missing: a rolled-back database could not be told from a current one")
    return note


def _witnessed_size(connection: Connection, note: str | None, vkeys: list[str], problems: list[str]) -> int | None:
    if note is None:
        return None
    try:
        last = open_checkpoint(note, *vkeys)
    except AuditError as error:
        problems.append(f"witness: {error}")
        return None
    _check_prefix(connection, last, "witness", problems)
    return last.size


def _against(connection: Connection, note: str, vkeys: list[str], what: str, problems: list[str]) -> int | None:
    """Return up to which entry the note vouches for the log, None where it does not."""
    try:
        kept = open_checkpoint(note, *vkeys)
    except AuditError as error:
        problems.append(f"{what}: {error}")
        return None
    return kept.size if _check_prefix(connection, kept, what, problems) else None


def _limits(size: int, vouched: int | None, *, given_key: bool) -> list[str]:
    limits = []
    if vouched is None:
        limits.append(
            "no checkpoint kept elsewhere vouches for this log: whoever holds the KEK could have rewritten it, its signatures "
            "and its witness together, unseen by this audit. Give one from where the keystore's account can not write"
        )
    elif vouched < size:
        limits.append(
            f"entries {vouched} to {size - 1} were written after the checkpoint given; only a later one can vouch for them"
        )
    if not given_key:
        limits.append(
            "the verifier key was read from the keystore's own directory: that this is the log whose key was once published "
            "is not shown. Give the key that was kept elsewhere"
        )
    return limits


def _check_prefix(connection: Connection, old: Checkpoint, what: str, problems: list[str]) -> bool:
    try:
        hashes = leaf_hashes(connection)
        frontier, _, origin = _summary(connection)
        check_extends(
            old, Checkpoint(origin, frontier.size, frontier.root()), lambda size: consistency_proof(hashes, size)
        )
    except (AuditError, TamperedError, ValueError) as error:
        problems.append(f"{what}: {error}")
        return False
    return True


def _summary(connection: Connection) -> tuple[Frontier, str, str]:
    frontier = frontier_of(leaf_hash(leaf) for leaf in read_leaves(connection, []))
    note = connection.execute(
        select(schema.checkpoints.c.note).order_by(schema.checkpoints.c.size.desc()).limit(1)
    ).scalar()
    keystore_id = connection.execute(select(schema.identity.c.keystore_id)).scalar()
    return frontier, str(note or ""), origin_of(str(keystore_id or ""))

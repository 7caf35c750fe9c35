"""The officer's report: who got which keys, when, on what basis and by whose approvals; what was refused, is overdue, was erased.

Everything in it that happened is read from the log, after the log and all that it accounts for was verified, and up to the
tree that was verified. What the log keeps as digests (words, images, names) is taken from the tables where it is the content of
that digest, and only where the report is made with words; without them people are commitments.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, select

from keystore.audit.merkle import Frontier, leaf_hash
from keystore.crypto.canonical import timestamp
from keystore.decisions.content import images_of, request_digest
from keystore.decisions.people import ERASED_NAME, names
from keystore.errors import AuditError
from keystore.reporting.controller import Controller
from keystore.reporting.processing import Processing, processing_of
from keystore.storage import schema
from keystore.storage.places import reading
from keystore.vault.erasure import erasure_digest
from keystore.verification.replay import full_replay
from keystore.verification.replay_decisions import LoggedRequest
from keystore.verification.report import AuditReport
from keystore.verification.verify import verify_audit


class Line(BaseModel):
    """Base of the report's lines; the fields are the columns. entry: number in the log; people: commitments, or names."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class Disclosure(Line):
    """One release. recipient: id of the public key that the keys were sealed to; again: how often a lost reply was repeated.

    break_glass: granted without approvals, in an emergency; reviewed_by: who looked into that.
    case, purpose, legal_basis, images: None where the report is made without words.
    """

    entry: int
    time: str
    request: str
    released_to: str
    recipient_key: str
    records: int
    approved_by: list[str]
    approval_entries: list[int]
    approver_roles: list[str]
    approver_keys: list[str]
    digest: str
    sealed_sha256: str
    again: int
    break_glass: bool
    reviewed_by: list[str]
    case: str | None = None
    purpose: str | None = None
    legal_basis: str | None = None
    images: list[str] | None = None


class Refused(Line):
    """One attempt that the rules did not allow."""

    entry: int
    time: str
    action: str
    code: str
    request: str | None
    by: str | None


class Overdue(Line):
    """What nobody ended in time: a request without a decision, a grant without use, a break of the glass without a review."""

    request: str
    what: str
    since: str
    requester: str
    records: int
    approvals: int
    approvals_required: int


class Erased(Line):
    """One erasure. owner: keyed hash of whom it was about; a receipt can be made for who knows the name."""

    entry: int
    time: str
    dataset: str
    owner: str
    records: int
    keys: int
    by: str


class OfficerReport(Line):
    """The report. `intact` is said against a checkpoint kept elsewhere only, for the first `vouched_size` entries."""

    made_at: str
    keystore: str
    entries: int
    root: str
    intact: bool
    vouched_size: int | None
    limits: list[str]
    with_words: bool
    processing: Processing
    disclosures: list[Disclosure]
    refusals: list[Refused]
    overdue: list[Overdue]
    erasures: list[Erased]

    def verdict(self) -> str:
        """What may be said of the log that all this is from."""
        if not self.intact:
            return "nothing contradicts the log; that it is intact is not shown: it needs a checkpoint kept elsewhere"
        if self.vouched_size == self.entries:
            return "the log is intact"
        return f"the log is intact up to entry {self.vouched_size} of {self.entries}; nothing contradicts the rest"


def _count(said: int | list[str]) -> int:
    return said if isinstance(said, int) else len(said)  # older entries list the records


def officer_report(
    path: Path | str,
    now: datetime,
    *,
    checkpoints: Sequence[str] = (),
    vkey: str | None = None,
    quorum: int | None = None,
    controller: Controller | None = None,
    words: bool = False,
) -> OfficerReport:
    """Verify a keystore directory and return its report, without the KEK. checkpoints, vkey, quorum: as of `verify_audit`.

    words: with names, purposes, cases, legal bases and image ids. Raises AuditError: the log does not verify, and nothing is
    reported from it; StorageError, SchemaError.
    """
    audit = verify_audit(path, list(checkpoints), vkey, quorum)
    if not audit.ok:
        raise AuditError(
            f"nothing is reported from a keystore that is not what its log says: {'; '.join(audit.problems[:3])}. "
            "See keyanon audit verify"
        )
    with reading(Path(path)) as connection:
        return _Reader(connection, audit, words).report(now, controller or Controller())


class _Reader:
    """Goes through the verified entries once."""

    def __init__(self, connection: Connection, audit: AuditReport, words: bool) -> None:
        self._connection, self._audit, self._words = connection, audit, words
        self._names = names(connection) if words else {}
        self._keystore_id = str(connection.execute(select(schema.identity.c.keystore_id)).scalar_one())
        keys = connection.execute(select(schema.approver_keys.c.key_id, schema.approver_keys.c.role))
        self._roles: dict[str, str] = {row.key_id: row.role for row in keys}
        self._approvals: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._releases: list[dict[str, Any]] = []
        self._again: dict[str, int] = {}
        self._broken: dict[str, dict[str, Any]] = {}  # by grant
        self._reviews: dict[str, list[str]] = {}
        self._refusals: list[Refused] = []
        self._erasures: list[dict[str, Any]] = []

    def report(self, now: datetime, controller: Controller) -> OfficerReport:
        requests = self._read()
        return OfficerReport(
            made_at=timestamp(now),
            keystore=self._keystore_id,
            entries=self._audit.size,
            root=self._audit.root,
            intact=self._audit.intact,
            vouched_size=self._audit.vouched_size,
            limits=self._audit.limits,
            with_words=self._words,
            processing=processing_of(self._connection, controller),
            disclosures=[self._disclosure(leaf) for leaf in self._releases],
            refusals=self._refusals,
            overdue=self._overdue(requests, timestamp(now)),
            erasures=[self._erased(leaf) for leaf in self._erasures],
        )

    def _read(self) -> dict[str, LoggedRequest]:
        replay, frontier = full_replay(), Frontier()
        query = select(schema.log.c.leaf).where(schema.log.c.seq < self._audit.size).order_by(schema.log.c.seq)
        for leaf in self._connection.execute(query.execution_options(yield_per=1000)).scalars():
            frontier = frontier.append(leaf_hash(leaf))
            replay.add(leaf)
            self._take(json.loads(leaf))
        if frontier.root().hex() != self._audit.root:
            raise AuditError("the log changed between its verification and this report; make the report again")
        return replay.state.requests

    def _take(self, leaf: dict[str, Any]) -> None:
        kind = leaf["type"]
        if kind == "approve":
            self._approvals.setdefault((leaf["request"], leaf["digest"]), []).append(leaf)
        elif kind == "release":
            self._releases.append(leaf)
        elif kind == "release-again":
            self._again[leaf["grant"]] = self._again.get(leaf["grant"], 0) + 1
        elif kind == "break-glass":
            self._broken[leaf["grant"]] = leaf
        elif kind == "review":
            self._reviews[leaf.get("broken", leaf["request"])] = leaf["by"]
        elif kind == "erase":
            self._erasures.append(leaf)
        elif kind == "refused":
            self._refusals.append(
                Refused(
                    entry=leaf["seq"],
                    time=leaf["time"],
                    action=leaf["action"],
                    code=leaf["code"],
                    request=leaf["request"],
                    by=None if leaf["by"] is None else self._person(leaf["by"]),
                )
            )

    def _person(self, commitment: str) -> str:
        return self._names.get(commitment, ERASED_NAME) if self._words else commitment

    def _disclosure(self, leaf: dict[str, Any]) -> Disclosure:
        approvals = self._approvals.get((leaf["request"], leaf["digest"]), [])
        keys = [one["key"] for one in approvals if "key" in one]
        return Disclosure(
            entry=leaf["seq"],
            time=leaf["time"],
            request=leaf["request"],
            released_to=self._person(leaf["by"]),
            recipient_key=leaf["recipient"],
            records=_count(leaf["records"]),
            approved_by=[self._person(one["approver"]) for one in approvals],
            approval_entries=[one["seq"] for one in approvals],
            approver_roles=[self._roles[key] for key in keys if key in self._roles],
            approver_keys=keys,
            digest=leaf["digest"],
            sealed_sha256=leaf["sealed_sha256"],
            again=self._again.get(leaf["grant"], 0),
            break_glass=leaf["grant"] in self._broken,
            reviewed_by=[self._person(one) for one in self._reviews.get(leaf["request"], [])],
            **(self._content(leaf) if self._words else {}),
        )

    def _content(self, leaf: dict[str, Any]) -> dict[str, Any]:
        """The words and images of the content that was released. Raises AuditError: they are not those of the digest."""
        table = schema.requests
        row = self._connection.execute(select(table).where(table.c.request_id == leaf["request"])).first()
        images = images_of(self._connection, leaf["request"])
        if row is None or request_digest(self._keystore_id, dict(row._mapping), images) != leaf["digest"]:
            raise AuditError(
                f"request {leaf['request']} is not the content that entry {leaf['seq']} released; run keyanon audit verify"
            )
        return {
            "case": row.case_reference,
            "purpose": row.purpose,
            "legal_basis": row.legal_basis,
            "images": [f"{dataset}/{image}" for _, dataset, image in images],
        }

    def _overdue(self, requests: dict[str, LoggedRequest], now: str) -> list[Overdue]:
        found = [
            self._line(
                leaf["request"], "the glass was broken, without a review", leaf["time"], requests[leaf["request"]]
            )
            for leaf in self._broken.values()
            if leaf["request"] not in self._reviews
        ]
        for ident, one in requests.items():
            granted = one.grants.get(one.digest)
            until = granted[1] if one.state == "approved" and granted else one.expires_at
            if one.state not in ("pending", "approved") or until > now:
                continue
            what = "approved, and lapsed unused" if one.state == "approved" else "lapsed without a decision"
            found.append(self._line(ident, what, until, one))
        return sorted(found, key=lambda one: (one.since, one.request))

    def _line(self, ident: str, what: str, since: str, one: LoggedRequest) -> Overdue:
        return Overdue(
            request=ident,
            what=what,
            since=since,
            requester=self._person(one.requester),
            records=one.records,
            approvals=sum(digest == one.digest for digest, _ in one.approvals),
            approvals_required=one.approvals_required,
        )

    def _erased(self, leaf: dict[str, Any]) -> Erased:
        table = schema.erasures
        line = self._connection.execute(select(table).where(table.c.entry == leaf["seq"])).first()
        if line is None or erasure_digest(line.dataset, line.owner, line.erased_at) != leaf["erasure"]:
            raise AuditError(f"the erasure of entry {leaf['seq']} is not the one on file; run keyanon audit verify")
        return Erased(
            entry=leaf["seq"],
            time=leaf["time"],
            dataset=line.dataset,
            owner=line.owner,
            records=leaf["records"],
            keys=leaf["keys"],
            by=self._person(leaf["by"]),
        )

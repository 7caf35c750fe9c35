"""A milestone: how far the service has verified the log, and what of that is not over, signed with the audit key.

A release verifies the log first. From the last milestone on that costs as much as was written since and as is going on, and not
as much as was ever written or asked for (replay_decisions.living). A milestone can not be forged without the audit key; one that
is dropped or does not verify is not believed, and the log is read from its begin. An audit takes no notice of it but to check it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from sqlalchemy import Connection, delete, select

from keystore.audit.checkpoint import parse_verifier_key
from keystore.audit.merkle import Frontier
from keystore.audit.signers import LogSigner
from keystore.crypto.canonical import canonical_json
from keystore.errors import TamperedError
from keystore.storage import schema
from keystore.verification.replay_decisions import LoggedDecisions, LoggedRequest

LABEL: Final = b"keyanon milestone v3\n"
OLD_LABELS: Final = (
    b"keyanon milestone v2\n",
    b"keyanon milestone v1\n",
)  # they do not say until when anything is needed
EVERY: Final = 100  # entries after which another one is worth its row
DECISIONS: Final = [
    one.name for one in fields(LoggedDecisions) if one.name not in ("problems", "by_names", "went_back")
]  # there are no problems before a milestone; what names did is for an audit, which reads all


@dataclass
class Milestone:
    """frontier: of the tree that was verified; last_time: of its last entry; decisions: what of it lives at that time."""

    frontier: Frontier = field(default_factory=Frontier)
    last_time: str = ""
    decisions: LoggedDecisions = field(default_factory=LoggedDecisions)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        decisions: dict[str, Any] = {name: getattr(self.decisions, name) for name in DECISIONS}
        decisions["requests"] = {name: asdict(request) for name, request in decisions["requests"].items()}
        for name in ("mentioned", "erased_people"):
            decisions[name] = sorted(decisions[name])
        for request in decisions["requests"].values():
            for name in ("approvals", "keys", "grant_seconds"):
                request[name] = [[*of, one] for of, one in sorted(request[name].items())]
            request["grants"] = {digest: list(grant) for digest, grant in request["grants"].items()}
        peaks = base64.b64encode(self.frontier.to_bytes()).decode()
        return canonical_json(
            {"decisions": decisions, "last_time": self.last_time, "peaks": peaks, "size": self.frontier.size}
        )

    @staticmethod
    def from_bytes(document: bytes) -> Milestone:
        """Inverse of `to_bytes`. Raises ValueError, LookupError, TypeError, AttributeError."""
        told = json.loads(document)
        said = dict(told["decisions"])
        said["requests"] = {name: _request(request) for name, request in said["requests"].items()}
        for name in ("mentioned", "erased_people"):
            said[name] = set(said[name])
        frontier = Frontier.from_bytes(told["size"], base64.b64decode(told["peaks"], validate=True))
        return Milestone(frontier, told["last_time"], LoggedDecisions(**said))


def _request(said: Mapping[str, Any]) -> LoggedRequest:
    approvals = {(digest, approver): signature for digest, approver, signature in said["approvals"]}
    keys = {(digest, approver): key for digest, approver, key in said["keys"]}
    times = {(digest, approver): seconds for digest, approver, seconds in said["grant_seconds"]}
    grants = {digest: (grant, expires_at) for digest, (grant, expires_at) in said["grants"].items()}
    return LoggedRequest(**{**said, "approvals": approvals, "keys": keys, "grants": grants, "grant_seconds": times})


def last_milestone(connection: Connection, vkey: str) -> Milestone | None:
    """Return the stored milestone, None where there is none, or an older version's: the log is read from its begin.

    Raises TamperedError: it is not of the audit key `vkey`.
    """
    row = connection.execute(select(schema.milestone)).first()
    if row is None:
        return None
    _, key = parse_verifier_key(vkey)
    for old in OLD_LABELS:
        with contextlib.suppress(InvalidSignature):
            key.verify(row.signature, old + row.document)
            return None
    try:
        key.verify(row.signature, LABEL + row.document)
        return Milestone.from_bytes(row.document)
    except (InvalidSignature, ValueError, LookupError, TypeError, AttributeError, binascii.Error) as error:
        raise TamperedError(
            "the milestone of the log's verification is not one that this keystore signed; it is not believed"
        ) from error


def believed_milestone(connection: Connection, vkey: str) -> Milestone:
    """Return the stored milestone, or the begin of the log where there is none that verifies."""
    try:
        return last_milestone(connection, vkey) or Milestone()
    except TamperedError:
        return Milestone()


def store_milestone(connection: Connection, milestone: Milestone, signer: LogSigner) -> None:
    """Put a milestone of verified entries in the place of the last one."""
    document = milestone.to_bytes()
    connection.execute(delete(schema.milestone))
    connection.execute(
        schema.milestone.insert().values(only=1, document=document, signature=signer.sign_message(LABEL + document))
    )

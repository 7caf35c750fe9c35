"""The one table of who may call what. The application is built from it, and a test walks it: endpoint x role x tenant.

What a caller may not call, and what of others' a caller names, are one answer: 404, the same bytes as for a path that does not
exist. Whoever has no valid token is answered 401, and learns nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from keystore.decisions.api_token import Role

SMALL_BODY_BYTES = 64 * 1024
MAX_SHARD_BODY_BYTES = 64 * 1024 * 1024  # held in memory while it is checked
DIGESTS_BODY_BYTES = 256 * 1024  # of as many images as a request may name
BODY_SECONDS = 30  # within which a body has come, whatever its size
SHARD_BODY_SECONDS = 120
NAMED_SHARDS_BODY_BYTES = 128 * 1024
NAMED_SUBJECTS_BODY_BYTES = 1024 * 1024


class Reach(StrEnum):
    """What a role reaches through an endpoint."""

    ALL = "nothing in the path belongs to anybody"
    OWN = "what the token's person filed, of the token's data set"
    DATASET = "what is of the token's data set"
    OWN_CHANGES = "changes of who decides that the token's person filed"


@dataclass(frozen=True)
class Endpoint:
    """One row: roles that may call, and what they reach. No roles: anybody, without a token."""

    method: str
    path: str
    roles: Mapping[Role, Reach] = field(default_factory=dict)
    body_bytes: int = 0
    body_seconds: int = BODY_SECONDS
    per_minute: int = 120  # calls of one token


INGEST, PSEUDONYMS, REQUESTER, APPROVER = Role.INGEST, Role.PSEUDONYMS, Role.REQUESTER, Role.APPROVER
RECOVERY, AUDITOR, OPERATOR = Role.RECOVERY, Role.AUDITOR, Role.OPERATOR
_OF_REQUESTS = {REQUESTER: Reach.OWN, RECOVERY: Reach.OWN, APPROVER: Reach.DATASET}
_SEES_REQUESTS = {**_OF_REQUESTS, OPERATOR: Reach.OWN_CHANGES}
_WITHDRAWS = {REQUESTER: Reach.OWN, OPERATOR: Reach.OWN_CHANGES}
_WHO_DECIDES = {APPROVER: Reach.ALL, OPERATOR: Reach.ALL}
_ANYBODY_KNOWN = dict.fromkeys(Role, Reach.ALL)
_REQUEST = "/v1/requests/{request_id}"
_SHARD = "/v1/inbox/{run_id}/{shard}"
_RECEIPTS = "/v1/inbox/{run_id}/receipts"
_OF_RUN = {INGEST: Reach.DATASET, PSEUDONYMS: Reach.DATASET}
_NAMES = {PSEUDONYMS: Reach.ALL}
_LOG = {AUDITOR: Reach.ALL}
_TOKENS = {OPERATOR: Reach.ALL}

ENDPOINTS: Mapping[str, Endpoint] = {
    "health": Endpoint("GET", "/v1/health"),
    "ready": Endpoint("GET", "/v1/ready"),
    # Public keys; and a run that leaves its keys in a folder or a bucket has no token.
    "ingest_key": Endpoint("GET", "/v1/ingest-key"),
    "metrics": Endpoint("GET", "/v1/metrics", {OPERATOR: Reach.ALL}),
    "me": Endpoint("GET", "/v1/me", _ANYBODY_KNOWN),
    "put_shard": Endpoint("PUT", _SHARD, _OF_RUN, MAX_SHARD_BODY_BYTES, SHARD_BODY_SECONDS, per_minute=1200),
    "remove_shard": Endpoint("DELETE", _SHARD, _OF_RUN, per_minute=1200),
    "receipts": Endpoint("POST", _RECEIPTS, _OF_RUN, NAMED_SHARDS_BODY_BYTES, per_minute=1200),
    "remove_receipts": Endpoint("POST", _RECEIPTS + "/removal", _OF_RUN, NAMED_SHARDS_BODY_BYTES, per_minute=1200),
    "inbox": Endpoint("GET", "/v1/inbox/{run_id}", _OF_RUN),
    "pseudonyms": Endpoint("POST", "/v1/pseudonyms", _NAMES, NAMED_SUBJECTS_BODY_BYTES, per_minute=600),
    "settle_pseudonym": Endpoint("POST", "/v1/pseudonyms/settlement", _NAMES, SMALL_BODY_BYTES, per_minute=1200),
    "file_request": Endpoint("POST", "/v1/requests", {REQUESTER: Reach.DATASET}, SMALL_BODY_BYTES, per_minute=20),
    "break_glass": Endpoint("POST", "/v1/break-glass", {REQUESTER: Reach.DATASET}, SMALL_BODY_BYTES, per_minute=20),
    "list_requests": Endpoint("GET", "/v1/requests", _SEES_REQUESTS),
    "show_request": Endpoint("GET", _REQUEST, _SEES_REQUESTS),
    "compare_pictures": Endpoint("POST", _REQUEST + "/pictures", _OF_REQUESTS, DIGESTS_BODY_BYTES, per_minute=20),
    "picture_digests": Endpoint("GET", _REQUEST + "/pictures", {APPROVER: Reach.DATASET}, per_minute=20),
    "approve": Endpoint("POST", _REQUEST + "/approval", {APPROVER: Reach.DATASET}, SMALL_BODY_BYTES, per_minute=20),
    "deny": Endpoint("POST", _REQUEST + "/denial", {APPROVER: Reach.DATASET}, per_minute=20),
    "withdraw": Endpoint("POST", _REQUEST + "/withdrawal", _WITHDRAWS, per_minute=20),
    "request_shards": Endpoint("GET", _REQUEST + "/shards", _OF_REQUESTS),
    "release": Endpoint("POST", _REQUEST + "/release", {RECOVERY: Reach.OWN}, SMALL_BODY_BYTES, per_minute=20),
    "policy": Endpoint("GET", "/v1/policy", _WHO_DECIDES),
    "approvers": Endpoint("GET", "/v1/approvers", _WHO_DECIDES),
    "file_change": Endpoint("POST", "/v1/changes", {OPERATOR: Reach.ALL}, SMALL_BODY_BYTES, per_minute=20),
    "sign_in": Endpoint("GET", "/v1/sign-in"),
    "sign_in_callback": Endpoint("GET", "/v1/sign-in/callback"),
    "sign_in_token": Endpoint("POST", "/v1/sign-in/token", body_bytes=SMALL_BODY_BYTES),
    "log": Endpoint("GET", "/v1/log", _LOG),
    "checkpoint": Endpoint("GET", "/v1/log/checkpoint", _LOG),
    "report": Endpoint("POST", "/v1/report", _LOG, SMALL_BODY_BYTES, per_minute=5),
    "inclusion": Endpoint("GET", "/v1/log/inclusion/{index}", _LOG),
    "consistency": Endpoint("GET", "/v1/log/consistency/{old_size}", _LOG),
    "list_tokens": Endpoint("GET", "/v1/tokens", _TOKENS),
    "revoke_token": Endpoint("POST", "/v1/tokens/{token_id}/revocation", _TOKENS, per_minute=20),
}

"""API tokens as their holders know them. Apart from `tokens`, because who calls the service needs no database.

token = "kat1_" || id (16 hexadecimal digits) || "_" || secret (64 hexadecimal digits)
"""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum

from keystore.decisions.views import View

TOKEN = re.compile(r"kat1_([0-9a-f]{16})_([0-9a-f]{64})")


class Role(StrEnum):
    """What a token lets its holder do; each may do one thing only (service.endpoints)."""

    INGEST = "ingest"
    PSEUDONYMS = "pseudonyms"
    REQUESTER = "requester"
    APPROVER = "approver"
    RECOVERY = "recovery"
    AUDITOR = "auditor"
    OPERATOR = "operator"


OF_JOBS = frozenset({Role.INGEST, Role.PSEUDONYMS})
"""What a run over one data set holds: it hands keys in, and with the second asks for pseudonyms. Nobody signs in for either."""


class TokenView(View):
    """A token as its operator sees it: never the secret."""

    token_id: str
    person: str
    role: Role
    dataset: str | None
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None

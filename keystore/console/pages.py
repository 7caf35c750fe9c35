"""The one table of the console's pages. Each stands for an endpoint of the HTTP interface: it is for the same roles, reaches the
same, and counts as a call of it. A test walks this table too.

Without a session every page but the first seven is the page to sign in on, with status 401. What a role may not see and what does
not exist are one page, 404.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keystore.decisions.api_token import Role
from keystore.service.endpoints import ENDPOINTS, SMALL_BODY_BYTES, Endpoint, Reach

ROOT = "/console"
SIGN_IN_BODY_BYTES = 4 * 1024
ROLES = (Role.REQUESTER, Role.APPROVER, Role.RECOVERY, Role.AUDITOR, Role.OPERATOR)
"""Roles that there are pages for: an ingest token is a job's."""


@dataclass(frozen=True)
class Page:
    """One row. of: the endpoint whose roles, rate and reach the page has; none: open to all, or to all who signed in."""

    method: str
    path: str
    of: str | None = None
    signed_in: bool = True
    body_bytes: int = 0
    per_minute: int = 120  # where `of` says nothing

    @property
    def endpoint(self) -> Endpoint:
        """The page as the guard knows an endpoint."""
        if self.of is None:
            roles: Mapping[Role, Reach] = dict.fromkeys(ROLES, Reach.ALL) if self.signed_in else {}
            return Endpoint(self.method, self.path, roles, self.body_bytes, per_minute=self.per_minute)
        of = ENDPOINTS[self.of]
        return Endpoint(self.method, self.path, of.roles, self.body_bytes, per_minute=of.per_minute)


PROVIDER_ANSWER = ROOT + "/sign-in/callback"
_REQUEST = ROOT + "/requests/{request_id}"
_FORM = SMALL_BODY_BYTES

PAGES: Mapping[str, Page] = {
    "sign_in_page": Page("GET", ROOT + "/sign-in", signed_in=False),
    "sign_in": Page("POST", ROOT + "/sign-in", signed_in=False, body_bytes=SIGN_IN_BODY_BYTES),
    "provider": Page("GET", ROOT + "/sign-in/provider", signed_in=False),
    "provider_answer": Page("GET", PROVIDER_ANSWER, signed_in=False),
    "style": Page("GET", ROOT + "/style.css", signed_in=False),
    "script": Page("GET", ROOT + "/passkey.js", signed_in=False),
    "pictures_script": Page("GET", ROOT + "/pictures.js", signed_in=False),
    "home": Page("GET", ROOT),
    "sign_out": Page("POST", ROOT + "/sign-out", body_bytes=SIGN_IN_BODY_BYTES),
    "list_requests": Page("GET", ROOT + "/requests", of="list_requests"),
    "show_request": Page("GET", _REQUEST, of="show_request"),
    "filing_page": Page("GET", ROOT + "/filing", of="file_request"),
    "file_request": Page("POST", ROOT + "/filing", of="file_request", body_bytes=_FORM),
    "glass_page": Page("GET", ROOT + "/break-glass", of="break_glass"),
    "break_glass": Page("POST", ROOT + "/break-glass", of="break_glass", body_bytes=_FORM),
    "pictures_page": Page("GET", _REQUEST + "/pictures", of="picture_digests"),
    "approval_page": Page("GET", _REQUEST + "/approval", of="approve"),
    "approve": Page("POST", _REQUEST + "/approval", of="approve", body_bytes=_FORM),
    "deny": Page("POST", _REQUEST + "/denial", of="deny", body_bytes=_FORM),
    "withdraw": Page("POST", _REQUEST + "/withdrawal", of="withdraw", body_bytes=_FORM),
    "who_decides": Page("GET", ROOT + "/who-decides", of="approvers"),
    "file_change": Page("POST", ROOT + "/who-decides", of="file_change", body_bytes=_FORM),
    "passkey_page": Page("GET", ROOT + "/passkey", of="approve"),
    "make_passkey": Page("POST", ROOT + "/passkey", of="approve", body_bytes=_FORM),
    "prove_passkey": Page("POST", ROOT + "/passkey/proof", of="approve", body_bytes=_FORM),
    "log": Page("GET", ROOT + "/log", of="log"),
    "report_page": Page("GET", ROOT + "/report", of="report"),
    "report": Page("POST", ROOT + "/report", of="report", body_bytes=_FORM),
    "verify_log": Page("POST", ROOT + "/log/verification", of="log", body_bytes=_FORM),
}

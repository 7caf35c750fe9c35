"""What each page of the table does. The names of these functions are the table's.

Nothing is decided here: a form becomes the message of the HTTP interface, and goes to the function that answers it there.
"""

from __future__ import annotations

import io
import zipfile
from datetime import timedelta

from pydantic import ValidationError
from starlette.responses import Response

from keystore.audit.checkpoint import open_checkpoint
from keystore.console.gate import COOKIE, Visit
from keystore.console.passkey import challenges, own_key, signed_of
from keystore.console.rendering import OWN_PICTURES
from keystore.decisions.api_token import Role
from keystore.decisions.legal_bases import written as legal_basis
from keystore.decisions.lifecycle import State
from keystore.errors import KeystoreError
from keystore.reporting.writing import as_files
from keystore.service import audit_calls, calls
from keystore.service.guard import CallError
from keystore.service.messages import Approving, Breaking, Filing, Reporting, SeenRequest
from keystore.service.problems import answer_to, malformed
from keystore.verification.report import AuditReport
from keystore.verification.verify import verify_audit

GRANT_TIMES = (15 * 60, 3600, 4 * 3600, 12 * 3600, 86400, 3 * 86400)  # seconds, below the policy's
_HOUR = timedelta(hours=1)
_FILED = ("images", "case", "purpose", "legal_basis", "law", "dataset", "hours")


def home(visit: Visit) -> Response:
    """Go to the first page of a role."""
    return visit.go("/log" if visit.caller.role is Role.AUDITOR else "/requests", visit.session.take_notice())


def sign_out(visit: Visit) -> Response:
    """End the session, and have the browser drop its cookie."""
    visit.gate.sessions.end(visit.session)
    response = visit.go("/sign-in")
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return response


def list_requests(visit: Visit) -> Response:
    """Show the newest requests that the caller may see, all or those of one state."""
    chosen = next((state for state in State if state.value == visit.query.get("state")), None)
    shown = calls.list_requests(visit.office, visit.caller, state=chosen).requests
    counts = calls.count_requests(visit.office, visit.caller)
    return visit.show("requests.html", requests=shown, counts=counts, chosen=chosen, most=calls.MAX_LISTED)


def show_request(visit: Visit) -> Response:
    """Show one request and what the caller may do with it."""
    request = calls.show_request(visit.parameters["request_id"], visit.office, visit.caller)
    may_end = request.state in (State.PENDING, State.APPROVED)
    return visit.show(
        "request.html",
        request=request,
        sees_pictures=visit.caller.role is Role.APPROVER and not request.change,
        may_approve=visit.caller.role is Role.APPROVER and request.state is State.PENDING,
        may_deny=visit.caller.role is Role.APPROVER and may_end,
        may_withdraw=visit.caller.role in (Role.REQUESTER, Role.OPERATOR) and may_end,
    )


def filing_page(visit: Visit) -> Response:
    """Show the form of a request."""
    return _filing(visit, dict.fromkeys(_FILED, ""), None)


def file_request(visit: Visit) -> Response:
    """File a request; where that is refused, show what was written again, and why."""
    written = _written(visit)
    try:
        filing = Filing.model_validate({**_asked(written), "lifetime_seconds": _seconds(written["hours"])})
        seen = calls.file_request(filing, visit.office, visit.caller)
    except (CallError, KeystoreError, ValidationError) as error:
        return _filing(visit, written, error)
    return _back(visit, seen, "The request is filed. Other people read it now.")


def glass_page(visit: Visit) -> Response:
    """Show the form of a break of the glass."""
    return _filing(visit, dict.fromkeys(_FILED, ""), None, glass=True)


def break_glass(visit: Visit) -> Response:
    """Break the glass; where that is refused, show what was written again, and why."""
    written = _written(visit)
    try:
        seen = calls.break_glass(Breaking.model_validate(_asked(written)), visit.office, visit.caller)
    except (CallError, KeystoreError, ValidationError) as error:
        return _filing(visit, written, error, glass=True)
    return _back(visit, seen, "The glass is broken, which is on record. Others have to review it.")


def _written(visit: Visit) -> dict[str, str]:
    return {name: visit.form.get(name, "") for name in _FILED}


def _seconds(hours: str) -> int:
    try:
        return int(timedelta(hours=float(hours)).total_seconds())
    except (ValueError, OverflowError):
        raise CallError(422, "invalid", "how long it stands is a number of hours, such as 2 or 0.5") from None


def _asked(written: dict[str, str]) -> dict[str, object]:
    words = {name: _lines(written[name]) for name in ("case", "purpose")}
    words["legal_basis"] = legal_basis(written["legal_basis"], _lines(written["law"]))
    return {**words, "images": written["images"].split(), "dataset": written["dataset"] or None}


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n")  # as a form sends what was typed


def _filing(
    visit: Visit,
    written: dict[str, str],
    error: CallError | KeystoreError | ValidationError | None,
    *,
    glass: bool = False,
) -> Response:
    if isinstance(error, CallError) and error.status == 404:
        raise error
    if isinstance(error, ValidationError):
        error = malformed(error.errors(), "this form")
    status, problem = (200, None) if error is None else answer_to(error)
    policy = visit.office.keystore.policy()
    offered = visit.office.may_break_glass and bool(policy.break_glass)
    shown = {"written": written, "problem": problem, "policy": policy, "glass": glass, "offered": offered}
    return visit.show("filing.html", status, **shown)


def pictures_page(visit: Visit) -> Response:
    """Show where an approver may choose published pictures of their own; the page compares them, and sends none."""
    request_id = visit.parameters["request_id"]
    digests = calls.picture_digests(request_id, visit.office, visit.caller).digests
    request = calls.show_request(request_id, visit.office, visit.caller)
    response = visit.show("pictures.html", request=request, digests=digests)
    response.headers.update(OWN_PICTURES)
    return response


def approval_page(visit: Visit) -> Response:
    """Show what is about to be agreed to, once more and whole, and the button."""
    request = calls.show_request(visit.parameters["request_id"], visit.office, visit.caller)
    key, most = own_key(visit), visit.office.keystore.policy().grant_lifetime_seconds
    times = [] if request.change else [*(one for one in GRANT_TIMES if one < most), most]
    return visit.show(
        "approval.html",
        request=request,
        key=key,
        needs_own=key is not None or request.own_keys,
        times=times,
        origin=visit.gate.origin,
        asked=None if key is None or key.passkey is None else challenges(request, key, times),
    )


def approve(visit: Visit) -> Response:
    """Agree to what was shown."""
    said = {
        "digest": visit.form.get("digest", ""),
        "grant_seconds": visit.form.get("grant_seconds") or None,
        "signed": signed_of(visit.form) if "signature" in visit.form else None,
    }
    approving = Approving.model_validate(said)
    seen = calls.approve(visit.parameters["request_id"], approving, visit.office, visit.caller)
    return _back(visit, seen, "Your approval is on record.")


def deny(visit: Visit) -> Response:
    """End a request for good."""
    seen = calls.deny(visit.parameters["request_id"], visit.office, visit.caller)
    return _back(visit, seen, "You refused the request. That is final.")


def withdraw(visit: Visit) -> Response:
    """End a request of one's own."""
    seen = calls.withdraw(visit.parameters["request_id"], visit.office, visit.caller)
    return _back(visit, seen, "The request is withdrawn.")


def _back(visit: Visit, seen: SeenRequest, notice: str) -> Response:
    return visit.go(f"/requests/{seen.request_id}", notice)


def log(visit: Visit) -> Response:
    """Show how long the log is and its last checkpoint."""
    return _log(visit, None)


def verify_log(visit: Visit) -> Response:
    """Verify the log and all it accounts for, as `keyanon audit verify` does on the keystore's machine."""
    visit.office.begin_verification(visit.caller)
    return _log(visit, verify_audit(visit.office.keystore.path))


def report_page(visit: Visit) -> Response:
    """Show what a report is made with, and the buttons."""
    return visit.show("report.html", report=None)


def report(visit: Visit) -> Response:
    """Make the officer's report, as a page or as the files that `keyanon keystore report` writes."""
    note = _lines(visit.form.get("checkpoint", "")).strip()
    reporting = Reporting(checkpoints=[f"{note}\n"] if note else [])
    made = audit_calls.report(reporting, visit.office, visit.caller)
    if visit.form.get("as") != "files":
        return visit.show("report.html", report=made)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in as_files(made).items():
            archive.writestr(name, text)
    name = f'attachment; filename="keystore-report-{made.entries}.zip"'
    return Response(packed.getvalue(), media_type="application/zip", headers={"Content-Disposition": name})


def _log(visit: Visit, report: AuditReport | None) -> Response:
    note = bytes(audit_calls.checkpoint(visit.office).body).decode()
    vkey = visit.office.keystore.audit_vkey
    return visit.show("log.html", report=report, note=note, checkpoint=open_checkpoint(note, vkey), vkey=vkey)

"""Who decides: the policy and the approvers' list, for approvers and operators, and an operator's forms to file changes of them.

What a form files is signed by approvers before it counts; nothing is changed here.
"""

from __future__ import annotations

from pydantic import ValidationError
from starlette.responses import Response

from keystore.console.gate import Visit
from keystore.decisions.api_token import Role
from keystore.errors import KeystoreError
from keystore.service import calls
from keystore.service.guard import CallError
from keystore.service.messages import FiledChange
from keystore.service.problems import answer_to, malformed

_OF_KEYS = ("approver", "role", "public_line", "key")
_OF_POLICY = ("approvals", "max_images", "own_keys", "roles", "break_glass", "legal_bases")
_FIELDS = ("kind", *_OF_KEYS, *_OF_POLICY, "request")
NOBODY, USUAL = "nobody", "usual"  # written in the place of names, roles or legal bases, for none of them
_LISTS = {"roles": NOBODY, "break_glass": NOBODY, "legal_bases": USUAL}  # one a line


def who_decides(visit: Visit) -> Response:
    """Show the policy and the approvers' keys, and to an operator the forms."""
    return _shown(visit, dict.fromkeys(_FIELDS, ""), None)


def file_change(visit: Visit) -> Response:
    """File a change; where that is refused, show what was written again, and why."""
    written = {name: visit.form.get(name, "").strip() for name in _FIELDS}
    try:
        seen = calls.file_change(_filed(written), visit.office, visit.caller)
    except (CallError, KeystoreError, ValidationError) as error:
        return _shown(visit, written, error)
    return visit.go(
        f"/requests/{seen.request_id}", "The change is filed. Nothing is changed before approvers have signed it."
    )


def _filed(written: dict[str, str]) -> FiledChange:
    """Return the message of a form: a field that was left empty stays as it is, or is missing."""
    said: dict[str, object] = {name: value for name, value in written.items() if value}
    for name, none in _LISTS.items():
        if name in said:
            lines = [one.strip() for one in written[name].splitlines() if one.strip()]
            said[name] = [] if lines == [none] else lines
    if "public_line" in said:
        said["public_line"] = written["public_line"].splitlines()[-1]
    return FiledChange.model_validate({"change": said})


def _shown(
    visit: Visit, written: dict[str, str], error: CallError | KeystoreError | ValidationError | None
) -> Response:
    if isinstance(error, ValidationError):
        error = malformed(error.errors(), "this form")
    status, problem = (200, None) if error is None else answer_to(error)
    return visit.show(
        "who_decides.html",
        status,
        policy=calls.policy(visit.office).policy,
        approvers=calls.approvers(visit.office).approvers,
        may_file=visit.caller.role is Role.OPERATOR,
        written=written,
        problem=problem,
    )

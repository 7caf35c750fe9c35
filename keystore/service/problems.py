"""Every error as one kind of answer: its status, and what a caller is told of it.

Pages for people say the same as the HTTP interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keystore import errors
from keystore.errors import KeystoreError, Refusal
from keystore.service.guard import CallError
from keystore.service.messages import Problem
from keystore.service.observing import log_line

MAX_PLACES_CHARACTERS = 500
_UNAVAILABLE = (errors.StorageError, errors.AuditError, errors.ClockError, errors.TamperedError, errors.KekError)


def answer_to(error: CallError | KeystoreError) -> tuple[int, Problem]:
    """Return the status and the words that an error is answered with; what only the operator may know is written down here."""
    if isinstance(error, CallError):
        return error.status, Problem(error="CallError", code=error.code, detail=error.detail)
    name = errors.public_name(error)
    if isinstance(error, _UNAVAILABLE):
        # These name the keystore's own files, and nobody's words.
        log_line("unavailable", error=name, detail=str(error))
        detail = "the keystore can not do this now; its operator has the reason"
        return 503, Problem(error=name, code="unavailable", detail=detail)
    if isinstance(error, Refusal):
        return 409, Problem(error=name, code=error.code, detail=str(error))
    return 422, Problem(error=name, code="invalid", detail=str(error))


def malformed(found: Sequence[Any], of: str) -> CallError:
    """Return the error of what pydantic `found` wrong: it names places, and quotes nothing. of: what says how it should be."""
    places = ", ".join(sorted({".".join(str(part) for part in one["loc"]) for one in found}))
    return CallError(422, "invalid", f"not as {of} says: {places[:MAX_PLACES_CHARACTERS]}")

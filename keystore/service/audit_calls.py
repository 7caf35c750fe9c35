"""What the endpoints of an auditor do: the log, its checkpoint and proofs, the officer's report."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Annotated

from fastapi import Path, Query, Response

from keystore.crypto.canonical import utc_now
from keystore.errors import AuditError
from keystore.reporting.report import OfficerReport, officer_report
from keystore.service.arguments import Calls, In
from keystore.service.guard import CallError
from keystore.service.messages import LogPage, Proof, Reporting

MAX_LEAVES = 1000
SAID_OF_ITSELF = (
    "the keystore's service said this of itself: `keyanon audit verify` on a copy of it, elsewhere, does not ask it"
)


def log(
    office: In,
    start: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_LEAVES)] = MAX_LEAVES,
) -> LogPage:
    """Return entries of the log, from `start` on."""
    size, leaves = office.keystore.log_page(start, limit)
    return LogPage(start=start, size=size, leaves=[base64.b64encode(leaf).decode() for leaf in leaves])


def checkpoint(office: In) -> Response:
    """Return the latest checkpoint, a C2SP signed note."""
    return Response(office.keystore.checkpoint(), media_type="text/plain")


def report(reporting: Reporting, office: In, caller: Calls) -> OfficerReport:
    """Verify the keystore, and return what a data-protection officer asks of it: record of processing, disclosures, refusals,
    what is overdue, erasures; people are the log's commitments. `limits` says that the keystore spoke of itself."""
    office.begin_verification(caller)
    try:
        made = officer_report(
            office.keystore.path,
            utc_now(),
            checkpoints=reporting.checkpoints,
            quorum=reporting.quorum,
            controller=reporting.controller,
        )
    except AuditError as error:  # which names entries and records, as an auditor may know them
        raise CallError(409, "unverified", str(error)) from None
    return made.model_copy(update={"limits": [*made.limits, SAID_OF_ITSELF]})


def inclusion(index: Annotated[int, Path(ge=0, le=2**53)], office: In) -> Proof:
    """Prove that an entry is in the log."""
    return _proof(lambda: office.keystore.inclusion(index))


def consistency(old_size: Annotated[int, Path(ge=0, le=2**53)], office: In) -> Proof:
    """Prove that the log extends the one of `old_size` entries."""
    return _proof(lambda: office.keystore.consistency(old_size))


def _proof(prove: Callable[[], tuple[str, list[bytes]]]) -> Proof:
    try:
        note, hashes = prove()
    except LookupError:
        raise CallError(404, "not-found", "the log has no such entry") from None
    return Proof(checkpoint=note, hashes=[base64.b64encode(one).decode() for one in hashes])

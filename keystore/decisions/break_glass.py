"""Break-glass: keys without approvals, in an emergency, and a debt that others settle afterwards.

Off until the policy, which people change together, names who may. Such a person files a request and gets its grant at once, for
one data set and an hour; the keys leave as by any grant, once. It is an entry of the log, `break-glass`, that no approval can
hide, and an alert. Until as many others as a request needs have reviewed it (entry `review`), nobody breaks the glass again;
where approvers sign changes, they sign that (decisions.changes). Who has, and what is not reviewed, is read from the verified
log: no table has to be believed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

from keystore.decisions.policy import Policy
from keystore.errors import ApprovalError, PolicyError
from keystore.vault.records import ImageRow

LIFETIME = timedelta(hours=1)  # of the request and its grant


def check(policy: Policy, person: str, unreviewed: Collection[str], images: Sequence[ImageRow]) -> None:
    """Raise ApprovalError unless this person (a commitment) may break the glass now; PolicyError: of more than one data set."""
    if not policy.break_glass:
        raise ApprovalError("break-glass-off", "nobody may break the glass here: the policy names nobody who may")
    if person not in policy.break_glass:
        raise ApprovalError(
            "break-glass-person", "the policy does not name this person among those who may break the glass"
        )
    if unreviewed:
        raise ApprovalError(
            "break-glass-unreviewed",
            f"the glass was broken by request {min(unreviewed)}, and nobody reviewed that: keyanon keystore review",
        )
    if len({dataset for _, dataset, _ in images}) > 1:
        raise PolicyError("break-glass-set", "the glass is broken for images of one data set; name it with --dataset")


def check_unreviewed(request_id: str, reviewed: bool | None) -> None:
    """Raise ApprovalError unless there is something to review. reviewed: None where the glass was not broken by this request."""
    if reviewed is None:
        raise ApprovalError("not-broken", f"request {request_id} did not break the glass; there is nothing to review")
    if reviewed:
        raise ApprovalError("reviewed", f"request {request_id} was reviewed already")

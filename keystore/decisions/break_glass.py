"""Break-glass: keys without approvals, in an emergency, and a debt that others settle afterwards.

Off until the policy, which people change together, names who may. Such a person files a request and gets its grant at once, for
one data set and an hour; the keys leave as by any grant, once. It is an entry of the log, `break-glass`, that no approval can
hide, and an alert. Until as many others as a request needs have reviewed it (entry `review`), nobody breaks the glass again. Who
has, and what is not reviewed, is read from the verified log: no table has to be believed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

from keystore.decisions.policy import MIN_APPROVALS, Policy
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


def check_review(policy: Policy, request_id: str, requester: str, reviewed: bool | None, by: Collection[str]) -> None:
    """Raise ApprovalError unless these people (commitments) settle it. reviewed: None where the glass was not broken by it."""
    if reviewed is None:
        raise ApprovalError("not-broken", f"request {request_id} did not break the glass; there is nothing to review")
    if reviewed:
        raise ApprovalError("reviewed", f"request {request_id} was reviewed already")
    needed = max(MIN_APPROVALS, policy.approvals)
    if len(set(by) - {requester}) < needed:
        raise ApprovalError(
            "too-few", f"it takes {needed} people to review this, none of them the one who broke the glass; name more"
        )

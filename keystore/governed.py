"""Who decides in a keystore, and how that is changed: the policy, the approvers' own keys, and what becomes of lost ones.

While too few approvers have keys to sign with, people make a change by their names, at once. From then on the first of them
files it, and approvers sign it as they do requests for keys (decisions.changes). Which of the two holds is read from the verified
log: no table has to be believed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from keystore.audit.log import LogWriter
from keystore.decisions import approvers, changes, stored_policy
from keystore.decisions.changes import Change
from keystore.decisions.people import names
from keystore.decisions.policy import MIN_APPROVALS, Policy
from keystore.decisions.proposals import Enrolment, PolicyProposal, Proposal, Removal, Replacement, Review
from keystore.decisions.signatures import parse_public_line
from keystore.decisions.views import ApproverView
from keystore.errors import ApprovalError, AuditError
from keystore.opened import OpenedKeystore
from keystore.verification.replay_decisions import LoggedDecisions
from keystore.verification.verify import logged_decisions

_LOGGER = logging.getLogger(__name__)


class GovernedKeystore(OpenedKeystore):
    """An open keystore, as those see it who say who decides."""

    def policy(self) -> Policy:
        """Return the present policy."""
        with self._database.read() as connection:
            return stored_policy.read(connection)

    def propose(self, proposal: Proposal, *people: str, only_filed: bool = False) -> str | None:
        """Change who decides, by as many people as the change takes. Return None: it is made.

        Where approvers sign changes, the first of `people` files it, and the id of its request is returned, for `approve`; it is
        made by the last signature needed. only_filed: refused where names would make it, as of a service, whose caller is one
        person. Raises ApprovalError (also for a bad name, key or line), PolicyError (also for a malformed role), AuditError.
        """

        def wanted(connection: Connection, logged: LoggedDecisions) -> Change:
            return self._wanted(connection, logged, proposal)

        about = proposal.request if isinstance(proposal, Review) else None
        return self._change(proposal.kind, people, wanted, only_filed=only_filed, about=about)

    def set_policy(self, policy: Policy, *people: str) -> str | None:
        """Make `policy` the present one, as `propose`; open requests end, and are made again."""
        return self._change("policy", people, lambda *_: changes.of_policy(policy))

    def enrol_approver(self, name: str, role: str, public_line: str, *people: str) -> str | None:
        """Enrol the key that an approver made (`ApproverKey.public_line`), by as many others as a request needs, as `propose`."""
        return self.propose(Enrolment(approver=name, role=role, public_line=public_line), *people)

    def remove_approver(self, key_id: str, *people: str) -> str | None:
        """Take an approver's key off the list, by others, as `propose`; open requests that it approved end."""
        return self.propose(Removal(key=key_id), *people)

    def lose_keys(self, key_ids: Sequence[str], *people: str) -> None:
        """Say that so many approvers' keys are lost that a change can not be signed any more: these are off the list, and names
        count until enough keys are enrolled again.

        It takes as many people as a request, and is an alert, and a line in every audit from then on. Raises ApprovalError:
        enough are left to sign, or one is not on the list.
        """
        with self._ledger.transaction("lost-keys", None, people[0] if people else None) as (connection, log):
            logged = self._verified_decisions(connection)
            by = sorted({self._people.find_or_add(connection, one) for one in people})
            needed = max(MIN_APPROVALS, logged.approvals_of_policy)
            if len(by) < needed:
                raise ApprovalError("lost-alone", f"it takes {needed} people to say that keys are lost; name more")
            lost = [changes.of_removal(connection, one) for one in sorted(set(key_ids))]
            if self._can_sign(connection, logged, {str(one["person"]) for one in lost}):
                raise ApprovalError(
                    "keys-left",
                    "enough approvers are left who have keys: have them sign a removal (keystore approver remove)",
                )
            for one in lost:
                approvers.take_off_list(connection, log.now, str(one["key"]))
            log.append("lost-keys", by=by, keys=[one["key"] for one in lost])
            _LOGGER.critical(  # before it is committed, for whatever fails after that
                "ALERT: %d approver key(s) were said to be lost, by %s, by their names alone; until enough are enrolled again, "
                "names change who approves. Ask the approvers",
                len(lost),
                ", ".join(one[:12] for one in by),
            )

    def approvers(self) -> list[ApproverView]:
        """Return all keys that were ever enrolled, newest first."""
        with self._database.read() as connection:
            return approvers.views(connection, names(connection))

    def _check_not_on_list(self, connection: Connection, name: str) -> None:
        """Raise ApprovalError where a person's key could come off the list by its person's erasure, which nobody signs."""
        person = self._people.find(connection, name)
        if person is None or approvers.enrolled(connection, person) is None:
            return
        logged = self._verified_decisions(connection)
        if logged.signed_from is not None or self._can_sign(connection, logged):
            raise ApprovalError(
                "enrolled-key",
                "this person has an approver's key, and approvers sign who is on that list: have its removal signed first "
                "(keystore approver remove)",
            )

    def _wanted(self, connection: Connection, logged: LoggedDecisions, proposal: Proposal) -> Change:
        if isinstance(proposal, Review):
            request = logged.requests.get(proposal.request)
            return changes.of_review(proposal.request, "" if request is None else request.requester, logged.breaks)
        if isinstance(proposal, PolicyProposal):
            present = stored_policy.read(connection)
            return changes.of_policy(proposal.of(present, lambda name: self._people.find_or_add(connection, name)))
        if isinstance(proposal, Removal):
            return changes.of_removal(connection, proposal.key)
        key = parse_public_line(proposal.public_line)
        if isinstance(proposal, Replacement):
            return changes.of_replacement(connection, proposal.key, key)
        return changes.of_enrolment(self._people.find_or_add(connection, proposal.approver), proposal.role, key)

    def _change(
        self,
        action: str,
        people: Sequence[str],
        wanted: Callable[[Connection, LoggedDecisions], Change],
        *,
        only_filed: bool = False,
        about: str | None = None,
    ) -> str | None:
        with self._ledger.transaction(action, about, people[0] if people else None) as (connection, log):
            logged = self._verified_decisions(connection)
            if logged.signed_from is not None or self._can_sign(connection, logged):
                if not people:
                    raise ApprovalError("nobody", "say who files this")
                if logged.signed_from is None or not set(changes.SIGNED_TOO) <= set(logged.signed_too):
                    self._begin_signing(log)  # an older version enrolled them, or had less signed
                proposer, policy = self._people.find_or_add(connection, people[0]), stored_policy.read(connection)
                change = wanted(connection, logged)
                return self._desk.propose(connection, log, policy, proposer, change, logged.breaks)
            if only_filed:
                raise ApprovalError(
                    "names-decide",
                    "too few approvers have keys to sign this, so people change it by their names, on the keystore's machine",
                )
            by = [self._people.find_or_add(connection, one) for one in people]
            change = wanted(connection, logged)
            if change["kind"] != "policy":
                stored_policy.read(connection)  # one of an older version that is too weak is changed first
            changes.check_names(change, logged.approvals_of_policy, by)
            changes.check(connection, change, signed=False, breaks=logged.breaks)
            changes.make(connection, log, change, by)
            policy = stored_policy.read(connection)
            if approvers.are_enough(connection, policy.approvals, policy.roles):
                self._begin_signing(log)
        return None

    def _begin_signing(self, log: LogWriter) -> None:
        log.append("signed-changes", also=list(changes.SIGNED_TOO))

    def _can_sign(self, connection: Connection, logged: LoggedDecisions, without: set[str] | None = None) -> bool:
        of = (logged.approvals_of_policy, logged.roles_of_policy)
        return approvers.are_enough(connection, *of, without or set())

    def _verified_decisions(self, connection: Connection) -> LoggedDecisions:
        """Return what the log says was decided, once that and the tables were verified. Raises AuditError."""
        problems, logged = logged_decisions(connection, self.audit_vkey, self._keys.signer)
        if problems:
            raise AuditError(
                f"nothing is released, or changed, while the audit log does not verify: {'; '.join(problems[:3])}"
            )
        return logged

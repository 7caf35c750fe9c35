"""Breaking the glass of a keystore, and reviewing it (decisions.break_glass)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from keystore.decisions import break_glass, stored_policy
from keystore.decisions.content import Words, find_images
from keystore.decisions.proposals import PolicyProposal, Review
from keystore.decisions.views import RequestView
from keystore.embedded import Keystore
from keystore.verification.replay_break_glass import unreviewed

_LOGGER = logging.getLogger(__name__)


class EmergencyKeystore(Keystore):
    """An open keystore, in an emergency and after it."""

    def set_break_glass(self, names: Sequence[str], *people: str) -> str | None:
        """Let these people, and nobody else, break the glass, as `propose`; nobody: it is off.

        Open requests end, and are made again, as after any change of the policy.
        """
        return self.propose(PolicyProposal(break_glass=list(names)), *people)

    def break_glass(
        self,
        by: str,
        image_ids: Sequence[str],
        case: str,
        purpose: str,
        legal_basis: str,
        dataset: str | None = None,
        run_id: str | None = None,
    ) -> RequestView:
        """File a request that is granted at once, without approvals, for an hour; `release` lets its keys out, once.

        Raises ApprovalError (the policy does not name this person; an earlier time was not reviewed), PolicyError,
        RecordNotFound, AuditError: the log does not verify.
        """
        with self._ledger.transaction("break-glass", None, by) as (connection, log):
            logged, policy = self._verified_decisions(connection), stored_policy.read(connection)
            person = self._people.find_or_add(connection, by)
            images = find_images(connection, image_ids, dataset, run_id)
            break_glass.check(policy, person, unreviewed(logged), images)
            words = Words(case, purpose, legal_basis)
            request_id = self._desk.create(connection, log, policy, person, images, words, break_glass.LIFETIME)
            self._desk.break_glass(connection, log, policy, request_id, person)
            _LOGGER.critical(  # before it is committed, for whatever fails after that
                "ALERT: the glass was broken: request %s was granted without approvals, for %d image(s), by person %s; it must "
                "be reviewed (keyanon keystore review)",
                request_id,
                len(images),
                person[:12],
            )
        return self.show(request_id)

    def review(self, request_id: str, *people: str) -> str | None:
        """Say that as many others as a request needs looked into a break of the glass, as `propose`."""
        return self.propose(Review(request=request_id), *people)

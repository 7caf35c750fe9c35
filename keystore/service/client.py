"""The client of the service: the calls that an open `Keystore` answers too, for whoever holds a token.

What the service says is believed as far as TLS goes; what must not be, is checked: a release bears the signature of the key that
came with the token, whatever server sent it (keystore.recipient).
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Self
from urllib.parse import quote

from keystore.decisions.api_token import Role
from keystore.decisions.lifecycle import State
from keystore.decisions.policy import Policy
from keystore.decisions.proposals import Proposal
from keystore.decisions.signatures import OwnSignature, chosen
from keystore.decisions.views import ApproverView
from keystore.errors import RequestNotFound
from keystore.reporting.controller import Controller
from keystore.reporting.report import OfficerReport
from keystore.service.connection import Connection, ServiceUnavailable
from keystore.service.messages import (
    ApproverList,
    Breaking,
    Compared,
    Comparing,
    FiledChange,
    Filing,
    Me,
    PictureDigests,
    PolicyView,
    Reporting,
    RequestList,
    RequestShards,
    SeenRequest,
)
from keystore.service.token_file import TokenFile

REPORT_SECONDS = (
    1800.0  # the whole log is verified first: a hundred seconds for a million entries, and more where it is busy
)
RELEASE_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds, after which a lost answer is asked for again with the same key


class ServiceClient:
    """A keystore elsewhere. Use it in a `with` statement, or `close` it."""

    def __init__(self, url: str, known_by: TokenFile) -> None:
        """`url`: https://host[:port]; plain http only to this machine. Raises StorageError for another."""
        self._connection = Connection(url, known_by)
        self.url, self.audit_vkey = self._connection.url, known_by.audit_vkey

    def me(self) -> Me:
        """Return whom the service takes this token for. Raises KeystoreError."""
        return self._connection.ask(Me, "GET", "/v1/me")

    def token_of(self) -> str:
        """Return the name of the token's person. Raises KeystoreError."""
        return self.me().person

    def request(
        self,
        requester: str,
        image_ids: Sequence[str],
        case: str,
        purpose: str,
        legal_basis: str,
        expires: timedelta,
        dataset: str | None = None,
    ) -> SeenRequest:
        """See Keystore.request; `requester` is whoever the token is of."""
        filing = Filing(
            images=list(image_ids),
            case=case,
            purpose=purpose,
            legal_basis=legal_basis,
            lifetime_seconds=int(expires.total_seconds()),
            dataset=dataset,
        )
        return self._connection.ask(SeenRequest, "POST", "/v1/requests", filing.model_dump(mode="json"))

    def break_glass(
        self,
        by: str,
        image_ids: Sequence[str],
        case: str,
        purpose: str,
        legal_basis: str,
        dataset: str | None = None,
    ) -> SeenRequest:
        """See EmergencyKeystore.break_glass; `by` is whoever the token is of."""
        said = Breaking(images=list(image_ids), case=case, purpose=purpose, legal_basis=legal_basis, dataset=dataset)
        return self._connection.ask(SeenRequest, "POST", "/v1/break-glass", said.model_dump(mode="json"))

    def approve(
        self,
        request_id: str,
        approver: str,
        digest: str,
        own: OwnSignature | None = None,
        grant_seconds: int | None = None,
    ) -> SeenRequest:
        """See Keystore.approve; `approver` is whoever the token is of. Of an own key the signature is sent, and nothing else."""
        signature = None if own is None else base64.b64encode(own.signature).decode()
        signed = None if own is None else {**own.in_log(), "signature": signature}
        said = {"digest": digest, "signed": signed, **chosen(grant_seconds)}
        return self._connection.ask(SeenRequest, "POST", _of(request_id, "approval"), said)

    def deny(self, request_id: str, by: str) -> SeenRequest:
        """See Keystore.deny; a requester withdraws, and an operator what they filed."""
        verb = "denial" if self.me().role is Role.APPROVER else "withdrawal"
        return self._connection.ask(SeenRequest, "POST", _of(request_id, verb))

    def requests(self, *, state: State | None = None) -> Sequence[SeenRequest]:
        """See Keystore.requests; the newest of those that the token may see. An older service tells a state among these only."""
        asked = "" if state is None else f"?state={state.value}"
        listed = self._connection.ask(RequestList, "GET", f"/v1/requests{asked}").requests
        return [one for one in listed if state in (None, one.state)]

    def show(self, request_id: str) -> SeenRequest:
        """See Keystore.show."""
        return self._connection.ask(SeenRequest, "GET", _of(request_id))

    def compare_pictures(self, request_id: str, digests: Mapping[str, str]) -> dict[str, str]:
        """See Keystore.compare_pictures."""
        said = Comparing(digests=dict(digests)).model_dump(mode="json")
        return self._connection.ask(Compared, "POST", _of(request_id, "pictures"), said).problems

    def picture_digests(self, request_id: str) -> dict[str, str | None]:
        """See Keystore.picture_digests."""
        return self._connection.ask(PictureDigests, "GET", _of(request_id, "pictures")).digests

    def policy(self) -> Policy:
        """See Keystore.policy."""
        return self._connection.ask(PolicyView, "GET", "/v1/policy").policy

    def approvers(self) -> list[ApproverView]:
        """See Keystore.approvers."""
        return self._connection.ask(ApproverList, "GET", "/v1/approvers").approvers

    def propose(self, proposal: Proposal, *people: str) -> str:
        """See Keystore.propose; the first of `people` is whoever the token is of, and nothing is changed by names."""
        said = FiledChange(change=proposal).model_dump(mode="json")
        return self._connection.ask(SeenRequest, "POST", "/v1/changes", said).request_id

    def request_shards(self, request_id: str) -> set[str]:
        """See Keystore.request_shards. None of a service that is too old to tell this token: all shards of a run are read then,
        as by a recovery that has no grant."""
        try:
            return set(self._connection.ask(RequestShards, "GET", _of(request_id, "shards")).shards)
        except RequestNotFound:
            self.show(request_id)  # raises the same where it is the request that is not there, or another's
            return set()

    def granted_shards(self, request_id: str) -> set[str]:
        """See Keystore.granted_shards; for tokens of the role recovery, which are told of no others."""
        return self.request_shards(request_id)

    def release(self, request_id: str, recipient_public_key: bytes, by: str) -> bytes:
        """See Keystore.release. Where the answer is lost it is asked for again, with the same key."""
        body = {"recipient": base64.b64encode(recipient_public_key).decode()}
        for wait in RELEASE_WAITS:
            try:
                return self._connection.call("POST", _of(request_id, "release"), json=body).content
            except ServiceUnavailable:
                time.sleep(wait)
        return self._connection.call("POST", _of(request_id, "release"), json=body).content

    def checkpoint(self) -> str:
        """See Keystore.checkpoint."""
        return self._connection.call("GET", "/v1/log/checkpoint").text

    def report(self, checkpoints: Sequence[str], quorum: int | None, controller: Controller) -> OfficerReport:
        """Return what the service reports of itself. Raises KeystoreError."""
        said = Reporting(checkpoints=list(checkpoints), quorum=quorum, controller=controller)
        body = said.model_dump(mode="json")
        return self._connection.ask(OfficerReport, "POST", "/v1/report", body, timeout=REPORT_SECONDS)

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ServiceClient({self.url!r})"


def _of(request_id: str, verb: str = "") -> str:
    return f"/v1/requests/{quote(request_id, safe='')}" + (f"/{verb}" if verb else "")

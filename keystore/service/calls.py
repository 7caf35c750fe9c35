"""What each endpoint of the table does. The names of these functions are the table's; those of an auditor are in audit_calls.py,
those to sign in by in sign_in_calls.py.

What decides is in keystore.decisions; here a caller's reach is held against the table and words become calls. One writing call at
a time: the database has one writer anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

from fastapi import Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool

from keystore.crypto.canonical import utc_now
from keystore.decisions.api_token import Role
from keystore.decisions.lifecycle import State
from keystore.decisions.tokens import Caller
from keystore.service import inbox as inbox_calls
from keystore.service.arguments import Calls, Id, In, Shard
from keystore.service.endpoints import ENDPOINTS, Reach
from keystore.service.guard import CallError, nothing_here
from keystore.service.messages import (
    ApproverList,
    Approving,
    Breaking,
    Compared,
    Comparing,
    FiledChange,
    Filing,
    Health,
    InboxList,
    Me,
    NamedShards,
    NamedSubjects,
    PictureDigests,
    PolicyView,
    Presenting,
    ReceiptPage,
    RequestList,
    RequestShards,
    SealedPseudonyms,
    SeenRequest,
    Settled,
    Settling,
    TokenList,
)
from keystore.service.observing import log_line
from keystore.service.office import Office
from keystore.service.pseudonyms import sealed

REPLY_LIFETIME = timedelta(minutes=10)  # in which a lost release may be fetched again
MAX_OPEN_REQUESTS = 20  # of one requester
MAX_LISTED = 200


def health() -> Health:
    """Say that the process answers."""
    return Health(status="ok", checked_at=utc_now())


def ready(office: In) -> Health:
    """Say whether the keystore can be read and written."""
    office.keystore.check_ready()
    return Health(status="ready", checked_at=utc_now())


def ingest_key(office: In) -> Response:
    """Return the present public key to seal to and the verifier key of receipts, as the file that `keyanon anonymize` takes."""
    return Response(office.keystore.ingest_key().text(), media_type="text/plain")


def metrics(office: In) -> Response:
    """Return the metrics in Prometheus' text format."""
    office.metrics.unreviewed.set(office.keystore.count_unreviewed())
    return Response(generate_latest(office.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def me(office: In, caller: Calls) -> Me:
    """Say whom the service takes the caller for."""
    return Me(keystore=office.keystore.id, audit_vkey=office.keystore.audit_vkey, **vars(caller))


def file_request(filing: Filing, office: In, caller: Calls) -> SeenRequest:
    """File a request for the keys of images (image ids, or record ids) of the token's data set."""
    dataset = _dataset(filing, caller)
    with office.deciding(caller):
        _check_open(office, caller)
        view = office.keystore.request(
            caller.person,
            filing.images,
            filing.case,
            filing.purpose,
            filing.legal_basis,
            timedelta(seconds=filing.lifetime_seconds),
            dataset=dataset,
        )
    return office.seen(view)


def break_glass(breaking: Breaking, office: In, caller: Calls) -> SeenRequest:
    """In an emergency: a request that is granted at once, without approvals, to whom the policy names. It is an alert, and nobody
    does so again before others have reviewed it."""
    dataset = _dataset(breaking, caller)
    if not office.may_break_glass:
        detail = "this service lets nobody break the glass (serve --break-glass); that is done where the keystore is"
        raise CallError(409, "break-glass-not-served", detail)
    with office.deciding(caller):
        words = (breaking.case, breaking.purpose, breaking.legal_basis)
        view = office.keystore.break_glass(caller.person, breaking.images, *words, dataset=dataset)
    log_line("alert", alert="break-glass", request=view.request_id, token=caller.token_id)
    return office.seen(view)


def _dataset(asked: Breaking, caller: Caller) -> str | None:
    if asked.dataset is not None and not caller.may_touch(asked.dataset):
        raise nothing_here()
    return asked.dataset or caller.dataset


def _check_open(office: Office, caller: Caller) -> None:
    if office.keystore.count_open(caller.person) >= MAX_OPEN_REQUESTS:
        raise CallError(429, "too-many-open", f"{MAX_OPEN_REQUESTS} requests of this person are open; end some first")


def list_requests(
    office: In,
    caller: Calls,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = MAX_LISTED,
    state: State | None = None,
) -> RequestList:
    """Return the newest requests that the caller may see, all or those in one state."""
    person, only_changes = _reached(caller)
    views = office.keystore.requests(person, caller.dataset, limit, only_changes=only_changes, state=state)
    return RequestList(requests=[office.seen(view) for view in views])


def count_requests(office: Office, caller: Caller) -> Mapping[State, int]:
    """How many requests that the caller may see are in each state, up to `MAX_LISTED`; for a page, and no call of the table."""
    person, only_changes = _reached(caller)
    return office.keystore.count_requests(person, caller.dataset, MAX_LISTED, only_changes=only_changes)


def _reached(caller: Caller) -> tuple[str | None, bool]:
    """Whose requests a caller may list, and whether only changes of who decides."""
    reach = ENDPOINTS["list_requests"].roles[caller.role]
    return caller.person if reach in (Reach.OWN, Reach.OWN_CHANGES) else None, reach is Reach.OWN_CHANGES


def show_request(request_id: Id, office: In, caller: Calls) -> SeenRequest:
    """Return one request."""
    return office.seen(office.visible(request_id, caller, "show_request"))


def compare_pictures(request_id: Id, comparing: Comparing, office: In, caller: Calls) -> Compared:
    """Say which published pictures are not those that a request's records are of. Of the records nothing else is told."""
    office.visible(request_id, caller, "compare_pictures")
    return Compared(problems=office.keystore.compare_pictures(request_id, comparing.digests))


def picture_digests(request_id: Id, office: In, caller: Calls) -> PictureDigests:
    """Return by which digests an approver knows the published pictures of a request. Of its records nothing else is told."""
    office.visible(request_id, caller, "picture_digests")
    return PictureDigests(digests=office.keystore.picture_digests(request_id))


def approve(request_id: Id, approving: Approving, office: In, caller: Calls) -> SeenRequest:
    """Agree to the content of a request whose digest was shown."""
    office.visible(request_id, caller, "approve")
    own = None if approving.signed is None else approving.signed.own()
    with office.deciding(caller):
        view = office.keystore.approve(request_id, caller.person, approving.digest, own, approving.grant_seconds)
    return office.seen(view)


def deny(request_id: Id, office: In, caller: Calls) -> SeenRequest:
    """End a request for good."""
    office.visible(request_id, caller, "deny")
    with office.deciding(caller):
        return office.seen(office.keystore.deny(request_id, caller.person))


def withdraw(request_id: Id, office: In, caller: Calls) -> SeenRequest:
    """End a request of one's own."""
    office.visible(request_id, caller, "withdraw")
    with office.deciding(caller):
        return office.seen(office.keystore.deny(request_id, caller.person))


def policy(office: In) -> PolicyView:
    """Return what the keystore asks for before it gives keys out."""
    present = office.keystore.policy()
    return PolicyView(policy=present, digest=present.digest())


def approvers(office: In) -> ApproverList:
    """Return the keys that were enrolled for approvers, and until when they counted."""
    return ApproverList(approvers=office.keystore.approvers())


def file_change(filed: FiledChange, office: In, caller: Calls) -> SeenRequest:
    """File a change of who decides, for approvers to sign; refused as long as too few have keys for that."""
    with office.deciding(caller):
        _check_open(office, caller)
        request_id = office.keystore.propose(filed.change, caller.person, only_filed=True)
    return office.seen(office.keystore.show(str(request_id)))


def request_shards(request_id: Id, office: In, caller: Calls) -> RequestShards:
    """Return the names of the shards that a request's records came in: of an output these alone are read. A recovery is told them
    once the request is approved."""
    office.visible(request_id, caller, "request_shards")
    granted = caller.role is Role.RECOVERY
    return RequestShards(shards=sorted(office.keystore.request_shards(request_id, granted=granted)))


def release(request_id: Id, presenting: Presenting, office: In, caller: Calls) -> Response:
    """Use a request's grant, once: its keys, sealed to `recipient` and signed. Where the answer was lost, the same call with the
    same key returns the same bytes for some minutes."""
    office.visible(request_id, caller, "release")
    with office.deciding(caller):
        sealed = office.keystore.release(request_id, presenting.recipient, caller.person, keep_reply=REPLY_LIFETIME)
    office.metrics.releases.inc()
    return Response(sealed, media_type="application/octet-stream")


def list_tokens(office: In) -> TokenList:
    """Return what was issued, without secrets."""
    return TokenList(tokens=office.keystore.tokens())


def revoke_token(token_id: Id, office: In, caller: Calls) -> Response:
    """End a token now."""
    with office.deciding(caller):
        office.keystore.revoke_token(token_id, caller.person)
    return Response(status_code=204)


async def put_shard(run_id: Id, shard: Shard, request: Request, office: In, caller: Calls) -> Response:
    """Put a sealed shard of the token's data set into the inbox; again with the same bytes is harmless."""
    data = await request.body()
    await run_in_threadpool(_put, office, caller, run_id, shard, data)
    return Response(status_code=204)


def _put(office: Office, caller: Caller, run_id: str, shard: str, data: bytes) -> None:
    inbox_calls.put(office.keystore, office.inbox, office.guard, office.one_writer, caller, run_id, shard, data)
    office.metrics.shards.inc()


def remove_shard(run_id: Id, shard: Shard, office: In, caller: Calls) -> Response:
    """Take back a shard that was not taken in."""
    inbox_calls.check_run(office.keystore, caller, run_id)
    inbox_calls.remove(office.inbox, run_id, shard)
    return Response(status_code=204)


def receipts(run_id: Id, named: NamedShards, office: In, caller: Calls) -> ReceiptPage:
    """Return what became of shards, signed: as many receipts, in the order in which they are named, as one answer holds."""
    inbox_calls.check_run(office.keystore, caller, run_id)
    return inbox_calls.receipts(office.inbox, run_id, named.shards)


def remove_receipts(run_id: Id, named: NamedShards, office: In, caller: Calls) -> Response:
    """Remove receipts that their run needs no more."""
    inbox_calls.check_run(office.keystore, caller, run_id)
    inbox_calls.remove_receipts(office.inbox, run_id, named.shards)
    return Response(status_code=204)


def pseudonyms(named: NamedSubjects, office: In, caller: Calls, response: Response) -> SealedPseudonyms:
    """Return the pseudonyms of subjects of the token's data set, each made at the first ask, sealed to the caller's key."""
    response.headers["Cache-Control"] = "no-store"
    dataset = _own_dataset(caller)
    with office.one_writer:
        found = office.keystore.pseudonyms.secrets(dataset, named.subjects)
    return sealed(found, named.recipient, dataset)


def settle_pseudonym(settling: Settling, office: In, caller: Calls) -> Settled:
    """Settle which of a subject's carriers holds, unless one is settled; return the one that does."""
    with office.one_writer:
        number = office.keystore.pseudonyms.settle(_own_dataset(caller), settling.subject, settling.number)
    return Settled(number=number)


def _own_dataset(caller: Caller) -> str:
    assert caller.dataset is not None, "a job's token is for one data set"
    return caller.dataset


def inbox(run_id: Id, office: In, caller: Calls, after: Annotated[str, Query(max_length=200)] = "") -> InboxList:
    """Return what lies in the inbox of a run, by names beyond `after`."""
    inbox_calls.check_run(office.keystore, caller, run_id)
    return inbox_calls.listing(office.inbox, run_id, after)

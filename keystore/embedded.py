"""The embedded keystore: one directory, one object, every operation a transaction whose log entry commits with it.

What an operation means is in the modules it calls; how it is committed together with its log entry is in ledger.py; how a
keystore is opened in opened.py; who decides in it in governed.py; what the service adds in served.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Connection, select

from keystore.audit.log import latest_note
from keystore.crypto.canonical import sha256_hex
from keystore.crypto.hybrid import key_id
from keystore.decisions import reading, replies, stored_policy
from keystore.decisions.content import Words, find_images, images_of
from keystore.decisions.lifecycle import State
from keystore.decisions.people import NOBODY
from keystore.decisions.release import seal_release
from keystore.decisions.signatures import OwnSignature
from keystore.decisions.views import RequestView
from keystore.errors import ErasureError, TamperedError
from keystore.governed import GovernedKeystore
from keystore.intake.report import IngestReport
from keystore.reporting.receipt import make_receipt
from keystore.storage import schema
from keystore.vault import erasure
from keystore.vault.catalogue import RecordView, count_records, record_views, shards_of
from keystore.verification.published import Published, disagreements, published_digest


class Keystore(GovernedKeystore):
    """What is done with an open keystore: keys come in, are asked for, agreed to, let out, erased."""

    # Taking keys in: the ingest opening's work, here for one machine that does everything

    def inbox(self, run_id: str, dataset: str | None = None) -> Path:
        """See IngestOpening.inbox."""
        return self.intake.inbox(run_id, dataset)

    def ingest(self, run_id: str, shard_names: Sequence[str] | None = None) -> IngestReport:
        """See IngestOpening.ingest."""
        return self.intake.ingest(run_id, shard_names)

    def reconcile(self, run_id: str, committed: Sequence[str]) -> list[str]:
        """See IngestOpening.reconcile."""
        return self.intake.reconcile(run_id, committed)

    def missing(self, record_ids: Iterable[str]) -> set[str]:
        """See IngestOpening.missing."""
        return self.intake.missing(record_ids)

    def shards_of(self, record_ids: Iterable[str]) -> set[str]:
        """Return the names of the shards that records came in; a run calls its shards of rows the same."""
        with self._database.read() as connection:
            return shards_of(connection, record_ids)

    def find_records(
        self, image_ids: Sequence[str] | None = None, dataset: str | None = None, run_id: str | None = None
    ) -> list[RecordView]:
        """Return what is known of stored records without opening them, filtered, ordered by data set and image."""
        with self._database.read() as connection:
            return record_views(connection, image_ids, dataset, run_id)

    def count_records(self, run_id: str) -> int:
        """Return how many stored records are of a run."""
        with self._database.read() as connection:
            return count_records(connection, run_id)

    def disagreements(self, published: Iterable[Published]) -> dict[str, str]:
        """See keystore.verification.published. Records are opened here, and nothing of them is told."""
        with self._database.read() as connection:
            return disagreements(connection, self._vault, published)

    # Erasing

    def erased_among(self, record_ids: Iterable[str]) -> set[str]:
        """Return those of the records that were stored here and erased since, or that came erased and were refused."""
        with self._database.read() as connection:
            return erasure.erased_among(connection, self._keys.index_key, record_ids)

    def erase(self, dataset: str, by: str, *, subject: str | None = None, image_id: str | None = None) -> int:
        """Erase a subject of a data set with all its records, or an image that has no subject. Return how many records went.

        No copy of a shard brings them back: what was made before this moment is not taken in again. Raises ErasureError (an image
        that lies under its subject's key, or neither a subject nor an image given), ApprovalError (a bad name).
        """
        with self._ledger.transaction("erase", None, by) as (connection, log):
            if (subject is None) == (image_id is None):
                raise ErasureError("whom", "say whom to erase: a subject, or an image that has none")
            person = self._people.find_or_add(connection, by)
            replies.drop(connection)
            gone = erasure.erase(
                connection, log, self._keys.keyring, self._keys.index_key, dataset, subject, image_id or "", person
            )
        self._database.fold()
        return gone

    def erasure_receipt(self, dataset: str, *, subject: str | None = None, image_id: str | None = None) -> bytes:
        """Return the receipt of what was erased of a subject, or of an image that has none; `verify_receipt` reads it anywhere.

        Raises ErasureError: nothing was.
        """
        with self._database.read() as connection:
            signer, index_key = self._keys.signer, self._keys.index_key
            return make_receipt(connection, signer, self.id, index_key, dataset, subject, image_id, self._clock())

    # Asking and agreeing

    def request(
        self,
        requester: str,
        image_ids: Sequence[str],
        case: str,
        purpose: str,
        legal_basis: str,
        expires: timedelta,
        dataset: str | None = None,
        run_id: str | None = None,
    ) -> RequestView:
        """Ask for the keys of images (image ids, or record ids). Raises PolicyError, ApprovalError (a bad name),
        RecordNotFound."""
        with self._ledger.transaction("request", None, requester) as (connection, log):
            images = find_images(connection, image_ids, dataset, run_id)
            person = self._people.find_or_add(connection, requester)
            words = Words(case, purpose, legal_basis)
            request_id = self._desk.create(
                connection, log, stored_policy.read(connection), person, images, words, expires
            )
        return self.show(request_id)

    def change(
        self,
        request_id: str,
        by: str,
        *,
        case: str | None = None,
        purpose: str | None = None,
        legal_basis: str | None = None,
        expires: timedelta | None = None,
    ) -> RequestView:
        """Change the words or the expiry (from now) of one's own request; its approvals and its grant are void.
        Raises a Refusal."""
        with self._ledger.transaction("change", request_id, by) as (connection, log):
            row = self._desk.row(connection, request_id)
            words = Words(
                row.case_reference if case is None else case,
                row.purpose if purpose is None else purpose,
                row.legal_basis if legal_basis is None else legal_basis,
            )
            person = self._people.find_or_add(connection, by)
            self._desk.change(connection, log, stored_policy.read(connection), request_id, person, words, expires)
        return self.show(request_id)

    def approve(
        self,
        request_id: str,
        approver: str,
        digest: str,
        own: OwnSignature | None = None,
        grant_seconds: int | None = None,
    ) -> RequestView:
        """Approve as `approver` the content whose digest they were shown (`RequestView.digest`).

        own: the approver's signature, made with their own key (keystore.approver_key). Without it the keystore signs with a key
        that it keeps for them, unless they have enrolled one or the policy asks for it. grant_seconds: how long the grant may
        live, where the approver wants it to be less than the policy allows; signed too.

        Raises ApprovalError, also where the request is not that content any more; RequestNotFound; of a change, PolicyError and
        AuditError.
        """
        with self._ledger.transaction("approve", request_id, approver) as (connection, log):
            is_change = reading.asks_for_change(connection, request_id)
            breaks = self._verified_decisions(connection).breaks if is_change else None
            person = self._people.find_or_add(connection, approver)
            policy = stored_policy.read(connection)
            self._desk.approve(connection, log, policy, request_id, person, digest, own, grant_seconds, breaks)
        return self.show(request_id)

    def deny(self, request_id: str, by: str) -> RequestView:
        """End a request without release. Raises ApprovalError, RequestNotFound."""
        with self._ledger.transaction("deny", request_id, by) as (connection, log):
            self._desk.deny(connection, log, request_id, self._people.find_or_add(connection, by))
        return self.show(request_id)

    def requests(
        self,
        requester: str | None = None,
        dataset: str | None = None,
        limit: int | None = None,
        *,
        only_changes: bool = False,
        state: State | None = None,
    ) -> list[RequestView]:
        """Return requests, newest first: all, or those of one person, of one data set only, in one state, the newest `limit`;
        those for changes of who decides only."""
        with self._database.read() as connection:
            listing = self._listing(connection, requester, dataset, only_changes)
            ids = reading.request_ids(connection, listing, limit, state, self._clock())
            return [self._view(connection, request_id) for request_id in ids]

    def show(self, request_id: str) -> RequestView:
        """Return one request. Raises RequestNotFound."""
        with self._database.read() as connection:
            return self._view(connection, request_id)

    def request_shards(self, request_id: str, *, granted: bool = False) -> set[str]:
        """Return the names of the shards that a request's records came in, as far as they are stored; with `granted`, none of one
        that has no grant to use. Raises RequestNotFound.
        """
        with self._database.read() as connection:
            view = self._view(connection, request_id)
            told = not granted or view.state is State.APPROVED
            return shards_of(connection, [one.record_id for one in view.images]) if told else set()

    def granted_shards(self, request_id: str) -> set[str]:
        """As `request_shards`, of a request that has a grant to use."""
        return self.request_shards(request_id, granted=True)

    def compare_pictures(self, request_id: str, digests: Mapping[str, str]) -> dict[str, str]:
        """Return why published pictures are not those of a request's records, by record id; "" of each that is.

        digests: SHA-256, in hex, of each published file by its record's id; ids that the request does not name are passed over.
        Records are opened here, and nothing of them is told. Raises RequestNotFound.
        """
        with self._database.read() as connection:
            named = [
                Published(image.record_id, None, image.dataset, image.image_id, digests[image.record_id])
                for image in self._view(connection, request_id).images
                if image.record_id in digests
            ]
            return dict.fromkeys((one.record_id for one in named), "") | disagreements(connection, self._vault, named)

    def picture_digests(self, request_id: str) -> dict[str, str | None]:
        """Return the SHA-256, in hex, of the file published with each of a request's records, by record id; None where none is.

        Records are opened here, and nothing else of them is told. Raises RequestNotFound, TamperedError, InvalidRecordError.
        """
        with self._database.read() as connection:
            self._desk.row(connection, request_id)
            images = images_of(connection, request_id)
            return {one[0]: published_digest(connection, self._vault, one) for one in images}

    def erase_person(self, name: str, by: str) -> None:
        """Forget a person's name; what they did stays on record, and the name can not act here again. Raises ApprovalError.

        An approver's own key is off the list with it, as by `remove_approver`. Where approvers sign changes of that list, one who
        has a key is not erased before its removal was signed. Raises AuditError then.
        """
        with self._ledger.transaction("erase-person", None, by) as (connection, log):
            person = self._people.find_or_add(connection, by)
            self._check_not_on_list(connection, name)
            self._people.erase(connection, log, self._keys.keyring, name, person)
        self._database.fold()

    def token_of(self) -> None:
        """Return whose token this keystore is asked with: nobody's; who opens it says who acts."""

    # Letting keys out

    def release(
        self, request_id: str, recipient_public_key: bytes, by: str, *, keep_reply: timedelta | None = None
    ) -> bytes:
        """Use a request's grant, once: return its records sealed to the recipient. The log entry is on disk before this returns.

        `keep_reply`: for how long the same bytes may be asked for again, by the same person with the same public key (1 h
        at most, replies.MAX_FETCHES times, each on record), where they may be lost on their way.
        `by` must be the requester. The log is verified first, from the last milestone on, and with it what is open, or was within
        an hour; the request is among that, or nothing leaves. Raises GrantError, RequestNotFound,
        RecordNotFound, ApprovalError (a bad name), TamperedError, AuditError, InvalidRecordError (a malformed public key),
        StorageError.
        """
        with self._ledger.transaction("release", request_id, by) as (connection, log):
            logged = self._verified_decisions(connection)
            person = self._people.find_or_add(connection, by)
            recipient = key_id(recipient_public_key)
            said = logged.requests.get(request_id)
            if keep_reply is not None and said is not None:
                kept = replies.fetch_again(connection, log, request_id, person, recipient)
                if kept is not None:
                    return kept
            grant, digest = self._desk.check_release(
                connection,
                log,
                stored_policy.read(connection),
                request_id,
                person,
                broken=logged.breaks.get(request_id, {}).get("digest"),
            )
            if said is None or said.grants.get(digest, ("", ""))[0] != grant.grant_id:
                raise TamperedError(
                    f"the log says nothing of request {request_id} and this grant; restore the database"
                )
            records = self._vault.open_images(connection, images_of(connection, request_id))
            header = {"digest": digest, "grant": grant.grant_id, "keystore": self.id, "request": request_id}
            sealed = seal_release(records, header, recipient_public_key, self._keys.signer.sign_message)
            self._desk.use_grant(connection, log, request_id, grant.grant_id, recipient)
            if keep_reply is not None:
                replies.drop(connection, before=log.now)
                replies.keep(connection, grant.grant_id, sealed, log.now + min(keep_reply, replies.MAX_LIFETIME))
            log.append(
                "release",
                by=person,
                digest=digest,
                grant=grant.grant_id,
                recipient=recipient,
                records=len(records),
                request=request_id,
                sealed_sha256=sha256_hex(sealed),
            )
        return sealed

    def checkpoint(self) -> str:
        """Return the latest checkpoint (C2SP signed note), signed with the audit key too; keep copies elsewhere."""
        with self._database.read() as connection:
            return self._keys.signer.countersign(latest_note(connection))

    def audit_entries(self) -> list[bytes]:
        """Return the leaves of the log, in order."""
        with self._database.read() as connection:
            return [
                bytes(leaf)
                for leaf in connection.execute(select(schema.log.c.leaf).order_by(schema.log.c.seq)).scalars()
            ]

    # Reading

    def _listing(
        self, connection: Connection, requester: str | None, dataset: str | None, only_changes: bool
    ) -> reading.Listing:
        person = None if requester is None else self._people.find(connection, requester) or NOBODY
        return reading.Listing(person, dataset, only_changes)

    def _view(self, connection: Connection, request_id: str) -> RequestView:
        row = self._desk.row(connection, request_id)
        return reading.request_view(connection, self.id, row, self._desk.life(connection, row), self._clock())

"""The keystore that a command asks: a directory on this machine, or the https:// address of one that is served elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from jobs.commands.options import acting_person

if TYPE_CHECKING:
    from keystore.decisions.lifecycle import State
    from keystore.decisions.policy import Policy
    from keystore.decisions.proposals import Proposal
    from keystore.decisions.signatures import OwnSignature
    from keystore.decisions.views import ApproverView, RequestView
    from keystore.emergency import EmergencyKeystore
    from keystore.service.client import ServiceClient

KeystorePlace = Annotated[
    str, typer.Argument(metavar="KEYSTORE", help="Directory of the keystore, or https://HOST:PORT of its service.")
]
TokenPath = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="For a service: what `keyanon keystore token issue` wrote."),
]
_SCHEMES = ("https://", "http://")


class Asked(Protocol):
    """What people and jobs ask of a keystore, wherever it is."""

    @property
    def audit_vkey(self) -> str:
        """See Keystore.audit_vkey."""

    def token_of(self) -> str | None:
        """Who a service says that the caller's token is of; None where there is no token."""

    def request(
        self,
        requester: str,
        image_ids: Sequence[str],
        case: str,
        purpose: str,
        legal_basis: str,
        expires: timedelta,
        dataset: str | None = None,
    ) -> "RequestView":
        """See Keystore.request."""

    def approve(
        self,
        request_id: str,
        approver: str,
        digest: str,
        own: "OwnSignature | None" = None,
        grant_seconds: int | None = None,
    ) -> "RequestView":
        """See Keystore.approve."""

    def deny(self, request_id: str, by: str) -> "RequestView":
        """See Keystore.deny."""

    def requests(self, *, state: "State | None" = None) -> "Sequence[RequestView]":
        """See Keystore.requests."""

    def show(self, request_id: str) -> "RequestView":
        """See Keystore.show."""

    def compare_pictures(self, request_id: str, digests: Mapping[str, str]) -> dict[str, str]:
        """See Keystore.compare_pictures."""

    def request_shards(self, request_id: str) -> set[str]:
        """See Keystore.request_shards; a service may not say, and all shards of a run are read."""

    def granted_shards(self, request_id: str) -> set[str]:
        """See Keystore.granted_shards."""

    def release(self, request_id: str, recipient_public_key: bytes, by: str) -> bytes:
        """See Keystore.release."""


class Governed(Protocol):
    """What is asked of a keystore, wherever it is, about who decides in it."""

    def token_of(self) -> str | None:
        """See Asked.token_of."""

    def show(self, request_id: str) -> "RequestView":
        """See Keystore.show."""

    def policy(self) -> "Policy":
        """See Keystore.policy."""

    def approvers(self) -> "list[ApproverView]":
        """See Keystore.approvers."""

    def propose(self, proposal: "Proposal", *people: str) -> str | None:
        """See Keystore.propose; a service takes one person, whose token it is, and always files it."""


def service_at(keystore: str, kek: str | None, token_file: Path | None) -> "ServiceClient | None":
    """The service at a place, None for a directory. Raises typer.BadParameter for options of the other kind, KeystoreError."""
    if not keystore.startswith(_SCHEMES):
        if token_file is not None:
            raise typer.BadParameter("a token is for a service, https://HOST:PORT", param_hint="--token-file")
        return None
    from keystore.service.client import ServiceClient
    from keystore.service.token_file import TokenFile

    if token_file is None:
        raise typer.BadParameter("a service knows people by their tokens; give one", param_hint="--token-file")
    if kek is not None:
        raise typer.BadParameter("the KEK of a service is where the service is", param_hint="--kek")
    return ServiceClient(keystore, TokenFile.read(token_file))


@contextmanager
def asked(keystore: str, kek: str | None, token_file: Path | None) -> "Iterator[EmergencyKeystore | ServiceClient]":
    """Open the keystore at a place, as `Asked` and `Governed`. Raises typer.BadParameter for options of the other kind of place,
    KeystoreError."""
    service = service_at(keystore, kek, token_file)
    if service is not None:
        with service:
            yield service
        return
    from keystore.emergency import EmergencyKeystore

    with EmergencyKeystore.open(keystore, kek) as opened:
        yield opened


def actor(opened: Asked, person: str | None, *, named: bool = False) -> str:
    """Who acts: whoever the token is of; on this machine `--as`, or the operating system's user unless they must be `named`.

    Raises typer.BadParameter, KeystoreError: the service can not be asked.
    """
    token_of = opened.token_of()
    if token_of is not None:
        if person is not None:
            raise typer.BadParameter("a service goes by the token, not by a name", param_hint="--as")
        return token_of
    if person is None and named:
        raise typer.BadParameter("say who acts", param_hint="--as")
    return acting_person(person)


def actors(opened: Governed, people: Sequence[str] | None) -> list[str]:
    """Who agrees to a change of who decides: whoever the token is of, or every `--as` on this machine. Raises as `actor`."""
    token_of = opened.token_of()
    if token_of is not None:
        if people:
            raise typer.BadParameter("a service goes by the token, not by a name", param_hint="--as")
        return [token_of]
    if not people:
        raise typer.BadParameter("say who agrees to this", param_hint="--as")
    return [acting_person(one) for one in people]

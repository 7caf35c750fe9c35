"""`keyanon request`, `approve`, `deny`, `requests`, `show`: asking for keys and agreeing to it.

These commands see requests and people, never keys; they load neither torch nor Ray.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.durations import parse_duration
from jobs.commands.options import (
    Json,
    KekUri,
    KeystorePath,
    Person,
    PersonOrUser,
    RequestId,
    Verbose,
    acting_person,
    output_of,
)
from jobs.commands.printing import facts, table

if TYPE_CHECKING:
    from rich.table import Table

    from keystore.decisions.views import RequestView


def request(
    context: typer.Context,
    keystore: KeystorePath,
    image: Annotated[list[str], typer.Option("--image", metavar="ID", help="Image to restore; repeat for more.")],
    case: Annotated[str, typer.Option("--case", help="The case this belongs to, such as C-17.")],
    purpose: Annotated[str, typer.Option("--purpose", help="What the restored faces are for.")],
    legal_basis: Annotated[str, typer.Option("--legal-basis", help="The law or contract that allows it.")],
    expires: Annotated[str, typer.Option("--expires", metavar="DURATION", help="How long it stands: 30m, 2h, 1d.")],
    dataset: Annotated[str | None, typer.Option("--dataset", help="Data set of the images, where ids repeat.")] = None,
    person: PersonOrUser = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Ask for the keys of some images. Other people must approve before `keyanon recover` can use it."""
    from keystore.service import Keystore

    try:
        duration = parse_duration(expires)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--expires") from error
    by = acting_person(person)
    with Keystore.open(keystore, kek) as opened:
        view = opened.request(by, image, case, purpose, legal_basis, duration, dataset=dataset)
    next_command = f"keyanon show {keystore} {view.request_id}"
    hint = f"Now {view.approvals_required} other people read it and agree: {next_command}"
    output_of(context).result(view.model_dump(mode="json"), _summary(view), hint)


def approve(
    context: typer.Context,
    keystore: KeystorePath,
    request: RequestId,
    digest: Annotated[str, typer.Option("--digest", help="Digest of what you read, as `keyanon show` prints it.")],
    person: Person,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Agree to a request made by somebody else, as `keyanon show` shows it: what changed since is not agreed to."""
    from keystore.service import Keystore

    with Keystore.open(keystore, kek) as opened:
        view = opened.approve(request, acting_person(person), digest)
    output_of(context).result(view.model_dump(mode="json"), _summary(view))


def deny(
    context: typer.Context,
    keystore: KeystorePath,
    request: RequestId,
    person: Person,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """End a request for good; its requester withdraws it this way."""
    from keystore.service import Keystore

    with Keystore.open(keystore, kek) as opened:
        view = opened.deny(request, acting_person(person))
    output_of(context).result(view.model_dump(mode="json"), _summary(view))


def requests(
    context: typer.Context, keystore: KeystorePath, kek: KekUri = None, as_json: Json = False, verbose: Verbose = False
) -> None:
    """List the requests of a keystore and where they stand."""
    from keystore.service import Keystore

    with Keystore.open(keystore, kek) as opened:
        views = opened.requests()
    columns = ("request", "state", "case", "requester", "images", "approvals", "expires")
    rows = [
        (
            view.request_id,
            view.state,
            view.case,
            view.requester,
            len(view.images),
            f"{len(view.approvals)} of {view.approvals_required}",
            f"{view.expires_at:%Y-%m-%d %H:%M %Z}",
        )
        for view in views
    ]
    output_of(context).result(
        {"requests": [view.model_dump(mode="json") for view in views]}, table(f"requests in {keystore}", columns, rows)
    )


def show(
    context: typer.Context,
    keystore: KeystorePath,
    request: RequestId,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what one request asks for: an approval signs the digest of exactly this content."""
    from keystore.service import Keystore

    with Keystore.open(keystore, kek) as opened:
        view = opened.show(request)
    agree = f"To agree to this: keyanon approve {keystore} {view.request_id} --digest {view.digest} --as NAME"
    hints = [agree] if view.state == "pending" else []
    output_of(context).result(view.model_dump(mode="json"), _summary(view), *hints)


def _summary(view: "RequestView") -> "Table":
    """One request for people; the images by id, not counted, because they are what is agreed to."""
    grant = view.grant
    return facts(
        f"request {view.request_id}",
        {
            "request": view.request_id,
            "state": view.state,
            "requester": view.requester,
            "case": view.case,
            "purpose": view.purpose,
            "legal basis": view.legal_basis,
            "images": "\n".join(f"{image.image_id} ({image.dataset})" for image in view.images),
            "expires": f"{view.expires_at:%Y-%m-%d %H:%M:%S %Z}",
            "approvals": f"{len(view.approvals)} of {view.approvals_required}"
            + "".join(f"\n{one.approver}, {one.approved_at:%Y-%m-%d %H:%M:%S %Z}" for one in view.approvals),
            "denied by": view.denied_by,
            "grant": None
            if grant is None
            else f"until {grant.expires_at:%Y-%m-%d %H:%M:%S %Z}"
            + ("" if grant.used_at is None else f", used {grant.used_at:%Y-%m-%d %H:%M:%S %Z}"),
            "digest": view.digest,
        },
    )

"""`keyanon request`, `approve`, `deny`, `requests`, `show`: asking for keys, or for a change of who decides, and agreeing to it.

These commands see requests and people, never keys; they load neither torch nor Ray.
"""

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jobs.commands.approver_key import PassphraseFile, passphrase_of
from jobs.commands.asking import Asked, KeystorePlace, TokenPath, actor, asked
from jobs.commands.durations import parse_duration
from jobs.commands.options import (
    BY_TOKEN,
    EndpointUrl,
    Json,
    KekUri,
    PersonOrUser,
    RequestId,
    Verbose,
    output_of,
    store_of,
    write_private,
)
from jobs.commands.printing import facts, table
from jobs.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.table import Table

    from keystore.decisions.signatures import OwnSignature
    from keystore.decisions.views import ApprovalView, RequestView


LegalBasis = Annotated[
    str,
    typer.Option(
        "--legal-basis",
        metavar="CODE[: LAW]",
        help="What allows it, from the policy's list, and the law or order, such as 'court-order: 17/2026'.",
    ),
]
PersonOfKeystore = Annotated[str | None, typer.Option("--as", metavar="NAME", help=f"Who acts. {BY_TOKEN}")]


def request(
    context: typer.Context,
    keystore: KeystorePlace,
    case: Annotated[str, typer.Option("--case", help="The case this belongs to, such as C-17.")],
    purpose: Annotated[str, typer.Option("--purpose", help="What the restored faces are for.")],
    legal_basis: LegalBasis,
    expires: Annotated[str, typer.Option("--expires", metavar="DURATION", help="How long it stands: 30m, 2h, 1d.")],
    image: Annotated[
        list[str] | None, typer.Option("--image", metavar="ID", help="Image to restore; repeat for more.")
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", metavar="FILE", help="Text file of images, one a line; - is stdin.")
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Data set of the images, where ids repeat.")] = None,
    person: PersonOrUser = None,
    token_file: TokenPath = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Ask for the keys of some images. Other people must approve before `keyanon recover` can use it."""
    try:
        duration = parse_duration(expires)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--expires") from error
    wanted = [*dict.fromkeys([*(image or ()), *([] if images is None else _lines(images))])]
    if not wanted:
        raise typer.BadParameter("name at least one image", param_hint="--image or --images")
    with asked(keystore, kek, token_file) as opened:
        view = opened.request(actor(opened, person), wanted, case, purpose, legal_basis, duration, dataset=dataset)
    next_command = f"keyanon show {keystore} {view.request_id}"
    hint = f"Now {view.approvals_required} other people read it and agree: {next_command}"
    output_of(context).result(view.model_dump(mode="json"), _summary(view), hint)


def _lines(name: str) -> list[str]:
    """The lines of a text file, or of stdin ("-"), but empty ones and a byte order mark. Raises typer.BadParameter."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{name} can not be read: {error}", param_hint="--images") from error
    return [line for line in text.removeprefix("\ufeff").split("\n") if line.strip()]


def approve(
    context: typer.Context,
    keystore: KeystorePlace,
    request: RequestId,
    digest: Annotated[
        str | None,
        typer.Option(
            "--digest", help="Digest of what you read, as `keyanon show` prints it.", show_default="with --key: asked"
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Sign here with your own key (`keyanon approver-key new`)."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    within: Annotated[
        str | None,
        typer.Option(
            "--within",
            metavar="DURATION",
            help="How long the keys may be taken out at most, once enough people agree: 30m, 2h.",
            show_default="as the policy says",
        ),
    ] = None,
    person: PersonOfKeystore = None,
    token_file: TokenPath = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Agree to a request made by somebody else, as `keyanon show` shows it: what changed since is not agreed to.

    With --key the request is shown again, and what is shown is signed on this machine; the keystore gets the signature only. Who
    has an enrolled key approves with it alone.
    """
    if digest is None and key is None:
        raise typer.BadParameter("say what you read: the digest that `keyanon show` prints", param_hint="--digest")
    try:
        seconds = None if within is None else int(parse_duration(within).total_seconds())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--within") from error
    with asked(keystore, kek, token_file) as opened:
        approver, own = actor(opened, person, named=True), None
        if key is not None:
            shown = opened.show(request)
            own, digest = _signed(context, opened, shown, digest, key, passphrase_file, seconds), shown.digest
        assert digest is not None
        view = opened.approve(request, approver, digest, own, seconds)
    output_of(context).result(view.model_dump(mode="json"), _summary(view))


def _signed(
    context: typer.Context,
    opened: Asked,
    shown: "RequestView",
    read: str | None,
    key: Path,
    passphrase_file: Path | None,
    seconds: int | None,
) -> "OwnSignature":
    """Show a request and sign it, if that is the one that was `read`, or somebody at the terminal says so.

    Raises ApprovalError, TamperedError: the request's digest is of something else than is shown.
    """
    from keystore.approver_key import ApproverKey
    from keystore.crypto.canonical import utc_now
    from keystore.errors import ApprovalError

    output_of(context).table_note(_summary(shown))
    if read is None:
        if not sys.stdin.isatty():
            raise typer.BadParameter("nobody can be asked here; give the digest that you read", param_hint="--digest")
        if not typer.confirm("Sign this?", err=True):
            raise ApprovalError("declined", f"request {shown.request_id} was not approved; nothing was signed")
    elif read != shown.digest:
        raise ApprovalError(
            "changed",
            f"request {shown.request_id} is not what you read, as shown above; read it again, nothing was signed",
        )
    own = ApproverKey.read(key, lambda: passphrase_of(passphrase_file))
    return own.sign(shown, opened.audit_vkey, utc_now(), seconds)


def deny(
    context: typer.Context,
    keystore: KeystorePlace,
    request: RequestId,
    person: PersonOfKeystore = None,
    token_file: TokenPath = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """End a request for good; its requester withdraws it this way."""
    with asked(keystore, kek, token_file) as opened:
        view = opened.deny(request, actor(opened, person, named=True))
    output_of(context).result(view.model_dump(mode="json"), _summary(view))


def requests(
    context: typer.Context,
    keystore: KeystorePlace,
    state: Annotated[
        Literal["pending", "approved", "released", "applied", "denied", "expired"] | None,
        typer.Option("--state", help="Those that are in this state only."),
    ] = None,
    token_file: TokenPath = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the requests of a keystore and where they stand; of a service the newest 200."""
    from keystore.decisions.changes import title
    from keystore.decisions.lifecycle import State

    with asked(keystore, kek, token_file) as opened:
        views = opened.requests(state=None if state is None else State(state))
    columns = ("request", "state", "case", "requester", "images", "approvals", "expires")
    rows = [
        (
            view.request_id,
            view.state,
            view.case if view.change is None else title(view.change).removeprefix("a "),
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
    keystore: KeystorePlace,
    request: RequestId,
    pictures: Annotated[
        str | None,
        typer.Option(
            "--pictures", metavar="OUT", help="Compare the published pictures in OUT with the request's key records."
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--page", metavar="FILE", help="Write the request and the pictures, made small, to this new file."
        ),
    ] = None,
    endpoint_url: EndpointUrl = None,
    token_file: TokenPath = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what one request asks for: an approval signs the digest of exactly this content.

    With --pictures, also which published, anonymized pictures it is about. One that is not its key record's is not shown, and
    this ends with 5.
    """
    from jobs.commands.review import page_of, review

    if page is not None and pictures is None:
        raise typer.BadParameter("say where the published pictures are", param_hint="--pictures")
    with asked(keystore, kek, token_file) as opened:
        view = opened.show(request)
        store = None if pictures is None else store_of(pictures, endpoint_url)
        seen = [] if store is None else review(opened, view, store)
    if page is not None and store is not None:
        write_private(page, page_of(view, _facts(view), seen, store).encode())
    known_by = "--as NAME" if token_file is None else "--token-file FILE"
    own = " --key FILE" if view.own_keys else ""
    agree = f"To agree to this: keyanon approve {keystore} {view.request_id} --digest {view.digest}{own} {known_by}"
    hints = [agree] if view.state == "pending" else []
    said = {one.image.record_id: one.said for one in seen}
    rows = [(one.image.image_id, one.image.dataset, one.said) for one in seen]
    output_of(context).result(
        {**view.model_dump(mode="json"), **({} if store is None else {"pictures": said})},
        _summary(view),
        *([table("pictures", ("image", "data set", "the published picture"), rows)] if rows else []),
        *hints,
    )
    if any(one.differs for one in seen):
        raise typer.Exit(ExitCode.WRONG_KEY_OR_TAMPERED)


def filed(context: typer.Context, keystore: str | Path, view: "RequestView") -> None:
    """Tell of a change that was filed (decisions.changes), and what makes it."""
    hint = f"Nothing is changed yet: {view.approvals_required} approvers sign it first. keyanon show {keystore} {view.request_id}"
    output_of(context).result(view.model_dump(mode="json"), _summary(view), hint)


def _asked_for(view: "RequestView") -> dict[str, object]:
    """What is agreed to: images by id, not counted; or a change, line by line."""
    if view.change is not None:
        from keystore.decisions.changes import described, title

        return {"for": title(view.change), **dict(described(view.change, view.change_people))}
    return {
        "case": view.case,
        "purpose": view.purpose,
        "legal basis": view.legal_basis,
        "count": f"{len(view.images)} images",
        "images": "\n".join(f"{image.image_id} ({image.dataset})" for image in view.images),
        "overlap": f"{view.overlap_images} of {len(view.images)} images are in {view.overlap_requests} other request(s) too",
    }


def _summary(view: "RequestView") -> "Table":
    return facts(f"request {view.request_id}", _facts(view))


def _facts(view: "RequestView") -> dict[str, object]:
    """One request for people."""
    grant = view.grant
    return {
        "request": view.request_id,
        "state": view.state,
        "requester": view.requester,
        **_asked_for(view),
        "expires": f"{view.expires_at:%Y-%m-%d %H:%M:%S %Z}",
        "approvals": f"{len(view.approvals)} of {view.approvals_required}"
        + (f", each with a key of their own{_roles(view)}" if view.own_keys else "")
        + "".join(f"\n{_approval(one)}" for one in view.approvals),
        "denied by": view.denied_by,
        "grant": None
        if grant is None
        else f"until {grant.expires_at:%Y-%m-%d %H:%M:%S %Z}"
        + ("" if grant.used_at is None else f", used {grant.used_at:%Y-%m-%d %H:%M:%S %Z}"),
        "digest": view.digest,
    }


def _roles(view: "RequestView") -> str:
    return f", of {' and '.join(view.roles)} at least one" if view.roles else ""


def _approval(approval: "ApprovalView") -> str:
    how = "" if approval.key is None else f", {approval.role}, own key {approval.key[:12]}"
    how += "" if approval.grant_seconds is None else f", for {timedelta(seconds=approval.grant_seconds)} at most"
    return f"{approval.approver}, {approval.approved_at:%Y-%m-%d %H:%M:%S %Z}{how}"

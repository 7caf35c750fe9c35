"""`keyanon keystore identity` and `sign-in`: who may sign in to the service through an identity provider, and doing so."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.options import Json, KekUri, KeystorePath, Person, Verbose, kept_text, output_of
from jobs.commands.printing import facts, table

identities = typer.Typer(
    help="Who may sign in to the service through an identity provider (OpenID Connect), and as whom.",
    no_args_is_help=True,
)
ROLES = "requester, approver, recovery, auditor or operator"


@identities.command("bind")
def bind(
    context: typer.Context,
    keystore: KeystorePath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The person that the identity stands for.")],
    issuer: Annotated[str, typer.Option(metavar="URL", help="What the provider calls itself, to the letter (`iss`).")],
    subject: Annotated[
        str,
        typer.Option(metavar="SUBJECT", help="What it calls the person (`sub`); an address is none, as it may change."),
    ],
    role: Annotated[str, typer.Option(metavar="ROLE", help=f"In which they act: {ROLES}.")],
    person: Person,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="The only data set that they reach.", show_default="all")
    ] = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Let an identity stand for a person, in one role; again for a further role. It never stands for another person.

    The pair of URL and SUBJECT is not kept, only a keyed hash of it.
    """
    from keystore.decisions.api_token import Role
    from keystore.decisions.bindings import Identity
    from keystore.served import ServedKeystore

    try:
        of_role = Role(role)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with ServedKeystore.open(keystore, kek) as opened:
        binding = opened.bind_identity(Identity(issuer, subject), name, of_role, person, dataset=dataset)
    document = {"binding": binding, "for": name, "role": role, "dataset": dataset}
    output_of(context).result(document, facts("identity bound", document))


@identities.command("unbind")
def unbind(
    context: typer.Context,
    keystore: KeystorePath,
    binding: Annotated[str, typer.Argument(metavar="BINDING", help="Its id, as `identity list` shows it.")],
    person: Person,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """End a binding now, and every token that came from it."""
    from keystore.served import ServedKeystore

    with ServedKeystore.open(keystore, kek) as opened:
        opened.unbind_identity(binding, person)
    document = {"unbound": binding}
    output_of(context).result(document, facts("identity unbound", document))


@identities.command("list")
def list_identities(
    context: typer.Context, keystore: KeystorePath, kek: KekUri = None, as_json: Json = False, verbose: Verbose = False
) -> None:
    """List the bindings that there ever were; `identity` is the begin of a keyed hash, the same for the same identity."""
    from keystore.served import ServedKeystore

    with ServedKeystore.open(keystore, kek) as opened:
        found = opened.bindings()
    columns = ("binding", "identity", "for", "role", "data set", "bound", "unbound")
    rows = [
        (one.binding_id, one.identity, one.person, one.role, one.dataset, one.bound_at, one.unbound_at) for one in found
    ]
    output_of(context).result(
        {"identities": [one.model_dump(mode="json") for one in found]},
        table(f"identities of {keystore}", columns, rows),
    )


def sign_in(
    context: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="https://HOST:PORT of the service.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Token file, mode 0600: a new one, or one of before to renew.")
    ],
    role: Annotated[
        str | None, typer.Option(metavar="ROLE", help="Where you have several.", show_default="the only one")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Where you have several.", show_default="the only one")
    ] = None,
    vkey: Annotated[
        Path | None,
        typer.Option("--vkey", metavar="FILE", help="audit.pub as you were given it; releases are held against it."),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the address, or print it only.")] = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Sign in to a service through its identity provider, and write the token, good for some hours, to a file.

    Without --vkey the first sign-in takes the service's word for its verifier key; a renewal holds it to that of before.
    """
    from keystore.errors import AuditError
    from keystore.service.client import ServiceClient
    from keystore.service.oidc.native import sign_in
    from keystore.service.token_file import TokenFile

    def show(address: str) -> None:
        typer.echo(f"Sign in here: {address}", err=True)
        if browser:
            webbrowser.open(address)

    known = None if vkey is None else kept_text(vkey, "--vkey").strip()
    renewed = out.exists() and out.stat().st_size > 0
    if renewed:
        known = known or TokenFile.read(out).audit_vkey
    else:
        if out.exists():
            out.unlink()  # an empty one: what a killed command leaves
        TokenFile.claim(out)
    try:
        signed_in = sign_in(url, show, role, dataset)
        if known not in (None, signed_in.audit_vkey):
            raise AuditError(
                f"{url} has another verifier key than the one kept: it is another keystore, or a forged one"
            )
        with ServiceClient(url, signed_in) as client:
            me = client.me()
        signed_in.write(out)
    except BaseException:
        if not renewed:
            out.unlink()
        raise
    document = {"signed in as": me.person, "role": me.role.value, "dataset": me.dataset, "file": str(out)}
    output_of(context).result(document, facts("signed in", document))

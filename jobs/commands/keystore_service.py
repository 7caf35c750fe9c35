"""`keyanon keystore serve` and `keyanon keystore token`: the keystore for people and jobs on other machines."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.durations import parse_duration
from jobs.commands.options import Json, KekUri, KeystorePath, Person, Verbose, kept_text, output_of
from jobs.commands.printing import facts, table

tokens = typer.Typer(help="Whom the service knows: issue, list and revoke tokens.", no_args_is_help=True)
ROLES = "ingest, pseudonyms, requester, approver, recovery, auditor or operator"


def serve(
    keystore: KeystorePath,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but this machine's own needs TLS.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one and says which.")] = 8443,
    certificate: Annotated[
        Path | None, typer.Option("--tls-certificate", metavar="FILE", help="Certificate chain, PEM.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM.")] = None,
    inbox: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where shards are put.", show_default="KEYSTORE/inbox")
    ] = None,
    console: Annotated[
        str | None,
        typer.Option(
            "--console",
            metavar="ORIGIN",
            help="Serve the pages for people too; where their browsers reach this: https://keys.example.org.",
            show_default="no pages",
        ),
    ] = None,
    oidc: Annotated[
        Path | None,
        typer.Option(
            "--oidc", metavar="FILE", help="Let people sign in through the identity provider of this YAML file."
        ),
    ] = None,
    break_glass: Annotated[
        bool,
        typer.Option(
            "--break-glass",
            help="Let whom the policy names for it break the glass over HTTPS, with a requester's token.",
        ),
    ] = False,
    kek: KekUri = None,
    verbose: Verbose = False,
) -> None:
    """Serve a keystore over HTTPS, to whom `keyanon keystore token issue` gave a token. It opens no sealed shard.

    `keyanon keystore ingest --follow` beside it takes in what jobs put.
    """
    from keystore.service.server import Address, serve

    address = Address(host, port, certificate, key)
    if console is None:
        serve(keystore, kek, address, inbox, oidc=oidc, may_break_glass=break_glass)
        return
    from keystore.console.entry import add_console

    serve(
        keystore,
        kek,
        address,
        inbox,
        oidc=oidc,
        may_break_glass=break_glass,
        join=lambda app: add_console(app, console),
    )


def witness(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where the witness keeps its key and what it saw; made if need be.")
    ],
    logs: Annotated[
        list[Path], typer.Option("--log", metavar="FILE", help="audit.pub of a keystore to witness; repeat for more.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but this machine's own needs TLS.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one and says which.")] = 8444,
    certificate: Annotated[
        Path | None, typer.Option("--tls-certificate", metavar="FILE", help="Certificate chain, PEM.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM.")] = None,
    verbose: Verbose = False,
) -> None:
    """Witness the logs of keystores: sign each checkpoint that extends the last one seen (C2SP tlog-witness), and no other.

    Run it under an account, and best on a machine, that the keystore's can not write to. DIR/witness.pub is its verifier key.
    """
    from keystore.service.server import Address
    from keystore.service.witness import serve_witness

    vkeys = [kept_text(one, "--log") for one in logs]
    serve_witness(directory, vkeys, Address(host, port, certificate, key))


def use_witness(
    context: typer.Context,
    keystore: KeystorePath,
    url: Annotated[str, typer.Option("--url", metavar="https://...", help="Where the witness listens.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Its verifier key: witness.pub.")],
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Have each checkpoint of a keystore signed by this witness elsewhere too, from now on; the latest one at once."""
    from keystore.embedded import Keystore

    with Keystore.open(keystore, kek) as opened:
        document = {"witness": url, "entries": opened.use_witness(url, kept_text(key, "--key"))}
    output_of(context).result(document, facts("witness asked", document))


def drop_witness(
    context: typer.Context,
    keystore: KeystorePath,
    url: Annotated[str, typer.Option("--url", metavar="https://...", help="Where the witness listens.")],
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Ask a witness elsewhere no more. What it signed stays signed; asking others goes on."""
    from keystore.embedded import Keystore

    with Keystore.open(keystore, kek) as opened:
        opened.drop_witness(url)
    document = {"dropped": url}
    output_of(context).result(document, facts("witness dropped", document))


@tokens.command("issue")
def issue(
    context: typer.Context,
    keystore: KeystorePath,
    holder: Annotated[str, typer.Option("--for", metavar="NAME", help="Who acts with it.")],
    role: Annotated[str, typer.Option(metavar="ROLE", help=f"What it is good for: {ROLES}.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="New file, mode 0600, for the token.")],
    person: Person,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="The only data set that it is good for.", show_default="all")
    ] = None,
    expires: Annotated[
        str, typer.Option("--expires", metavar="DURATION", help="How long it is good: 12h, 90d.")
    ] = "90d",
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make a token and write it to a file, once: the keystore keeps its digest only.

    A recovery token takes keys for the requests of its person; a requester's token can not.
    """
    from keystore.decisions.api_token import Role
    from keystore.served import ServedKeystore
    from keystore.service.token_file import TokenFile

    try:
        lifetime, of_role = parse_duration(expires), Role(role)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with ServedKeystore.open(keystore, kek) as opened:
        TokenFile.claim(out)
        try:
            token = opened.issue_token(holder, of_role, lifetime, person, dataset=dataset)
        except BaseException:
            out.unlink()
            raise
        TokenFile(token, opened.audit_vkey).write(out)
    document = {"token": token.split("_")[1], "for": holder, "role": role, "dataset": dataset, "file": str(out)}
    output_of(context).result(document, facts("token issued", document))


@tokens.command("list")
def list_tokens(
    context: typer.Context, keystore: KeystorePath, kek: KekUri = None, as_json: Json = False, verbose: Verbose = False
) -> None:
    """List the tokens that were issued, never what they are."""
    from keystore.served import ServedKeystore

    with ServedKeystore.open(keystore, kek) as opened:
        found = opened.tokens()
    columns = ("token", "for", "role", "data set", "expires", "revoked")
    rows = [(one.token_id, one.person, one.role, one.dataset, one.expires_at, one.revoked_at) for one in found]
    output_of(context).result(
        {"tokens": [one.model_dump(mode="json") for one in found]}, table(f"tokens of {keystore}", columns, rows)
    )


@tokens.command("revoke")
def revoke(
    context: typer.Context,
    keystore: KeystorePath,
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id, as `token list` shows it.")],
    person: Person,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """End a token now; a service that runs refuses it from the next call on."""
    from keystore.served import ServedKeystore

    with ServedKeystore.open(keystore, kek) as opened:
        opened.revoke_token(token, person)
    document = {"revoked": token}
    output_of(context).result(document, facts("token revoked", document))

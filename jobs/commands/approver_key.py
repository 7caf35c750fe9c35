"""`keyanon approver-key`: the key that an approver makes and keeps on a machine of their own. It needs no keystore."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.options import Json, Verbose, kept_text, output_of
from jobs.commands.printing import facts

if TYPE_CHECKING:
    from keystore.approver_key import ApproverKey

app = typer.Typer(help="Make and show the key that an approver signs with.", no_args_is_help=True)
KeyPath = Annotated[
    Path, typer.Argument(metavar="FILE", help="The private key, mode 0600. It never leaves this machine.")
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", metavar="FILE", help="Holds the key's passphrase.", show_default="asked at the terminal"
    ),
]


def passphrase_of(file: Path | None, *, twice: bool = False) -> str:
    """The passphrase of a key: a file's first line, or what is typed. Raises typer.BadParameter: there is neither."""
    if file is not None:
        return kept_text(file, "--passphrase-file").partition("\n")[0]
    if not sys.stdin.isatty():
        raise typer.BadParameter(
            "nobody can be asked for the passphrase here; give it in a file", param_hint="--passphrase-file"
        )
    return str(typer.prompt("Passphrase of the key", hide_input=True, confirmation_prompt=twice, err=True))


@app.command("new")
def new(
    context: typer.Context,
    file: KeyPath,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Encrypt it under a passphrase, which is asked.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make a key and print the line that others enrol it by. Read its id to them: what they enrol must be yours."""
    from keystore.approver_key import ApproverKey

    key = ApproverKey.generate()
    wanted = passphrase or passphrase_file is not None
    key.write(file, passphrase_of(passphrase_file, twice=True) if wanted else None)
    _tell(context, key, "key made")


@app.command("show")
def show(
    context: typer.Context,
    file: KeyPath,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Print the line that others enrol a key by."""
    from keystore.approver_key import ApproverKey

    _tell(context, ApproverKey.read(file, lambda: passphrase_of(passphrase_file)), "approver key")


def _tell(context: typer.Context, key: "ApproverKey", title: str) -> None:
    document = {"key": key.key_id, "public_line": key.public_line}
    output_of(context).result(document, facts(title, {"key": key.key_id}), key.public_line)

"""`keyanon audit`: what happened in a keystore, and whether its log still says so."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.options import Json, KekUri, KeystorePath, Verbose, kept_text, output_of
from jobs.commands.printing import facts, table
from jobs.exit_codes import ExitCode

if TYPE_CHECKING:
    from keystore.verification.report import AuditReport

app = typer.Typer(help="Verify, read and checkpoint the audit log.", no_args_is_help=True)

_HEADER_FIELDS = ("seq", "time", "type")


@app.command("verify")
def verify(
    context: typer.Context,
    keystore: KeystorePath,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="FILE", help="Checkpoint kept elsewhere; the log must extend it."),
    ] = None,
    vkey: Annotated[
        Path | None,
        typer.Option("--vkey", metavar="FILE", help="The log's verifier key (a copy of audit.pub) kept elsewhere."),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check the whole keystore against its log, offline and without the KEK.

    Only a checkpoint kept elsewhere can show that the log is intact: who holds the KEK can write another one.
    """
    from keystore.verification.verify import verify_audit

    note = None if checkpoint is None else kept_text(checkpoint, "--checkpoint")
    report = verify_audit(keystore, note, None if vkey is None else kept_text(vkey, "--vkey"))
    output = output_of(context)
    summary = {
        "verdict": _verdict(report),
        "log": report.origin,
        "entries": report.size,
        "root": report.root,
        "entries the witness saw": report.witnessed_size,
    }
    output.result(
        report.model_dump(mode="json"),
        facts(f"audit of {keystore}", summary),
        *([table("problems", ("problem",), [(problem,) for problem in report.problems])] if report.problems else []),
        *(
            [table("what this can not vouch for", ("limit",), [(one,) for one in report.limits])]
            if report.limits
            else []
        ),
    )
    if not report.ok:
        raise typer.Exit(ExitCode.WRONG_KEY_OR_TAMPERED)


def _verdict(report: "AuditReport") -> str:
    if not report.ok:
        return "THE KEYSTORE IS NOT WHAT ITS LOG SAYS"
    if not report.intact:
        return "nothing contradicts the log; that it is intact needs a checkpoint kept elsewhere"
    if report.vouched_size == report.size:
        return "the log is intact"
    return f"the log is intact up to entry {report.vouched_size} of {report.size}; nothing contradicts the rest"


@app.command("log")
def log(
    context: typer.Context, keystore: KeystorePath, kek: KekUri = None, as_json: Json = False, verbose: Verbose = False
) -> None:
    """Print the entries. People appear as commitments, texts as digests: the log names nobody."""
    from keystore.auditor import Auditor

    entries = [json.loads(leaf) for leaf in Auditor(keystore).entries()]
    rows = [
        (
            entry.get("seq"),
            entry.get("time"),
            entry.get("type"),
            "  ".join(f"{name}={value}" for name, value in sorted(entry.items()) if name not in _HEADER_FIELDS),
        )
        for entry in entries
    ]
    output_of(context).result(
        {"entries": entries}, table(f"audit log of {keystore}", ("entry", "time", "what", "details"), rows)
    )


@app.command("checkpoint")
def checkpoint(
    context: typer.Context, keystore: KeystorePath, kek: KekUri = None, as_json: Json = False, verbose: Verbose = False
) -> None:
    """Print the signed checkpoint of the log as it is now. Keep it where the keystore's account can not change it."""
    from keystore.service import Keystore

    with Keystore.open(keystore, kek) as opened:
        note = opened.checkpoint()
    output_of(context).result({"checkpoint": note}, note.rstrip("\n"))

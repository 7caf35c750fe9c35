"""`keyanon audit`: what happened in a keystore, and whether its log still says so."""

import json
from collections.abc import Callable
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
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint", metavar="FILE", help="Checkpoint kept elsewhere; the log must extend it. Repeatable."
        ),
    ] = None,
    vkey: Annotated[
        Path | None,
        typer.Option("--vkey", metavar="FILE", help="The log's verifier key (a copy of audit.pub) kept elsewhere."),
    ] = None,
    witnesses: Annotated[
        list[str] | None,
        typer.Option(
            "--witness", metavar="URL", help="Ask this witness for its checkpoint; needs --witness-key. Repeatable."
        ),
    ] = None,
    witness_keys: Annotated[
        list[Path] | None,
        typer.Option(
            "--witness-key", metavar="FILE", help="Its verifier key: witness.pub. One for each --witness, in order."
        ),
    ] = None,
    quorum: Annotated[
        int | None,
        typer.Option(min=1, help="How many of these must vouch for an entry.", show_default="all that are given"),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check the whole keystore against its log, without the KEK, and offline but for --witness.

    Only a checkpoint kept elsewhere, or a witness's, can show that the log is intact: who holds the KEK can write another one.
    """
    from keystore.verification.verify import verify_audit

    kept = kept_elsewhere(log_key_of(keystore, vkey), checkpoints, witnesses, witness_keys, quorum)
    report = verify_audit(keystore, kept, None if vkey is None else kept_text(vkey, "--vkey"), quorum)
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


def log_key_of(keystore: Path, vkey: Path | None) -> Callable[[], str]:
    """What says the verifier key of a directory's log, or the one kept elsewhere."""
    from keystore.audit.checkpoint import AUDIT_KEY_NAME

    return lambda: kept_text(vkey or keystore / AUDIT_KEY_NAME, "--vkey")


def kept_elsewhere(
    log_key: Callable[[], str],
    checkpoints: list[Path] | None,
    witnesses: list[str] | None,
    witness_keys: list[Path] | None,
    quorum: int | None,
) -> list[str]:
    """The checkpoints that these options of `audit verify` name; witnesses are asked for theirs. log_key: says the log's verifier
    key. Raises typer.BadParameter."""
    from keystore.audit.elsewhere import witnessed_checkpoints

    asked = list(zip(witnesses or [], witness_keys or [], strict=False))
    if len(witnesses or []) != len(witness_keys or []):
        raise typer.BadParameter(
            "give one --witness-key for each --witness, in their order", param_hint="--witness-key"
        )
    kept = [kept_text(one, "--checkpoint") for one in checkpoints or []]
    if quorum is not None and quorum > len(kept) + len(asked):
        raise typer.BadParameter("more than there are checkpoints and witnesses given", param_hint="--quorum")
    if asked:
        keys = [(url, kept_text(key, "--witness-key")) for url, key in asked]
        spare = 0 if quorum is None else len(kept) + len(asked) - quorum
        kept += witnessed_checkpoints(keys, log_key(), spare)
    return kept


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
    from keystore.embedded import Keystore

    with Keystore.open(keystore, kek) as opened:
        note = opened.checkpoint()
    output_of(context).result({"checkpoint": note}, note.rstrip("\n"))


@app.command("receipt")
def receipt(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `keyanon keystore erasure-receipt` wrote.")],
    vkey: Annotated[
        Path,
        typer.Option("--vkey", metavar="FILE", help="The log's verifier key (a copy of audit.pub) kept elsewhere."),
    ],
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Verify the receipt of an erasure, offline and without the keystore."""
    from keystore.reporting.receipt import verify_receipt

    given = verify_receipt(kept_text(file, "FILE").encode(), kept_text(vkey, "--vkey"))
    counts = [one.counts() for one in given.erasures]
    document = {
        "keystore": given.keystore,
        "dataset": given.dataset,
        "subject": given.subject,
        "image": given.image,
        "erased_at": [one.erased_at for one in given.erasures],
        "records": sum(records for records, _ in counts),
        "keys": sum(keys for _, keys in counts),
        "checkpoint": given.checkpoint,
    }
    shown = {**document, "erased_at": ", ".join(one.erased_at for one in given.erasures)}
    output_of(context).result(document, facts("erased, on record in the log", shown))

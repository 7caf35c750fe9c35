"""`keyanon keystore report` and `erasure-receipt`: what a data-protection officer takes away."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands import audit
from jobs.commands.asking import KeystorePlace, TokenPath, service_at
from jobs.commands.options import (
    Json,
    KekUri,
    KeystorePath,
    Verbose,
    kept_text,
    output_of,
    with_options_of,
    write_private,
)
from jobs.commands.printing import facts, table

if TYPE_CHECKING:
    from keystore.reporting.controller import Controller
    from keystore.reporting.report import OfficerReport

COMMITMENT_DIGITS = 12  # of a person's, in a table on the terminal


@with_options_of(audit.verify, without=())
def report(
    context: typer.Context,
    keystore: KeystorePlace,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Write report.html, report.json and CSV files into this new directory."
        ),
    ] = None,
    about: Annotated[
        Path | None,
        typer.Option(
            "--about", metavar="FILE", help="YAML: what only the controller can say in the record of processing."
        ),
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="With names, purposes, legal bases and image ids. Needs the KEK.")
    ] = False,
    token_file: TokenPath = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Report for the data-protection officer: record of processing, disclosures, refusals, what is overdue, erasures.

    What happened is read from the log, after that and all that it accounts for was verified; else nothing is reported. A service
    reports of itself, to an auditor's token.
    """
    from keystore.reporting.writing import write_report

    given, controller = context.params, _controller(about)
    vkey, quorum = given["vkey"], given["quorum"]

    def kept(log_key: Callable[[], str]) -> list[str]:
        return audit.kept_elsewhere(log_key, given["checkpoints"], given["witnesses"], given["witness_keys"], quorum)

    service = service_at(keystore, kek, token_file)
    if service is None:
        made = _of_directory(Path(keystore), kept, vkey, quorum, controller, words=words, kek=kek)
    elif words or vkey is not None:
        raise typer.BadParameter("a service tells an auditor no words, and the token file has its log's key")
    else:
        with service:
            made = service.report(kept(lambda: service.audit_vkey), quorum, controller)
    files = [] if out is None else write_report(made, out)
    summary = {
        "verdict": made.verdict(),
        "entries": made.entries,
        "records": sum(one.records for one in made.processing.datasets),
        "disclosures": len(made.disclosures),
        "refusals": len(made.refusals),
        "overdue": len(made.overdue),
        "erasures": len(made.erasures),
        "written": ", ".join(files) or None,
    }
    length = None if words else COMMITMENT_DIGITS
    rows = [
        (
            one.time,
            one.released_to[:length],
            one.records,
            ", ".join(person[:length] for person in one.approved_by),
            one.legal_basis,
        )
        for one in made.disclosures
    ]
    output_of(context).result(
        made.model_dump(mode="json"),
        facts(f"report of {keystore}", summary),
        *([table("disclosures", ("time", "to", "records", "approved by", "legal basis"), rows)] if rows else []),
    )


def _of_directory(
    keystore: Path,
    kept: Callable[[Callable[[], str]], list[str]],
    vkey: Path | None,
    quorum: int | None,
    controller: "Controller",
    *,
    words: bool,
    kek: str | None,
) -> "OfficerReport":
    from keystore.embedded import Keystore
    from keystore.reporting.report import officer_report

    if words:
        Keystore.open(keystore, kek).close()  # who has the KEK may see them
    return officer_report(
        keystore,
        datetime.now(UTC),
        checkpoints=kept(audit.log_key_of(keystore, vkey)),
        vkey=None if vkey is None else kept_text(vkey, "--vkey"),
        quorum=quorum,
        controller=controller,
        words=words,
    )


def erasure_receipt(
    context: typer.Context,
    keystore: KeystorePath,
    dataset: Annotated[str, typer.Option("--dataset", help="Data set that it was erased from.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Write the receipt to this new file.")],
    subject: Annotated[str | None, typer.Option("--subject", help="Whom it is about.")] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="ID", help="What it is about, without a subject.")
    ] = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the signed receipt of an erasure, with the log's entry and its proof; `keyanon audit receipt` verifies it."""
    from keystore.embedded import Keystore

    with Keystore.open(keystore, kek) as opened:
        receipt = opened.erasure_receipt(dataset, subject=subject, image_id=image)
    write_private(out, receipt)
    document = {"receipt": str(out)}
    output_of(context).result(document, facts("receipt written", document))


def _controller(about: Path | None) -> "Controller":
    import yaml
    from pydantic import ValidationError

    from keystore.reporting.controller import Controller

    if about is None:
        return Controller()
    try:
        return Controller.model_validate(yaml.safe_load(kept_text(about, "--about")) or {})
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{about} is no YAML ({error})", param_hint="--about") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}" for one in error.errors())
        fields = ", ".join(Controller.model_fields)
        raise typer.BadParameter(f"{about}: {wrong}. It says texts for: {fields}", param_hint="--about") from error

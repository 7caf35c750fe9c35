"""`keyanon quarantine`: the rows that were kept out of an output, and another try at them."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from jobs.commands.anonymize import end_strictly, report_tables, with_progress
from jobs.commands.options import EndpointUrl, Json, OutputPlace, ProgressSeconds, Quiet, Verbose, output_of, store_of
from jobs.commands.printing import table
from jobs.exit_codes import ExitCode

if TYPE_CHECKING:
    from jobs.run.progress import ProgressCallback
    from jobs.run.report import RunReport

app = typer.Typer(help="List the rows that were kept out of an output, and do them again.", no_args_is_help=True)

_LAYOUT = "Where and how fast (by default as the run had it)"
Reason = Annotated[
    str | None,
    typer.Option("--reason", metavar="CODE", help="Only rows quarantined for this reason.", show_default="all"),
]


def _option(help: str) -> Any:
    return typer.Option(help=help, show_default=False, rich_help_panel=_LAYOUT)


@app.command("list")
def list_rows(
    context: typer.Context,
    output: OutputPlace,
    reason: Reason = None,
    endpoint_url: EndpointUrl = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the quarantined rows of OUT with their reasons, and count them by reason."""
    from jobs.output.reader import read_manifest, read_rows
    from jobs.output.row_shards import reason_code

    store = store_of(output, endpoint_url)
    run_id = read_manifest(store).get("run_id")
    rows = [
        {"image_id": row.image_id, "code": reason_code(row.reason), "reason": row.reason}
        for row in read_rows(store)
        if row.status == "quarantined" and reason in (None, reason_code(row.reason))
    ]
    reasons = dict(Counter(row["code"] for row in rows).most_common())
    output_of(context).result(
        {"kind": "quarantine", "run_id": run_id, "rows": rows, "reasons": reasons},
        *([table("quarantined", ("id", "reason"), ((row["image_id"], row["reason"]) for row in rows))] if rows else []),
        table("reasons", ("reason", "rows"), reasons.items()) if rows else "no row is quarantined",
    )


@app.command()
def retry(
    context: typer.Context,
    output: OutputPlace,
    reason: Reason = None,
    strict: Annotated[
        bool, typer.Option("--strict", help=f"Exit with {int(ExitCode.QUARANTINED)} unless every row was anonymized.")
    ] = False,
    max_attempts: Annotated[
        int | None, typer.Option(help="Keys tried for a face before quarantine.", show_default="as the run")
    ] = None,
    photos: Annotated[str | None, _option("Where PHOTOS are now; they must be unchanged.")] = None,
    image_root: Annotated[str | None, _option("Where the pictures that a column names are now.")] = None,
    endpoint_url: EndpointUrl = None,
    keystore: Annotated[Path | None, _option("Where the run's keystore is now.")] = None,
    kek: Annotated[str | None, _option("Where the KEK is kept, such as file:/path/kek.key.")] = None,
    ingest_key: Annotated[
        str | None, _option("The keystore's public keys, instead of it: file, https://... or s3://... with its pin.")
    ] = None,
    inbox: Annotated[str | None, _option("Where sealed keys are left: directory, s3://... or https://...")] = None,
    token_file: Annotated[Path | None, _option("The ingest token, for an inbox https://...")] = None,
    receipt_seconds: Annotated[
        float | None, _option("Without a new receipt, after which the keys are left to wait.")
    ] = None,
    boxes: Annotated[Path | None, _option("Where the file of faces is now; it must be unchanged.")] = None,
    keep: Annotated[Path | None, _option("Where the file of what is left alone is now; it must be unchanged.")] = None,
    subjects: Annotated[Path | None, _option("Where the file of subjects is now; it must be unchanged.")] = None,
    gone: Annotated[
        Literal["fail", "keep"] | None, _option("keep: rows stay whose pictures PHOTOS do not hold any more.")
    ] = None,
    audio: Annotated[
        Literal["drop", "keep"] | None, _option("Of clips: the sound of those that are joined now.")
    ] = None,
    accept_version: Annotated[str | None, _option("Of this keyanon, where another one worked on the run.")] = None,
    check_every: Annotated[int | None, _option("Of how many faces one is tried on the way back.")] = None,
    face_weights: Annotated[Path | None, _option("Directory with facexlib's weights.")] = None,
    device: Annotated[str | None, _option("auto, cpu, cuda or cuda:N.")] = None,
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile", help="Compile the denoiser.", show_default=False, rich_help_panel=_LAYOUT
        ),
    ] = None,
    pictures_per_task: Annotated[int | None, _option("Pictures gathered together; rows of one shard.")] = None,
    detector_actors: Annotated[int | None, _option("Processes that find faces.")] = None,
    anonymizer_actors: Annotated[int | None, _option("Processes that hold the prior.")] = None,
    threads_per_actor: Annotated[int | None, _option("Threads of one anonymizing process.")] = None,
    cpus_per_actor: Annotated[float | None, _option("Logical CPUs Ray reserves for one.")] = None,
    gpus_per_actor: Annotated[float | None, _option("GPUs Ray reserves for one.")] = None,
    start_seconds: Annotated[float | None, _option("Without a ready process of a stage, after which it ends.")] = None,
    object_store_bytes: Annotated[int | None, _option("Object store of a local Ray.")] = None,
    progress_seconds: ProgressSeconds = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Do the quarantined rows of OUT again, with the settings of its run; no other row is touched.

    A row that comes out takes the place of the quarantined one, also when it is quarantined anew. Stopped, the same command goes
    on.
    """
    from jobs.run.retry import RETRY_SETTINGS, retry_quarantined
    from jobs.storage.place import as_place

    place = as_place(output)

    changes = {name: value for name, value in context.params.items() if name in RETRY_SETTINGS}

    def run(progress: "ProgressCallback | None") -> "RunReport":
        return retry_quarantined(place, reason, changes, progress)

    report = with_progress(run, progress_seconds, quiet=quiet)
    output_of(context).result(report.to_dict(), *report_tables(report))
    end_strictly(report, strict)

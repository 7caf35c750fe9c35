"""`keyanon resume`: a run goes on, by what its output says of it."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.anonymize import end_strictly, report_tables, with_progress
from jobs.commands.options import Json, OutputPlace, Verbose, output_of, with_options_of
from jobs.commands.quarantine import retry
from jobs.exit_codes import ExitCode

if TYPE_CHECKING:
    from jobs.run.progress import ProgressCallback
    from jobs.run.report import RunReport

_LAYOUT = "Where and how fast (by default as the run had it)"


@with_options_of(retry, without=("reason", "max_attempts"))
def resume(
    context: typer.Context,
    output: OutputPlace,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help=f"Exit with {int(ExitCode.QUARANTINED)} unless every row was anonymized or kept."
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="Only the first N rows; by default all, also of a run that had one."),
    ] = None,
    max_failure_rate: Annotated[
        float | None,
        typer.Option(metavar="F", help="Stop when a larger share of rows is quarantined.", show_default="as the run"),
    ] = None,
    photos: Annotated[
        str | None, typer.Option(help="Where PHOTOS are now; they may have grown.", rich_help_panel=_LAYOUT)
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Go on with the run of OUT where it stopped, by the settings that it recorded.

    The same as its `keyanon anonymize` again: of a complete run it does what PHOTOS have grown by. A retry of quarantined rows
    that was stopped goes on instead. Secrets are not recorded; files and places that have moved are given anew.
    """
    from jobs.run.recorded import RESUME_SETTINGS
    from jobs.run.resume import resume_run
    from jobs.storage.place import as_place

    given = context.params
    place = as_place(output)
    changes = {name: value for name, value in given.items() if name in RESUME_SETTINGS}

    def run(progress: "ProgressCallback | None") -> "RunReport":
        return resume_run(place, changes, progress)

    report = with_progress(run, given["progress_seconds"], quiet=given["quiet"])
    if report.rows == report.resumed_rows + report.gone_rows:
        output_of(context).note(f"nothing was left to do: {report.rows} rows stood")
    output_of(context).result(report.to_dict(), *report_tables(report))
    end_strictly(report, strict)

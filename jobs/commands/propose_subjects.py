"""`keyanon propose-subjects`: who is in the pictures, as a recognizer sees it, for a user to check."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.evaluate import counted, with_progress
from jobs.commands.options import EndpointUrl, Json, Quiet, Verbose, output_of
from jobs.commands.printing import facts


def propose_subjects(
    context: typer.Context,
    photos: Annotated[
        str, typer.Argument(metavar="PHOTOS", help="Folder or tar shards: directory or s3://bucket/prefix.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="New directory; what is in it shows source faces."),
    ],
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="D",
            min=0.0,
            help="Mean distance within which two groups of faces are one person. Less splits people, more joins strangers.",
            show_default="two thirds of the recognizer's own",
        ),
    ] = None,
    include: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Only such files. May be repeated.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="No such files. May be repeated.")] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes.", show_default="one for each CPU")
    ] = None,
    endpoint_url: EndpointUrl = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Propose whose picture each is: a CSV for `keyanon anonymize --subjects`, and a page to check and correct it by.

    The largest face of each picture counts. The page shows source faces: delete DIR when the CSV is checked. The same command
    again goes on where it was stopped.
    """
    from jobs.evaluate.report import PAGE
    from jobs.evaluate.subjects.config import ProposeConfig
    from jobs.evaluate.subjects.run import SUBJECTS, propose_subjects

    given = {name: context.params[name] for name in ("photos", "output", "threshold", "workers", "endpoint_url")}
    given |= {"include": tuple(include or ()), "exclude": tuple(exclude or ())}
    config = ProposeConfig.load(None, given)
    report = with_progress(lambda progress: propose_subjects(config, progress), quiet)
    output_of(context).result(
        {**report, "output": str(output)},
        facts(
            "proposed subjects",
            {
                "subjects": report["subjects"],
                "faces": f"{report['faces']}, the largest of each of {report['pictures']} pictures",
                "pictures without a subject": counted(report["unmeasured"]) or "none",
                "to check, it shows source faces": output / PAGE,
                "for --subjects": output / SUBJECTS,
            },
        ),
    )

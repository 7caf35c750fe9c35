"""`keyanon export`: the pictures of an output back in tar shards."""

from dataclasses import asdict
from typing import Annotated

import typer

from jobs.commands.options import EndpointUrl, Json, OutputPlace, Verbose, output_of
from jobs.commands.printing import facts, table


def export(
    context: typer.Context,
    output: OutputPlace,
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DEST",
            help="For the shards: a folder or s3://bucket/prefix, empty or of an export that was stopped.",
        ),
    ],
    photos: Annotated[
        str | None,
        typer.Option(help="Where the run's tar shards are now; they must be unchanged.", show_default="as the run"),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-siblings",
            metavar="GLOB",
            help="Members beside pictures that are kept too; without it text and numbers only. Nobody looks into them.",
        ),
    ] = None,
    endpoint_url: EndpointUrl = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the published pictures of OUT, a complete run over tar shards, into tar shards of the same names (WebDataset).

    Each picture takes its source's place. A sample of which a picture was quarantined is left out whole.
    """
    from jobs.export import export_tars
    from jobs.storage.place import as_place

    report = export_tars(as_place(output), as_place(destination), photos, keep or (), endpoint_url)
    summary = {
        "shards written": report.shards,
        **({"shards that were there": report.there} if report.there else {}),
        "pictures": report.pictures,
        "members beside them": report.siblings,
        "samples left out": report.samples_left_out,
        **({"shards whose end is damaged": ", ".join(report.damaged)} if report.damaged else {}),
    }
    output_of(context).result(
        {"kind": "export", **asdict(report), "left_out": dict(report.left_out)},
        facts(f"export into {destination}", summary),
        *([table("left out", ("kind of member", "members"), report.left_out.most_common())] if report.left_out else []),
    )

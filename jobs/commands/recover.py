"""`keyanon recover`: uses a grant once and writes the restored pictures."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.asking import KeystorePlace, TokenPath, actor, asked
from jobs.commands.options import (
    EndpointUrl,
    Json,
    KekUri,
    PersonOrUser,
    RequestId,
    Verbose,
    output_of,
    store_of,
)
from jobs.commands.printing import table


def recover(
    context: typer.Context,
    keystore: KeystorePlace,
    request: RequestId,
    input: Annotated[
        str,
        typer.Option("--input", metavar="OUT", help="What `keyanon anonymize` wrote: directory or s3://bucket/prefix."),
    ],
    output: Annotated[Path, typer.Option("--output", metavar="RESTORED", help="New directory for restored pictures.")],
    person: PersonOrUser = None,
    prior: Annotated[
        str | None, typer.Option("--prior", help="Where the run's prior is now.", show_default="where the run had it")
    ] = None,
    device: Annotated[str, typer.Option(help="auto: a GPU where there is one; cpu, cuda or cuda:N.")] = "auto",
    skip_damaged: Annotated[
        bool,
        typer.Option(
            "--skip-damaged", help="Use the grant although some pictures or sidecars are damaged; restore the others."
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=256, help="Pictures restored at a time.", show_default="one per CPU, 1 on a GPU"
        ),
    ] = None,
    token_file: TokenPath = None,
    kek: KekUri = None,
    endpoint_url: EndpointUrl = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Restore the pictures of an approved request, once.

    What can fail on this machine is checked before the grant is used. RESTORED holds people in clear: delete it when done.
    """
    from keystore.decisions.lifecycle import FINAL_STATES
    from keystore.recipient import Recipient

    store = store_of(input, endpoint_url)
    out = output_of(context)
    with asked(keystore, kek, token_file) as opened:
        by = actor(opened, person)
        view = opened.show(request)
        if (
            view.state in FINAL_STATES
        ):  # refused at once, and into the audit log, before the prior is loaded for nothing
            opened.release(request, Recipient.generate().public_key, by)
        from jobs.recovery import default_workers, prepare, recover_request
        from keyanon_core.device import usable_device

        shards = opened.granted_shards(request)
        prepared = prepare(
            store,
            output,
            view.images,
            prior,
            device,
            skip_damaged=skip_damaged,
            shards=shards,
            workers=workers or default_workers(usable_device(device)),
        )
        report = recover_request(
            opened, request, by, prepared, lambda image_id, status: out.note(f"{status}: {image_id}")
        )
    out.result(
        report.to_dict(),
        table(
            f"restored into {output}",
            ("image", "status", "faces", "exact", "picture", "NFE", "iterations", "residual", "reason"),
            [
                (
                    picture.image_id,
                    picture.status,
                    picture.faces,
                    "pixel-exact" if picture.exact else "approximate",
                    {True: "as published", False: "re-encoded", None: None}[picture.picture_intact],
                    picture.nfe,
                    picture.iterations,
                    None if picture.worst_residual is None else f"{picture.worst_residual:.1e}",
                    picture.reason or None,
                )
                for picture in report.pictures
            ],
        ),
    )
    raise typer.Exit(report.exit_code)

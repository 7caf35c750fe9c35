"""`keyanon reconcile`: shows what killed attempts left, and removes it."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.options import EndpointUrl, Json, KekUri, OutputPlace, Verbose, output_of, store_of
from jobs.commands.printing import facts, format_bytes, table


def reconcile(
    context: typer.Context,
    output: OutputPlace,
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is found; without it, show it only.")] = False,
    keystore: Annotated[
        Path | None,
        typer.Option("--keystore", "-k", metavar="KEYSTORE", help="That of the run, to look through its inbox too."),
    ] = None,
    inbox: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|s3://...|https://...",
            help="Where the run hands its keys in, of a run with --ingest-key.",
            show_default="as its manifest says",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="For an inbox https://...", show_default="as its manifest says"),
    ] = None,
    kek: KekUri = None,
    endpoint_url: EndpointUrl = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what lies in OUT, and in the inboxes, that no visible row has a part in; with --delete remove it.

    Refused while a run is going on. A run that is to go on needs it not: it sweeps by itself.
    """
    from jobs.output.reconcile import reconcile as reconcile_output
    from jobs.storage.place import as_inbox
    from keystore.embedded import Keystore

    store = store_of(output, endpoint_url)
    with nullcontext() if keystore is None else Keystore.open(keystore, kek) as opened:
        place = None if inbox is None else as_inbox(inbox)
        found = reconcile_output(
            store, opened, remove=delete, inbox=place, endpoint_url=endpoint_url, token_file=token_file
        )
    size = sum(orphan.bytes for orphan in found.orphans)
    done = "removed" if found.removed else "orphans"
    summary = {
        "run": found.run_id,
        done: f"{len(found.orphans)}, {format_bytes(size)}" if found.orphans else "none",
        **({"next": "the same command with --delete removes them"} if found.orphans and not found.removed else {}),
    }
    named = [(orphan.kind, orphan.name, format_bytes(orphan.bytes)) for orphan in found.orphans]
    output_of(context).result(
        {"kind": "reconciliation", **asdict(found), "counts": found.counts(), "bytes": size},
        facts(f"reconciliation of {output}", summary),
        *([table(done, ("kind", "name", "size"), named)] if named else []),
    )

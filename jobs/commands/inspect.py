"""`keyanon inspect`: what is in an output, a sidecar or a picture. It needs no keystore and shows no key material."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.options import EndpointUrl, Json, Verbose, output_of, store_of
from jobs.commands.printing import facts, format_bytes, table


def inspect(
    context: typer.Context,
    path: Annotated[
        str,
        typer.Argument(metavar="OUT", help="Output of a run, or one sidecar or picture; a path or s3://bucket/name."),
    ],
    endpoint_url: EndpointUrl = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show statuses, counts, faces and sizes of a run's output, or the facts of one sidecar or picture."""
    from jobs.names import SIDECAR_SUFFIX
    from jobs.output.layout import MANIFEST
    from jobs.output.reader import inspect_picture, inspect_run, inspect_sidecar

    output = output_of(context)
    store = store_of(path, endpoint_url)
    place = store.root
    if (
        not place.is_dir()
        if isinstance(place, Path)
        else store.see(MANIFEST) is None and "." in place.rsplit("/", 1)[-1]
    ):
        look = inspect_sidecar if path.endswith(SIDECAR_SUFFIX) else inspect_picture
        found = look(place, endpoint_url)
        output.result(found, facts(path, found))
        return
    run = inspect_run(store)
    summary = {
        "run": run.run_id,
        "finished": "yes" if run.finished else "no: run the same command again to go on",
        "procedure": run.procedure or None,
        "rows": run.rows,
        "faces anonymized": run.faces,
        **({"faces left alone": run.kept_faces} if run.kept_faces else {}),
        "keys": "discarded: nothing can be restored" if run.keys == "discard" else "stored in a keystore",
        **({"pictures whose key was discarded": run.permanent} if run.permanent else {}),
        "shards": run.shards,
        **{f"{part} on disk": format_bytes(size) for part, size in run.bytes_of.items()},
    }
    output.result(
        run.to_dict(),
        facts(path, summary),
        table("statuses", ("status", "rows"), run.statuses.most_common()),
        *([table("reasons", ("reason", "rows"), run.reasons.most_common())] if run.reasons else []),
        *([table("fidelities", ("fidelity", "pictures"), run.fidelities.most_common())] if run.fidelities else []),
    )

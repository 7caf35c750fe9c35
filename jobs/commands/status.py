"""`keyanon status`: what a run does, how far it is, and which command comes next."""

import shlex
from typing import TYPE_CHECKING

import typer

from jobs.commands.options import EndpointUrl, Json, OutputPlace, Verbose, output_of, store_of
from jobs.commands.printing import facts, table

if TYPE_CHECKING:
    from jobs.output.status import RunStatus


def status(
    context: typer.Context,
    output: OutputPlace,
    endpoint_url: EndpointUrl = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show whether the run of OUT is running, stopped or complete, its rows by status, and the next command.

    Of a bucket it may take 20 seconds to see that nobody holds it.
    """
    from jobs.output.status import status_of

    found = status_of(store_of(output, endpoint_url))
    then = next_command(found, output, endpoint_url)
    total = "not listed yet" if found.total is None else found.total
    holder = found.holder
    summary = {
        "run": None if found.manifest is None else found.manifest.run_id,
        "is": found.activity,
        "since": found.since,
        "first started": found.started_at,
        "attempts": found.attempts,
        **({} if holder is None else {"held by": f"process {holder['pid']} on {holder['host']}"}),
        "rows": f"{found.rows} of {total}",
        **({"gone from PHOTOS": f"{found.gone} of them"} if found.gone else {}),
        "next": then,
    }
    counted = [table("statuses", ("status", "rows"), found.statuses.items())] if found.statuses else []
    output_of(context).result({**found.to_dict(), "next": then}, facts(output, summary), *counted)


def next_command(found: "RunStatus", output: str, endpoint_url: str | None) -> str:
    """What its user types next, for a shell in the directory that the run was started from, where paths were relative."""
    from jobs.output.status import Activity

    place = [output, *(["--endpoint-url", endpoint_url] if endpoint_url else [])]
    run = found.manifest
    if found.activity is Activity.RUNNING or run is None:
        return shlex.join(["keyanon", "status", *place])
    if found.activity is Activity.COMPLETE:
        of_kept_out = ["quarantine", "list"] if found.statuses.get("quarantined") else ["inspect"]
        return shlex.join(["keyanon", *of_kept_out, *place])
    return shlex.join(["keyanon", "resume", *place])

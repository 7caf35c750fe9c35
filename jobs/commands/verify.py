"""`keyanon verify`: whether output and keystore agree, row by row."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.options import EndpointUrl, Json, KekUri, OutputPlace, Verbose, output_of, store_of
from jobs.commands.printing import facts, table
from jobs.exit_codes import ExitCode

if TYPE_CHECKING:
    from jobs.output.verify import Verification


def verify(
    context: typer.Context,
    output: OutputPlace,
    keystore: Annotated[
        Path | None,
        typer.Option("--keystore", "-k", metavar="KEYSTORE", help="That of the run; without it OUT alone is verified."),
    ] = None,
    kek: KekUri = None,
    endpoint_url: EndpointUrl = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Read all of OUT and compare it with itself and with KEYSTORE: rows, pictures, sidecars, key records, digests.

    Writes nothing. Exits with 5 where anything disagrees, and names each.
    """
    from jobs.output.verify import verify_output
    from keystore.embedded import Keystore

    store = store_of(output, endpoint_url)
    with nullcontext() if keystore is None else Keystore.open(keystore, kek) as opened:
        found = verify_output(store, opened)
    named = [(one.what, one.where, one.problem) for one in found.disagreements]
    output_of(context).result(
        {"kind": "verification", **asdict(found), "agrees": not named, "counts": found.counts()},
        facts(f"verification of {output}", _summary(found)),
        *([table("disagreements", ("what", "where", "problem"), named)] if named else []),
    )
    if named:
        raise typer.Exit(ExitCode.WRONG_KEY_OR_TAMPERED)


def _summary(found: "Verification") -> dict[str, object]:
    verdict = "all that is there agrees" if not found.disagreements else f"{len(found.disagreements)} disagreements"
    state = "complete" if found.complete else "not complete: it can not be said what is missing"
    return {
        "run": found.run_id,
        "state": f"{state}{', and going on' if found.running else ''}",
        "verdict": verdict,
        "rows": f"{found.rows} of {found.total}",
        "pictures as their rows list them": found.pictures,
        "sidecars": found.sidecars,
        "key records": found.records if found.keystore else "not looked at",
        **({"keys still in the inbox": found.awaiting} if found.awaiting else {}),
        **({"keys erased": found.erased} if found.erased else {}),
        **({"key records of no row": found.unused_records} if found.unused_records else {}),
    }

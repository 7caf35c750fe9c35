"""`keyanon attack`: try to undo what a run did."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.options import EndpointUrl, Json, OutputPlace, Quiet, Verbose, output_of
from jobs.commands.printing import facts, table
from jobs.exit_codes import ExitCode

if TYPE_CHECKING:
    from jobs.attack.report import Tried


def attack(
    context: typer.Context,
    output: OutputPlace,
    destination: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="New folder for the report, which shows source faces.")
    ],
    source: Annotated[
        str | None, typer.Option(metavar="PHOTOS", help="Where the run's input is now.", show_default="as the run")
    ] = None,
    prior: Annotated[str | None, typer.Option(help="Where the run's prior is now.", show_default="as the run")] = None,
    endpoint_url: EndpointUrl = None,
    faces: Annotated[
        int, typer.Option(min=6, max=2000, help="Pictures that are attacked, at most, evenly spread over the run.")
    ] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn: the same one gives the same report.")] = 1,
    device: Annotated[str, typer.Option(help="auto: a GPU where there is one; cpu, cuda or cuda:N.")] = "auto",
    fail_on_win: Annotated[
        bool,
        typer.Option("--fail-on-win", help="End with code 8 when an attack wins, or could not be told from chance."),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Try on the pictures of OUT, beside their sources, what an attacker without a key would.

    Writes DIR/index.html and DIR/attacks.json. No keystore is opened: where an attack needs a key that is known, the same faces
    are anonymized again under keys that are thrown away.
    """
    from jobs.attack.run import attack_run
    from jobs.storage.place import as_place

    shown = output_of(context)
    report = attack_run(
        as_place(output),
        destination,
        source=source,
        prior=prior,
        endpoint_url=endpoint_url,
        faces=faces,
        seed=seed,
        device=device,
        note=(lambda text: None) if quiet else shown.note,
    )
    summary = {
        "run": report.run_id,
        "faces": f"{report.faces} of {report.pictures} pictures",
        **({"pictures left out": len(report.left_out)} if report.left_out else {}),
        "won": ", ".join(one.attack.name for one in report.broken) or "none that keyanon is made to withstand",
        "report": destination,
    }
    shown.result(
        report.to_dict(),
        table("attacks", ("", "attack", "success", "chance", "result", "what it means"), map(_line, report.tried)),
        facts("attacked", summary),
    )
    if fail_on_win and (report.broken or report.unsettled):
        raise typer.Exit(ExitCode.BEYOND_LIMIT)


def _line(one: "Tried") -> tuple[object, ...]:
    if one.outcome is None:
        return one.attack.number, one.attack.name, None, None, one.verdict, one.meaning
    success, chance = one.outcome.measured.success, one.outcome.measured.chance
    return (
        one.attack.number,
        one.attack.name,
        f"{100 * success.value:.1f} % [{100 * success.low:.1f}, {100 * success.high:.1f}]",
        f"{100 * chance:.1f} %",
        one.verdict,
        one.meaning,
    )

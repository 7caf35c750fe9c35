"""`keyanon evaluate`: what a run, or any tool's pictures, protects and gives back; or the paper's tables."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.commands import evaluate_paper
from jobs.commands.options import EndpointUrl, Json, Quiet, Verbose, output_of
from jobs.commands.printing import facts, table
from jobs.exit_codes import ExitCode

if TYPE_CHECKING:
    from jobs.evaluate.measuring import Progress
    from jobs.evaluate.run import Subject

SHOWN = ("untouched", "accepted", "rank1", "mean_rank", "found", "psnr_face", "same_outside")  # figures on the terminal
_OTHERS = "Pictures of any tool, in the place of RUN"
_PAPER = "The paper's tables, in the place of RUN"


def evaluate(
    context: typer.Context,
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Output of a run: directory or s3://bucket/prefix.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="OUT", help="New directory for the report, which shows people in clear."
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="PHOTOS", help="Where the sources are now.", show_default="as the run had them"),
    ] = None,
    anonymized: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Anonymized pictures of the sources' names.", rich_help_panel=_OTHERS),
    ] = None,
    recovered: Annotated[
        str | None, typer.Option(metavar="DIR", help="Recovered pictures, as `keyanon recover` writes them.")
    ] = None,
    subjects: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV of file,subject beside a folder: whom its pictures show. Of Parquet the run's subject column says so.",
            show_default="as the run had it",
        ),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV of file and a column for each trait, such as file,gender,age: figures for each group, too.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Measure so many pictures, evenly spread.")
    ] = None,
    rehearsed: Annotated[
        int | None,
        typer.Option(
            "--rehearse",
            metavar="N",
            min=0,
            help="Of so many pictures: anonymize them anew by the run's settings under keys that are thrown away, recover them, "
            "and treat them by blur and the like.",
            show_default="64",
        ),
    ] = None,
    recognizers: Annotated[
        list[str] | None,
        typer.Option(
            "--recognizer",
            metavar="NAME=FILE[:PRESET]",
            help="One more that tells people apart, from a local ONNX file; PRESET arcface, adaface or facenet. May be repeated.",
        ),
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Tell FID and KID of the faces, of --paper FID of the pictures, by these weights: "
            "pt_inception-2015-12-05-6726825d.pth, as it is published.",
        ),
    ] = None,
    lpips: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Tell LPIPS of the faces, by these weights: torchvision's alexnet-owt-7be5be79.pth, as it is published.",
        ),
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(help="Where the run's prior is now; of --paper the prior.", show_default="as the run had it"),
    ] = None,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="The tables of arXiv 2510.01031 in its own protocol; says what is missing when it is.",
            rich_help_panel=_PAPER,
        ),
    ] = False,
    lfw: Annotated[
        str | None, typer.Option(metavar="DIR", help="LFW's pictures: NAME/NAME_0001.jpg.", rich_help_panel=_PAPER)
    ] = None,
    lfw_pairs: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="LFW's list of pairs. May be repeated.", rich_help_panel=_PAPER),
    ] = None,
    celeba_hq: Annotated[
        str | None, typer.Option(metavar="DIR", help="CelebA-HQ's pictures, by number.", rich_help_panel=_PAPER)
    ] = None,
    celeba_hq_list: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Names of those that are meant, a line each.", rich_help_panel=_PAPER),
    ] = None,
    face_weights: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Directory with facexlib's weights.", rich_help_panel=_PAPER),
    ] = None,
    degraded: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Recover so many pictures from JPEG copies and with wrong keys, too.",
            show_default="1000, as the protocol",
            rich_help_panel=_PAPER,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="DDIM steps one way; with another number the tables are not the protocol's.",
            show_default="50, as the protocol",
            rich_help_panel=_PAPER,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="auto: a GPU for each process where there are some; cpu, cuda.",
            show_default="auto",
            rich_help_panel=_PAPER,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes.", show_default="one for each CPU")
    ] = None,
    under: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-under",
            metavar="FIGURE=VALUE",
            help=f"Exit with {int(ExitCode.BEYOND_LIMIT)} where a figure lies below; such as recovered.psnr_face=45.",
        ),
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-over", metavar="FIGURE=VALUE", help="The same where it lies above; such as anonymized.untouched=0."
        ),
    ] = None,
    endpoint_url: EndpointUrl = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure the pictures of RUN against their sources: one page, one JSON, one Parquet of values by face.

    The run's keys stay in their keystore: what is recovered, and what a wrong key shows, is told of the same pictures anonymized
    anew. The same command again goes on where it was stopped.
    """
    from jobs.evaluate.run import FACES, PAGE, REPORT, run_evaluation

    limits = {"under": _limits("--fail-under", under), "over": _limits("--fail-over", over)}
    given = {**context.params, "endpoint_url": endpoint_url}
    evaluate_paper.refuse_strangers(given, paper=paper)
    folder = _folder(output)
    shown = output_of(context)
    if paper:
        config, missing = evaluate_paper.settings_of(folder, given)
        for piece in () if quiet else missing:
            shown.note(f"missing: {piece}")
        report = with_progress(lambda progress: evaluate_paper.run(config, missing, progress), quiet)
        tables = evaluate_paper.tables_of(report, _in_short)
    else:
        subject = _subject(run, folder, given)
        report = with_progress(lambda progress: run_evaluation(subject, progress), quiet)
        short = _in_short(report["figures"], SHOWN)
        tables = [table("in short; all figures are in the page", ("version", *SHOWN), short)]
        if report["findings"]:
            found = map(_finding, report["findings"])
            tables.append(table("to be looked at", ("finding", "faces", "first"), found))
    beyond = _beyond(report, limits)
    shown.result(
        {**report, "output": str(folder), "beyond_limits": beyond},
        facts(
            "the paper's protocol" if paper else f"evaluation of {run or anonymized}",
            {
                "pictures": f"{report['pictures']} measured of {report['chosen_pictures']}",
                "faces": report["faces"],
                **({"not measured": counted(report["unmeasured"])} if report["unmeasured"] else {}),
                "page": folder / PAGE,
                "figures": folder / REPORT,
                "values by face": folder / FACES,
            },
        ),
        *tables,
        *([table("beyond their limits", ("figure",), [[one] for one in beyond])] if beyond else []),
    )
    if beyond:
        raise typer.Exit(ExitCode.BEYOND_LIMIT)


def _folder(output: str | None) -> Path:
    from jobs.storage.place import as_place

    if output is None:
        raise typer.BadParameter("the report needs a new directory", param_hint="--output")
    folder = as_place(output)
    if not isinstance(folder, Path):
        raise typer.BadParameter("a report is written to a local directory, not to S3", param_hint="--output")
    return folder


def _subject(run: str | None, folder: Path, given: dict[str, Any]) -> "Subject":
    from jobs.evaluate.config import EvaluateConfig
    from jobs.evaluate.run import subject_of_folders, subject_of_run
    from jobs.storage.place import as_place

    if (run is None) == (given["anonymized"] is None):
        raise typer.BadParameter("give RUN, or --source and --anonymized, and not both", param_hint="RUN")
    names = (
        "recovered",
        "subjects",
        "groups",
        "limit",
        "rehearsed",
        "prior",
        "workers",
        "recognizers",
        "inception",
        "lpips",
        "endpoint_url",
    )
    changes = {name: given[name] for name in names if given[name] is not None}
    for name in ("recovered", "anonymized"):
        if given[name] is not None:
            changes[name] = as_place(given[name])
    changes |= {"output": folder, **({"photos": given["source"]} if given["source"] else {})}
    if run is not None:
        return subject_of_run(as_place(run), changes)
    if given["source"] is None:
        raise typer.BadParameter("pictures of another tool need their sources", param_hint="--source")
    return subject_of_folders(EvaluateConfig.load(None, changes))


def with_progress(measure: "Callable[[Progress | None], dict[str, Any]]", quiet: bool) -> dict[str, Any]:
    """With a bar where stderr is a terminal, a line for each tenth elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    if quiet:
        return measure(None)
    if not sys.stderr.isatty():
        return measure(_lines())
    columns = TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=None)
        return measure(lambda done, of: bar.update(task, completed=done, total=of))


def _lines() -> "Progress":
    """A line for each tenth."""
    told = -1

    def tell(done: int, of: int) -> None:
        nonlocal told
        tenth = 10 * done // max(of, 1)
        if tenth > told:
            told = tenth
            sys.stderr.write(f"measured {done} of {of} pictures\n")

    return tell


def _limits(option: str, given: list[str] | None) -> dict[str, float]:
    limits: dict[str, float] = {}
    for one in given or ():
        name, _, text = one.rpartition("=")
        try:
            limit = float(text)
        except ValueError:
            limit = float("nan")
        if not name or limit != limit:
            raise typer.BadParameter(f"{one!r} is not FIGURE=VALUE with a number", param_hint=option)
        if name in limits:
            raise typer.BadParameter(f"{name} has two limits; give the one that holds", param_hint=option)
        limits[name] = limit
    return limits


def _beyond(report: dict[str, Any], limits: dict[str, dict[str, float]]) -> list[str]:
    from keyanon_core.evaluation.summary import beyond_limits

    values = {one["key"]: one["value"] for one in report["figures"]}
    unknown = sorted({*limits["under"], *limits["over"]} - values.keys())
    if unknown:
        raise typer.BadParameter(
            f"no figure is called {', '.join(unknown)}; there are {', '.join(sorted(values))}",
            param_hint="--fail-under, --fail-over",
        )
    return beyond_limits(values, limits["under"], limits["over"])


def _in_short(figures: list[dict[str, Any]], metrics: Sequence[str]) -> list[tuple[str, ...]]:
    """Some metrics of each version but the forms that few pictures are tried in, by the first recognizer that gives them."""
    from keyanon_core.evaluation.forms import TRIED

    known: dict[str, dict[str, str]] = {}
    for one in figures:
        of_all = one["version"] not in TRIED and one["group"] is None
        if of_all and one["metric"] in metrics and one["value"] is not None:
            known.setdefault(one["version"], {}).setdefault(one["metric"], f"{one['value']:.4g}")
    return [(version, *(cells.get(name, "-") for name in metrics)) for version, cells in known.items()]


def counted(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count} {code}" for code, count in reasons.items())


def _finding(finding: dict[str, Any]) -> tuple[str, str, str]:
    first = finding["faces"][0]
    return finding["finding"], f"{finding['count']} of {finding['of']}", f"{first['image_id']}, face {first['face']}"

"""`keyanon anonymize`: the main job. Each field of `AnonymizeConfig` is an option here; a test compares the two lists.

The defaults stand in the model. Options are None unless given, so that a YAML file's value wins over a default and an option
over the file; the help repeats the defaults as text, because loading the model takes most of a second.
"""

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from jobs.commands.options import EndpointUrl, Json, ProgressSeconds, Quiet, Verbose, output_of, refuse_configuration
from jobs.commands.printing import facts, format_bytes, table
from jobs.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from jobs.config import AnonymizeConfig
    from jobs.run.progress import ProgressCallback
    from jobs.run.report import RunReport

Result = TypeVar("Result")

_PARQUET = "Parquet input"
_ALGORITHM = "Algorithm"
_FACES = "Faces"
_PICTURES = "Pictures"
_LAYOUT = "Layout of the work (changes no result)"


def _option(default: str | bool, help: str, panel: str, name: str | None = None) -> Any:
    """An option that is None unless given. default: what the help says of it, a text or nothing (False)."""
    return typer.Option(*([name] if name else []), help=help, show_default=default, rich_help_panel=panel)


def anonymize(
    context: typer.Context,
    photos: Annotated[
        str | None,
        typer.Argument(
            metavar="PHOTOS", help="Folder, picture, clip, Parquet or tar shards (a file, or a folder of them)."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="OUT", help="New or resumed output: directory or s3://bucket/prefix."),
    ] = None,
    keystore: Annotated[
        Path | None, typer.Option("--keystore", "-k", metavar="KEYSTORE", help="Created on first use.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="YAML", help="`setting: value` lines; options win over them.")
    ] = None,
    endpoint_url: EndpointUrl = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help=f"Exit with {int(ExitCode.QUARANTINED)} unless every row was anonymized or kept."
        ),
    ] = False,
    kek: Annotated[
        str | None, typer.Option(metavar="URI", help="Where the KEK is kept, such as file:/path/kek.key.")
    ] = None,
    ingest_key: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|https://...|s3://...",
            help="Instead of KEYSTORE: what `keyanon keystore ingest-key` printed; elsewhere with its pin, #sha256=HEX.",
        ),
    ] = None,
    inbox: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|s3://...|https://...",
            help="Where sealed keys are left: for `keyanon keystore ingest`, or with `keyanon keystore serve`.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="For an inbox https://...: the ingest token, on each machine at this path, mode 0600."
        ),
    ] = None,
    receipt_seconds: Annotated[
        float | None,
        typer.Option(help="Without a new receipt, after which the keys are left to wait.", show_default="60.0"),
    ] = None,
    keys: Annotated[
        Literal["store", "discard"] | None,
        typer.Option(help="discard forgets them: no keystore, nothing can be restored.", show_default="store"),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set's name in the keystore.", show_default="PHOTOS' name")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB", help="Only files whose path below PHOTOS matches one; repeatable.", show_default="all"
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="No file whose path matches one; wins over --include.", show_default="none"),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Only the first N rows; a later run without it does the rest.", show_default="all"
        ),
    ] = None,
    max_failure_rate: Annotated[
        float | None,
        typer.Option(
            metavar="F", help="Stop when a larger share of rows is quarantined; 0 to 1.", show_default="never"
        ),
    ] = None,
    gone: Annotated[
        Literal["fail", "keep"] | None,
        typer.Option(
            help="Pictures of an earlier attempt that PHOTOS do not hold any more: keep lets their rows stay.",
            show_default="fail",
        ),
    ] = None,
    accept_version: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            help="Of this keyanon: it may go on with a run of another version.",
            show_default="the run's",
        ),
    ] = None,
    image_column: Annotated[
        str | None, _option("image", "Column with encoded pictures or clips, or with their names.", _PARQUET)
    ] = None,
    image_root: Annotated[
        str | None, _option("PHOTOS", "Folder or s3://bucket/prefix that named pictures lie in.", _PARQUET)
    ] = None,
    id_column: Annotated[str | None, _option("file and row number", "Column with unique ids.", _PARQUET)] = None,
    subject_column: Annotated[str | None, _option(False, "Column that says whose picture it is.", _PARQUET)] = None,
    boxes_column: Annotated[str | None, _option(False, "Column with boxes of faces to anonymize.", _PARQUET)] = None,
    keep_column: Annotated[str | None, _option(False, "Column with boxes to leave alone.", _PARQUET)] = None,
    permanent_column: Annotated[
        str | None, _option(False, "Bool column: true forgets the row's key, for good.", _PARQUET)
    ] = None,
    faces: Annotated[
        Literal["detect", "given", "aligned"] | None,
        _option("detect", "Which: detected and given, given alone, or each picture is one face's crop.", _FACES),
    ] = None,
    boxes: Annotated[Path | None, _option(False, "CSV or COCO file of faces to anonymize.", _FACES)] = None,
    keep: Annotated[Path | None, _option(False, "CSV or COCO file of boxes to leave alone.", _FACES)] = None,
    subjects: Annotated[
        Path | None, _option(False, "CSV of file,subject: whose picture it is, beside a folder.", _FACES)
    ] = None,
    pseudonyms: Annotated[
        Literal["none", "consistent", "tracks"] | None,
        _option(
            "none",
            "consistent: one person, one new face, in all pictures of the data set and in later runs. tracks: of clips, which "
            "always have them.",
            _FACES,
        ),
    ] = None,
    audio: Annotated[
        Literal["drop", "keep"] | None,
        _option("drop", "Of clips. keep: as it is in the source; a voice tells who it is.", _FACES),
    ] = None,
    doubtful: Annotated[
        Literal["paint", "quarantine"] | None,
        _option(
            "paint", "Of clips: faces that no key makes unlike their source. Painted over they never come back.", _FACES
        ),
    ] = None,
    payload_share: Annotated[
        float | None,
        _option(
            "0.2",
            "With them: the source's share in a face, 0.05 to 0.95; less is stabler, and comes back worse.",
            _FACES,
        ),
    ] = None,
    prior: Annotated[str | None, _option("embedded", "Directory or hub id in diffusers format.", _ALGORITHM)] = None,
    method: Annotated[
        Literal["exact", "paper", "paper-inpaint"] | None,
        _option(
            "exact", "paper: the reference, for unconditional priors; paper-inpaint: the like for others.", _ALGORITHM
        ),
    ] = None,
    transform: Annotated[
        Literal["rotation", "sign"] | None,
        _option(
            "rotation", "Keyed transform of the face or its noise latent; sign with the paper's methods.", _ALGORITHM
        ),
    ] = None,
    inversion: Annotated[
        Literal["none", "ddim"] | None,
        _option(
            "none",
            "DDIM inversion before the transform; ddim by itself with sign and the paper's methods.",
            _ALGORITHM,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        _option(
            "4", "DDIM steps one way: evaluations a face; 12, with paper 50, and twice as many with ddim.", _ALGORITHM
        ),
    ] = None,
    precision: Annotated[
        Literal["float32", "tf32", "bfloat16", "auto"] | None,
        _option("auto", "Of a face's first half of steps; auto: bfloat16 where hardware has it.", _ALGORITHM),
    ] = None,
    fidelity: Annotated[
        Literal["latent", "lossless", "image", "auto"] | None,
        _option("latent", "What recovery returns; auto: from the picture alone where it can.", _ALGORITHM),
    ] = None,
    sidecar_bits: Annotated[
        float | None,
        _option(
            "11.5",
            "How finely a sidecar holds a face: 10 to 16; each 6 dB, 3 KB a face. 13.8 with pseudonyms.",
            _ALGORITHM,
        ),
    ] = None,
    regions: Annotated[
        str | None, _option("face without hair and neck", "Regions to anonymize, with commas: skin,nose,...", _FACES)
    ] = None,
    face_models: Annotated[
        Literal["embedded", "facexlib"] | None, _option("embedded", "Detector, parser and landmarks.", _FACES)
    ] = None,
    face_weights: Annotated[Path | None, _option(False, "Directory with facexlib's weights.", _FACES)] = None,
    min_face: Annotated[
        int | None, _option("16", "Height in px of the smallest face searched for; larger is faster.", _FACES)
    ] = None,
    gate_threshold: Annotated[
        float | None, _option("0.935", "Distance from its source that a face must reach; 1 is a stranger's.", _FACES)
    ] = None,
    max_attempts: Annotated[int | None, _option("32", "Keys tried for a face before quarantine.", _FACES)] = None,
    check_every: Annotated[
        int | None, _option("1000", "The first face, then one in so many, is restored before publishing.", _FACES)
    ] = None,
    no_face: Annotated[
        Literal["quarantine", "pass"] | None,
        _option("quarantine", "A picture without a face: kept out, or published without metadata.", _FACES),
    ] = None,
    output_format: Annotated[
        Literal["same", "png", "webp", "jpeg"] | None,
        _option("same", "Of published pictures; same: the source's own, its name too.", _PICTURES),
    ] = None,
    jpeg_quality: Annotated[int | None, _option("95", "1 to 95, of JPEGs encoded as a whole.", _PICTURES)] = None,
    max_pixels: Annotated[int | None, _option("100000000", "A larger picture is quarantined.", _PICTURES)] = None,
    max_file_bytes: Annotated[
        int | None, _option("536870912", "A larger file is quarantined unread.", _PICTURES)
    ] = None,
    device: Annotated[
        str | None, _option("auto", "auto: the GPUs, else the CPUs; cpu, cuda or cuda:N.", _LAYOUT)
    ] = None,
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compile the denoiser: slow to start.",
            show_default="off",
            rich_help_panel=_LAYOUT,
        ),
    ] = None,
    face_batch: Annotated[int | None, _option("8", "Faces in one call of the prior.", _LAYOUT)] = None,
    pictures_per_task: Annotated[
        int | None, _option("up to 8 batches", "Pictures gathered together; rows of one shard.", _LAYOUT)
    ] = None,
    detector_actors: Annotated[int | None, _option("a quarter as many", "Processes that find faces.", _LAYOUT)] = None,
    anonymizer_actors: Annotated[
        int | None, _option("one per CPU, 8 a machine or GPU", "Processes that hold the prior.", _LAYOUT)
    ] = None,
    threads_per_actor: Annotated[
        int | None, _option("CPUs shared out", "Threads of one anonymizing process.", _LAYOUT)
    ] = None,
    cpus_per_actor: Annotated[float | None, _option("0", "Logical CPUs Ray reserves for one.", _LAYOUT)] = None,
    gpus_per_actor: Annotated[
        float | None,
        _option("shared out on cuda", "GPUs Ray reserves for one; 1 for priors beside the embedded.", _LAYOUT),
    ] = None,
    start_seconds: Annotated[
        float | None, _option("900.0", "Without a ready process of a stage, after which the run ends.", _LAYOUT)
    ] = None,
    object_store_bytes: Annotated[int | None, _option("512 MiB", "Object store of a local Ray.", _LAYOUT)] = None,
    progress_seconds: ProgressSeconds = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Anonymize every face in PHOTOS, write the result to OUT and the sealed keys to KEYSTORE.

    A folder of pictures gives a folder; Parquet gives Parquet with all other columns kept; clips, files or in Parquet, give
    OUT/clips. Every input row gets exactly one output row with a status and a reason. The same command run again goes on
    where it was stopped.
    """
    report = with_progress(partial(_run, settings_of(context)), progress_seconds, quiet=quiet)
    output_of(context).result(report.to_dict(), *report_tables(report))
    end_strictly(report, strict)


def settings_of(context: typer.Context) -> "AnonymizeConfig":
    """The settings that PHOTOS, the options and `--config` give. Raises ConfigError, typer.BadParameter."""
    from jobs.config import AnonymizeConfig

    given = context.params
    refuse_configuration(given["photos"])
    overrides: dict[str, Any] = {
        name: value or None if name in ("include", "exclude") else value
        for name, value in given.items()
        if name in AnonymizeConfig.model_fields
    }
    if given["regions"] is not None:
        overrides["regions"] = [name.strip() for name in given["regions"].split(",") if name.strip()]
    return AnonymizeConfig.load(given["config"], overrides)


def _run(config: "AnonymizeConfig", progress: "ProgressCallback | None") -> "RunReport":
    from keystore.keeper import KeeperProcess

    # It loads a database while this process loads Ray.
    with nullcontext() if config.keystore is None else KeeperProcess() as keeper:
        from jobs.run.anonymize import run_anonymize

        return run_anonymize(config, progress, keeper)


def with_progress(
    run: "Callable[[ProgressCallback | None], Result]", seconds: float | None, *, quiet: bool
) -> "Result":
    """Run with a progress bar where stderr is a terminal, with lines every so many seconds elsewhere, or without either."""
    if quiet:
        return run(None)
    from jobs.commands.progress import DEFAULT_INTERVAL, ProgressBar, ProgressLines

    with ProgressBar() if sys.stderr.isatty() else ProgressLines(seconds or DEFAULT_INTERVAL) as shown:
        return run(shown)


def end_strictly(report: "RunReport", strict: bool) -> None:
    """End the command with `QUARANTINED` where `--strict` was given and some row was neither anonymized nor kept."""
    if strict and report.statuses.get("anonymized", 0) + report.reasons.get("kept", 0) != report.rows:
        raise typer.Exit(ExitCode.QUARANTINED)


def _of_pseudonyms(report: "RunReport") -> dict[str, str]:
    if not (counts := report.pseudonyms):
        return {}
    shown = f"{counts['shown']} pictures show their subject's" + (
        f", {report.subjects} subjects" if report.subjects else ""
    )
    notes = {
        f"in {counts['several']} of them the largest of several faces": counts["several"],
        f"{counts['without']} have no subject": counts["without"],
    }
    return {"pseudonyms": "; ".join([shown, *(note for note, count in notes.items() if count)])}


def report_tables(report: "RunReport") -> list["Table"]:
    """The summary for people."""
    summary = {
        "run": report.run_id,
        "data set": report.dataset,
        "rows": report.rows
        if report.rows == report.input_rows + report.gone_rows
        else f"{report.rows} of {report.input_rows + report.gone_rows}; run without --limit to do the rest",
        "gone from PHOTOS": report.gone_rows or None,
        "resumed rows": report.resumed_rows or None,
        "files ignored": report.ignored_files or None,
        "procedure": report.procedure,
        "faces anonymized": report.faces,
        "faces left alone": report.kept_faces or None,
        **_of_pseudonyms(report),
        "further keys tried": report.further_keys,
        "time": f"{report.seconds:.1f} s",
        "speed": f"{report.images_per_second:.2f} images/s, {report.faces_per_second:.2f} faces/s",
        **{f"{part} on disk": format_bytes(size) for part, size in report.bytes_of.items()},
        "output": report.output,
        "keys": report.keystore or report.inbox or "discarded: nothing can be restored",
    }
    tables = [facts("anonymized", summary), table("statuses", ("status", "rows"), report.statuses.items())]
    if report.reasons:
        tables.append(table("reasons", ("reason", "rows"), report.reasons.items()))
    if report.clips or report.clips_missing:
        missing = [(name, f"not joined: {why}") for name, why in report.clips_missing.items()]
        tables.append(table("clips", ("clip", ""), [*((name, "joined") for name in report.clips), *missing]))
    if report.fidelities:
        tables.append(table("fidelities", ("fidelity", "pictures"), report.fidelities.items()))
    return tables

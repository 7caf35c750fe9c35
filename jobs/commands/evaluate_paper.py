"""`keyanon evaluate --paper`: the paper's tables, from the weights and data sets of whoever has them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
from rich.table import Table

from jobs.commands.printing import table

if TYPE_CHECKING:
    from jobs.evaluate.measuring import Progress
    from jobs.evaluate.paper.config import PaperConfig
    from jobs.evaluate.paper.pieces import Missing

# settings of no other evaluation, and those that this one has not
ONLY: Final = (
    *("lfw", "lfw_pairs", "celeba_hq", "celeba_hq_list", "face_weights"),
    *("degraded", "steps", "device"),
)
NOT_ITS: Final = ("run", "source", "anonymized", "recovered", "rehearsed", "subjects", "groups", "lpips")
SHOWN: Final = ("cosine", "other_photo_tar_far_01", "picture_fid", "detected", "psnr_picture", "ssim_picture")
_ITS: Final = (*ONLY, "prior", "recognizers", "inception", "limit", "workers", "endpoint_url")
_PLACES: Final = ("lfw", "celeba_hq")
_PATHS: Final = ("prior", "face_weights", "celeba_hq_list", "inception")
_LISTS: Final = {"lfw_pairs": Path, "recognizers": str}
_NOTHING: Final[tuple[object, ...]] = (None, (), [])


def refuse_strangers(given: Mapping[str, Any], *, paper: bool) -> None:
    """Raise typer.BadParameter for an option that belongs to the other kind of evaluation."""
    for name in NOT_ITS if paper else ONLY:
        if given.get(name) not in _NOTHING:
            option = "RUN" if name == "run" else f"--{'rehearse' if name == 'rehearsed' else name.replace('_', '-')}"
            raise typer.BadParameter(
                "the paper's protocol has pictures and settings of its own" if paper else "it belongs to --paper",
                param_hint=option,
            )


def settings_of(folder: Path, given: Mapping[str, Any]) -> "tuple[PaperConfig, list[Missing]]":
    """Of the options, and what is missing beside. Raises ConfigError where too much is, or a setting is out of range."""
    from jobs.evaluate.paper.config import PaperConfig
    from jobs.evaluate.paper.pieces import missing_pieces
    from jobs.sources.config import checked
    from jobs.storage.place import as_place

    values = {name: given[name] for name in _ITS if given[name] not in _NOTHING}
    values |= {name: as_place(values[name]) for name in _PLACES if name in values}
    values |= {name: Path(values[name]) for name in _PATHS if name in values}
    values |= {name: tuple(map(of, values[name])) for name, of in _LISTS.items() if name in values}
    missing = missing_pieces(values)
    return checked(PaperConfig, {**values, "output": folder}), missing


def run(config: "PaperConfig", missing: "list[Missing]", progress: "Progress | None") -> dict[str, Any]:
    """As `run_paper`."""
    from jobs.evaluate.paper.run import run_paper

    return run_paper(config, missing, progress)


def tables_of(
    report: Mapping[str, Any], in_short: Callable[[list[dict[str, Any]], Sequence[str]], list[Any]]
) -> list[Table]:
    """What of the protocol each table is of, and some figures of each data set."""
    whole = [
        (one["data_set"], one["table"], "the whole protocol" if one["whole"] else f"not the protocol's: {one['why']}")
        for one in report["tables"]
    ]
    tables = [table("tables", ("data set", "table", "is"), whole)]
    for data_set in report["data_sets"]:
        figures = [one for one in report["figures"] if one["data_set"] == data_set]
        tables.append(table(f"{data_set}, in short", ("version", *SHOWN), in_short(figures, SHOWN)))
    return tables

"""The protocol's report: the paper's tables with the published numbers beside ours, and what of the protocol they are of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from jobs.evaluate.paper.config import DEGRADED_PICTURES
from jobs.evaluate.paper.lists import CELEBA_HQ, LFW, Sample
from jobs.evaluate.portions import Measured, Portions
from jobs.evaluate.report import figure_text, shown_faces, write_files
from jobs.pages import page_environment
from keyanon_core.evaluation.metrics import BY_NAME, METRICS
from keyanon_core.evaluation.paper.tables import PUBLISHED, DataSet, paper_figures
from keyanon_core.evaluation.paper.versions import EXACT, PAPER, QUALITIES, recovered_of, wrong_key_of
from keyanon_core.procedure import PAPER_STEPS

WHOLE: Final[Mapping[DataSet, int]] = {LFW: 1_600, CELEBA_HQ: 30_000}
"""Pictures of a data set that the protocol anonymizes."""

TITLES: Final[Mapping[DataSet, str]] = {LFW: "LFW", CELEBA_HQ: "CelebA-HQ"}
IDENTITY: Final = "identity"
REALISM: Final = "realism"
RECONSTRUCTION: Final = "reconstruction"
DEGRADED: Final = "JPEG copies and wrong keys"
TABLES: Final = (IDENTITY, REALISM, RECONSTRUCTION, DEGRADED)
RECOVERY: Final = ("psnr_picture", "ssim_picture", "mae_picture", "solved")  # what reconstruction is told by
PICTURES: Final = ("picture_fid", "picture_distance", "detected", "found", "mask_iou", "mask_dice")  # and realism
METHODS: Final = (PAPER, EXACT)
_OF_COPIES: Final = frozenset(
    {wrong_key_of(method) for method in METHODS}
    | {recovered_of(method, quality) for method in METHODS for quality in QUALITIES}
)
RULES: Final = (
    (PAPER, "distance", "distance of what the paper's method anonymized from its source"),
    (recovered_of(PAPER), "psnr_picture", "PSNR of what the paper's method recovered"),
    (recovered_of(EXACT), "psnr_picture", "PSNR of what `exact` recovered"),
)
"""Which faces the page shows, as in `jobs.evaluate.report.RULES`."""


def paper_report(
    found: Measured,
    samples: Sequence[Sample],
    steps: int,
    lacking: Sequence[tuple[str, str]],
    circumstances: Mapping[str, Any],
) -> dict[str, Any]:
    """What REPORT holds: JSON types only, no source's vectors. steps: DDIM steps one way of the paper's method. lacking: tables,
    and a piece that each lacks."""
    figures = [figure for data_set in _data_sets(samples) for figure in _figures(found, samples, data_set)]
    return {
        "kind": "paper",
        **circumstances,
        "steps": steps,
        "pictures": found.pictures,
        "faces": len(found.images),
        "unmeasured": dict(found.unmeasured),
        "unmeasured_examples": found.examples,
        "tables": list(_coverage(found, samples, figures, steps, lacking)),
        "figures": figures,
        "published": [asdict(one) for one in PUBLISHED],
    }


def _data_sets(samples: Sequence[Sample]) -> list[DataSet]:
    return list(dict.fromkeys(one.data_set for one in samples))


def _figures(found: Measured, samples: Sequence[Sample], data_set: DataSet) -> list[dict[str, Any]]:
    """Those of one data set; their keys begin with its name: `lfw.paper.cosine.facenet`."""
    own = np.array([samples[row].data_set == data_set for row in found.rows], np.bool_)
    table = found.faces.rows(own[found.faces.face])
    if not len(table.face):
        return []
    seen = [samples[found.rows[face]] for face in table.face.tolist()]
    part = np.array([one.part for one in seen], np.int64)
    person = np.array([one.person for one in seen], np.int64) if data_set == LFW else None
    told = [figure.to_dict() for figure in paper_figures(table, part, data_set, person)]
    return [
        {
            **one,
            "key": f"{data_set}.{one['key']}",
            "data_set": data_set,
            "table": table_of(one["version"], one["metric"]),
        }
        for one in told
    ]


def table_of(version: str, metric: str) -> str:
    """In which of TABLES a figure stands."""
    if version in _OF_COPIES:
        return DEGRADED
    return RECONSTRUCTION if metric in RECOVERY else REALISM if metric in PICTURES else IDENTITY


def _coverage(
    found: Measured,
    samples: Sequence[Sample],
    figures: Sequence[Mapping[str, Any]],
    steps: int,
    lacking: Sequence[tuple[str, str]],
) -> Iterator[dict[str, Any]]:
    """Of each table that there is, how much of the protocol it is of."""
    for data_set in _data_sets(samples):
        told = {one["table"] for one in figures if one["data_set"] == data_set}
        for name in (one for one in TABLES if one in told):
            version, of = (wrong_key_of(PAPER), DEGRADED_PICTURES) if name == DEGRADED else (PAPER, WHOLE[data_set])
            faces = found.faces.face[found.faces.version == version].tolist()
            measured = sum(samples[found.rows[face]].data_set == data_set for face in faces)
            reasons = [f"it lacks {what}" for table, what in lacking if table == name]
            if steps != PAPER_STEPS:
                reasons.insert(0, f"it is made with {steps} DDIM steps, and the protocol has {PAPER_STEPS}")
            if measured != of:
                reasons.insert(0, f"it is of {measured:,} pictures, and the protocol has {of:,}")
            about = {"data_set": data_set, "table": name, "pictures": measured, "of": of}
            yield {**about, "whole": not reasons, "why": "; ".join(reasons)}


def write_paper_report(output: Path, report: Mapping[str, Any], found: Measured, portions: Portions) -> None:
    """Page, Parquet and JSON as an evaluation's. Raises OSError."""
    environment = page_environment("jobs.evaluate")
    environment.filters["figure"] = figure_text
    page = environment.get_template("paper.html.j2").render(
        report=report,
        titles=TITLES,
        metrics=[metric for metric in METRICS if any(one["metric"] == metric.name for one in report["figures"])],
        tables=[_laid_out(report, table) for table in report["tables"]],
        shown=shown_faces(found, portions, RULES),
    )
    write_files(output, report, found, page)


def _laid_out(report: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of the page, in blocks: one for each metric of recognizers, one for all others. A block has a row for each version,
    and columns of figures by version, published ones behind ours."""
    ours = [
        one
        for one in report["figures"]
        if (one["data_set"], one["table"]) == (table["data_set"], table["table"]) and one["group"] is None
    ]
    published = [
        {**one, "recognizer": one["recognizer"] or None, "low": None, "high": None, "unit": BY_NAME[one["metric"]].unit}
        for one in report["published"]
        if one["data_set"] == table["data_set"] and table_of(one["version"], one["metric"]) == table["table"]
    ]
    columns: dict[tuple[str, str | None, bool], dict[str, Any]] = {}
    for figures, theirs in ((ours, False), (published, True)):
        for one in figures:
            columns.setdefault((one["metric"], one["recognizer"], theirs), {})[one["version"]] = one
    order = list(dict.fromkeys(metric for metric, *_ in columns))
    blocks: dict[str, list[Any]] = {}
    for metric, recognizer, theirs in sorted(columns, key=lambda key: order.index(key[0])):
        of = columns[metric, recognizer, theirs]
        blocks.setdefault(metric if recognizer else "", []).append((BY_NAME[metric], recognizer, theirs, of))
    versions = list(dict.fromkeys(one["version"] for one in (*ours, *published)))
    return {
        **table,
        "blocks": [
            (block, [version for version in versions if any(version in column for *_, column in block)])
            for block in blocks.values()
        ],
        "sources": list(dict.fromkeys(one["source"] for one in published)),
    }

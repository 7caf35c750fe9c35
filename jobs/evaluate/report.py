"""The report of an evaluation: JSON for programs, Parquet for statisticians, one page for people."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.evaluate.forms import forms_of
from jobs.evaluate.measure_stage import MEASURED, RECOVERED
from jobs.evaluate.portions import Measured, Portions
from jobs.pages import data_uri, page_environment
from jobs.storage.json_files import to_json
from keyanon_core.evaluation.faces import FEATURES, SOURCE
from keyanon_core.evaluation.forms import BESIDE, TRIED
from keyanon_core.evaluation.groups import UNKNOWN
from keyanon_core.evaluation.intervals import median_of, proportion
from keyanon_core.evaluation.metrics import BY_NAME, METRICS
from keyanon_core.evaluation.rehearsal import RECOVERED as REHEARSAL_RECOVERED
from keyanon_core.evaluation.rehearsal import SIDECAR
from keyanon_core.evaluation.rivals import RIVALS
from keyanon_core.evaluation.summary import UNTOUCHED_BELOW, Figure, stranger_distances, summarize
from keystore.storage import durable

REPORT: Final = "report.json"
FACES: Final = "faces.parquet"
PAGE: Final = "index.html"
MOST_NAMED: Final = 100  # faces that a finding lists
SHOWN_EACH: Final = 4  # faces for each rule of the page
NO_FACE: Final = "no_face"  # the reason of a picture that shows none, as far as this search sees
BINS: Final = 40
PLOT: Final = (640, 200)  # px

RULES: Final = (
    (MEASURED, "distance", "distance from its source"),
    (RECOVERED, "psnr_face", "PSNR of what was recovered"),
    (REHEARSAL_RECOVERED, "psnr_face", "PSNR of what the rehearsal recovered"),
)
"""Which faces the page shows: a version, and the value by which its lowest, middle and highest are chosen."""


def report_of(found: Measured, circumstances: Mapping[str, Any]) -> dict[str, Any]:
    """What REPORT holds: JSON types only, no source's vectors."""
    figures = [_measured(found), *summarize(found.faces)]
    return {
        "kind": "evaluation",
        **circumstances,
        "pictures": found.pictures,
        "faces": len(found.images),
        "people": _people(found),
        "traits": _traits(found),
        "unmeasured": dict(found.unmeasured),
        "unmeasured_examples": found.examples,
        "missing": dict(found.missing),
        "stored_bytes": _stored(found.stored_bytes),
        "db_per_kb": _decibel_per_kilobyte(found, figures),
        "forms": forms_of(found),
        "figures": [figure.to_dict() for figure in figures],
        "findings": _findings(found),
    }


def _measured(found: Measured) -> Figure:
    """Of whom figures speak: a gate that nobody came to is no gate that all passed."""
    left = sum(count for code, count in found.unmeasured.items() if code != NO_FACE)
    return Figure(MEASURED, "measured", proportion(found.pictures, found.pictures + left))


def _people(found: Measured) -> dict[str, int]:
    """Of how many faces it is known whose they are, of how many people, and how many of these faces have another photograph."""
    people = found.faces.of(SOURCE).people
    known = people.person[people.known]
    return {
        "faces": len(known),
        "people": len(np.unique(known)),
        "with_another_photo": int((people.others() >= 0).sum()),
    }


def _traits(found: Measured) -> dict[str, dict[str, int]]:
    """How many faces are said to be in each group, by trait."""
    traits = found.faces.of(SOURCE).traits
    return {name: dict(Counter(labels[labels != UNKNOWN].tolist())) for name, labels in traits.items()}


def _stored(sizes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Median bytes of what was stored of a picture, by what it is."""
    return {name: median_of(np.array(values, np.float64)).to_dict() for name, values in sizes.items()}


def _decibel_per_kilobyte(found: Measured, figures: Sequence[Figure]) -> dict[str, float]:
    """What each thousand bytes that lie beside a picture buy of its faces, by the version that comes back: medians of both."""
    likeness = {
        figure.version: figure.estimate.value for figure in figures if figure.metric == "psnr_face" and not figure.group
    }
    beside = {REHEARSAL_RECOVERED: SIDECAR}
    for name in found.stored_bytes:
        if name.endswith(BESIDE):
            beside[f"{name.removesuffix(BESIDE)}-{RECOVERED}"] = name
    sizes = {version: float(np.median(found.stored_bytes.get(name, [0]))) for version, name in beside.items()}
    return {version: likeness[version] / (sizes[version] / 1000) for version in likeness if sizes.get(version)}


def _findings(found: Measured) -> list[dict[str, Any]]:
    """What a person must look at, face by face, worst first: at most MOST_NAMED of each kind, all of them counted."""
    faces = found.faces.of(MEASURED)
    findings: list[dict[str, Any]] = []

    def name(what: str, says: str, bad: npt.NDArray[np.bool_], values: npt.NDArray[np.float64]) -> None:
        if not bad.any():
            return
        order = np.flatnonzero(bad)[np.argsort(values[bad], kind="stable")][:MOST_NAMED]
        listed = [
            {"image_id": found.images[face], "face": found.indices[face], "value": float(value)}
            for face, value in zip(faces.face[order].tolist(), values[order].tolist(), strict=True)
        ]
        findings.append({"finding": what, "says": says, "count": int(bad.sum()), "of": len(bad), "faces": listed})

    changed = faces.values["changed_face"]
    name("untouched", BY_NAME["untouched"].definition, changed < UNTOUCHED_BELOW, changed)
    for column, accepted in faces.values.items():
        if column.startswith("accepted:"):
            recognizer = column.partition(":")[2]
            says = f"{recognizer} takes them for their own source."
            name(f"accepted.{recognizer}", says, accepted == 1, faces.values[f"distance:{recognizer}"])
    return findings


def write_report(output: Path, report: Mapping[str, Any], found: Measured, portions: Portions) -> None:
    """Write all three; see `write_files`."""
    write_files(output, report, found, _page(report, found, portions))


def write_files(output: Path, report: Mapping[str, Any], found: Measured, page: str) -> None:
    """Values by face, page, and REPORT last: where it lies the evaluation is finished. Readable by their owner only. Raises
    OSError."""
    buffer = pa.BufferOutputStream()
    pq.write_table(found.lines, buffer, compression="zstd")
    durable.replace(output / FACES, buffer.getvalue().to_pybytes(), durable.SECRET_MODE)
    durable.replace(output / PAGE, page.encode(), durable.SECRET_MODE)
    durable.replace(output / REPORT, to_json(dict(report)), durable.SECRET_MODE)


def _page(report: Mapping[str, Any], found: Measured, portions: Portions) -> str:
    environment = page_environment("jobs.evaluate")
    environment.filters["figure"] = figure_text
    figures = report["figures"]
    versions = [name for name in found.faces.versions if name not in TRIED]
    recognizers = [name for name in sorted(found.faces.vectors) if name not in FEATURES]
    plain = [metric for metric in METRICS if any(f["metric"] == metric.name and not f["recognizer"] for f in figures)]
    told = {(figure["metric"], figure["recognizer"]) for figure in figures}
    return environment.get_template("page.html.j2").render(
        report=report,
        versions=versions,
        between=[f for f in figures if f["version"] not in (SOURCE, *found.faces.versions)],
        plain=plain,
        identity=[(one, [metric for metric in METRICS if (metric.name, one) in told]) for one in recognizers],
        by_key={figure["key"]: figure for figure in figures},
        chances=_chances(figures),
        groups=[figure for figure in figures if figure["group"]],
        metrics=METRICS,
        rivals=RIVALS,
        shown=shown_faces(found, portions, RULES),
        plots=[(name, _plot(found, name)) for name in recognizers],
        size=PLOT,
    )


def _chances(figures: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """What would be seen of faces that tell nothing of their source, by metric and recognizer; of the largest version."""
    told: dict[tuple[str, str], str] = {}
    for figure in sorted(figures, key=lambda one: -int(one["n"])):
        if figure["chance"] is not None:
            shown, _ = figure_text({**figure, "value": figure["chance"], "low": None, "high": None})
            told.setdefault((figure["metric"], figure["recognizer"]), shown)
    return told


def shown_faces(
    found: Measured, portions: Portions, rules: Sequence[tuple[str, str, str]]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Faces by rule, worst, middle and best, in all their versions. rules: as RULES; "distance" is by the first recognizer."""
    chosen: list[tuple[str, list[tuple[int, float]]]] = []
    measured_by = next((name for name in found.faces.values if name.startswith("distance:")), "distance:")
    for version, column, what in rules:
        if column == "distance":
            column, what = measured_by, f"{what} by {measured_by.partition(':')[2]}"
        faces = found.faces.of(version)
        values = faces.values.get(column, np.zeros(0))
        known = np.flatnonzero(~np.isnan(values))
        if not len(known):
            continue
        order = known[np.argsort(values[known], kind="stable")]
        middle = max(len(order) // 2 - SHOWN_EACH // 2, 0)
        for rule, part in (
            ("lowest", order[:SHOWN_EACH]),
            ("middle", order[middle : middle + SHOWN_EACH]),
            ("highest", order[-SHOWN_EACH:]),
        ):
            chosen.append(
                (f"{version}: {rule} {what}", [(int(faces.face[at]), float(values[at])) for at in part.tolist()])
            )
    views = portions.views({(found.rows[face], found.indices[face]) for _, part in chosen for face, _ in part})
    return [
        (
            title,
            [
                {
                    "image_id": found.images[face],
                    "face": found.indices[face],
                    "value": value,
                    "views": [
                        (version, data_uri(view, "jpeg"))
                        for version, view in views[found.rows[face], found.indices[face]].items()
                    ],
                }
                for face, value in part
            ],
        )
        for title, part in chosen
    ]


def _plot(found: Measured, recognizer: str) -> list[tuple[str, str]]:
    """Polylines of how distances are spread: of strangers' sources, and of faces from their own in some versions."""
    series = {"strangers": stranger_distances(found.faces, recognizer)}
    for version in (MEASURED, RECOVERED, REHEARSAL_RECOVERED):
        values = found.faces.of(version).values.get(f"distance:{recognizer}", np.zeros(0))
        series[version] = values[~np.isnan(values)]
    most = max((float(values.max()) for values in series.values() if len(values)), default=1.0) or 1.0
    shares = {name: _histogram(values, most) for name, values in series.items() if len(values)}
    highest = max((float(share.max()) for share in shares.values()), default=1.0)
    return [(name, _points(share / highest)) for name, share in shares.items()]


def _histogram(values: npt.NDArray[np.float64], most: float) -> npt.NDArray[np.float64]:
    counts, _ = np.histogram(values, BINS, (0, most))
    return np.asarray(counts / len(values), np.float64)


def _points(heights: Iterable[float]) -> str:
    width, height = PLOT
    return " ".join(f"{(at + 0.5) * width / BINS:.1f},{height * (1 - value):.1f}" for at, value in enumerate(heights))


def figure_text(figure: Mapping[str, Any] | None) -> tuple[str, str]:
    """A figure and its interval, for people; "" for what is not known."""
    if figure is None or figure["value"] is None:
        return "", ""
    scale, unit = (100.0, " %") if figure["unit"] == "share" else (1.0, "")
    value = f"{figure['value'] * scale:.3g}{unit}"
    if figure["low"] is None or figure["high"] is None:
        return value, ""
    return value, f"({figure['low'] * scale:.3g} to {figure['high'] * scale:.3g})"

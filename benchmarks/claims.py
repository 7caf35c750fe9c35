"""The table of claims in docs/numbers.md, from a committed report of `keyanon evaluate`.

    python benchmarks/claims.py                              # writes the table anew from docs/evaluation.json
    python benchmarks/claims.py --report REPORT/report.json  # takes another report in first

What is committed of a report are its figures and circumstances, no name of a picture and no place. `--check` writes nothing and
exits with 1 where the table is not what the report says; a test runs it.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from keyanon_core.evaluation.forms import TRIED

ROOT: Final = Path(__file__).parent.parent
COMMITTED: Final = ROOT / "docs" / "evaluation.json"
PAGE: Final = ROOT / "docs" / "numbers.md"
BEGIN: Final = "<!-- benchmarks/claims.py writes from here -->"
END: Final = "<!-- to here -->"
KEPT: Final = (
    "kind", "made", "by", "machine", "procedure", "fidelity", "prior", "prior_digest", "chosen_pictures", "rehearsed_pictures",
    "pictures", "faces", "unmeasured", "figures",
)  # fmt: skip
COLUMNS: Final = {
    "accepted": "taken for the source, %",
    "rank1": "nearest of all sources, %",
    "mean_rank": "mean rank over the middle",
    "found": "found again, %",
    "psnr_face": "dB to the source",
    "same_outside": "pixels outside that stay, %",
}
SHARES: Final = {"accepted", "rank1", "found", "same_outside"}


def main(
    report: Annotated[Path | None, typer.Option(help="Of `keyanon evaluate`, taken in first.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 where the table differs.")] = False,
) -> None:
    """Write the table, or check it."""
    if report is not None:
        told = json.loads(report.read_text(encoding="utf-8"))
        kept = {name: told[name] for name in KEPT}
        COMMITTED.write_text(_committed(kept), encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, marked, after = rest.partition(END)
    if not marked:
        raise typer.BadParameter(f"{PAGE} lacks the lines {BEGIN} and {END}")
    written = f"{before}{BEGIN}\n{table(json.loads(COMMITTED.read_text(encoding='utf-8')))}\n{END}{after}"
    if check:
        sys.exit(written != page)
    PAGE.write_text(written, encoding="utf-8")


def _committed(kept: dict[str, Any]) -> str:
    """JSON with a line for each figure."""
    circumstances = {name: value for name, value in kept.items() if name != "figures"}
    figures = ",\n".join(json.dumps(figure, sort_keys=True) for figure in kept["figures"])
    head = json.dumps(circumstances, indent=1, sort_keys=True).removesuffix("\n}")
    return f'{head},\n "figures": [\n{figures}\n ]\n}}\n'


def table(report: dict[str, Any]) -> str:
    """Circumstances and figures in Markdown. Raises KeyError for a report of another kind."""
    figures = {figure["key"]: figure for figure in report["figures"]}
    recognizer = next(figure["recognizer"] for figure in report["figures"] if figure["metric"] == "accepted")
    of_faces = dict.fromkeys(figure["version"] for figure in report["figures"] if figure["metric"] == "psnr_face")
    versions = [version for version in of_faces if version not in TRIED]  # those are of a few pictures
    lines = [
        f"{report['made']}, {report['machine']}, {report['by']}, prior {report['prior']} (digest {report['prior_digest'][:16]}), "
        f"{report['procedure']}, fidelity {report['fidelity']}: {report['pictures']} pictures with {report['faces']} faces, "
        f"{report['rehearsed_pictures']} of them rehearsed, {sum(report['unmeasured'].values())} not measured. In brackets 95 % "
        f"intervals; identity by {recognizer}, the one that the gate uses.",
        "",
        f"| version | {' | '.join(COLUMNS.values())} |",
        f"|{'---|' * (len(COLUMNS) + 1)}",
    ]
    for version in versions:
        cells = []
        for metric in COLUMNS:
            figure = figures.get(f"{version}.{metric}.{recognizer}") or figures.get(f"{version}.{metric}")
            cells.append(_cell(figure, 100 if metric in SHARES else 1))
        lines.append(f"| `{version}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figure: dict[str, Any] | None, scale: int) -> str:
    if figure is None or figure["value"] is None:
        return ""
    value = f"{scale * figure['value']:.3g}"
    if figure["low"] is None or figure["high"] is None:
        return value
    return f"{value} ({scale * figure['low']:.3g} to {scale * figure['high']:.3g})"


if __name__ == "__main__":
    typer.run(main)

"""The page and docs/metrics.md say the same of others, and nothing without a source."""

from pathlib import Path

from keyanon_core.evaluation.rivals import RIVALS

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_what_others_publish_has_a_source_and_stands_in_the_docs() -> None:
    (_, section) = DOCS.read_text(encoding="utf-8").split("## What others publish\n")
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in section.splitlines() if line.startswith("| ")}
    assert set(lines) - {"method"} == {rival.name for rival in RIVALS}
    for rival in RIVALS:
        assert rival.publication in lines[rival.name] and bool(rival.figures) == bool(rival.source)
        for what, value in rival.figures.items():
            assert f"{what}: {value}" in lines[rival.name]

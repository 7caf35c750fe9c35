"""The table of claims in docs/numbers.md is what the committed report says, and nothing of a person is committed."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_claims_are_those_of_the_report() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "claims.py", "--check"], capture_output=True, text=True
    )
    assert checked.returncode == 0, f"run python benchmarks/claims.py {checked.stderr}"


def test_the_committed_report_names_no_picture() -> None:
    report = json.loads((ROOT / "docs" / "evaluation.json").read_text())
    assert report["faces"] >= 60 and report["unmeasured"] == {}
    assert not {"findings", "sources", "unmeasured_examples", "run"} & report.keys()

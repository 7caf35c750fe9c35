"""The corpus of bad input, found by the fuzzer or thought of by hand: what once did damage, and one of the smallest files for
each way in which a picture is refused.
"""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.targets import TARGETS

CORPUS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "bad_input.json").read_text())


@pytest.mark.parametrize("entry", CORPUS, ids=[f"{entry['target']}: {entry['was']}" for entry in CORPUS])
def test_bad_input_does_no_damage(entry: dict[str, Any]) -> None:
    assert TARGETS[entry["target"]](base64.b64decode(entry["base64"])) is entry["accepted"]

"""Each tampering is noticed against a checkpoint kept elsewhere, and docs/tampering.md says who else notices, as seen here."""

from __future__ import annotations

from pathlib import Path

import pytest

from keystore.verification.verify import verify_audit
from tests.keystore.postgres import ON_BOTH
from tests.keystore.verification import tampering

PAGE = Path(__file__).parents[3] / "docs/tampering.md"


@pytest.mark.slow
@ON_BOTH
def test_who_notices_what_is_as_the_page_says(filled_template: Path, database: str, tmp_path: Path) -> None:
    scene = tampering.make_scene(filled_template, tmp_path)
    clean = verify_audit(scene.path, scene.checkpoint, scene.vkey)
    assert clean.intact and len([one for one in clean.limits if "by names alone" in one]) == 1, clean
    untouched = tampering.observe(scene.copy(tmp_path / "untouched"))
    assert not any(untouched.values()), "nobody cries wolf"
    found = tampering.run(scene, tmp_path)
    missed = [one.tampering for one in found if not one.by["with a checkpoint kept elsewhere"]]
    assert missed == []
    assert tampering.document(found) == PAGE.read_text(encoding="utf-8")

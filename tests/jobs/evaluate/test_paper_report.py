"""The report says for every table how much of the protocol it is of, and is inert whatever names it shows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.evaluate.measure_stage import PORTION_SCHEMA
from jobs.evaluate.paper import report as paper
from jobs.evaluate.paper.lists import CELEBA_HQ, LFW, Sample
from jobs.evaluate.paper.report import DEGRADED, IDENTITY, REALISM, RECONSTRUCTION, paper_report, write_paper_report
from jobs.evaluate.portions import Measured, Portions, gathered
from jobs.evaluate.report import PAGE, REPORT
from keyanon_core.evaluation.faces import SOURCE
from keyanon_core.evaluation.paper.versions import EXACT, FEATURES, OTHER, PAPER, QUALITIES, recovered_of, wrong_key_of

HOSTILE = "<script>alert(1)</script>\u202e.jpg"
PLAIN = (SOURCE, PAPER, EXACT, recovered_of(PAPER), recovered_of(EXACT))
COPIES = tuple(
    version
    for method in (PAPER, EXACT)
    for version in (*(recovered_of(method, quality) for quality in QUALITIES), wrong_key_of(method))
)
PAIRS, DEGRADED_PAIRS, PICTURES = 6, 4, 5


def picture(rng: np.random.Generator, row: int, image_id: str, versions: tuple[str, ...]) -> dict[str, Any]:
    own = rng.normal(size=8)

    def face(version: str) -> dict[str, Any]:
        vector = (own + rng.normal(size=8) * (0.1 if version == OTHER or "recovered" in version else 9)).astype(
            np.float32
        )
        values = {
            "found": 1.0,
            "mask_iou": 0.9,
            "mask_dice": 0.95,
            "psnr_picture": 20 + rng.random(),
            "distance:eye": 0.5,
        }
        values |= {"ssim_picture": 0.8, "mae_picture": 0.1} | (
            {"solved": 1.0} if version == recovered_of(EXACT) else {}
        )
        vectors = [("eye", vector.tolist())]
        if version in PLAIN:
            vectors.append((f"{FEATURES}inception", rng.normal(size=3).astype(np.float32).tolist()))
        known = [] if version == SOURCE else [("distance:eye", 0.5)] if version == OTHER else list(values.items())
        return {
            "face": 0,
            "version": version,
            "tone": "",
            "view": version.encode(),
            "values": known,
            "vectors": vectors,
        }

    about = {"row": row, "image_id": image_id, "subject": None, "reason": "", "missing": [], "bytes": []}
    return {**about, "faces": [face(version) for version in versions]}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Measured, Portions, list[Sample]]:
    """Pairs of LFW, two of one person, some with copies; CelebA-HQ in two parts; one picture that was damaged."""
    rng = np.random.default_rng(5)
    samples = [Sample(LFW, f"lfw/{row} 1 2", 0, row // 2, "2", "1", 1) for row in range(PAIRS)]
    samples += [Sample(CELEBA_HQ, f"celeba-hq/{HOSTILE}{at}", at // 3, at, "a", None, 1) for at in range(PICTURES + 1)]
    rows = []
    for row, sample in enumerate(samples[:-1]):
        other = (OTHER,) if sample.other else ()
        rows.append(picture(rng, row, sample.image_id, (*PLAIN, *other, *(COPIES if row < DEGRADED_PAIRS else ()))))
    damaged = {"row": len(rows), "image_id": samples[-1].image_id, "subject": None, "reason": f"other_size: {HOSTILE}"}
    rows.append({**damaged, "missing": [], "bytes": [], "faces": []})
    portions = Portions(tmp_path_factory.mktemp("portions"))
    portions.add(pa.Table.from_pylist(rows, schema=PORTION_SCHEMA))
    return gathered(portions), portions, samples


FACTS: dict[str, Any] = {
    **dict.fromkeys(("made", "by", "machine", "prior"), HOSTILE),
    "models": {"parser:bisenet": "0" * 64},
    "data_sets": {LFW: HOSTILE, CELEBA_HQ: HOSTILE},
    "listed_pictures": 12,
    "chosen_pictures": 12,
    "missing_pieces": [dict.fromkeys(("what", "why", "option", "maker", "without"), HOSTILE)],
}


def test_a_table_is_the_protocols_only_if_nothing_of_it_is_left_out(
    measured: tuple[Measured, Portions, list[Sample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _, samples = measured

    def whys(steps: int, *lacking: tuple[str, str]) -> dict[tuple[str, str], str]:
        told = paper_report(found, samples, steps, lacking, FACTS)["tables"]
        assert all(one["whole"] == (not one["why"]) for one in told)
        return {(one["data_set"], one["table"]): one["why"] for one in told}

    few = whys(50)
    assert few[LFW, IDENTITY] == few[LFW, RECONSTRUCTION] == "it is of 6 pictures, and the protocol has 1,600"
    assert few[CELEBA_HQ, REALISM] == "it is of 5 pictures, and the protocol has 30,000"
    assert few[LFW, DEGRADED] == "it is of 4 pictures, and the protocol has 1,000"
    assert (CELEBA_HQ, DEGRADED) not in few
    monkeypatch.setattr(paper, "WHOLE", {LFW: PAIRS, CELEBA_HQ: PICTURES})
    monkeypatch.setattr(paper, "DEGRADED_PICTURES", DEGRADED_PAIRS)
    assert set(whys(50).values()) == {""}
    lacking = whys(50, (REALISM, "Inception's weights"))
    assert {table for table, why in lacking.items() if why} == {(LFW, REALISM), (CELEBA_HQ, REALISM)}
    assert set(whys(49).values()) == {"it is made with 49 DDIM steps, and the protocol has 50"}


def test_figures_are_of_their_data_set_and_stand_in_their_table(
    measured: tuple[Measured, Portions, list[Sample]],
) -> None:
    found, _, samples = measured
    figures = {one["key"]: one for one in paper_report(found, samples, 50, [], FACTS)["figures"]}
    assert figures["lfw.paper.psnr_picture"]["n"] == PAIRS and figures["celeba-hq.paper.psnr_picture"]["n"] == PICTURES
    assert figures["lfw.paper-jpeg-75-recovered.psnr_picture"]["n"] == DEGRADED_PAIRS
    of = {
        "lfw.paper.cosine.eye": IDENTITY,
        "lfw.clean.cosine.eye": IDENTITY,
        "lfw.paper.mask_iou": REALISM,
        "celeba-hq.exact.picture_fid": REALISM,
        "celeba-hq.exact-recovered.ssim_picture": RECONSTRUCTION,
        "lfw.paper-wrong-key.cosine.eye": DEGRADED,
        "lfw.exact-jpeg-50-recovered.psnr_picture": DEGRADED,
    }
    assert {key: figures[key]["table"] for key in of} == of


def test_the_page_is_whole_by_itself_and_shows_names_as_what_they_are(
    measured: tuple[Measured, Portions, list[Sample]], tmp_path: Path
) -> None:
    found, portions, samples = measured
    write_paper_report(tmp_path, paper_report(found, samples, 50, [], FACTS), found, portions)
    page = (tmp_path / PAGE).read_text()
    assert "<script" not in page and "\u202e" not in page and 'src="http' not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e.jpg" in page
    report = json.loads((tmp_path / REPORT).read_bytes())
    assert page.count("Not the protocol's numbers:") == len(report["tables"]) == 7
    assert all(f"<figcaption>{version}</figcaption>" in page for version in (*PLAIN, wrong_key_of(PAPER)))

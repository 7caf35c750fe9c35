"""The demo's page shows every picture and number it was given, and escapes what it shows."""

from pathlib import Path

import numpy as np
from PIL import Image

from jobs.demo.photographs import write_photographs
from jobs.demo.report import write_report
from jobs.demo.story import FidelityRow, Story, WrongKey
from keyanon_core.evaluation import STORAGES, RecoveryFigures
from keyanon_core.methods import SolverStep
from keyanon_core.priors import load_prior
from keyanon_core.procedure import Procedure

PIXELS = np.full((8, 8, 3), 90, np.uint8)
CROPS = np.zeros((2, 3, 4, 4))


def _figures(method: str, steps: list[SolverStep]) -> RecoveryFigures:
    two = np.array([20.0, 22.0])
    return RecoveryFigures(
        Procedure(method, inversion="ddim"), np.array([30_000, 31_000]),
        24, 160, two / 20, CROPS, two, dict.fromkeys(STORAGES, CROPS),
        {name: two + position for position, name in enumerate(STORAGES)}, CROPS, two - 9, steps,
    )  # fmt: skip


def test_the_page_holds_every_picture_and_number(tmp_path: Path) -> None:
    story = Story(
        rows=[
            {"image": "a.png", "status": "anonymized", "reason": "", "faces": 1},
            {"image": "b.png", "status": "no_face", "reason": "no_face: <b>nobody</b>", "faces": 0},
        ],
        sources={"a.png": PIXELS, "b.png": PIXELS},
        outputs={"a.png": PIXELS},
        trail=[("request", "ines asks")],
        recovered=PIXELS,
        seconds={"anonymize": 3.0, "recover": 4.0},
    )
    fidelities = [FidelityRow("latent", "PNG", 31.25, False, 1234), FidelityRow("lossless", "PNG", np.inf, True, 9876)]
    wrong = WrongKey("the commitment does not fit", PIXELS, 9.5, 11.5)
    figures = [_figures("exact", [SolverStep("phi", 0, 9, (5, 7), (1e-7, 2e-7))]), _figures("paper", [])]
    path = tmp_path / "report.html"
    write_report(path, story, load_prior("embedded"), fidelities, wrong, "a.png", CROPS, figures)
    page = path.read_text(encoding="utf-8")
    for text in ("31.2 dB", "exact", "1,234 bytes", "the commitment does not fit", "ines asks", "7 to 7", "2.0e-07"):
        assert text in page
    assert "<b>nobody</b>" not in page
    assert "&lt;b&gt;nobody" in page
    assert page.count("data:image/png;base64,") == 4 + 3 + 2 * (1 + 2 * 4)


def test_the_photographs_come_from_the_packages(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos")
    sizes = {path.name: Image.open(path).size for path in (tmp_path / "photos").iterdir()}
    assert set(sizes) == {"astronaut.png", "grace_hopper.jpg", "coffee.png", "group.png"}

"""`keyanon evaluate --paper` on networks of random weights: which tables there are, what each is of, and what is missing."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image

from jobs.commands.cli import main
from jobs.exit_codes import ExitCode
from keyanon_core.faces.facexlib_models import BISENET, RETINAFACE
from tests.keyanon_core.diffusion.tiny_priors import ldm_prior
from tests.keyanon_core.faces.tiny_recognizers import tiny_recognizer

pytest.importorskip("facexlib")

EYES_NOSE_MOUTH = (-1.5, -1, 1.5, -1, 0, 0, -1, 1.5, 1, 1.5)  # tenths of a face's size from its middle


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, astronaut: Path) -> Path:
    """All that the protocol takes: a prior, RetinaFace that sees one face in any picture, BiSeNet that outlines something, LFW of
    one pair, and CelebA-HQ of two pictures, one of which is damaged.
    """
    from facexlib.detection.retinaface import RetinaFace
    from facexlib.parsing.bisenet import BiSeNet

    root = tmp_path_factory.mktemp("paper")
    ldm_prior(root / "prior", cells=64)
    tiny_recognizer(root / "net.onnx", pool=28)
    weights = root / "weights"
    weights.mkdir()
    state = {name: 0 * value for name, value in RetinaFace(device=torch.device("cpu")).state_dict().items()}
    for level in range(3):
        faces = [9.0, -9.0] * 2 if level < 2 else [-9.0, 9.0, 9.0, -9.0]  # boxes of 256 px
        state[f"ClassHead.{level}.conv1x1.bias"] = torch.tensor(faces)
        state[f"LandmarkHead.{level}.conv1x1.bias"] = torch.tensor(EYES_NOSE_MOUTH * 2)
    safetensors.torch.save_file(state, weights / f"{RETINAFACE.stem}.safetensors")
    torch.manual_seed(1)
    safetensors.torch.save_file(BiSeNet(num_class=19).state_dict(), weights / f"{BISENET.stem}.safetensors")
    for folder in ("lfw", "celeba"):
        (root / folder).mkdir()
    with Image.open(astronaut) as picture:
        woman = picture.convert("RGB")
    for number, seen in enumerate((woman, woman.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), 1):
        seen.resize((250, 250)).save(root / "lfw" / f"Eileen_{number:04d}.png")
    (root / "pairs.txt").write_text("1\nEileen\t1\t2\nEileen\t1\tGrace\t1\n")
    woman.save(root / "celeba" / "00001.png")
    (root / "celeba" / "00002.png").write_bytes(b"no picture")
    return root


def arguments(bench: Path) -> list[str]:
    given = {
        "--prior": "prior",
        "--face-weights": "weights",
        "--lfw": "lfw",
        "--lfw-pairs": "pairs.txt",
        "--celeba-hq": "celeba",
    }
    named = [text for option, name in given.items() for text in (option, str(bench / name))]
    return [*named, "--recognizer", f"net={bench / 'net.onnx'}:arcface", "--steps", "2", "--degraded", "0"]


@pytest.mark.slow
def test_the_protocol_goes_through_ray_from_lists_to_a_page(
    ray_cluster: Path, bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    line = ["evaluate", "--paper", *arguments(bench), "-o", str(out), "--workers", "1", "--json"]
    limits = ["--fail-under", "lfw.paper-recovered.psnr_picture=99", "--fail-under", "celeba-hq.exact.found=0"]
    assert main([*line, *limits]) == ExitCode.BEYOND_LIMIT
    said = capsys.readouterr()
    assert "measured 3 of 3 pictures" in said.err and "missing: ArcFace" not in said.err
    assert "missing: Inception's weights (--inception FILE): none was given" in said.err
    report = json.loads(said.out)
    (beyond,) = report["beyond_limits"]
    assert beyond.startswith("lfw.paper-recovered.psnr_picture is ")
    assert (report["pictures"], report["chosen_pictures"], report["unmeasured"]) == (2, 3, {"not_an_image": 1})
    assert "celeba-hq/00002.png" in report["unmeasured_examples"]["not_an_image"]
    tables = {(one["data_set"], one["table"]): one for one in report["tables"]}
    assert tables["lfw", "identity"]["why"] == (
        "it is of 1 pictures, and the protocol has 1,600; it is made with 2 DDIM steps, and the protocol has 50; "
        "it lacks FaceNet of VGGFace2"
    )
    assert {"lfw", "celeba-hq"} == {data_set for data_set, _ in tables}
    assert not any(one["table"] == "JPEG copies and wrong keys" for one in report["tables"]), "--degraded 0"

    files = {path.name: path for path in out.iterdir() if path.name != "lease"}
    assert set(files) == {"evaluation.json", "report.json", "faces.parquet", "index.html"}, "no vectors are left"
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    assert set(pq.read_table(files["faces.parquet"]).column("image_id").to_pylist()) == {
        "lfw/Eileen 1 2",
        "celeba-hq/00001.png",
    }
    assert main(line) == ExitCode.OK, "the same evaluation"
    again = json.loads(capsys.readouterr().out)
    assert again["figures"] == report["figures"], "told again, not measured again: keys are fresh each time"


def test_what_is_missing_ends_the_command_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    assert main(["evaluate", "--paper", "-o", str(out), "--json"]) == ExitCode.USAGE
    said = json.loads(capsys.readouterr().out)["message"]
    assert "nothing was started" in said and "needed: a data set" in said and not out.exists()
    assert main(["evaluate", "run", "--paper", "-o", str(out)]) == ExitCode.USAGE
    assert main(["evaluate", "run", "--lfw", str(tmp_path), "-o", str(out)]) == ExitCode.USAGE
    assert "it belongs to --paper" in capsys.readouterr().err

"""`keyanon evaluate` on real pictures: what was planted is named, what can not be measured is said, and nothing is done twice."""

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import jobs.evaluate.config
import jobs.evaluate.run
from jobs.commands.cli import main
from jobs.errors import PublishError, SourceError
from jobs.evaluate.config import EvaluateConfig
from jobs.evaluate.portions import FOLDER
from jobs.evaluate.run import run_evaluation, subject_of_folders, subject_of_run
from jobs.exit_codes import ExitCode
from jobs.run.anonymize import run_anonymize
from tests.jobs.conftest import FIDELITY, MakeConfig
from tests.jobs.in_process import run_in_process
from tests.keyanon_core.evaluation.random_networks import random_alexnet, random_inception
from tests.keyanon_core.faces.tiny_recognizers import tiny_recognizer

pytestmark = pytest.mark.slow


@dataclass
class Told:
    code: int
    report: dict[str, Any]

    def figure(self, key: str) -> float:
        (found,) = (one["value"] for one in self.report["figures"] if one["key"] == key)
        return float(found)


def grey(encoded: bytes) -> bytes:
    """With a grey disc where the faces of these pictures are."""
    with Image.open(io.BytesIO(encoded)) as picture:
        pixels = np.asarray(picture.convert("RGB")).copy()
    height, width = pixels.shape[:2]
    y, x = np.ogrid[:height, :width]
    pixels[(x - width * 0.45) ** 2 + (y - height * 0.3) ** 2 < (0.28 * width) ** 2] = 120
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folders(tmp_path: Path, face_png: bytes, face_jpeg: bytes, faceless_png: bytes) -> Path:
    """Another tool's work: one face is hidden, one picture is as it was, one is damaged, two have another size or name."""
    contents = {
        "astronaut.png": (face_png, grey(face_png)),
        "grace.jpg": (face_jpeg, face_jpeg),
        "coffee.png": (faceless_png, faceless_png),
        "damaged.png": (face_png, b"no picture"),
        "resized.png": (face_png, faceless_png),
        "alone.png": (face_png, None),
        "renamed.png": (None, face_png),
    }
    for name, (source, anonymized) in contents.items():
        for place, content in (("photos", source), ("anonymized", anonymized)):
            if content is not None:
                (tmp_path / place).mkdir(exist_ok=True)
                (tmp_path / place / name).write_bytes(content)
    return tmp_path


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> Told:
    capsys.readouterr()
    code = main(
        ["evaluate", *map(str, arguments), "--workers", "1", "--json", "--quiet"]
    )  # each loads torch and models
    said = capsys.readouterr()
    return Told(code, json.loads(said.out) if said.out else {"message": said.err})


def test_what_another_tool_left_is_named(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_in_process(monkeypatch)
    place = ["--source", folders / "photos", "--anonymized", folders / "anonymized", "-o", folders / "report"]
    place += ["--recognizer", f"mine={tiny_recognizer(folders / 'mine.onnx', pool=14)}:arcface"]
    (folders / "recovered").mkdir()
    shutil.copy(folders / "photos" / "grace.jpg", folders / "recovered")
    place += ["--recovered", folders / "recovered", "--groups", folders / "groups.csv"]
    (folders / "groups.csv").write_text("file,rank\nnobody.jpg,admiral\n")
    assert "says nothing of any of the 6 sources" in evaluate(capsys, *place).report["message"]
    (folders / "groups.csv").write_text("file,rank\ngrace.jpg,admiral\nfaceless.png,none\n")
    limits = ["--fail-over", "anonymized.untouched=0", "--fail-under", "anonymized.found=0.4"]
    told = evaluate(capsys, *place, *limits)
    assert told.code == ExitCode.BEYOND_LIMIT
    assert told.report["beyond_limits"] == ["anonymized.untouched is 0.5, over 0"]
    assert (told.report["pictures"], told.report["faces"], told.report["chosen_pictures"]) == (2, 2, 5)
    assert told.report["unmeasured"] == {"no_face": 1, "not_an_image": 1, "other_size": 1, "no_source": 1}
    assert "resized.png" in told.report["unmeasured_examples"]["other_size"]
    assert told.report["unmeasured_examples"]["no_source"].startswith("renamed.png: no_source: ")
    assert told.report["traits"] == {"rank": {"admiral": 1}} and "By rank, as it was said: admiral 1" in (
        (folders / "report" / "index.html").read_text()
    )
    assert told.report["missing"] == {"recovered: there is no picture of its name": 1}
    assert told.figure("recovered.psnr_face") == 100
    assert told.figure("anonymized.measured") == 2 / 5, "but for the picture that shows nobody"
    named = {one["finding"]: [face["image_id"] for face in one["faces"]] for one in told.report["findings"]}
    assert named == {"untouched": ["grace.jpg"], "accepted.dlib-resnet-v1": ["grace.jpg"]}
    assert told.figure("anonymized.psnr_face") < 60 and told.figure("anonymized.found") == 0.5
    assert told.figure("blur.same_outside") == 1, "baselines, on the same faces"
    recognizers = ("dlib-resnet-v1", "dlib-resnet-v1-mirrored", "mine:arcface")
    assert all(0.5 <= told.figure(f"anonymized.rank1.{name}") <= 1 for name in recognizers), "grace.jpg is as it was"

    files = {path.name: path for path in (folders / "report").iterdir() if path.name != "lease"}
    assert set(files) == {"evaluation.json", "report.json", "faces.parquet", "index.html"}, "no vectors are left"
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    values = pq.read_table(files["faces.parquet"]).to_pylist()
    assert {row["image_id"] for row in values} == {"astronaut.png", "grace.jpg"} and "vectors" not in values[0]
    page = files["index.html"].read_text()
    assert "grace.jpg" in page and "<script" not in page and "://" not in page

    (folders / "report" / FOLDER).mkdir()  # as where the end was killed
    again = evaluate(capsys, *place)
    assert not (folders / "report" / FOLDER).exists()
    assert again.code == ExitCode.OK and again.report["figures"] == told.report["figures"], (
        "told again, not measured again"
    )
    assert evaluate(capsys, *place, "--fail-over", "anonymized.nothing=1").code == ExitCode.USAGE
    twice = evaluate(capsys, *place, "--fail-over", "anonymized.found=1", "--fail-over", "anonymized.found=0")
    assert twice.code == ExitCode.USAGE and "two limits" in twice.report["message"]
    assert evaluate(capsys, *place, "--limit", 1).code == ExitCode.INPUT, "another evaluation's output"
    (folders / "anonymized" / "alone.png").write_bytes(b"a picture more")
    assert evaluate(capsys, *place).code == ExitCode.INPUT, "of other pictures"


def test_an_evaluation_goes_on_where_it_was_stopped(
    ray_cluster: Path, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a killed driver: what was measured lies in portions, one of which was never whole. With weights of the user's."""
    inception, alexnet = folders / "inception.pth", folders / "alexnet.pth"
    monkeypatch.setattr(jobs.evaluate.config.inception, "WEIGHTS", random_inception(inception))
    monkeypatch.setattr(jobs.evaluate.config.perceptual, "WEIGHTS", random_alexnet(alexnet))
    config = EvaluateConfig.load(
        None,
        {
            "photos": folders / "photos",
            "anonymized": folders / "anonymized",
            "output": folders / "report",
            "rehearsed": 0,
            "workers": 1,
            "inception": inception,
            "lpips": alexnet,
        },
    )

    class Stop(Exception):
        pass

    def stop(done: int, of: int) -> None:
        if done:
            raise Stop

    monkeypatch.setattr(jobs.evaluate.run, "PICTURES_PER_TASK", 1)
    with pytest.raises(Stop):
        run_evaluation(subject_of_folders(config), stop)
    assert len(list((config.output / FOLDER).iterdir())) == 1
    (config.output / FOLDER / ".half.parquet.tmp").write_bytes(b"PAR1")
    begun: list[int] = []
    report = run_evaluation(subject_of_folders(config), lambda done, of: begun.append(done))
    assert begun[0] == 1 and begun[-1] == 5 and report["pictures"] == 2
    figures = {one["key"]: one["value"] for one in report["figures"]}
    assert figures["anonymized.kid"] is not None and figures["anonymized.fid"] is None, "of two faces"
    assert figures["anonymized.lpips_face"] > 0


def test_what_can_not_be_evaluated_is_refused_before_ray_starts(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, anonymized = folders / "photos", folders / "anonymized"
    assert evaluate(capsys, "-o", folders / "r").code == ExitCode.USAGE, "nothing to measure"
    assert evaluate(capsys, "--anonymized", anonymized, "-o", folders / "r").code == ExitCode.USAGE, "no sources"
    assert evaluate(capsys, anonymized, "-o", folders / "r").code == ExitCode.INPUT, "no run"
    inside = evaluate(capsys, "--source", photos, "--anonymized", anonymized, "-o", anonymized / "r")
    assert (inside.code, "overlap" in inside.report["message"]) == (ExitCode.USAGE, True)
    remote = evaluate(capsys, "--source", photos, "--anonymized", anonymized, "-o", "s3://bucket/r")
    assert (remote.code, "local directory" in remote.report["message"]) == (ExitCode.USAGE, True)
    bad = evaluate(capsys, "--source", photos, "--anonymized", anonymized, "-o", folders / "r", "--fail-under", "x=nan")
    assert bad.code == ExitCode.USAGE
    strange = evaluate(
        capsys, "--source", photos, "--anonymized", anonymized, "-o", folders / "r", "--recognizer", "x=/none"
    )
    assert strange.code == ExitCode.INPUT
    other = evaluate(
        capsys, "--source", photos, "--anonymized", anonymized, "-o", folders / "r", "--inception", photos / "alone.png"
    )
    assert (other.code, "alone.png: sha256" in other.report["message"]) == (ExitCode.INPUT, True)
    (folders / "elsewhere").mkdir()
    shutil.copy(photos / "coffee.png", folders / "elsewhere" / "tea.png")
    config = EvaluateConfig.load(None, {"photos": photos, "anonymized": folders / "elsewhere", "output": folders / "r"})
    with pytest.raises(SourceError, match=r"none of the 6 source pictures .* 'alone\.png'"):
        run_evaluation(subject_of_folders(config))
    (folders / "r").mkdir()
    (folders / "r" / "thesis.txt").write_text("mine")
    with pytest.raises(PublishError, match="not empty"):
        run_evaluation(subject_of_folders(config.model_copy(update={"anonymized": anonymized})))


def test_a_run_is_measured_and_rehearsed_under_keys_of_its_own(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, face_png: bytes, faceless_png: bytes
) -> None:
    """Of a run in which one published picture was put back to its source by somebody."""
    run_in_process(monkeypatch)
    config = make_config(subjects=tmp_path / "subjects.csv")
    Path(config.photos).mkdir()
    (tmp_path / "subjects.csv").write_text("file,subject\na.png,subject 7\nb.png,subject 7\n")
    for name, content in (("a.png", face_png), ("b.png", face_png), ("c.png", faceless_png)):
        (Path(config.photos) / name).write_bytes(content)
    run_anonymize(config)
    (config.output / "images" / "b.png").write_bytes(face_png)
    report = run_evaluation(
        subject_of_run(config.output, {"output": tmp_path / "report", "rehearsed": 1, "workers": 1})
    )
    figures = {one["key"]: one["value"] for one in report["figures"]}
    assert (report["pictures"], report["not_published"], report["fidelity"]) == (2, {"no_face": 1}, FIDELITY)
    (untouched, _) = report["findings"]
    assert (untouched["finding"], untouched["count"], untouched["faces"][0]["image_id"]) == ("untouched", 1, "b.png")
    assert report["people"] == {"faces": 2, "people": 1, "with_another_photo": 2}
    assert figures["source.other_photo_rank1.dlib-resnet-v1"] == 1 and figures["anonymized.rank1.dlib-resnet-v1"] == 1
    assert "subject 7" not in (tmp_path / "report" / "index.html").read_text() + json.dumps(report)
    (tmp_path / "subjects.csv").unlink()
    with pytest.raises(SourceError, match=r"subjects\.csv is not there; name the one of the run by --subjects"):
        subject_of_run(config.output, {"output": tmp_path / "report"})
    assert figures["rehearsal-recovered.psnr_face"] == 100, "lossless"
    assert figures["rehearsal.psnr_face"] < 20 and "rehearsal-other-key.psnr_face" in figures
    assert {"source", "anonymized", "rehearsal", "rehearsal-sidecar"} < set(report["stored_bytes"])
    forms = {one["form"]: one for one in report["forms"]}
    assert (
        forms["rehearsal-jpeg-50-recovered"]["psnr_face"] == 100 > forms["rehearsal-jpeg-50-recovered"]["psnr_picture"]
    )
    assert forms["rehearsal-halved-recovered"]["faces"] == 0 and 10 < figures["paper-inpaint-recovered.psnr_face"] < 40

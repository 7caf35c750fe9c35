"""`keyanon propose-subjects`: whom photographs show, for `--subjects`, and what shows them to nobody else."""

import json
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.commands.cli import main
from jobs.demo.photographs import GRACE_HOPPER, packaged_picture
from jobs.exit_codes import ExitCode
from jobs.output.layout import RUN_DIRECTORY
from jobs.sources.given_subjects import read_subjects


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, astronaut: Path) -> Path:
    """Two people, each in two pictures, a picture of nobody and one that is none."""
    folder = tmp_path_factory.mktemp("people")
    for name, path in (("a", astronaut), ("h", packaged_picture(GRACE_HOPPER))):
        with Image.open(path) as picture:
            whole = picture.convert("RGB")
        whole.save(folder / f"{name}1.png")
        whole.rotate(5, Image.Resampling.BICUBIC).point([value * 7 // 8 for value in range(256)] * 3).save(
            folder / f"{name}2.png"
        )
    Image.new("RGB", (200, 200), "grey").save(folder / "nobody.png")
    (folder / "torn.png").write_bytes(b"no picture")
    return folder


def test_each_person_is_proposed_once_in_files_of_their_owner_alone(
    without_a_cluster: None, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir(0o755)
    command = ["propose-subjects", str(photos), "--output", str(out), "--json", "--quiet"]
    assert main(command) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["subjects"], told["faces"], told["pictures"]) == (2, 4, 6)
    assert told["threshold"] == pytest.approx(0.4)  # two thirds of the recognizer's own
    assert sum(told["unmeasured"].values()) == 2
    assert [name for name, _ in told["unmeasured_pictures"]] == ["nobody.png", "torn.png"]
    subjects = read_subjects(out / "subjects.csv").by_id
    assert subjects == {
        "a1.png": "person-0001",
        "a2.png": "person-0001",
        "h1.png": "person-0002",
        "h2.png": "person-0002",
    }
    page = (out / "index.html").read_text()
    assert page.count("data:image/jpeg") == 4
    assert "This page shows source faces" in page
    for path in out.iterdir():
        if path.name != "lease":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert not (out / "portions").exists()
    assert main(command) == ExitCode.OK  # told again, of what was found
    assert json.loads(capsys.readouterr().out)["made"] == told["made"]
    assert main([*command, "--threshold", "0.3"]) == ExitCode.INPUT  # corrections are not written over
    assert "by the threshold 0.4, not 0.3; give another output" in capsys.readouterr().err


def test_what_would_mix_with_photographs_or_belongs_to_parquet_is_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["propose-subjects", str(photos), "-o", str(photos / "out")]) == ExitCode.INPUT
    assert not (photos / "out").exists()
    (tmp_path / "run" / RUN_DIRECTORY).mkdir(parents=True)
    assert main(["propose-subjects", str(photos), "-o", str(tmp_path / "run" / "images" / "x"), "-q"]) == ExitCode.USAGE
    assert "which is published" in capsys.readouterr().err
    assert main(["propose-subjects", str(photos), "-o", "s3://bucket/x", "-q"]) == ExitCode.USAGE
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("kept")
    assert main(["propose-subjects", str(photos), "-o", str(tmp_path / "mine"), "-q"]) == ExitCode.INPUT
    assert "is not empty" in capsys.readouterr().err
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "one.parquet")
    assert main(["propose-subjects", str(tmp_path / "one.parquet"), "-o", str(tmp_path / "out")]) == ExitCode.INPUT
    assert "a column says whose a picture is" in " ".join(capsys.readouterr().err.split())

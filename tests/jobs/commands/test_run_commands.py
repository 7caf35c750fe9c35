"""anonymize, inspect and recover through the command line, in-process, on one lossless run over Parquet.

What is tested of recover is mostly what must not happen: a grant burnt by something that could have been seen before.
"""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.commands.anonymize import anonymize
from jobs.commands.cli import main
from jobs.config import AnonymizeConfig
from jobs.exit_codes import ExitCode
from keyanon_core.errors import ConvergenceError
from keyanon_core.pictures.recoverer import PictureRecoverer
from keyanon_core.sidecar import Sidecar
from keystore.embedded import Keystore
from tests.jobs.conftest import OF_ONE_WORKER

from .conftest import Keyanon

pytestmark = pytest.mark.slow

REQUESTER = "ines"


@dataclass(frozen=True)
class Run:
    """An output, its keystore, and the source picture of the row `face`."""

    output: Path
    keystore: Path
    source: bytes


@pytest.fixture(scope="module")
def finished(
    without_a_cluster: None, tmp_path_factory: pytest.TempPathFactory, face_png: bytes, faceless_png: bytes
) -> tuple[Run, int]:
    """One run over Parquet, anonymized by the command line with settings from YAML and options; and its exit code."""
    root = tmp_path_factory.mktemp("run")
    rows = {"id": ["face", "scene", "empty"], "photo": [face_png, faceless_png, b""], "label": [1, 2, 3]}
    pq.write_table(pa.table(rows), root / "in.parquet")
    (root / "run.yaml").write_text("fidelity: lossless\nsteps: 3\nimage_column: photo\n", encoding="utf-8")
    run = Run(root / "out", root / "keystore", face_png)
    arguments = ["anonymize", root / "in.parquet", "-o", run.output, "-k", run.keystore, "--id-column", "id"]
    options = ["--config", root / "run.yaml", "--steps", "2", *OF_ONE_WORKER, "--strict"]
    return run, main([str(one) for one in (*arguments, *options)])


@pytest.fixture
def run(finished: tuple[Run, int], tmp_path: Path) -> Run:
    """A copy of the run that a test may damage."""
    original, _ = finished
    shutil.copytree(original.output, tmp_path / "out")
    shutil.copytree(original.keystore, tmp_path / "keystore")
    return Run(tmp_path / "out", tmp_path / "keystore", original.source)


@pytest.fixture
def granted(run: Run) -> str:
    """A request of the face that two people have approved."""
    with Keystore.open(run.keystore) as keystore:
        view = keystore.request(
            REQUESTER,
            ["face"],
            "C-17",
            "identify the person",
            "court-order: StPO 98a",
            timedelta(hours=1),
            dataset="in",
        )
        for person in ("dora", "carl"):
            keystore.approve(view.request_id, person, view.digest)
    return view.request_id


def state_of(run: Run, request: str) -> str:
    with Keystore.open(run.keystore) as keystore:
        return str(keystore.show(request).state)


def edit_rows(run: Run, edit: Callable[[dict[str, object]], None]) -> None:
    """Change the rows of the face in its shard."""
    for shard in (run.output / "rows").glob("*.parquet"):
        table = pq.read_table(shard)
        rows = table.to_pylist()
        for row in rows:
            if row["image_id"] == "face":
                edit(row)
        pq.write_table(pa.Table.from_pylist(rows, table.schema), shard)


def edit_sidecar(run: Run, change: Callable[[Sidecar], bytes]) -> None:
    def edit(row: dict[str, object]) -> None:
        stored = row["keyanon_sidecar"]
        assert isinstance(stored, bytes)
        row["keyanon_sidecar"] = change(Sidecar.from_bytes(stored))

    edit_rows(run, edit)


def test_strict_exits_with_7_when_a_row_was_quarantined(finished: tuple[Run, int]) -> None:
    assert finished[1] == ExitCode.QUARANTINED


def test_an_option_wins_over_the_file_and_the_file_over_the_default(finished: tuple[Run, int]) -> None:
    config = json.loads((finished[0].output / "_keyanon" / "manifest.json").read_text())["config"]
    assert (config["steps"], config["fidelity"], config["image_column"], config["method"]) == (
        2,
        "lossless",
        "photo",
        "exact",
    )


def test_inspect_counts_rows_and_reads_single_files(keyanon: Keyanon, run: Run, tmp_path: Path) -> None:
    found = keyanon("inspect", run.output, "--json").json
    assert found["finished"] is True
    assert (found["rows"], found["faces"]) == (3, 1)
    assert found["statuses"] == {"anonymized": 1, "no_face": 1, "quarantined": 1}
    assert found["fidelities"] == {"lossless": 1}
    assert found["bytes"]["rows"] > 0
    assert "no_face" in keyanon("inspect", run.output).out
    (row,) = (row for row in pq.read_table(run.output / "rows").to_pylist() if row["image_id"] == "face")
    (tmp_path / "x.keyanon").write_bytes(row["keyanon_sidecar"])
    (tmp_path / "x.png").write_bytes(row["photo"])
    sidecar = keyanon("inspect", tmp_path / "x.keyanon", "--json").json
    assert (sidecar["image_id"], sidecar["faces"], sidecar["fidelity"]) == ("face", 1, "lossless")
    picture = keyanon("inspect", tmp_path / "x.png", "--json").json
    assert (picture["format"], picture["width"], picture["metadata"]) == ("PNG", 256, ["icc_profile"]), "its source's"
    (tmp_path / "x.keyanon").write_bytes(b"\xff" * 100)
    assert keyanon("inspect", tmp_path / "x.keyanon").code == ExitCode.WRONG_KEY_OR_TAMPERED
    assert keyanon("inspect", tmp_path).code == ExitCode.INPUT
    assert keyanon("inspect", tmp_path / "nothing").code == ExitCode.INPUT


def test_lossless_recovery_from_parquet_is_pixel_exact_and_private(
    keyanon: Keyanon, run: Run, granted: str, tmp_path: Path
) -> None:
    restored = tmp_path / "restored"
    arguments = ("recover", run.keystore, granted, "--input", run.output, "--output", restored, "--as", REQUESTER)
    ended = keyanon(*arguments, "--json")
    assert ended.code == 0, ended.err
    (picture,) = ended.json["pictures"]
    assert (picture["status"], picture["exact"], picture["commitment_verified"]) == ("recovered", True, True)
    assert (picture["picture_intact"], picture["sidecar_intact"]) == (True, True)
    assert ended.json["device"] is None, "no network was needed"
    path = restored / picture["output"]
    with Image.open(path) as shown, Image.open(io.BytesIO(run.source)) as source:
        assert np.array_equal(np.asarray(shown), np.asarray(source.convert("RGB")))
    assert path.stat().st_mode & 0o077 == 0
    assert restored.stat().st_mode & 0o077 == 0
    assert json.loads((restored / "report.json").read_text()) == ended.json
    again = keyanon(*arguments)
    assert again.code == ExitCode.REFUSED
    assert "was used" in again.err


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("no output", ExitCode.INPUT),
        ("another output", ExitCode.INPUT),
        ("no sidecar", ExitCode.INPUT),
        ("torn sidecar", ExitCode.WRONG_KEY_OR_TAMPERED),
        ("another picture's sidecar", ExitCode.WRONG_KEY_OR_TAMPERED),
        ("no picture", ExitCode.INPUT),
        ("torn picture", ExitCode.INPUT),
        ("another prior", ExitCode.INPUT),
        ("no such device", ExitCode.INPUT),
        ("restored not empty", ExitCode.INPUT),
        ("restored not writable", ExitCode.INPUT),
        ("another person", ExitCode.REFUSED),
    ],
)
def test_a_foreseeable_failure_does_not_use_the_grant(
    keyanon: Keyanon, run: Run, granted: str, tmp_path: Path, what: str, code: ExitCode
) -> None:
    restored, output, person = tmp_path / "restored", run.output, REQUESTER
    if what == "no output":
        output = tmp_path / "nowhere"
    elif what == "another output":
        edit_rows(run, lambda row: row.update(record_id="00000000-0000-4000-8000-000000000000"))
    elif what == "no sidecar":
        edit_rows(run, lambda row: row.update(keyanon_sidecar=None))
    elif what == "torn sidecar":
        edit_sidecar(run, lambda sidecar: sidecar.to_bytes()[:-7])
    elif what == "another picture's sidecar":
        edit_sidecar(run, lambda sidecar: replace(sidecar, image_id="other").to_bytes())
    elif what == "no picture":
        edit_rows(run, lambda row: row.update(photo=None))
    elif what == "torn picture":
        edit_rows(run, lambda row: row.update(photo=b"\x89PNG torn"))
    elif what == "another prior":
        edit_sidecar(run, lambda sidecar: replace(sidecar, fidelity="latent", prior_digest="0" * 64).to_bytes())
    elif what == "restored not empty":
        restored.mkdir()
        (restored / "old.png").write_bytes(b"")
    elif what == "restored not writable":
        restored = tmp_path / "file" / "restored"
        restored.parent.write_bytes(b"")
    elif what == "another person":
        person = "mallory"
    device = "cuda:99" if what == "no such device" else "auto"
    places = ("--input", output, "--output", restored, "--as", person, "--device", device)
    ended = keyanon("recover", run.keystore, granted, *places, "--json")
    assert ended.code == code, ended.err
    assert ended.json["exit_code"] == code
    assert state_of(run, granted) == "approved"


def test_a_sidecar_with_another_commitment_restores_nothing(
    keyanon: Keyanon, run: Run, granted: str, tmp_path: Path
) -> None:
    edit_sidecar(
        run, lambda sidecar: replace(sidecar, faces=(replace(sidecar.faces[0], commitment=bytes(32)),)).to_bytes()
    )
    restored = tmp_path / "restored"
    ended = keyanon(
        "recover", run.keystore, granted, "--input", run.output, "--output", restored, "--as", REQUESTER, "--json"
    )
    assert ended.code == ExitCode.WRONG_KEY_OR_TAMPERED
    (picture,) = ended.json["pictures"]
    assert (picture["status"], picture["output"]) == ("failed", None)
    assert [path.name for path in restored.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("failure", "code", "shown"),
    [
        (ConvergenceError("step 3 stayed at residual 0.1"), ExitCode.NOT_CONVERGED, "residual 0.1"),
        (OSError(28, "No space left on device"), ExitCode.INPUT, "No space left"),
        (RuntimeError("text that may hold anything"), ExitCode.UNEXPECTED, "unexpected RuntimeError"),
    ],
)
def test_what_fails_after_the_release_is_one_pictures_failure(
    keyanon: Keyanon,
    run: Run,
    granted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    code: ExitCode,
    shown: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(PictureRecoverer, "recover", fail)
    restored = tmp_path / "restored"
    ended = keyanon(
        "recover", run.keystore, granted, "--input", run.output, "--output", restored, "--as", REQUESTER, "--json"
    )
    assert ended.code == code
    (picture,) = ended.json["pictures"]
    assert picture["status"] == "failed"
    assert shown in picture["reason"]
    assert "may hold anything" not in ended.out + ended.err
    assert json.loads((restored / "report.json").read_text()) == ended.json


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("--steps", "0"), ExitCode.USAGE),
        (("--method", "magic"), ExitCode.USAGE),
        (("--regions", ","), ExitCode.USAGE),
        (("--config", "nowhere.yaml"), ExitCode.USAGE),
    ],
)
def test_settings_no_run_can_use_are_refused(
    keyanon: Keyanon, run: Run, tmp_path: Path, face_png: bytes, change: tuple[str, str], code: ExitCode
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(face_png)
    ended = keyanon("anonymize", tmp_path / "photos", "-o", tmp_path / "new", "-k", run.keystore, *change, "--json")
    assert ended.code == code
    assert ended.err.strip()


def test_missing_and_empty_inputs_and_foreign_outputs_are_refused(keyanon: Keyanon, run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for photos in (tmp_path / "empty", tmp_path / "nowhere"):
        ended = keyanon("anonymize", photos, "-o", tmp_path / "new", "-k", run.keystore)
        assert ended.code == ExitCode.INPUT
    assert keyanon("anonymize", "-o", tmp_path / "new", "-k", run.keystore).code == ExitCode.USAGE
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    (tmp_path / "a.png").write_bytes(run.source)
    ended = keyanon("anonymize", tmp_path / "a.png", "-o", tmp_path / "foreign", "-k", run.keystore)
    assert ended.code == ExitCode.INPUT
    assert "not empty" in ended.err


def test_every_setting_has_its_option_with_the_models_default_and_choices() -> None:
    import inspect
    import typing

    parameters = inspect.signature(anonymize, eval_str=True).parameters
    assert AnonymizeConfig.model_fields.keys() <= parameters.keys()
    for name, field in AnonymizeConfig.model_fields.items():
        annotation, option = typing.get_args(parameters[name].annotation)
        assert parameters[name].default is None, name
        choices = [one for one in typing.get_args(annotation) if typing.get_origin(one) is typing.Literal]
        if typing.get_origin(field.annotation) is typing.Literal:
            assert typing.get_args(choices[0]) == typing.get_args(field.annotation), name
        if isinstance(field.default, str | int | float) and field.default not in ("", 0):
            assert str(option.show_default) == str(field.default), name

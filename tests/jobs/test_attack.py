"""`keyanon attack` on a real run: what it says of a sound one, what it finds in a spoilt one, and what it refuses."""

import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jobs.attack.evidence import PICTURE_BYTES, SIDECAR_BYTES, gather
from jobs.attack.report import AttackReport, Tried
from jobs.attack.run import PAGE_FILE, REPORT_FILE, write_report
from jobs.blocks import SIDECAR, VERSION
from jobs.commands.cli import main
from jobs.config import AnonymizeConfig
from jobs.exit_codes import ExitCode
from jobs.output.manifest import Manifest
from jobs.output.reader import read_rows
from jobs.run.recorded import manifest_of, recorded_config
from jobs.sources.again import IS_ANOTHER
from jobs.sources.source import open_source
from jobs.storage.opening import open_store
from keyanon_core.evaluation.attacks import ATTACKS, Outcome, brute_force, climbing
from keyanon_core.evaluation.attacks.outcome import measured
from keyanon_core.faces import load_face_models
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.settings import PictureTask
from keyanon_core.priors import load_prior
from keystore.embedded import Keystore
from keystore.errors import StorageError
from tests.jobs.conftest import OPEN_GATE
from tests.jobs.publishing import Place

pytestmark = pytest.mark.slow

COPIED, MISSING, CHANGED = "2-astronaut.png", "1-hopper.png", "3-hopper.png"


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, shared_keystore: Keystore, astronaut: Path, grace_hopper: Path
) -> Path:
    """photos and out of a run over eight pictures of two people, each lit and turned otherwise; published without a cluster."""
    root = tmp_path_factory.mktemp("attacked")
    photos = root / "photos"
    photos.mkdir()
    for at in range(8):
        name = ("astronaut", "hopper")[at % 2]
        with Image.open((astronaut, grace_hopper)[at % 2]) as picture:
            small = picture.convert("RGB")
        small.thumbnail((300, 300))
        small = ImageOps.mirror(small) if at & 2 else small
        ImageEnhance.Brightness(small).enhance(0.8 + at / 20).save(photos / f"{at}-{name}.png")
    place = Place(root, shared_keystore)
    config = AnonymizeConfig(photos=str(photos), output=place.out, keys="discard", gate_threshold=OPEN_GATE)
    anonymizer = PictureAnonymizer(load_prior(), load_face_models(), replace(config.settings(), reversible=True))
    tasks = [PictureTask(path.name, path.read_bytes()) for path in sorted(photos.iterdir())]
    source = open_source(config)
    rows = []
    for at, result in enumerate(anonymizer(tasks)):
        assert result.encoded is not None and result.sidecar is not None, result.reason
        made = {SIDECAR: result.sidecar, VERSION: int(source.versions[at])}
        rows.append({**place.result(at, result.image_id, result.encoded), **made})
    with place.attempt() as attempt:
        Manifest.begin(place.run_id, None, config, source).write(place.layout.store)
        attempt.run([rows], len(rows))
    return root


@pytest.fixture(autouse=True)
def few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brute_force, "SEED_BITS", 6)
    monkeypatch.setattr(climbing, "STEPS", 2)


def test_a_run_is_attacked_without_its_keys_and_what_came_of_it_is_told(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt = tmp_path / "run"
    shutil.copytree(finished, spoilt, copy_function=shutil.copy2)
    (row,) = (row for row in read_rows(spoilt / "out") if row.image_id == COPIED)
    assert row.output is not None
    published = spoilt / "out" / row.output
    published.write_bytes((spoilt / "photos" / COPIED).read_bytes())
    (spoilt / "photos" / MISSING).unlink()
    shutil.copy(spoilt / "photos" / COPIED, spoilt / "photos" / CHANGED)
    destination = tmp_path / "report"
    asked = ["attack", str(spoilt / "out"), "-o", str(destination), "--source", str(spoilt / "photos")]
    assert main([*asked, "--faces", "8", "--fail-on-win", "--json"]) == ExitCode.BEYOND_LIMIT

    said = capsys.readouterr()
    report = json.loads(said.out)
    assert report == json.loads((destination / "attacks.json").read_text())
    by_name = {one["name"]: one for one in report["attacks"]}
    assert by_name.keys() == {attack.name for attack in ATTACKS} and report["not_covered"]
    left = by_name["faces left as they were"]
    assert left["verdict"] == "WINS" and left["details"].keys() == {COPIED}
    won = {name for name, one in by_name.items() if one["verdict"] == "WINS"}
    assert won == {"faces left as they were"}
    assert report["left_out"] == {MISSING: "its source is not in the input any more", CHANGED: IS_ANOTHER}
    assert report["faces"] == 6
    page = (destination / "index.html").read_text()
    assert "1 attack won that keyanon is made to withstand" in page and "://" not in page
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in destination.iterdir())
    assert f"attack {len(ATTACKS)} of {len(ATTACKS)}" in said.err

    assert main(asked) == ExitCode.INPUT  # a second report would take the place of the first
    assert "is there already" in capsys.readouterr().err


def test_of_a_person_whom_the_run_knows_one_picture_is_attacked(finished: Path) -> None:
    recorded = recorded_config(manifest_of(finished / "out", None), finished / "out", {})
    lines = ["file,subject", *(f"{at}-{('astronaut', 'hopper')[at % 2]}.png,person {at % 2}" for at in range(5))]
    said = finished / "subjects.csv"
    said.write_text("\n".join(lines))
    config = recorded.model_copy(update={"subjects": said})
    store = open_store(finished / "out")
    found = gather(config, store, load_face_models(), load_prior(), 8, lambda text: None)
    assert [one.image_id[0] for one in found.pictures] == ["0", "1", "5", "6", "7"] and not found.left_out
    assert [one.subject for one in found.pictures] == ["person 0", "person 1", None, None, None]
    for one in found.pictures:
        assert {PICTURE_BYTES, SIDECAR_BYTES} < one.fields.keys(), "what is published may be a fingerprint"
        (face,), (seen, *_) = one.faces, one.searched
        across, down = np.reshape(seen.box, (2, 2)).mean(0).round().astype(int)
        assert face.mask.full(one.source.shape)[down, across], "the other search names places of the picture as it is"


def test_what_lies_above_chance_and_does_not_win_is_not_called_a_failure() -> None:
    found, nothing = measured(58, 58, 1 / 29), measured(2, 58, 1 / 29)
    attack = ATTACKS[0]

    def verdict(successes: int) -> str:
        return Tried(attack, Outcome(measured(successes, 58, 1 / 29), nothing, found, "It says so.")).verdict

    assert [verdict(successes) for successes in (2, 8, 30)] == ["fails", "perhaps", "WINS"]
    assert Tried(attack, Outcome(found, found, found, "")).verdict == "inconclusive"
    assert Tried(attack, None, "no sidecars").meaning == "no sidecars"


def test_a_gate_is_closed_by_what_wins_and_by_what_can_not_be_told_where_keyanon_withstands_it() -> None:
    found, nothing = measured(58, 58, 1 / 29), measured(2, 58, 1 / 29)
    outcomes = {
        "wins": Outcome(found, nothing, found, ""),
        "fails": Outcome(nothing, nothing, found, ""),
        "unsettled": Outcome(nothing, nothing, nothing, ""),
        "not tried": None,
    }
    attacks = {promised: replace(ATTACKS[0], promised=promised) for promised in (True, False)}
    tried = [Tried(attack, outcome) for attack in attacks.values() for outcome in outcomes.values()]
    report = AttackReport("run", "sign", "prior", "digest", 1, "now", 58, 58, tried)
    assert (report.broken, report.unsettled) == ([tried[0]], [tried[2]])


def test_of_a_report_that_can_not_be_written_whole_nothing_stands_in_the_way_of_the_next(tmp_path: Path) -> None:
    (tmp_path / REPORT_FILE).mkdir()
    with pytest.raises(StorageError, match="can not be written"):
        write_report(tmp_path, {PAGE_FILE: b"page", REPORT_FILE: b"report"})
    assert [path.name for path in tmp_path.iterdir()] == [REPORT_FILE]


def test_what_can_not_be_attacked_is_refused_before_anything_is_computed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(code: ExitCode, *arguments: str) -> str:
        assert main(["attack", *arguments]) == code
        return capsys.readouterr().err

    out = str(finished / "out")
    assert "which is published" in refused(ExitCode.USAGE, out, "-o", str(finished / "out" / "report"))
    assert "can not be written" in refused(ExitCode.INPUT, out, "-o", str(finished / "photos" / COPIED / "report"))
    assert "is not the output" in refused(ExitCode.INPUT, str(finished / "photos"), "-o", str(tmp_path / "r"))
    assert "does not exist" in refused(
        ExitCode.INPUT, out, "-o", str(tmp_path / "r"), "--source", str(tmp_path / "gone")
    )
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "a.mp4").write_bytes(b"x")
    assert "holds clips" in refused(ExitCode.INPUT, out, "-o", str(tmp_path / "r"), "--source", str(clips))
    few = tmp_path / "few"
    few.mkdir()
    for name in sorted(path.name for path in (finished / "photos").glob("*.png"))[:3]:
        shutil.copy(finished / "photos" / name, few)
    assert "at least 6 are needed" in refused(ExitCode.INPUT, out, "-o", str(tmp_path / "r"), "--source", str(few))
    assert not (tmp_path / "r").exists()

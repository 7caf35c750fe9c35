"""What a data-protection officer takes away, through the command line."""

from pathlib import Path

from jobs.exit_codes import ExitCode
from tests.keystore.serving import Served

from .conftest import DATASET, Keyanon


def test_a_report_says_intact_only_against_a_kept_checkpoint_and_names_people_only_with_the_kek(
    keyanon: Keyanon, keystore: Path, tmp_path: Path
) -> None:
    assert keyanon("keystore", "erase", keystore, "--dataset", DATASET, "--image", "a.jpg", "--as", "dora").code == 0
    note = tmp_path / "checkpoint"
    note.write_text(keyanon("audit", "checkpoint", keystore, "--json").json["checkpoint"])
    vkey = tmp_path / "audit.pub"
    vkey.write_bytes((keystore / "audit.pub").read_bytes())
    about = tmp_path / "about.yaml"
    about.write_text("controller: ACME GmbH\n")
    plain = keyanon("keystore", "report", keystore, "--json", "--about", about).json
    assert not plain["intact"] and plain["processing"]["controller"]["controller"] == "ACME GmbH"
    assert plain["erasures"][0]["by"] != "dora"
    out = tmp_path / "out"
    told = keyanon("keystore", "report", keystore, "--words", "--checkpoint", note, "--vkey", vkey, "--out", out)
    assert "the log is intact" in told.out and "dora" in (out / "erasures.csv").read_text()
    assert keyanon("keystore", "report", keystore, "--out", out).code == ExitCode.INPUT
    (keystore / "kek.key").rename(tmp_path / "kek.key")
    assert keyanon("keystore", "report", keystore, "--words").code == ExitCode.INPUT
    assert keyanon("keystore", "report", keystore).code == 0
    about.write_text("boss: me\n")
    refused = keyanon("keystore", "report", keystore, "--about", about)
    assert refused.code == ExitCode.USAGE and "boss" in refused.err


def test_a_receipt_is_written_once_and_verified_by_the_key_alone(
    keyanon: Keyanon, keystore: Path, tmp_path: Path
) -> None:
    words = ("--dataset", DATASET, "--image", "a.jpg")
    receipt, vkey = tmp_path / "receipt", tmp_path / "audit.pub"
    vkey.write_bytes((keystore / "audit.pub").read_bytes())
    assert keyanon("keystore", "erasure-receipt", keystore, *words, "--out", receipt).code == ExitCode.REFUSED
    assert keyanon("keystore", "erase", keystore, *words, "--as", "dora").code == 0
    assert keyanon("keystore", "erasure-receipt", keystore, *words, "--out", receipt).code == 0
    assert keyanon("keystore", "erasure-receipt", keystore, *words, "--out", receipt).code == ExitCode.INPUT
    assert keyanon("audit", "receipt", receipt, "--vkey", vkey, "--json").json["records"] == 1
    receipt.write_text(receipt.read_text().replace("a.jpg", "b.jpg"))
    assert keyanon("audit", "receipt", receipt, "--vkey", vkey).code == ExitCode.WRONG_KEY_OR_TAMPERED


def test_a_service_reports_of_itself_to_an_auditor(keyanon: Keyanon, keystore: Path, tmp_path: Path) -> None:
    served = Served(keystore, None)
    try:
        note, out = tmp_path / "checkpoint", tmp_path / "out"
        token = served.token_file(tmp_path / "auditor", "auditor", "eve")
        note.write_text(keyanon("audit", "checkpoint", keystore, "--json").json["checkpoint"])
        asked = ("keystore", "report", served.url, "--token-file", token)
        told = keyanon(*asked, "--checkpoint", note, "--out", out, "--json").json
        assert told["intact"] and told["limits"][-1].startswith("the keystore's service said this of itself")
        assert "said this of itself" in (out / "report.html").read_text()
        assert not keyanon(*asked, "--json").json["intact"]
        note.write_text("no checkpoint")
        refused = keyanon(*asked, "--checkpoint", note)
        assert refused.code == ExitCode.INPUT and "checkpoint" in refused.err
        assert keyanon(*asked, "--words").code == ExitCode.USAGE
        job = served.token_file(tmp_path / "requester", "requester", "alice", DATASET)
        assert keyanon(*asked[:-1], job).code != 0
    finally:
        served.stop()
    assert keyanon("keystore", "report", keystore, "--token-file", token).code == ExitCode.USAGE

"""`keyanon approver-key`, `keystore approver`, `keystore policy` and `approve --key`: from a new key to a request it approved."""

import stat
from pathlib import Path

import pytest

from jobs.exit_codes import ExitCode
from keystore.approver_key import ApproverKey
from keystore.embedded import Keystore

from .conftest import Ended, Keyanon

AS = ("--as", "olga", "--as", "oscar")
TEAMS = {"dora": "dpo", "lena": "legal"}


@pytest.fixture
def keys(keyanon: Keyanon, keystore: Path, tmp_path: Path) -> dict[str, Path]:
    """The key files of two approvers of two teams, both of whom the policy asks for; both signed that."""
    files = {}
    for name, role in TEAMS.items():
        files[name] = tmp_path / f"{name}.key"
        made = keyanon("approver-key", "new", files[name])
        assert made.code == 0, made.err
        line = tmp_path / f"{name}.pub"
        line.write_text(made.out)
        enrolled = keyanon("keystore", "approver", "enrol", keystore, line, "--for", name, "--role", role, *AS)
        assert enrolled.code == 0, enrolled.err
    asked = ("--own-keys", "--role", "dpo", "--role", "legal", "--as", "olga", "--json")
    sign_change(keyanon, keystore, files, keyanon("keystore", "policy", "set", keystore, *asked))
    return files


def sign_change(keyanon: Keyanon, keystore: Path, files: dict[str, Path], filed: Ended) -> None:
    """Have a change that a command filed signed by key files."""
    assert filed.code == 0 and filed.json["state"] == "pending", filed.err
    of = (keystore, filed.json["request_id"], "--digest", filed.json["digest"])
    for name, key in files.items():
        ended = keyanon("approve", *of, "--key", key, "--as", name, "--json")
        assert ended.code == 0 and "change of who decides" in ended.err, ended.err
    assert ended.json["state"] == "applied"


@pytest.fixture
def request_id(keyanon: Keyanon, keystore: Path, keys: dict[str, Path]) -> str:
    words = ("--case", "C-17", "--purpose", "Identify the driver", "--legal-basis", "court-order: 17")
    asked = keyanon("request", keystore, "--image", "a.jpg", *words, "--expires", "2h", "--as", "ines", "--json")
    return str(asked.json["request_id"])


def shown(keyanon: Keyanon, keystore: Path, request_id: str) -> Ended:
    return keyanon("show", keystore, request_id, "--json")


def test_two_teams_approve_with_keys_that_they_made(
    keyanon: Keyanon, keystore: Path, keys: dict[str, Path], request_id: str
) -> None:
    told = keyanon("show", keystore, request_id).out
    assert "--key FILE" in told
    assert "of dpo and legal at least one" in told
    digest = shown(keyanon, keystore, request_id).json["digest"]
    of = (keystore, request_id, "--digest", digest)
    by_name = keyanon("approve", *of, "--as", "dora")
    assert by_name.code == ExitCode.REFUSED and "--key" in by_name.err
    for name, key in keys.items():
        ended = keyanon("approve", *of, "--key", key, "--as", name, "--within", "2h", "--json")
        assert ended.code == 0, ended.err
        assert "Identify the driver" in ended.err and "1 images" in ended.err and "0 of 1 images" in ended.err
    assert ended.json["state"] == "approved"
    assert {one["role"] for one in ended.json["approvals"]} == {"dpo", "legal"}
    told = keyanon("show", keystore, request_id).out
    assert "own key" in told and "for 2:00:00 at most" in " ".join(told.split())
    assert keyanon("audit", "verify", keystore).code == 0


def test_what_was_not_read_is_not_signed(
    keyanon: Keyanon, keystore: Path, keys: dict[str, Path], request_id: str
) -> None:
    of = (keystore, request_id, "--key", keys["dora"], "--as", "dora")
    other = keyanon("approve", *of, "--digest", "0" * 64)
    assert other.code == ExitCode.REFUSED and "nothing was signed" in other.err
    nobody = keyanon("approve", *of)
    assert nobody.code == ExitCode.USAGE and "--digest" in nobody.err, "there is no terminal to ask at"
    neither = keyanon("approve", keystore, request_id, "--as", "dora")
    assert neither.code == ExitCode.USAGE and "--digest" in neither.err
    assert shown(keyanon, keystore, request_id).json["approvals"] == []


def test_a_stolen_key_without_its_passphrase_or_name_approves_nothing(
    keyanon: Keyanon, keystore: Path, keys: dict[str, Path], request_id: str
) -> None:
    digest = shown(keyanon, keystore, request_id).json["digest"]
    of = (keystore, request_id, "--digest", digest)
    stranger = keyanon("approve", *of, "--key", keys["dora"], "--as", "mallory")
    assert stranger.code == ExitCode.REFUSED and "no enrolled key" in stranger.err
    other = keyanon("approve", *of, "--key", keys["dora"], "--as", "lena")
    assert other.code == ExitCode.REFUSED and "not the key" in other.err
    keys["dora"].chmod(0o644)
    opened = keyanon("approve", *of, "--key", keys["dora"], "--as", "dora")
    assert opened.code == ExitCode.INPUT and "open to others" in opened.err


def test_a_key_under_a_passphrase_is_made_and_used(keyanon: Keyanon, tmp_path: Path) -> None:
    key, right, wrong = (tmp_path / name for name in ("key", "right", "wrong"))
    right.write_text("correct horse\n")
    wrong.write_text("wrong horse\n")
    made = keyanon("approver-key", "new", key, "--passphrase-file", right, "--json")
    assert made.code == 0 and stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "correct horse" not in key.read_text() + made.out + made.err
    again = keyanon("approver-key", "show", key, "--passphrase-file", right, "--json")
    assert again.json == made.json
    assert keyanon("approver-key", "show", key, "--passphrase-file", wrong).code == ExitCode.REFUSED
    asked = keyanon("approver-key", "show", key)
    assert asked.code == ExitCode.USAGE and "--passphrase-file" in asked.err
    over = keyanon("approver-key", "new", key)
    assert over.code == ExitCode.INPUT and "new file" in over.err


def test_what_is_to_be_signed_is_shown_and_names_alone_change_nothing(
    keyanon: Keyanon, keystore: Path, keys: dict[str, Path]
) -> None:
    before = keyanon("keystore", "policy", "show", keystore, "--json").json
    filed = keyanon("keystore", "policy", "set", keystore, "--max-images", 7, *AS)
    assert filed.code == 0 and "Nothing is changed yet" in filed.out
    glass = keyanon("keystore", "policy", "break-glass", keystore, "--for", "eva", *AS, "--json")
    assert keyanon("keystore", "policy", "show", keystore, "--json").json == before
    listed = keyanon("requests", keystore, "--json").json["requests"]
    (policy,) = [one for one in listed if one["request_id"] != glass.json["request_id"] and one["state"] == "pending"]
    told = " ".join(keyanon("show", keystore, policy["request_id"]).out.split())
    assert "100 -> 7" in told and "max images" in told and policy["digest"] in told and "--key FILE" in told
    told = " ".join(keyanon("show", keystore, glass.json["request_id"]).out.split())
    assert "break glass" in told and "none -> eva (" in told
    of = (keystore, policy["request_id"], "--digest", policy["digest"])
    assert keyanon("approve", *of, "--as", "oscar").code == ExitCode.REFUSED
    assert keyanon("approve", *of, "--as", "dora").code == ExitCode.REFUSED
    sign_change(keyanon, keystore, keys, glass)
    assert len(keyanon("keystore", "policy", "show", keystore, "--json").json["break_glass"]) == 1
    stale = keyanon("approve", *of, "--key", keys["dora"], "--as", "dora")
    assert stale.code == ExitCode.REFUSED and "is denied" in stale.err
    assert keyanon("audit", "verify", keystore).code == 0


def test_a_key_is_removed_and_another_enrolled_by_signatures(
    keyanon: Keyanon, keystore: Path, keys: dict[str, Path], tmp_path: Path
) -> None:
    line, enrol = tmp_path / "new.pub", ("keystore", "approver", "enrol", keystore)
    signing = dict(keys)
    for name, role in (("dana", "dpo"), ("leo", "legal")):
        signing[name] = tmp_path / f"{name}.key"
        line.write_text(keyanon("approver-key", "new", signing[name]).out)
        filed = keyanon(*enrol, line, "--for", name, "--role", role, "--as", "olga", "--json")
        sign_change(keyanon, keystore, keys, filed)
    old = ApproverKey.read(keys["dora"], lambda: "").key_id
    gone = keyanon("keystore", "approver", "remove", keystore, old, "--as", "olga", "--json")
    others = {name: signing[name] for name in ("dana", "leo")}
    sign_change(keyanon, keystore, others, gone)
    line.write_text(keyanon("approver-key", "new", tmp_path / "new.key").out)
    again = keyanon(*enrol, line, "--for", "dora", "--role", "dpo", "--as", "olga", "--json")
    sign_change(keyanon, keystore, others, again)
    listed = keyanon("keystore", "approver", "list", keystore, "--json").json["approvers"]
    on_list = [(one["person"], one["removed_at"] is None) for one in listed]
    assert sorted(on_list) == [("dana", True), ("dora", False), ("dora", True), ("lena", True), ("leo", True)]
    line.write_text("no key\n")
    assert keyanon(*enrol, line, "--for", "erin", "--role", "dpo", *AS).code == ExitCode.REFUSED


def test_lost_keys_are_an_alert_and_in_every_audit(
    keyanon: Keyanon, keystore: Path, keys: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    old = ApproverKey.read(keys["dora"], lambda: "").key_id
    unsigned = keyanon("keystore", "approver", "remove", keystore, old, *AS)
    assert unsigned.code == ExitCode.REFUSED and "lost-keys" in unsigned.err, "two keys are too few to sign it"
    lost = ("keystore", "approver", "lost-keys", keystore, old)
    assert keyanon(*lost, "--as", "olga").code == ExitCode.REFUSED
    ended = keyanon(*lost, *AS)
    assert ended.code == 0 and [one.levelname for one in caplog.records if "ALERT" in one.message] == ["CRITICAL"]
    report = keyanon("audit", "verify", keystore, "--json")
    assert report.code == 0 and any("keys are lost" in limit for limit in report.json["limits"])
    told = " ".join(keyanon("audit", "verify", keystore).out.split())
    assert "keys are lost" in told


def test_a_policy_is_shown_and_set_by_two(keyanon: Keyanon, keystore: Path) -> None:
    assert keyanon("keystore", "policy", "set", keystore, "--approvals", 3, "--as", "olga").code == ExitCode.REFUSED
    assert keyanon("keystore", "policy", "set", keystore, "--approvals", 1, *AS).code == ExitCode.USAGE
    early = keyanon("keystore", "policy", "set", keystore, "--own-keys", *AS)
    assert early.code == ExitCode.REFUSED and "nothing could be approved" in early.err
    assert keyanon("keystore", "policy", "set", keystore, "--role", "dpo", *AS).code == ExitCode.USAGE
    ended = keyanon(
        "keystore", "policy", "set", keystore, "--approvals", 3, "--max-lifetime", "1d", "--max-images", 5, *AS
    )
    assert ended.code == 0, ended.err
    now = keyanon("keystore", "policy", "show", keystore, "--json").json
    assert (now["approvals"], now["max_lifetime_seconds"], now["max_images"]) == (3, 86400, 5)
    with Keystore.open(keystore) as opened:
        assert opened.policy().grant_lifetime_seconds == 86400, "what is not named stays"


def test_a_policy_closes_the_list_of_legal_bases_and_opens_it_again(keyanon: Keyanon, keystore: Path) -> None:
    words = (
        "--image",
        "a.jpg",
        "--case",
        "C-17",
        "--purpose",
        "Identify the driver",
        "--expires",
        "2h",
        "--as",
        "ines",
    )
    free = keyanon("request", keystore, *words, "--legal-basis", "the law of the land")
    assert free.code == ExitCode.REFUSED and "vital-interests" in free.err
    codes = ("--legal-basis", "police-act", "--legal-basis", "consent")
    assert keyanon("keystore", "policy", "set", keystore, *codes, *AS).code == 0
    assert keyanon("keystore", "policy", "show", keystore, "--json").json["legal_bases"] == ["consent", "police-act"]
    assert keyanon("request", keystore, *words, "--legal-basis", "court-order: 17").code == ExitCode.REFUSED
    assert keyanon("request", keystore, *words, "--legal-basis", "police-act: 12").code == 0
    assert keyanon("keystore", "policy", "set", keystore, "--usual-legal-bases", *AS).code == 0
    assert keyanon("request", keystore, *words, "--legal-basis", "court-order: 17").code == 0

"""Requests, approvals, the audit log and ingest, through the command line, without torch or Ray."""

import hashlib
import inspect
import sqlite3
import subprocess
import sys
import typing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.commands.approval import requests
from jobs.commands.cli import main
from jobs.exit_codes import ExitCode
from keystore.decisions.lifecycle import State
from keystore.embedded import Keystore
from keystore.intake.shards import write_shard
from keystore.kek.provider import create_kek
from keystore.opening import read_public_key

from .conftest import DATASET, IMAGE_KEY, RUN, Ended, Keyanon, sealed_record

WORDS = (
    "--case",
    "C-17",
    "--purpose",
    "identify the person in the picture",
    "--legal-basis",
    "court-order: StPO § 98a",
)


def ask(keyanon: Keyanon, keystore: Path, *more: object) -> str:
    """A request by ines for a.jpg; its id."""
    ended = keyanon("request", keystore, "--image", "a.jpg", *WORDS, "--expires", "2h", "--as", "ines", "--json", *more)
    assert ended.code == 0, ended.err
    return str(ended.json["request_id"])


def approve(keyanon: Keyanon, keystore: Path, request: str, person: str, *more: object) -> Ended:
    """Approve what `keyanon show` shows."""
    digest = keyanon("show", keystore, request, "--json").json["digest"]
    return keyanon("approve", keystore, request, "--digest", digest, "--as", person, *more)


def test_two_people_approve_and_everything_is_listed(keyanon: Keyanon, keystore: Path) -> None:
    request = ask(keyanon, keystore)
    assert approve(keyanon, keystore, request, "dora", "--json").json["state"] == "pending"
    assert approve(keyanon, keystore, request, "carl", "--json").json["state"] == "approved"
    shown = keyanon("show", keystore, request)
    for expected in (
        "identify the person in the picture",
        "court-order: StPO § 98a",
        "a.jpg",
        "dora",
        "carl",
        "C-17",
        "2 of 2",
    ):
        assert expected in shown.out
    (listed,) = keyanon("requests", keystore, "--json").json["requests"]
    assert listed["request_id"] == request
    assert request in keyanon("requests", keystore).out
    assert request in keyanon("requests", keystore, "--state", "approved").out
    assert keyanon("requests", keystore, "--state", "pending", "--json").json["requests"] == []
    assert keyanon("requests", keystore, "--state", "open").code == ExitCode.USAGE
    log = keyanon("audit", "log", keystore, "--json").json["entries"]
    assert [entry["type"] for entry in log if entry["type"] in ("request", "approve", "grant")] == [
        "request",
        "approve",
        "approve",
        "grant",
    ]
    assert "dora" not in keyanon("audit", "log", keystore).out  # the log names nobody


def test_requests_are_asked_for_by_each_state_that_there_is() -> None:
    annotation, _ = typing.get_args(inspect.signature(requests, eval_str=True).parameters["state"].annotation)
    assert set(typing.get_args(typing.get_args(annotation)[0])) == {state.value for state in State}


@pytest.mark.parametrize("same_person", ["ines", "Ines ", "INES"])
def test_the_requester_can_not_approve(keyanon: Keyanon, keystore: Path, same_person: str) -> None:
    ended = approve(keyanon, keystore, ask(keyanon, keystore), same_person)
    assert ended.code == ExitCode.REFUSED
    assert "by the person who made it" in ended.err
    assert ended.out == ""


def test_one_person_counts_once(keyanon: Keyanon, keystore: Path) -> None:
    request = ask(keyanon, keystore)
    approve(keyanon, keystore, request, "dora")
    assert approve(keyanon, keystore, request, "dora").code == ExitCode.REFUSED
    assert keyanon("show", keystore, request, "--json").json["state"] == "pending"


def test_what_changed_since_it_was_shown_is_not_approved(keyanon: Keyanon, keystore: Path) -> None:
    request = ask(keyanon, keystore)
    shown = keyanon("show", keystore, request)
    digest = keyanon("show", keystore, request, "--json").json["digest"]
    assert f"keyanon approve {keystore} {request} --digest {digest} --as NAME" in shown.out
    with Keystore.open(keystore) as opened:
        opened.change(request, "ines", purpose="find out where somebody lives")
    refused = keyanon("approve", keystore, request, "--digest", digest, "--as", "dora")
    assert (refused.code, "not what was shown" in refused.err) == (ExitCode.REFUSED, True)
    assert keyanon("approve", keystore, request, "--as", "dora").code == ExitCode.USAGE
    assert keyanon("keystore", "confirm-clock", keystore, "--as", "olga").code == 0


def test_a_lost_witness_is_started_again_from_a_kept_checkpoint(
    keyanon: Keyanon, keystore: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "checkpoint.txt"
    kept.write_text(keyanon("audit", "checkpoint", keystore).out, encoding="utf-8")
    request = ask(keyanon, keystore)
    (keystore / "witness" / "checkpoint").unlink()
    lost = keyanon("requests", keystore)
    assert (lost.code, "restore-witness" in lost.err) == (ExitCode.WRONG_KEY_OR_TAMPERED, True)
    assert keyanon("keystore", "restore-witness", keystore, "--checkpoint", tmp_path / "none").code == ExitCode.USAGE
    assert keyanon("keystore", "restore-witness", keystore, "--checkpoint", kept).code == 0
    assert keyanon("show", keystore, request, "--json").json["state"] == "denied"
    assert keyanon("audit", "verify", keystore, "--checkpoint", kept).code == 0


def test_an_erased_person_does_not_come_back(keyanon: Keyanon, keystore: Path) -> None:
    request = ask(keyanon, keystore)
    assert approve(keyanon, keystore, request, "dora").code == 0
    assert keyanon("keystore", "erase-person", keystore, "Dora", "--as", "olga").code == 0
    assert approve(keyanon, keystore, request, "dora").code == ExitCode.REFUSED
    assert keyanon("audit", "verify", keystore).code == 0


def leave(keystore: Path, run: str, shard: str, *names: str) -> Path:
    """A shard in the inbox, put there by somebody who has the public key and no more."""
    public_key = read_public_key(keystore / "ingest.pub")
    return write_shard(keystore / "inbox" / run, shard, [sealed_record(public_key, name) for name in names])


def test_ingest_has_a_process_of_its_own_and_names_what_it_does_not_take_in(keyanon: Keyanon, keystore: Path) -> None:
    leave(keystore, RUN, "part-1", "c.jpg", "d.jpg")
    damaged = leave(keystore, RUN, "part-2", "e.jpg")
    damaged.write_bytes(b"damaged")
    ended = keyanon("keystore", "ingest", keystore, "--json")
    assert ended.code == ExitCode.WRONG_KEY_OR_TAMPERED
    (report,) = ended.json["runs"]
    assert (report["ingested"], list(report["failed_shards"])) == (2, ["part-2"])
    assert (damaged.with_name("part-1.receipt").exists(), damaged.exists()) == (True, True)
    damaged.unlink()
    assert keyanon("keystore", "ingest", keystore).code == 0
    assert keyanon("audit", "verify", keystore).code == 0


def test_a_run_that_was_not_announced_is_taken_in_where_the_operator_accepts_its_data_set(
    keyanon: Keyanon, keystore: Path
) -> None:
    public_key = read_public_key(keystore / "ingest.pub")
    records = [sealed_record(public_key, "c.jpg", run_id="run-other")]
    write_shard(keystore / "inbox" / "run-other", "part-1", records)
    assert keyanon("keystore", "ingest", keystore).code == ExitCode.WRONG_KEY_OR_TAMPERED
    refused = keyanon("keystore", "ingest", keystore, "--accept", "another", "--json")
    assert refused.json["runs"][0]["ingested"] == 0
    write_shard(keystore / "inbox" / "run-third", "part-1", [sealed_record(public_key, "c.jpg", run_id="run-third")])
    taken = keyanon("keystore", "ingest", keystore, "--accept", DATASET, "--run", "run-third", "--json")
    assert (taken.code, taken.json["runs"][0]["ingested"]) == (0, 1)


def test_a_new_kek_is_used_from_then_on_and_the_old_one_opens_nothing(
    keyanon: Keyanon, keystore: Path, tmp_path: Path
) -> None:
    changed = keyanon("keystore", "rotate-kek", keystore, "--to", f"file:{tmp_path}/new.key", "--as", "olga")
    assert changed.code == 0, changed
    (keystore / "kek.key").rename(tmp_path / "old.key")
    assert keyanon("requests", keystore).code == 0
    assert keyanon("requests", keystore, "--kek", f"file:{tmp_path}/old.key").code != 0
    assert keyanon("audit", "verify", keystore).code == 0


def test_the_log_is_printed_without_the_kek(keyanon: Keyanon, keystore: Path) -> None:
    (keystore / "kek.key").unlink()
    assert keyanon("audit", "log", keystore).code == 0
    assert keyanon("requests", keystore).code != 0


def test_an_erased_image_is_gone_and_older_ingest_keys_with_it(keyanon: Keyanon, keystore: Path) -> None:
    erased = keyanon("keystore", "erase", keystore, "--dataset", DATASET, "--image", "a.jpg", "--as", "olga", "--json")
    assert (erased.code, erased.json["records"]) == (0, 1)
    asked = keyanon("request", keystore, "--image", "a.jpg", *WORDS, "--expires", "2h", "--as", "ines")
    assert asked.code == ExitCode.REFUSED
    before = (keystore / "ingest.pub").read_text()
    renewed = keyanon("keystore", "renew-ingest-key", keystore, "--retire", "--as", "olga", "--json")
    assert (renewed.code, renewed.json["retired"]) == (0, 1)
    assert (keystore / "ingest.pub").read_text() != before
    assert keyanon("keystore", "erase", keystore, "--dataset", DATASET, "--as", "olga").code == ExitCode.REFUSED
    assert keyanon("audit", "verify", keystore).code == 0


def test_the_ingest_key_is_printed_as_a_file_or_as_an_address_with_the_sum_of_that_file(
    keyanon: Keyanon, keystore: Path
) -> None:
    printed = keyanon("keystore", "ingest-key", keystore)
    pin = "#sha256=" + hashlib.sha256(printed.out.encode()).hexdigest()
    told = keyanon("keystore", "ingest-key", keystore, "--url", "s3://bucket/key", "--json").json
    assert told["url"] == "s3://bucket/key" + pin and told["ingest_key"] == printed.out
    for given, address in (
        ("https://keys:8443", "https://keys:8443/v1/ingest-key"),
        ("https://keys:8443/", "https://keys:8443/v1/ingest-key"),
        ("https://pages.example/ingest.key", "https://pages.example/ingest.key"),
    ):
        assert keyanon("keystore", "ingest-key", keystore, "--url", given).out == address + pin + "\n"
    for wrong in ("keys:8443", "http://keys:8443", "https://kat1_x@keys", "https://[keys"):
        refused = keyanon("keystore", "ingest-key", keystore, "--url", wrong)
        assert refused.code == ExitCode.USAGE and "kat1_x" not in refused.err


def test_a_denied_request_is_over(keyanon: Keyanon, keystore: Path) -> None:
    request = ask(keyanon, keystore)
    assert keyanon("deny", keystore, request, "--as", "dora", "--json").json["state"] == "denied"
    assert approve(keyanon, keystore, request, "carl").code == ExitCode.REFUSED


def test_an_expired_grant_is_refused_before_anything_else(keyanon: Keyanon, keystore: Path, tmp_path: Path) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    later = tmp_path / "expired"
    with Keystore.create(later, clock=lambda: yesterday) as made:
        write_shard(made.inbox(RUN), "s", [sealed_record(made.ingest_public_key, "a.jpg")])
        made.ingest(RUN)
        view = made.request(
            "ines", ["a.jpg"], "C-17", "identify the person", "court-order: StPO 98a", timedelta(hours=2)
        )
        for person in ("dora", "carl"):
            made.approve(view.request_id, person, view.digest)
    ended = keyanon(
        "recover", later, view.request_id, "--input", tmp_path, "--output", tmp_path / "r", "--as", "ines", "--json"
    )
    assert ended.code == ExitCode.REFUSED
    assert "expired" in ended.json["message"]
    assert not (tmp_path / "r").exists()
    last = keyanon("audit", "log", later, "--json").json["entries"][-1]
    assert (last["type"], last["code"]) == ("refused", "expired")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("--image", "nobody.jpg"), ExitCode.REFUSED),
        (("--purpose", "."), ExitCode.REFUSED),
        (("--expires", "30d"), ExitCode.REFUSED),  # the policy's bound
        (("--expires", "2 hours"), ExitCode.USAGE),
        (("--expires", "400d"), ExitCode.USAGE),
        (("--as", " "), ExitCode.USAGE),
        (("--as", "i\u202enes"), ExitCode.REFUSED),
        (("--dataset", "another"), ExitCode.REFUSED),
    ],
)
def test_a_request_that_can_not_be_made_says_why(
    keyanon: Keyanon, keystore: Path, change: tuple[str, str], code: ExitCode
) -> None:
    arguments = ["request", keystore, "--image", "a.jpg", *WORDS, "--expires", "2h", "--as", "ines", *change]
    ended = keyanon(*arguments)
    assert ended.code == code
    assert ended.err.strip()
    assert keyanon("requests", keystore, "--json").json["requests"] == []


def test_what_a_requester_writes_can_not_repaint_the_approvers_terminal(keyanon: Keyanon, keystore: Path) -> None:
    words = (*WORDS[:2], "--purpose", "a good purpose\x1b[2J\x1b[1;1Hanother", *WORDS[4:])
    ended = keyanon("request", keystore, "--image", "a.jpg", *words, "--expires", "2h", "--as", "ines", "--json")
    shown = keyanon("show", keystore, ended.json["request_id"])
    assert "\x1b" not in shown.out
    assert r"\x1b[2J" in shown.out


def test_another_kek_is_told_from_a_missing_one(keyanon: Keyanon, keystore: Path, tmp_path: Path) -> None:
    other = f"file:{tmp_path / 'other.key'}"
    create_kek(other)
    wrong = keyanon("requests", keystore, "--kek", other)
    assert wrong.code == ExitCode.WRONG_KEY_OR_TAMPERED
    assert "not the one this keystore is wrapped under" in wrong.err
    missing = keyanon("requests", keystore, "--kek", f"file:{tmp_path / 'none.key'}")
    assert missing.code == ExitCode.INPUT
    assert keyanon("requests", tmp_path / "nowhere").code == ExitCode.INPUT


def test_a_tampered_shard_is_not_taken_in(keyanon: Keyanon, keystore: Path) -> None:
    with Keystore.open(keystore) as opened:
        inbox, public = opened.inbox("run-2"), opened.ingest_public_key
    write_shard(inbox, "t", [sealed_record(public, "c.jpg")])
    (shard,) = inbox.glob("t*")
    data = bytearray(shard.read_bytes())
    data[-40] ^= 1
    shard.chmod(0o600)
    shard.write_bytes(bytes(data))
    ended = keyanon("keystore", "ingest", keystore)
    assert ended.code == ExitCode.WRONG_KEY_OR_TAMPERED
    assert shard.exists()


def test_pending_shards_are_taken_in_once(keyanon: Keyanon, keystore: Path) -> None:
    with Keystore.open(keystore) as opened:
        write_shard(opened.inbox(RUN), "late", [sealed_record(opened.ingest_public_key, "late.jpg")])
    (first,) = keyanon("keystore", "ingest", keystore, "--json").json["runs"]
    assert first["ingested"] == 1
    assert keyanon("keystore", "ingest", keystore, "--json").json == {"runs": []}
    assert keyanon("request", keystore, "--image", "late.jpg", *WORDS, "--expires", "2h", "--as", "ines").code == 0


def test_audit_verify_accepts_the_log_and_a_kept_checkpoint(keyanon: Keyanon, keystore: Path, tmp_path: Path) -> None:
    kept = tmp_path / "checkpoint.txt"
    kept.write_text(keyanon("audit", "checkpoint", keystore).out, encoding="utf-8")
    size = int(kept.read_text(encoding="utf-8").split("\n")[1])
    (tmp_path / "audit.pub").write_bytes((keystore / "audit.pub").read_bytes())
    ask(keyanon, keystore)
    (keystore / "kek.key").rename(tmp_path / "kek.key")  # offline: no KEK needed
    report = keyanon("audit", "verify", keystore, "--checkpoint", kept, "--json")
    assert (report.code, report.json["ok"], report.json["intact"]) == (0, True, True), report.out
    known = keyanon("audit", "verify", keystore, "--checkpoint", kept, "--vkey", tmp_path / "audit.pub", "--json")
    assert not any("verifier key" in limit for limit in known.json["limits"])
    assert f"intact up to entry {size} of {size + 1}" in keyanon("audit", "verify", keystore, "--checkpoint", kept).out
    alone = keyanon("audit", "verify", keystore)
    assert (alone.code, "needs a checkpoint kept elsewhere" in alone.out) == (0, True)
    assert keyanon("audit", "verify", keystore, "--checkpoint", tmp_path / "none").code == ExitCode.USAGE


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE log SET leaf = CAST(replace(leaf, 'request', 'reqvest') AS BLOB) WHERE seq = (SELECT max(seq) FROM log)",
        "UPDATE log SET leaf = 'text where bytes were' WHERE seq = 2",
        "DELETE FROM log WHERE seq = 1",
        "DELETE FROM log WHERE seq = (SELECT max(seq) FROM log)",
        "UPDATE requests SET purpose = 'another purpose'",
    ],
)
def test_audit_verify_fails_on_an_edited_database(keyanon: Keyanon, keystore: Path, damage: str) -> None:
    ask(keyanon, keystore)
    database = sqlite3.connect(keystore / "keystore.db")
    with database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f'DROP TRIGGER "{trigger}"')
        assert database.execute(damage).rowcount == 1
    database.close()
    ended = keyanon("audit", "verify", keystore, "--json")
    assert ended.code == ExitCode.WRONG_KEY_OR_TAMPERED
    assert ended.json["problems"]


def test_keystore_init_makes_one_and_warns_where_the_kek_is(
    keyanon: Keyanon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "new"
    made = keyanon("keystore", "init", path, "--json")
    assert made.code == 0
    assert made.json["keystore"] == str(path)
    assert "kek.key" in caplog.text
    assert (path / "kek.key").stat().st_mode & 0o777 == 0o600
    assert keyanon("keystore", "init", path).code == ExitCode.INPUT


def test_no_output_of_any_command_holds_a_key(keyanon: Keyanon, keystore: Path) -> None:
    request = ask(keyanon, keystore)
    commands = (
        ["show", keystore, request],
        ["requests", keystore],
        ["audit", "log", keystore],
        ["keystore", "ingest", keystore],
    )
    secrets = (IMAGE_KEY.hex(), (keystore / "kek.key").read_text().split()[-1])
    for command in commands:
        for more in ([], ["--json"], ["-v"]):
            ended = keyanon(*command, *more)
            assert ended.code == 0
            assert not any(secret in ended.out + ended.err for secret in secrets)


def test_a_defect_is_one_line_without_its_text_and_a_traceback_only_with_v(
    keyanon: Keyanon, keystore: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Keystore, **__: object) -> None:
        held = "local-secret"
        raise RuntimeError("text-with-" + "secret" if held else "")

    monkeypatch.setattr(Keystore, "requests", broken)
    ended = keyanon("requests", keystore, "--json")
    assert ended.code == ExitCode.UNEXPECTED
    assert ended.json["error"] == "RuntimeError"
    assert "Traceback" not in ended.err
    assert "text-with-secret" not in ended.out + ended.err
    assert "local-secret" not in keyanon("requests", keystore, "-v").err


def test_usage_errors_exit_with_2(keyanon: Keyanon, keystore: Path) -> None:
    assert keyanon("request", keystore).code == ExitCode.USAGE
    assert keyanon("nonsense").code == ExitCode.USAGE
    assert keyanon("approve", keystore, "x").code == ExitCode.USAGE  # --as is never guessed for an approval
    assert keyanon("--help").code == ExitCode.OK


def test_light_commands_load_neither_torch_nor_ray(keystore: Path) -> None:
    script = f"""
import sys
from jobs.commands.cli import main
commands = [
    ["--help"], ["anonymize", "--help"], ["recover", "--help"],
    ["request", {str(keystore)!r}, "--image", "a.jpg", "--case", "C-1", "--purpose", "identify the person",
     "--legal-basis", "court-order: StPO 98a", "--expires", "2h", "--as", "ines", "--json"],
    ["requests", {str(keystore)!r}], ["audit", "verify", {str(keystore)!r}], ["audit", "log", {str(keystore)!r}],
    ["approve", {str(keystore)!r}, "no-such-request", "--digest", "d", "--as", "dora"],
]
codes = [main(command) for command in commands]
assert codes == [0, 0, 0, 0, 0, 0, 0, 4], codes
heavy = {{"torch", "ray", "diffusers", "cv2", "dlib", "onnxruntime"}} & set(sys.modules)
assert not heavy, heavy
assert main(["status", {str(keystore)!r}]) == 3
heavy = {{"torch", "ray", "diffusers", "onnxruntime"}} & set(sys.modules)
assert not heavy, heavy
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, keystore: Path) -> None:
    def interrupted(_: Keystore, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Keystore, "requests", interrupted)
    assert main(["requests", str(keystore)]) == ExitCode.INTERRUPTED

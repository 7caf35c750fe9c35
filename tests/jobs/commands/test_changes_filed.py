"""`keyanon keystore approver` and `policy` on a service: the commands of a directory, by an operator's token; approvers sign."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.exit_codes import ExitCode
from keystore.approver_key import ApproverKey
from tests.keystore.serving import Served

from .conftest import Keyanon

AS = ("--as", "olga", "--as", "oscar")


@pytest.fixture
def served(keystore: Path) -> Iterator[Served]:
    """The keystore, served to this machine."""
    server = Served(keystore, None)
    yield server
    server.stop()


def test_the_same_commands_file_with_a_service_what_approvers_sign(
    keyanon: Keyanon, keystore: Path, served: Served, tmp_path: Path
) -> None:
    token = ("--token-file", served.token_file(tmp_path / "olga.token", "operator", "olga"))
    files, lines = {}, {}
    for name in ("dora", "lena", "erin", "new"):
        files[name], lines[name] = tmp_path / f"{name}.key", tmp_path / f"{name}.pub"
        lines[name].write_text(keyanon("approver-key", "new", files[name]).out)
    early = keyanon("keystore", "policy", "set", served.url, "--max-images", 7, *token)
    assert early.code == ExitCode.REFUSED and "by their names" in early.err
    for name in ("dora", "lena"):
        enrol = ("keystore", "approver", "enrol", keystore, lines[name], "--for", name, "--role", "dpo")
        assert keyanon(*enrol, *AS).code == 0
    assert keyanon("keystore", "policy", "set", served.url, "--max-images", 7, *token, *AS).code == ExitCode.USAGE
    assert keyanon("keystore", "policy", "set", keystore, "--max-images", 7).code == ExitCode.USAGE
    assert keyanon("keystore", "policy", "set", served.url, "--approvals", 1, *token).code == ExitCode.USAGE
    new = ("keystore", "approver", "enrol", served.url, lines["erin"], "--for", "erin", "--role", "legal")
    old = ApproverKey.read(files["dora"], lambda: "").key_id
    commands = [
        ("keystore", "policy", "set", served.url, "--max-images", 7),
        ("keystore", "policy", "break-glass", served.url, "--for", "eva"),
        new,
        ("keystore", "approver", "replace", served.url, old, lines["new"]),
    ]
    for command in commands:
        filed = keyanon(*command, *token, "--json")
        assert filed.code == 0 and filed.json["state"] == "pending", filed.err
        for name in ("dora", "lena"):
            held = tmp_path / f"{name}.token"
            if not held.exists():
                served.token_file(held, "approver", name)
            of = (served.url, filed.json["request_id"], "--digest", filed.json["digest"], "--key", files[name])
            signed = keyanon("approve", *of, "--token-file", held, "--json")
            assert signed.code == 0 and "change of who decides" in signed.err, signed.err
        assert signed.json["state"] == "applied"
    listed = keyanon("keystore", "approver", "list", served.url, *token, "--json").json["approvers"]
    assert [one["person"] for one in listed if one["removed_at"] is None] == ["dora", "erin", "lena"]
    assert [one["key"] for one in listed if one["removed_at"] is not None] == [old]
    gone = keyanon("keystore", "approver", "remove", served.url, listed[0]["key"], *token)
    assert gone.code == 0 and "Nothing is changed yet" in gone.out
    policy = keyanon("keystore", "policy", "show", served.url, *token, "--json").json
    assert policy["max_images"] == 7 and len(policy["break_glass"]) == 1
    request_id = keyanon("requests", served.url, *token, "--json").json["requests"][0]["request_id"]
    assert keyanon("deny", served.url, request_id, *token, "--json").json["state"] == "denied"
    assert keyanon("audit", "verify", keystore).code == 0

"""Cosignatures, byte for byte what C2SP tlog-cosignature says, by keys of both kinds."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from keystore.audit.checkpoint import Checkpoint, sign_checkpoint, verifier_key
from keystore.audit.cosignature import WitnessPrivateKey, check_cosignature, cosign, parse_witness_vkey, witness_vkey
from keystore.audit.witnessing import KEY_NAME, LogWitness, WitnessKey
from keystore.errors import AuditError, StorageError

NAME, SECONDS = "witness.example/w1", 1_700_000_000
TREE = Checkpoint("example.com/log", 20_852_163, hashlib.sha256(b"root").digest())
LOG_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEYS: list[WitnessPrivateKey] = [
    LOG_KEY,
    MLDSA44PrivateKey.from_seed_bytes(bytes(range(32))),
]
both = pytest.mark.parametrize("key", KEYS, ids=["ed25519", "ml-dsa-44"])


def signed_by(line: str) -> bytes:
    return base64.b64decode(line.split(" ")[2])


def test_ml_dsa_44_signs_the_structure_that_names_witness_time_log_and_tree() -> None:
    key = KEYS[1]
    line = cosign(TREE, NAME, key, SECONDS)
    assert line.startswith(f"— {NAME} ") and line.endswith("\n")
    data, public = signed_by(line), key.public_key().public_bytes_raw()
    assert len(public) == 1312 and len(data) == 4 + 8 + 2420
    assert data[:4] == hashlib.sha256(NAME.encode() + b"\n\x06" + public).digest()[:4]
    assert data[4:12] == SECONDS.to_bytes(8, "big")
    message = b"subtree/v1\n\x00" + bytes([len(NAME)]) + NAME.encode() + SECONDS.to_bytes(8, "big")
    message += bytes([len(TREE.origin)]) + TREE.origin.encode() + bytes(8) + TREE.size.to_bytes(8, "big") + TREE.root
    key.public_key().verify(data[12:], message)


def test_ed25519_signs_the_checkpoint_with_a_time_before_it() -> None:
    key = KEYS[0]
    data = signed_by(cosign(TREE, NAME, key, SECONDS))
    public = key.public_key().public_bytes_raw()
    assert data[:4] == hashlib.sha256(NAME.encode() + b"\n\x04" + public).digest()[:4]
    root = base64.b64encode(TREE.root).decode()
    text = f"cosignature/v1\ntime {SECONDS}\n{TREE.origin}\n{TREE.size}\n{root}\n"
    key.public_key().verify(data[12:], text.encode())


@both
def test_only_what_was_signed_passes(key: WitnessPrivateKey) -> None:
    vkey = witness_vkey(NAME, key.public_key())
    line = cosign(TREE, NAME, key, SECONDS)
    assert check_cosignature(TREE, "— someone else AAAA\nnonsense\n" + line, vkey) == SECONDS
    later = base64.b64encode(signed_by(line)[:11] + bytes([9]) + signed_by(line)[12:]).decode()
    for lines in ("", line.replace(NAME, "another"), line[: len(line) // 2], f"— {NAME} {later}\n"):
        with pytest.raises(AuditError, match="did not sign"):
            check_cosignature(TREE, lines, vkey)
    changed = ({"size": TREE.size + 1}, {"root": bytes(32)}, {"origin": "example.com/other"}, {"origin": "x" * 256})
    for change in changed:
        with pytest.raises(AuditError, match="did not sign"):
            check_cosignature(dataclasses.replace(TREE, **change), line, vkey)
    for other in (Ed25519PrivateKey.generate(), MLDSA44PrivateKey.generate()):
        with pytest.raises(AuditError, match="did not sign"):
            check_cosignature(TREE, line, witness_vkey(NAME, other.public_key()))


@both
def test_a_verifier_key_is_read_back_and_a_malformed_one_refused(key: WitnessPrivateKey) -> None:
    vkey = witness_vkey(NAME, key.public_key())
    name, public = parse_witness_vkey(f"{vkey}\n")
    assert name == NAME and public.public_bytes_raw() == key.public_key().public_bytes_raw()
    head, key_id, encoded = vkey.split("+", 2)
    typed = base64.b64decode(encoded)
    other_kind = base64.b64encode(bytes([typed[0] ^ 2]) + typed[1:]).decode()
    longer = base64.b64encode(typed + b"\0").decode()
    unknown = base64.b64encode(b"\x05" + typed[1:]).decode()
    for wrong in (
        "",
        "a+b",
        f"+{key_id}+{encoded}",
        f"a b+{key_id}+{encoded}",
        f"{head}+00000000+{encoded}",
        f"{head}+{key_id}+{other_kind}",
        f"{head}+{key_id}+{longer}",
        f"{head}+{key_id}+{unknown}",
        f"{head}+{key_id}+",
        f"{head}+{key_id}+!{encoded}",
        *(witness_vkey(name, key.public_key()) for name in ("", "a b", "x" * 256)),
    ):
        with pytest.raises(AuditError, match="malformed"):
            parse_witness_vkey(wrong)


def test_a_new_witness_has_an_ml_dsa_44_key_and_an_older_one_keeps_its_own(tmp_path: Path) -> None:
    new = WitnessKey.open_or_create(tmp_path / "new")
    assert isinstance(new.key, MLDSA44PrivateKey)
    assert WitnessKey.open_or_create(tmp_path / "new").vkey == new.vkey
    (tmp_path / "old").mkdir()
    path = tmp_path / "old" / KEY_NAME
    lines = ["keyanon-witness-1", "keyanon.witness/01", base64.b64encode(bytes(range(32))).decode()]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    old = WitnessKey.open_or_create(tmp_path / "old")
    assert old.vkey == witness_vkey("keyanon.witness/01", KEYS[0].public_key())
    assert path.read_text().splitlines() == lines
    for first, seed in (("keyanon-witness-3", lines[2]), (lines[0], "AAAA"), ("keyanon-witness-2", "AAAA")):
        path.write_text("\n".join([first, lines[1], seed]) + "\n")
        with pytest.raises(StorageError, match="no witness's key"):
            WitnessKey.open_or_create(tmp_path / "old")
    assert "\u0001" not in repr(old) and "PrivateKey" not in repr(old)


def test_a_witness_that_can_not_remember_signs_nothing(tmp_path: Path) -> None:
    note = sign_checkpoint(Checkpoint("example.com/log", 1, bytes(32)), LOG_KEY)
    (tmp_path / "in the way").write_text("")
    key = WitnessKey.open_or_create(tmp_path / "key")
    witness = LogWitness(tmp_path / "in the way", key, [verifier_key("example.com/log", LOG_KEY.public_key())])
    with pytest.raises(StorageError, match="can not be written"):
        witness.add_checkpoint(f"old 0\n\n{note}".encode())


def test_a_log_whose_name_is_too_long_to_be_signed_is_refused(tmp_path: Path) -> None:
    key = WitnessKey.open_or_create(tmp_path / "key")
    longest, longer = (verifier_key("x" * length, LOG_KEY.public_key()) for length in (255, 256))
    assert LogWitness(tmp_path, key, [longest]).latest("x" * 255) is None
    with pytest.raises(AuditError, match="255 bytes"):
        LogWitness(tmp_path, key, [longer])

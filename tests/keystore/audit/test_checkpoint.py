"""Signed notes: what is signed is what is read, and nothing else passes."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keystore.audit.checkpoint import Checkpoint, open_checkpoint, parse_verifier_key, sign_checkpoint, verifier_key
from keystore.errors import AuditError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = "keyanon.keystore/test"
VKEY = verifier_key(ORIGIN, KEY.public_key())
CHECKPOINT = Checkpoint(ORIGIN, 7, bytes(range(32)))
NOTE = sign_checkpoint(CHECKPOINT, KEY)


def test_the_verifier_key_of_the_go_documentation_parses() -> None:
    # The example of golang.org/x/mod/sumdb/note.
    name, _ = parse_verifier_key("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    assert name == "PeterNeumann"


def test_a_note_signed_by_another_implementation_has_the_same_shape() -> None:
    assert NOTE.split("\n")[:4] == [ORIGIN, "7", base64.b64encode(CHECKPOINT.root).decode(), ""]
    assert NOTE.split("\n")[4].startswith(f"— {ORIGIN} ")
    assert NOTE.endswith("\n")


def test_a_signed_checkpoint_opens() -> None:
    assert open_checkpoint(NOTE, VKEY) == CHECKPOINT


def test_signatures_of_others_beside_ours_are_ignored() -> None:
    assert open_checkpoint(NOTE + "— witness.example abcd1234\n", VKEY) == CHECKPOINT


@pytest.mark.parametrize(
    "forged",
    [
        NOTE.replace("\n7\n", "\n8\n"),
        NOTE.replace("\n7\n", "\n07\n"),
        NOTE.replace("\n7\n", "\n-7\n"),
        NOTE.replace("\n7\n", "\n٧\n"),
        NOTE.replace("\n7\n", "\n7\nextension\n"),
        NOTE.replace(ORIGIN, "keyanon.keystore/other", 1),
        NOTE.replace("— ", "- "),
        NOTE[:-1],
        NOTE.split("\n\n")[0] + "\n",
        NOTE.split("\n\n")[0] + "\n\n",
        NOTE.replace(NOTE.split(" ")[-1], "AAAA\n"),
        "",
        "\n\n",
        NOTE * 40,
        "\ufffd",
    ],
)
def test_an_altered_note_is_refused(forged: str) -> None:
    with pytest.raises(AuditError):
        open_checkpoint(forged, VKEY)


def test_a_note_of_another_key_under_the_same_name_is_refused() -> None:
    with pytest.raises(AuditError, match="no valid signature"):
        open_checkpoint(sign_checkpoint(CHECKPOINT, Ed25519PrivateKey.generate()), VKEY)


@pytest.mark.parametrize(
    "vkey",
    ["", "a+b", VKEY.replace("+", "+0", 1), VKEY[:-4], VKEY.replace("keystore", "keystorf"), "a b+00000000+AAAA"],
)
def test_a_malformed_verifier_key_is_refused(vkey: str) -> None:
    with pytest.raises(AuditError, match="verifier key"):
        open_checkpoint(NOTE, vkey)


def signed(text: str, signer: str = ORIGIN) -> str:
    """A note with a good signature, whatever its text says."""
    first = NOTE.split("\n")[4].split(" ")[2]
    key_id = base64.b64decode(first)[:4]
    return f"{text}\n— {signer} {base64.b64encode(key_id + KEY.sign(text.encode())).decode()}\n"


ROOT = base64.b64encode(CHECKPOINT.root).decode()


def test_a_note_signed_by_hand_opens() -> None:
    assert open_checkpoint(signed(f"{ORIGIN}\n7\n{ROOT}\n"), VKEY) == CHECKPOINT


@pytest.mark.parametrize("size", ["07", "+7", "-7", "٧", "", " 7", "7.0"])
def test_a_size_that_can_be_written_in_two_ways_is_malformed_even_when_it_is_signed(size: str) -> None:
    with pytest.raises(AuditError, match="not a signed note"):
        open_checkpoint(signed(f"{ORIGIN}\n{size}\n{ROOT}\n"), VKEY)


@pytest.mark.parametrize("root", ["AAAA", "", ROOT + "AAAA", ROOT[:-2] + "9="])
def test_a_root_that_is_no_hash_is_malformed_even_when_it_is_signed(root: str) -> None:
    with pytest.raises(AuditError, match="not a signed note"):
        open_checkpoint(signed(f"{ORIGIN}\n7\n{root}\n"), VKEY)


def test_a_note_of_another_log_is_refused_even_under_our_signature() -> None:
    with pytest.raises(AuditError, match="belongs to another keystore"):
        open_checkpoint(signed(f"keyanon.keystore/other\n7\n{ROOT}\n"), VKEY)


def test_a_signature_under_another_name_is_not_ours() -> None:
    with pytest.raises(AuditError, match="no valid signature"):
        open_checkpoint(signed(f"{ORIGIN}\n7\n{ROOT}\n", "keyanon.keystore/other"), VKEY)

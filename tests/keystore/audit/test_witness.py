"""The witness moves forward along one log only, and what it holds is what it was given."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keystore.audit.checkpoint import Checkpoint, sign_checkpoint, verifier_key
from keystore.audit.merkle import ProofError, consistency_proof, leaf_hash, tree_root, verify_consistency
from keystore.audit.witness import CHECKPOINT_FILE, Witness
from keystore.errors import AuditError, StorageError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = "keyanon.keystore/test"
LOG = [leaf_hash(bytes([one])) for one in range(9)]
FORK = [*LOG[:3], *(leaf_hash(b"other" + bytes([one])) for one in range(6))]


def checkpoint(size: int, log: list[bytes] = LOG) -> Checkpoint:
    return Checkpoint(ORIGIN, size, tree_root(log[:size]))


def note(size: int, log: list[bytes] = LOG) -> str:
    return sign_checkpoint(checkpoint(size, log), KEY)


def check_to(size: int, log: list[bytes] = LOG):
    def check(old: Checkpoint, new: Checkpoint) -> None:
        try:
            verify_consistency(old.size, old.root, new.size, new.root, consistency_proof(log[:size], old.size))
        except ProofError as error:
            raise AuditError("forked") from error

    return check


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(tmp_path / "witness", verifier_key(ORIGIN, KEY.public_key()))


def test_nothing_was_seen_at_first(witness: Witness) -> None:
    assert witness.note() is None
    assert witness.last() is None


def test_it_remembers_the_newest_whatever_comes_late(witness: Witness) -> None:
    for size, expected in ((3, 3), (7, 7), (5, 7), (7, 7), (9, 9)):
        witness.remember(note(size), check_to(size))
        assert witness.last() == checkpoint(expected)
        assert witness.note() == note(expected)


@pytest.mark.parametrize("size", [5, 9])
def test_it_does_not_move_to_a_fork(witness: Witness, size: int) -> None:
    witness.remember(note(5), check_to(5))
    with pytest.raises(AuditError, match="forked"):
        witness.remember(note(size, FORK), check_to(size, FORK))
    assert witness.last() == checkpoint(5)


def test_it_takes_no_note_of_another_key(witness: Witness) -> None:
    with pytest.raises(AuditError):
        witness.remember(sign_checkpoint(checkpoint(3), Ed25519PrivateKey.generate()), check_to(3))
    assert witness.note() is None


def test_a_witness_that_can_not_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "in the way").write_text("")
    witness = Witness(tmp_path / "in the way", verifier_key(ORIGIN, KEY.public_key()))
    with pytest.raises(StorageError):
        witness.remember(note(3), check_to(3))


def test_a_witness_that_grew_beyond_any_note_is_refused(witness: Witness, tmp_path: Path) -> None:
    witness.remember(note(3), check_to(3))
    (tmp_path / "witness" / CHECKPOINT_FILE).write_text(note(3) + "x" * 10_000)
    with pytest.raises(AuditError):
        witness.last()

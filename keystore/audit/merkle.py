"""The Merkle tree of RFC 6962 section 2.1 (restated in RFC 9162 section 2.1): pure functions on values.

Hashes are 32 bytes; leaf hash = SHA-256(0x00 || leaf), node hash = SHA-256(0x01 || left || right). Proofs are lists of hashes.
The verifiers follow RFC 9162 sections 2.1.3.2 and 2.1.4.2 and reject whatever they do not fully consume.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


class ProofError(Exception):
    """A Merkle proof does not prove what it is said to prove."""


def leaf_hash(leaf: bytes) -> bytes:
    """Return MTH({leaf}) (RFC 6962 section 2.1)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node (RFC 6962 section 2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class Frontier:
    """The right edge of a tree: the roots of its full subtrees, largest first. Enough to append and to know the root."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if (
            self.size < 0
            or len(self.peaks) != self.size.bit_count()
            or any(len(peak) != HASH_BYTES for peak in self.peaks)
        ):
            raise ValueError("a frontier has one 32-byte hash per set bit of its size")

    def append(self, new_leaf_hash: bytes) -> Frontier:
        """Return the frontier with one more leaf."""
        return self.grown(new_leaf_hash)[0]

    def grown(self, new_leaf_hash: bytes) -> tuple[Frontier, list[bytes]]:
        """Return the frontier with one more leaf, and the roots of the subtrees that it completes: of 2, 4, 8 ... leaves."""
        peaks, completed, carry, size = list(self.peaks), list[bytes](), new_leaf_hash, self.size
        while size & 1:  # two full subtrees of one size become one of twice the size
            carry = node_hash(peaks.pop(), carry)
            completed.append(carry)
            size >>= 1
        return Frontier(self.size + 1, (*peaks, carry)), completed

    def root(self) -> bytes:
        """Return MTH of all leaves."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root

    def to_bytes(self) -> bytes:
        """Return the peaks, concatenated; the size is kept beside them."""
        return b"".join(self.peaks)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> Frontier:
        """Inverse of `to_bytes`. Raises ValueError."""
        if len(data) % HASH_BYTES:
            raise ValueError("a frontier is a whole number of hashes")
        return cls(size, tuple(data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)))


def frontier_of(leaf_hashes: Iterable[bytes]) -> Frontier:
    """Return the frontier of a whole sequence of leaf hashes."""
    frontier = Frontier()
    for one in leaf_hashes:
        frontier = frontier.append(one)
    return frontier


def tree_root(leaf_hashes: Sequence[bytes]) -> bytes:
    """Return MTH(D[n]) (RFC 6962 section 2.1)."""
    return frontier_of(leaf_hashes).root()


def _split_point(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)  # the largest power of two smaller than size


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """Return of which ranges of leaves the roots make up PATH(index, D[size]) (RFC 6962 section 2.1.1).

    Raises ValueError when there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    return _siblings(size, lambda start, end: end - start == 1, lambda split: index < split)[0]


def consistency_ranges(old_size: int, size: int) -> list[tuple[int, int]]:
    """Return of which ranges of leaves the roots make up PROOF(old_size, D[size]) (RFC 6962 section 2.1.2).

    Raises ValueError unless 0 < old_size <= size.
    """
    if not 0 < old_size <= size:
        raise ValueError(f"a tree of {size} leaves never had {old_size} leaves to prove")
    siblings, (start, end) = _siblings(size, lambda _, end: end == old_size, lambda split: old_size <= split)
    return siblings if start == 0 else [(start, end), *siblings]  # who asks knows the root of the old tree itself


def _siblings(
    size: int, arrived: Callable[[int, int], bool], goes_left: Callable[[int], bool]
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Descend from the root of a tree; return the subtrees that were passed by, lowest first, and the one arrived at."""
    start, end, passed = 0, size, list[tuple[int, int]]()
    while not arrived(start, end):
        split = start + _split_point(end - start)
        passed.append((split, end) if goes_left(split) else (start, split))
        start, end = (start, split) if goes_left(split) else (split, end)
    return passed[::-1], (start, end)


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int) -> list[bytes]:
    """Return PATH(index, D[n]) (RFC 6962 section 2.1.1). Raises ValueError when there is no such leaf."""
    return [tree_root(leaf_hashes[start:end]) for start, end in inclusion_ranges(index, len(leaf_hashes))]


def consistency_proof(leaf_hashes: Sequence[bytes], old_size: int) -> list[bytes]:
    """Return PROOF(old_size, D[n]) (RFC 6962 section 2.1.2). Raises ValueError unless 0 < old_size <= n."""
    return [tree_root(leaf_hashes[start:end]) for start, end in consistency_ranges(old_size, len(leaf_hashes))]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash `leaf` is at `index` of the tree (size, root) (RFC 9162 section 2.1.3.2). Raises ProofError."""
    _check_hashes(leaf, root, *proof)
    if not 0 <= index < size:
        raise ProofError(f"leaf {index} can not be in a tree of {size}")
    position, last, current = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofError("the inclusion proof is too long")
        if position & 1 or position == last:
            current = node_hash(sibling, current)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise ProofError("the inclusion proof is too short")
    if not hmac.compare_digest(current, root):
        raise ProofError("the inclusion proof leads to another root")


def verify_consistency(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree (size, root) begins with the tree (old_size, old_root) (RFC 9162 section 2.1.4.2).
    Raises ProofError."""
    _check_hashes(old_root, root, *proof)
    if not 0 < old_size <= size:
        raise ProofError(f"a tree of {size} leaves can not extend one of {old_size}")
    if old_size == size:
        if proof:
            raise ProofError("a tree is consistent with itself by an empty proof only")
        if not hmac.compare_digest(old_root, root):
            raise ProofError("two trees of one size have different roots")
        return
    if not proof:
        raise ProofError("the consistency proof is empty")
    path = list(proof)
    if old_size & (old_size - 1) == 0:  # a full tree is its own first node
        path.insert(0, old_root)
    position, last = old_size - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old_current = current = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError("the consistency proof is too long")
        if position & 1 or position == last:
            old_current, current = node_hash(sibling, old_current), node_hash(sibling, current)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise ProofError("the consistency proof is too short")
    if not hmac.compare_digest(old_current, old_root):
        raise ProofError("the consistency proof leads to another old root")
    if not hmac.compare_digest(current, root):
        raise ProofError("the consistency proof leads to another new root")


def _check_hashes(*hashes: bytes) -> None:
    if any(len(one) != HASH_BYTES for one in hashes):
        raise ProofError(f"a proof holds hashes of {HASH_BYTES} bytes only")

"""The Merkle tree of RFC 6962: known roots, proofs that verify, and every way of being wrong that was ever accepted somewhere."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keystore.audit import merkle
from keystore.audit.merkle import ProofError

# The leaves and roots that the reference implementation of Certificate Transparency tests with.
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
MAX_SIZE = 40


def hashes(size: int) -> list[bytes]:
    return [merkle.leaf_hash(str(index).encode()) for index in range(size)]


def naive_root(leaf_hashes: list[bytes]) -> bytes:
    """MTH as RFC 6962 section 2.1 writes it."""
    if len(leaf_hashes) <= 1:
        return leaf_hashes[0] if leaf_hashes else hashlib.sha256(b"").digest()
    split = 1
    while split * 2 < len(leaf_hashes):
        split *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaf_hashes[:split]) + naive_root(leaf_hashes[split:])).digest()


@pytest.mark.parametrize(("size", "root"), ROOTS.items())
def test_roots_are_those_of_certificate_transparency(size: int, root: str) -> None:
    assert merkle.tree_root([merkle.leaf_hash(leaf) for leaf in LEAVES[:size]]).hex() == root


def test_an_empty_tree_has_the_hash_of_nothing_as_root() -> None:
    assert merkle.tree_root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("size", range(MAX_SIZE))
def test_a_frontier_knows_the_root_and_survives_its_bytes(size: int) -> None:
    frontier = merkle.frontier_of(hashes(size))
    assert frontier.root() == naive_root(hashes(size))
    assert merkle.Frontier.from_bytes(size, frontier.to_bytes()) == frontier


@pytest.mark.parametrize(("size", "data"), [(3, b"x" * 32), (1, b"x" * 31), (0, b"x" * 32), (-1, b"")])
def test_a_frontier_of_the_wrong_shape_is_refused(size: int, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"frontier|hashes"):
        merkle.Frontier.from_bytes(size, data)


def test_every_inclusion_proof_verifies_at_its_place_and_at_no_other() -> None:
    for size in range(1, 18):
        leaves = hashes(size)
        root = merkle.tree_root(leaves)
        for index in range(size):
            proof = merkle.inclusion_proof(leaves, index)
            merkle.verify_inclusion(leaves[index], index, size, proof, root)
            for other in {*range(-1, size + 2)} - {index}:
                with pytest.raises(ProofError):
                    merkle.verify_inclusion(leaves[index], other, size, proof, root)


def test_every_consistency_proof_verifies_for_its_sizes() -> None:
    for size in range(1, 18):
        leaves = hashes(size)
        for old in range(1, size + 1):
            proof = merkle.consistency_proof(leaves, old)
            merkle.verify_consistency(old, merkle.tree_root(leaves[:old]), size, merkle.tree_root(leaves), proof)


def test_a_wrong_second_size_is_refused() -> None:
    # A size that gives the proof the same path can not be told apart by hashes alone; its root is then the only witness, and a
    # checkpoint signs size and root together. Every size that changes the path must be refused.
    for size in range(2, 18):
        leaves = hashes(size)
        for old in range(1, size):
            proof = merkle.consistency_proof(leaves, old)
            roots = merkle.tree_root(leaves[:old]), merkle.tree_root(leaves)
            for wrong in range(old + 1, 40):
                if len(merkle.consistency_proof(hashes(wrong), old)) != len(proof):
                    with pytest.raises(ProofError):
                        merkle.verify_consistency(old, roots[0], wrong, roots[1], proof)
            with pytest.raises(ProofError):
                merkle.verify_consistency(old, roots[0], old, roots[1], proof)


def test_a_wrong_first_size_is_refused() -> None:
    leaves = hashes(11)
    for old in range(1, 11):
        proof = merkle.consistency_proof(leaves, old)
        for wrong in {*range(-1, 14)} - {old}:
            with pytest.raises(ProofError):
                merkle.verify_consistency(wrong, merkle.tree_root(leaves[:old]), 11, merkle.tree_root(leaves), proof)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_forged_proof_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, MAX_SIZE))
    old = data.draw(st.integers(1, size - 1))
    leaves = hashes(size)
    old_root, root = merkle.tree_root(leaves[:old]), merkle.tree_root(leaves)
    proof = merkle.consistency_proof(leaves, old)
    place = data.draw(st.integers(0, len(proof) - 1))
    bit = data.draw(st.integers(0, 255))
    flipped = bytes(byte ^ (1 << bit % 8 if position == bit // 8 else 0) for position, byte in enumerate(proof[place]))
    forgeries = [
        [],
        proof[:-1],
        proof[1:],
        [*proof, proof[-1]],
        [proof[0], *proof],
        [*proof[:place], flipped, *proof[place + 1 :]],
        [*proof[:place], proof[place][:-1], *proof[place + 1 :]],
    ]
    if proof != proof[::-1]:
        forgeries.append(proof[::-1])
    for forged in forgeries:
        with pytest.raises(ProofError):
            merkle.verify_consistency(old, old_root, size, root, forged)
    with pytest.raises(ProofError):
        merkle.verify_consistency(old, root, size, root, proof)
    with pytest.raises(ProofError):
        merkle.verify_consistency(old, old_root, size, old_root, proof)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_forged_inclusion_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, MAX_SIZE))
    index = data.draw(st.integers(0, size - 1))
    leaves = hashes(size)
    root, proof = merkle.tree_root(leaves), merkle.inclusion_proof(leaves, index)
    place = data.draw(st.integers(0, len(proof) - 1))
    for forged in ([], proof[:-1], proof[1:], [*proof, root], [*proof[:place], root, *proof[place + 1 :]]):
        with pytest.raises(ProofError):
            merkle.verify_inclusion(leaves[index], index, size, forged, root)
    with pytest.raises(ProofError):
        merkle.verify_inclusion(merkle.leaf_hash(b"never logged"), index, size, proof, root)


def test_a_proof_that_goes_on_beyond_the_root_is_refused_though_its_hashes_fit() -> None:
    leaves, more = hashes(4), merkle.leaf_hash(b"more")
    root, old_root = merkle.tree_root(leaves), merkle.tree_root(leaves[:3])
    proof = [*merkle.consistency_proof(leaves, 3), more]
    with pytest.raises(ProofError, match="too long"):
        merkle.verify_consistency(3, merkle.node_hash(more, old_root), 4, merkle.node_hash(more, root), proof)
    proof = [*merkle.inclusion_proof(leaves, 1), more]
    with pytest.raises(ProofError, match="too long"):
        merkle.verify_inclusion(leaves[1], 1, 4, proof, merkle.node_hash(more, root))


def test_a_byte_that_moves_from_one_hash_to_its_neighbour_is_noticed() -> None:
    leaves = hashes(2)
    root = merkle.tree_root(leaves)
    short, long = leaves[0][:-1], leaves[0][-1:] + leaves[1]
    assert merkle.node_hash(short, long) == root
    with pytest.raises(ProofError, match="32 bytes"):
        merkle.verify_inclusion(short, 0, 2, [long], root)
    with pytest.raises(ProofError, match="32 bytes"):
        merkle.verify_consistency(1, short, 2, root, [long])


def test_an_inner_node_does_not_pass_as_a_leaf() -> None:
    leaves = hashes(4)
    node = merkle.node_hash(leaves[0], leaves[1])
    with pytest.raises(ProofError):
        merkle.verify_inclusion(
            merkle.leaf_hash(leaves[0] + leaves[1]),
            0,
            2,
            [merkle.node_hash(leaves[2], leaves[3])],
            merkle.tree_root(leaves),
        )
    with pytest.raises(ProofError):
        merkle.verify_inclusion(node, 0, 4, [merkle.node_hash(leaves[2], leaves[3])], merkle.tree_root(leaves))


def test_two_trees_of_one_size_are_consistent_only_if_equal_and_only_by_an_empty_proof() -> None:
    root = merkle.tree_root(hashes(5))
    merkle.verify_consistency(5, root, 5, root, [])
    with pytest.raises(ProofError):
        merkle.verify_consistency(5, root, 5, merkle.leaf_hash(b"fork"), [])
    with pytest.raises(ProofError):
        merkle.verify_consistency(5, root, 5, root, [root])


@pytest.mark.parametrize("index", [-1, 3, 100])
def test_there_is_no_proof_of_what_is_not_there(index: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        merkle.inclusion_proof(hashes(3), index)
    with pytest.raises(ValueError, match="never had"):
        merkle.consistency_proof(hashes(3), index if index != 3 else 0)

"""The Merkle tree against RFC 6962: known roots, and every proof of every small tree, true ones and others."""

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.records.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_holds,
    consistency_path,
    inclusion_holds,
    inclusion_path,
    leaf_hash,
    node_hash,
    tree_root,
)

# The leaves and roots that the certificate-transparency projects share as test data.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(bytes.fromhex(text)) for text in INPUTS]
MANY = [leaf_hash(bytes([n])) for n in range(40)]


def test_known_roots() -> None:
    assert EMPTY_ROOT == sha256().digest() == tree_root([])
    assert [tree_root(LEAVES[:size]).hex() for size in range(1, 9)] == ROOTS


def obvious_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, as it is written."""
    if not leaves:
        return sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(obvious_root(leaves[:k]), obvious_root(leaves[k:]))


def test_the_frontier_gives_the_root_of_every_prefix_and_can_be_taken_up_again() -> None:
    frontier = Frontier()
    for size, leaf in enumerate(MANY):
        assert frontier.root() == obvious_root(MANY[:size])
        frontier = Frontier(frontier.size, frontier.peaks)
        other = frontier.copy()
        frontier.append(leaf)
        assert other.size == size
    with pytest.raises(ValueError, match="full subtrees"):
        Frontier(3, [bytes(32)])


def test_every_inclusion_proof_holds_and_only_for_its_own_leaf_index_size_and_root() -> None:
    for size in range(1, 18):
        root = tree_root(MANY[:size])
        for index in range(size):
            path = inclusion_path(MANY[:size], index)
            assert inclusion_holds(MANY[index], index, size, path, root)
            assert not inclusion_holds(MANY[index + 1], index, size, path, root)
            assert not inclusion_holds(MANY[index], index, size, path, bytes(32))
            assert not inclusion_holds(MANY[index], index, size, [*path, bytes(32)], root)
            for other in range(size):
                assert inclusion_holds(MANY[index], other, size, path, root) is (other == index)
            for at in range(len(path)):
                assert not inclusion_holds(MANY[index], index, size, path[:at] + path[at + 1 :], root)
        assert not inclusion_holds(MANY[0], size, size, [], root)
        with pytest.raises(ValueError, match="no leaf"):
            inclusion_path(MANY[:size], size)


def test_every_consistency_proof_holds_and_only_for_its_own_sizes_and_roots() -> None:
    for new in range(1, 18):
        new_root = tree_root(MANY[:new])
        for old in range(1, new + 1):
            old_root, path = tree_root(MANY[:old]), consistency_path(MANY[:new], old)
            assert consistency_holds(old, new, old_root, new_root, path)
            assert not consistency_holds(old, new, bytes(32), new_root, path)
            assert not consistency_holds(old, new, old_root, bytes(32), path)
            assert not consistency_holds(old, new, old_root, new_root, [*path, bytes(32)])
            for at in range(len(path)):
                assert not consistency_holds(old, new, old_root, new_root, path[:at] + path[at + 1 :])
    assert not consistency_holds(0, 3, EMPTY_ROOT, tree_root(MANY[:3]), [])
    assert not consistency_holds(4, 3, tree_root(MANY[:4]), tree_root(MANY[:3]), [])
    for old in (0, 9):
        with pytest.raises(ValueError, match="no prefix"):
            consistency_path(MANY[:8], old)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 40), st.data())
def test_a_forked_history_has_no_consistency_proof(size: int, data: st.DataObject) -> None:
    """Some leaf of the old tree differs: the honest proof of the new tree does not connect the two."""
    old = data.draw(st.integers(1, size - 1))
    changed = data.draw(st.integers(0, old - 1))
    forked = [*MANY[:changed], leaf_hash(b"forked"), *MANY[changed + 1 : size]]
    path = consistency_path(MANY[:size], old)
    assert not consistency_holds(old, size, tree_root(forked[:old]), tree_root(MANY[:size]), path)
    assert not consistency_holds(old, size, tree_root(MANY[:old]), tree_root(forked), path)

"""The Merkle tree of RFC 6962, section 2: roots, inclusion proofs and consistency proofs over leaf hashes.

    leaf bytes  -> leaf_hash  -> Frontier (append-only, O(log n) memory) -> root
    leaf hashes -> inclusion_path / consistency_path -> checked by someone who has neither log nor leaves

The prefixes 0x00 and 0x01 keep a leaf from ever being read as a node (RFC 6962, 2.1).
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import final

__all__ = [
    "EMPTY_ROOT",
    "Frontier",
    "consistency_holds",
    "consistency_path",
    "inclusion_holds",
    "inclusion_path",
    "leaf_hash",
    "node_hash",
    "tree_root",
]

EMPTY_ROOT = sha256(b"").digest()
"""MTH({}) of RFC 6962, 2.1."""


def leaf_hash(data: bytes) -> bytes:
    """`SHA-256(0x00 || data)`."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """`SHA-256(0x01 || left || right)`."""
    return sha256(b"\x01" + left + right).digest()


@final
class Frontier:
    """The roots of the full subtrees of a growing tree, largest first: enough to append and to give a root."""

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size = size
        self.peaks = list(peaks)
        if len(self.peaks) != size.bit_count():
            raise ValueError(
                f"a tree of {size} leaves has {size.bit_count()} full subtrees, not {len(self.peaks)}"
            )

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash; amortised one node hash."""
        size, peaks = self.size, self.peaks
        self.size = size + 1
        while size & 1:
            leaf = sha256(b"\x01" + peaks.pop() + leaf).digest()
            size >>= 1
        peaks.append(leaf)

    def root(self) -> bytes:
        """The tree's root hash as it stands."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root

    def copy(self) -> "Frontier":
        """A frontier that grows on its own from here."""
        return Frontier(self.size, self.peaks)


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """MTH(D[n]) over leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


def _split(size: int) -> int:
    """The largest power of two smaller than `size` (RFC 6962's k)."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """PATH(m, D[n]) of RFC 6962, 2.1.1: the siblings from the leaf up to the root."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"no leaf {index} in a tree of {len(leaves)}")
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*inclusion_path(leaves[:k], index), tree_root(leaves[k:])]
    return [*inclusion_path(leaves[k:], index - k), tree_root(leaves[:k])]


def inclusion_holds(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `leaf` stands at `index` under `root`; the algorithm of RFC 9162, 2.1.3.2."""
    if not 0 <= index < size:
        return False
    fn, sn, r = index, size - 1, leaf
    for sibling in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node_hash(sibling, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, sibling)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def consistency_path(leaves: Sequence[bytes], old: int) -> list[bytes]:
    """PROOF(m, D[n]) of RFC 6962, 2.1.2: that the first `old` leaves are a prefix of the tree."""
    if not 0 < old <= len(leaves):
        raise ValueError(f"no prefix of {old} leaves in a tree of {len(leaves)}")
    return _subproof(leaves, old, whole=True)


def _subproof(leaves: Sequence[bytes], old: int, *, whole: bool) -> list[bytes]:
    if old == len(leaves):
        return [] if whole else [tree_root(leaves)]
    k = _split(len(leaves))
    if old <= k:
        return [*_subproof(leaves[:k], old, whole=whole), tree_root(leaves[k:])]
    return [*_subproof(leaves[k:], old - k, whole=False), tree_root(leaves[:k])]


def consistency_holds(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the tree of `old` leaves is a prefix of that of `new`; RFC 9162, 2.1.4.2."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not path and old_root == new_root
    nodes = [old_root, *path] if old & (old - 1) == 0 else list(path)
    if not nodes:
        return False
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = nodes[0]
    for c in nodes[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == old_root and sr == new_root

"""Members of a question's set, for the second opinion: calls that do the act, edge values first.

The solver speaks of all inputs; these few are run through the simulator as well, so that a mistake in the
encoding shows as a disagreement instead of as a proof.
"""

from collections.abc import Iterator
from random import Random

from holdfast.sandbox.bpf.attempt import Bits, Question
from holdfast.sandbox.bpf.call import Call

__all__ = ["iter_samples"]

ONES = 0xFFFF_FFFF_FFFF_FFFF
BASES = (0, ONES, 1 << 32)
Args = tuple[int, int, int, int, int, int]


def iter_samples(question: Question, *, ip: int, seed: int = 0, drawn: int = 2) -> Iterator[Call]:
    """Calls for which `question` holds: edges, single bits of each mask, and a few drawn ones."""
    random = Random(seed)  # noqa: S311 - reproducible test points, nothing secret
    bases = [_args([base] * 6) for base in BASES]
    bases += [_args([random.getrandbits(64) for _ in range(6)]) for _ in range(drawn)]
    numbers = question.abi.numbers if question.number is None else (question.number,)
    for base in bases:
        for args in _bent(base, question.bits):
            number = numbers[random.randrange(len(numbers))]
            call = Call(question.abi.arch, number, args, ip)
            if question.holds_for(call):
                yield call


def _bent(args: Args, bits: tuple[Bits, ...]) -> Iterator[Args]:
    """The arguments, bent to meet the conditions; one variant for each bit that a "differs" is about."""
    for bit in bits:
        if not bit.differ:
            args = _replaced(args, bit.index, args[bit.index] & ~bit.mask & ONES | bit.value)
    yield args
    for bit in (b for b in bits if b.differ):
        cleared = args[bit.index] & ~bit.mask & ONES | bit.value
        for position in range(64):
            if bit.mask >> position & 1:
                yield _replaced(args, bit.index, cleared ^ 1 << position)


def _replaced(args: Args, index: int, value: int) -> Args:
    return _args([value if i == index else old for i, old in enumerate(args)])


def _args(values: list[int]) -> Args:
    first, second, third, fourth, fifth, sixth = values
    return first, second, third, fourth, fifth, sixth

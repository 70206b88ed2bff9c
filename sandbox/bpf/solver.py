"""A stack of filters under questions: is there any call in this set that the kernel would not deny?

    Oracle(filters).ask(question) -> Proof

`unsat` is a proof over every input; `sat` is a call, which the simulator must confirm before it is shown;
anything else, a timeout included, is `cannot_tell`.
"""

from collections.abc import Sequence
from typing import final

from holdfast.sandbox.bpf.abi import UNFILTERED
from holdfast.sandbox.bpf.action import ACTION_MASK, Action, Grip, describe, grip
from holdfast.sandbox.bpf.attempt import Bits, Question
from holdfast.sandbox.bpf.call import Call
from holdfast.sandbox.bpf.instruction import Program
from holdfast.sandbox.bpf.proof import Counterexample, Proof, Verdict
from holdfast.sandbox.bpf.samples import iter_samples
from holdfast.sandbox.bpf.simulate import run_stack
from holdfast.sandbox.bpf.symbolic import WORDS, Term, encode_stack, z3
from holdfast.sandbox.bpf.trampoline import RETURN_ADDRESS

__all__ = ["DEFAULT_TIMEOUT_MS", "Oracle", "SolverGaveUpError", "find_call", "has_grip"]

DEFAULT_TIMEOUT_MS = 10_000
NR, ARCH, IP_LOW, IP_HIGH = WORDS[:4]
IP_OFFSETS = frozenset({8, 12})


@final
class SolverGaveUpError(Exception):
    """Neither `sat` nor `unsat`: a timeout, or a resource limit; `str()` is the solver's own word."""


def has_grip(answer: Term, *grips: Grip) -> Term:
    """The condition that a combined answer leaves the call in one of these grips."""
    action = answer & ACTION_MASK
    return z3.Or([action == a.value for a in Action if grip(a.value) in grips])


def find_call(condition: Term, *, timeout_ms: int) -> Call | None:
    """A call for which `condition` holds, None when there is none at all; raises `SolverGaveUpError`."""
    solver = z3.SolverFor("QF_BV")
    solver.set("timeout", timeout_ms)
    solver.add(condition)
    result = solver.check()
    if result == z3.unsat:
        return None
    if result != z3.sat:
        raise SolverGaveUpError(solver.reason_unknown())
    model = solver.model()
    return Call.from_words(tuple(model.eval(word, model_completion=True).as_long() for word in WORDS))


@final
class Oracle:
    """One stack, encoded once, asked often; by one thread, since Z3 shares its state."""

    def __init__(self, oldest_first: Sequence[Program], *, timeout_ms: int = DEFAULT_TIMEOUT_MS) -> None:
        self.filters = tuple(oldest_first)
        self.timeout_ms = timeout_ms
        self.answer = encode_stack(self.filters)
        self.reads_ip = any(
            i.op == "ld [k]" and i.k in IP_OFFSETS for program in self.filters for i in program
        )
        self._fixed: dict[tuple[int, int | None], Term] = {}

    def ask(self, question: Question) -> Proof:
        """Whether any call of the set escapes denial."""
        if (question.abi, question.number) in UNFILTERED:
            return Proof(Verdict.CANNOT_TELL, f"{question}: newer kernels run this call past every filter")
        answer = self._answer_in(question.abi.arch, question.number)
        members = z3.And([_bits_term(b) for b in question.bits] + _number_terms(question))
        try:
            escaped = self._find(question, z3.And(members, has_grip(answer, Grip.EXECUTES, Grip.HANDED_OVER)))
            if escaped is None:
                return self._second_opinion(question)
            if grip(run_stack(self.filters, escaped)) is Grip.EXECUTES:
                return self._confirmed(question, escaped)
            executing = self._find(question, z3.And(members, has_grip(answer, Grip.EXECUTES)))
        except SolverGaveUpError as gave_up:
            return Proof(Verdict.CANNOT_TELL, f"the solver gave up on {question} ({gave_up})", 1)
        if executing is None:
            handed = describe(run_stack(self.filters, escaped))
            return Proof(
                Verdict.CANNOT_TELL, f"{question}: the filter leaves it to another process, {handed}", 2
            )
        return self._confirmed(question, executing)

    def _answer_in(self, arch: int, number: int | None) -> Term:
        """The answer with the architecture, and the number where there is one, put in; most of it folds away."""
        key = (arch, number)
        if key not in self._fixed:
            whole, word, value = (
                (self.answer, ARCH, arch) if number is None else (self._answer_in(arch, None), NR, number)
            )
            self._fixed[key] = z3.simplify(z3.substitute(whole, (word, z3.BitVecVal(value, 32))))
        return self._fixed[key]

    def _find(self, question: Question, condition: Term) -> Call | None:
        """A call of the set, made from the address of the replay if that can be."""
        address = RETURN_ADDRESS.get(question.abi, 0)
        if self.reads_ip:
            here = z3.And(condition, address & 0xFFFF_FFFF == IP_LOW, address >> 32 == IP_HIGH)
            if found := find_call(here, timeout_ms=self.timeout_ms):
                return _completed(question, found, address)
        found = find_call(condition, timeout_ms=self.timeout_ms)
        return found and _completed(question, found, found.ip if self.reads_ip else address)

    def _second_opinion(self, question: Question) -> Proof:
        """`unsat`, held against the simulator on members of the set."""
        asked = 0
        for call in iter_samples(question, ip=RETURN_ADDRESS.get(question.abi, 0)):
            asked += 1
            if grip(answer := run_stack(self.filters, call)) is not Grip.DENIED:
                return Proof(
                    Verdict.CANNOT_TELL,
                    f"{question}: solver and simulator disagree on {call} ({describe(answer)})",
                    1,
                )
        if not asked:
            return Proof(
                Verdict.CANNOT_TELL, f"{question}: no call belongs to this set, so its proof says nothing", 1
            )
        return Proof(Verdict.PROVEN, "no input passes", 1)

    def _confirmed(self, question: Question, call: Call) -> Proof:
        """`sat`, held against the simulator."""
        answer = run_stack(self.filters, call)
        if not question.holds_for(call) or grip(answer) is not Grip.EXECUTES:
            return Proof(
                Verdict.CANNOT_TELL,
                f"{question}: solver and simulator disagree on {call} ({describe(answer)})",
                2,
            )
        found = Counterexample(question.abi, call, answer)
        return Proof(Verdict.COUNTEREXAMPLE, str(question), 2, (found,))


def _completed(question: Question, call: Call, ip: int) -> Call:
    """The call with what was put in by substitution, and the address."""
    number = call.nr if question.number is None else question.number
    return Call(question.abi.arch, number, call.args, ip)


def _bits_term(bits: Bits) -> Term:
    low, high = WORDS[4 + 2 * bits.index : 6 + 2 * bits.index]
    same = z3.Concat(high, low) & bits.mask == bits.value
    return z3.Not(same) if bits.differ else same


def _number_terms(question: Question) -> list[Term]:
    if question.number is not None:
        return []
    numbers = question.abi.numbers
    return [z3.UGE(NR, numbers[0]), z3.ULE(NR, numbers[-1])]

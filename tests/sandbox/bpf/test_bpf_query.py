"""`--can`: what each way of asking means, and what is refused."""

import pytest

from holdfast.sandbox.bpf.abi import Abi
from holdfast.sandbox.bpf.attempt import Attempt, Bits
from holdfast.sandbox.bpf.proof import Verdict
from holdfast.sandbox.bpf.prove import prove
from holdfast.sandbox.bpf.query import parse_query
from holdfast.sandbox.refusal import BadInputError

from .filters_of_tests import compare, compiled

LOW = 0xFFFF_FFFF
WIDE = 0xFFFF_FFFF_FFFF_FFFF

READ: dict[str, Attempt] = {
    "mount": Attempt("mount"),
    "mount()": Attempt("mount"),
    " ioctl ( TIOCSTI ) ": Attempt("ioctl", (Bits(1, LOW, 0x5412),)),
    "ioctl(_, TIOCSTI)": Attempt("ioctl", (Bits(1, LOW, 0x5412),)),
    "ioctl(3, 0x5412)": Attempt("ioctl", (Bits(0, LOW, 3), Bits(1, LOW, 0x5412))),
    "ioctl(arg1==0x100005412)": Attempt("ioctl", (Bits(1, WIDE, 0x1_0000_5412),)),
    "ioctl(arg1 = TIOCSTI)": Attempt("ioctl", (Bits(1, LOW, 0x5412),)),
    "clone(CLONE_NEWUSER)": Attempt("clone", (Bits(0, 0x1000_0000, 0x1000_0000),)),
    "clone(arg0&0x10000000!=0)": Attempt("clone", (Bits(0, 0x1000_0000, 0, differ=True),)),
    "socket(AF_ALG, 5)": Attempt("socket", (Bits(0, LOW, 38), Bits(1, LOW, 5))),
    "personality(arg0!=0)": Attempt("personality", (Bits(0, LOW, 0, differ=True),)),
    "setns(CLONE_NEWNET)": Attempt("setns", (Bits(1, 0x4000_0000, 0x4000_0000),)),
}


@pytest.mark.parametrize(("text", "attempt"), READ.items(), ids=READ.keys())
def test_a_query_reads_as_it_is_meant(text: str, attempt: Attempt) -> None:
    assert parse_query(text) == attempt


REFUSED = {
    "": "cannot read the query",
    "ioctl(": "cannot read the query",
    "ioctl)TIOCSTI(": "cannot read the query",
    "ioctl(TIOCSTI) mount": "cannot read the query",
    "IOCTL(TIOCSTI)": "cannot read the query",
    "iocti(TIOCSTI)": "unknown system call `iocti`",
    "ioctl(TIOCSTL)": "cannot read `TIOCSTL`",
    "mount(TIOCSTI)": "cannot read `TIOCSTI`",
    "clone(CLONE_NEWTIME)": "cannot read `CLONE_NEWTIME`",  # clone's lowest byte is the exit signal
    "ioctl(,1)": "cannot read ``",
    "ioctl(1,2,3,4,5,6,7)": "has 7 arguments",
    "ioctl(arg6=1)": "no argument 6",
    "ioctl(arg1>=3)": "cannot read `arg1>=3`",
    "ioctl(-1)": "does not fit",
    "ioctl(_, 0x100000000)": "does not fit",
    "ioctl(arg1==0x10000000000000000)": "does not fit",
    "ioctl(arg1&0xf=0x10)": "can never hold",
}


@pytest.mark.parametrize(("text", "why"), REFUSED.items(), ids=REFUSED.keys())
def test_what_cannot_be_read_is_refused_with_the_part(text: str, why: str) -> None:
    with pytest.raises(BadInputError) as caught:
        parse_query(text)
    assert why in str(caught.value)


def test_the_answer_differs_where_the_filter_does() -> None:
    """The same request, asked as 32 bits and as 64: only the first finds the hole above bit 31."""
    raw = compiled("allow", ("errno 1", "ioctl", compare(1, "EQ", 0x5412)))
    queries = ("ioctl(TIOCSTI)", "ioctl(arg1==0x5412)", "ioctl(TIOCGWINSZ)")
    answers = prove([raw], {q: (parse_query(q),) for q in queries}, abis=(Abi.X86_64,))
    assert [answers[q].verdict for q in queries] == [
        Verdict.COUNTEREXAMPLE,
        Verdict.PROVEN,
        Verdict.COUNTEREXAMPLE,
    ]

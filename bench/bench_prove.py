"""Proofs: every act of the catalogue over every ABI of x86-64, the second opinion included."""

from collections.abc import Iterable
from pathlib import Path
from time import perf_counter

from holdfast.bench.row import Row, median_seconds
from holdfast.sandbox.bpf.abi import Abi, host_abis
from holdfast.sandbox.bpf.acts import ACTS
from holdfast.sandbox.bpf.assemble import assemble
from holdfast.sandbox.bpf.cage import Cage
from holdfast.sandbox.bpf.call import Call
from holdfast.sandbox.bpf.instruction import decode
from holdfast.sandbox.bpf.proof import Proof
from holdfast.sandbox.bpf.prove import prove_acts
from holdfast.sandbox.bpf.relation import Relation, compare
from holdfast.sandbox.bpf.symbolic import encode_filter
from holdfast.sandbox.profile import load_profile

DOCKER = Path(__file__).parent.parent / "tests" / "sandbox" / "bpf" / "filters" / "docker-20.10.24.bpf"
DOCKER_LIMIT, OUR_LIMIT = 3.0, 1.0
X86 = host_abis("x86_64")
ROUNDS = 3
CALLS = 2_000


def measure() -> Iterable[Row]:
    """Seconds for the whole catalogue; what the parts cost."""
    docker = DOCKER.read_bytes()
    yield _catalogue_row("all acts, docker 20.10's live filter", docker, DOCKER_LIMIT)
    for name in ("strict", "standard", "standard-net"):
        yield _catalogue_row(f"all acts, profile {name}", assemble(load_profile(name)).code, OUR_LIMIT)
    program = decode(docker)
    yield Row("encode docker's filter", 1e3 * median_seconds(lambda: encode_filter(program), rounds=5), "ms")
    strict, standard = (assemble(load_profile(name)).code for name in ("strict", "standard"))
    seconds = median_seconds(
        lambda: compare(Relation.STRICTER, [strict], [standard], abis=X86), rounds=ROUNDS
    )
    yield Row("is strict stricter than standard", seconds, "s", note="all inputs, three ABIs")
    if Abi.X86_64 in host_abis():
        yield _replay_row(docker)


def _catalogue_row(name: str, raw: bytes, limit: float) -> Row:
    proofs: dict[str, Proof] = {}

    def prove() -> None:
        proofs.update(prove_acts([raw], abis=X86))

    seconds = median_seconds(prove, rounds=ROUNDS)
    asked = sum(proof.questions for proof in proofs.values())
    assert len(proofs) == len(ACTS)
    return Row(
        name, seconds, "s", limit, note=f"{len(raw) // 8} instructions, {len(proofs)} acts, {asked} questions"
    )


def _replay_row(raw: bytes) -> Row:
    """One call asked of the real kernel, loading aside."""
    call = Call(Abi.X86_64.arch, 39)
    with Cage([raw]) as cage:
        cage.ask(Abi.X86_64, call)
        start = perf_counter()
        for _ in range(CALLS):
            cage.ask(Abi.X86_64, call)
        return Row("replay one call under docker's filter", 1e6 * (perf_counter() - start) / CALLS, "us")

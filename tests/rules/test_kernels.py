"""The Triton kernels against the plain forms: in Triton's interpreter, and on a GPU where there is one.

The reference is the plain form in float64 on the same numbers, which no kernel takes. Compared are relative
errors |found - wanted| / |wanted| of outputs, last state and every gradient. Every rule joins by existing,
and every operation that a kernel can be made of must be met by one of the rules here. The interpreter sees
float32 alone: it multiplies bfloat16 numbers as if they were integers.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tests.interpreter import answer_of, make_the_interpreter_count
from torch import Tensor

from archer.model.mixer import RuleMixer
from archer.model.parameters import initialise
from archer.rules import Rule, algebra, get_rule, load_rule, rule_names
from archer.rules.chunk_operations import OPERATIONS, POINTWISE
from archer.rules.chunk_text import arranged, kernel_text
from archer.rules.chunk_trace import NoKernelError, trace_chunk
from archer.rules.inputs import Inputs, random_inputs

pytest.importorskip("triton", reason="the kernels need triton: pip install triton")

from triton.runtime.errors import OutOfResources

from archer.rules import chunk_check
from archer.rules.chunk_check import Named, gradients, normal, relative_errors, require_equal
from archer.rules.chunk_kernel import ChunkKernel, chunk_kernel

RULES = rule_names()
MADE = {
    "one decay for all": """'decay': k.new_full((1, 1), 0.7)""",
    "own queries and a decay": """'decay': causal * v.mean(-1, keepdim=True).sigmoid(), 'q_read': 0.5 * q""",
    "queries before the scores": """'q': q - 0.3 * k""",
    "scores in a wider space than the state": (
        """'q': q.repeat_interleave(2, -1), 'k': k.repeat_interleave(2, -1), 'q_read': q, 'k_write': k"""
    ),
    "one read for all": """'w': 0.1 * k[..., :1, :]""",
    "keys of its own": """'k_write': k * beta, 'keep': beta.mean((-2, -1), keepdim=True)""",
}
"""What `prepare` hands on, beside the WY form, in rules that weigh as delta_net does; each goes its own way
through the scan."""
CORRECTED = {
    "absolute values": "torch.where(e.abs() < 1, e, e.sign()) + e * torch.isnan(e)",
    "bounds": "e.clamp(-0.5, 0.7) + e.clamp(min=-0.5) + torch.clamp(e, min=e.mean(-1, keepdim=True))",
    "comparisons": "e * (e > 0) + e * ((e >= -1) & ~(e < -0.5) | (e == 2)) + e * (e != 0) * (e <= 1)",
    "counting": "e * torch.arange(e.shape[-1]).to(e.device) + torch.eye(e.shape[-2]).to(e) @ e"
    "+ e * torch.logical_and(torch.arange(e.shape[-1]).to(e.device), e > 0)",
    "cumulative sums": "e.cumsum(-2) + e.cumsum(-1)",
    "extremes": "e - e.amax(-1, keepdim=True) + e.amin(-2, keepdim=True)",
    "fractions": "1 / (1 + e * e) + torch.log1p(e.square()) + torch.expm1(-e.abs())",
    "gelu": "F.gelu(e, approximate='tanh') + F.gelu(e)",
    "largest of two": "torch.maximum(e, e.mean(-1, keepdim=True)) + torch.minimum(e, torch.zeros_like(e))",
    "layer norm": "F.layer_norm(e, (e.shape[-1],), e.new_full((e.shape[-1],), 2.0))",
    "logarithms": "F.log_softmax(e, -1) + e.logsumexp(-1, keepdim=True) + torch.log2(1 + e * e)",
    "logic": "e * torch.logical_or(torch.logical_not(e > 1), torch.logical_and(e > 0, e < 2))",
    "lower and upper": "(e @ e.mT).triu(1) @ e + (e @ e.mT).tril(-1) @ e",
    "norms": "e / (1 + e.norm(dim=-1, keepdim=True)) + F.rms_norm(e + 1, (e.shape[-1],))",
    "one column": "e * (e @ e.mean(-2).unsqueeze(-1)) + e.mean(-1, keepdim=True) @ e.mean(-2, keepdim=True)",
    "one row": "e + e.mean(-2, keepdim=True) @ e.mT @ e",
    "places": "e * torch.zeros_like(e[..., 0]).scatter(-1, e[..., 0].topk(5, -1).indices, 1.0).unsqueeze(-1)",
    "odd powers": "(0.1 * e) ** 5 + (0 * e.detach()) ** (0 * e.detach()) + 0.1 * e.detach() ** (e > 0).to(e)",
    "powers": "F.normalize(e, dim=-1) ** 3 + F.normalize(e, dim=-1) ** 4 + 2 ** e.clamp(max=1) "
    "+ e.abs().add(1) ** -1.5 + e.abs().add(1).rsqrt()",
    "rounding": "e - e.detach().floor() + e.detach().ceil()",
    "rows and columns": "e - e[..., 0, :].unsqueeze(-2) + e[..., :1] + e[..., -1:, :] + e[..., -3, None]",
    "small numbers": "(torch.expm1(e * 1e-4) + torch.log1p(e * 1e-4) + torch.tanh(e * 1e-4)) * 1e4",
    "softplus": "F.softplus(e) + F.elu(e) + F.leaky_relu(e) + F.silu(e) + F.mish(e) + F.softsign(e)",
    "spread": "e / (1 + e.std(-1)[..., None]) + e * e.var(-2)[..., None, :] + e.var(-1)[..., None]",
    "sums": "e - e.sum((-2, -1), keepdim=True) + torch.add(e, e, alpha=0.5) - torch.sub(e, 1, alpha=2)",
    "ties": "e * torch.zeros_like(e[..., 0]).scatter(-1, (e[..., 0] > 0).to(e).topk(5, -1).indices, 1.0)"
    ".sum(-1)[..., None, None]",
    "truths as numbers": "e * ((e > 0) + (e < 1)) + e * (e > 0).amax(-1, keepdim=True)"
    "+ e * (e[..., :1] > 0).logical_not() + torch.where((e > 0)[..., -1:, :] & (e < 1), e, 0.1 * e)",
    "waves": "torch.sin(e) + torch.cos(e) + torch.tanh(e) + torch.erf(e) + e.relu() + torch.exp2(-e)",
}
"""What `correct` does to e in rules that have the operations which no rule of the library has."""
ELSEWHERE = {
    "_unsafe_view", "clone", "detach", "empty", "lift_fresh_copy", "ones", "ones_like", "reshape",
    "select_scatter", "zeros", "zeros_like",
}  # fmt: skip
"""What other versions of PyTorch than the pinned one write for the same."""
REFUSED = {
    "sort": ("e.sort(-1).values", "aten.sort"),
    "numbers decide": ("e if e.sum() > 0 else -e", "data-dependent"),
    "halves": ("torch.cat((e[..., :8], e[..., 8:]), -1)", "8 out of 16"),
    "three axes": ("e.unflatten(-1, (2, -1)).softmax(-1).flatten(-2)", "[16, 2, 8]"),
    "twice as precise": ("e.double().float()", "float64"),
    "half as precise": ("e.half().float()", "float16"),
    "another axis than is flipped": ("e.flip(-1).cumsum(-2).flip(-1)", "another axis than what is flipped"),
    "places of another shape": (
        "torch.zeros_like(e).scatter(-1, e.mean(-2, keepdim=True).topk(5, -1).indices, 1.0)",
        "one number",
    ),
    "adding at places": (
        "e * e.detach()[..., 0].scatter(-1, e[..., 0].topk(5, -1).indices, 2.0, reduce='add')[..., None]",
        "one number",
    ),
    "steps": ("e.slice_scatter(torch.zeros_like(e[..., :1]), -1, 0, None, 16)", "in steps of 16"),
    "backwards": ("e.flip(-2)", "flipped"),
}
"""What `correct` may do and a kernel cannot, and what the reason names."""


@dataclass(frozen=True)
class Sizes:
    leading: tuple[int, ...]
    length: int
    key: int
    value: int
    chunk: int


TINY = Sizes(leading=(1, 2), length=37, key=16, value=16, chunk=16)
REAL = Sizes(leading=(3, 8, 4), length=200, key=32, value=32, chunk=32)
WIDE = Sizes(leading=(8, 4), length=200, key=32, value=64, chunk=32)
WY_SIZES = {"16": (16, 16, 16), "32": (32, 32, 32), "wide values": (32, 32, 64), "64": (64, 64, 64)}


def corrected(expression: str) -> Rule:
    """delta_net with this expression as its `correct`."""
    source = f"""import torch
import torch.nn.functional as F
parent = "delta_net"
def correct(e):
    return {expression}
"""
    return load_rule(source, "corrected", get_rule)


WHOLE = {
    "own queries, number by number": """from archer.rules import wy
parent = "delta_net"
def prepare(q, k, v, beta):
    return {**wy(k, v, beta), "q_read": 0.5 * q + v, "k_write": k - v}
def read(o, q, q_read, k, k_write):
    return o + q * q_read + k * k_write
""",
    "a parameter that prepare changes": """from archer.rules import Parameter, wy
parent = "delta_net"
gamma = Parameter(0.9, within=(0, 1))
def prepare(k, v, beta, gamma):
    return {**wy(k, v, beta), "gamma": gamma * beta.mean(-2, keepdim=True)}
def retain(S, gamma):
    return gamma * S
""",
    "names that are nearly the same": """from archer.rules import Carried, Feature
parent = "delta_net"
gate = Feature(within=(0, 1))
gate_read = Feature()
out = Carried(initial=0.2)
out_read = Carried(initial=0.1)
def correct(e, gate, gate_read):
    return e * gate + 0.1 * gate_read
def write(G, out, out_read):
    out, out_read = 0.9 * out + 0.1 * G, 0.5 * out_read + 0.1 * out
    return G + 0.1 * out * out_read, {"out": out, "out_read": out_read}
""",
    "a whole step, and what nobody reads": """from archer.rules import Carried
parent = "delta_net"
last = Carried(rows="1", columns="Dv", initial=0.3)
seen = Carried(rows="Dk", columns="1")
def step(S, q, k, v, u, w, beta, causal, scores, last, seen):
    e = u - w @ S
    o = q @ S + (scores * causal) @ e + 0.1 * last * k.shape[-1] ** -0.5
    seen = 0.5 * seen + k.mT @ v.mean(-1, keepdim=True)
    return o, {"S": S + k.mT @ e + 0.1 * seen, "last": 0.5 * last + v.mean(-2, keepdim=True), "seen": seen}
""",
}
"""Rules whose text is too long for the tables above."""
REFUSED_WHOLE = {
    "a smaller state": (
        """from archer.rules import Carried
parent = "delta_net"
M = Carried()
def write(G, M):
    return G + 0.1 * M, {"M": 0.9 * M.mean((-2, -1), keepdim=True)}
""",
        "`M` becomes [1, 1], expected [16, 16]",
    ),
    "a state that nobody declared": (
        """from archer.rules import wy
parent = "delta_net"
def prepare(q, k, v, beta):
    return {**wy(k, v, beta), "mean": v.mean(-2, keepdim=True)}
def step(S, q, k, v, mean):
    return q @ S + mean, {"S": S + k.mT @ v, "mean": 0.5 * mean}
""",
        "slot `step` returned `mean` as a state, which nobody declares",
    ),
}
"""Texts of rules of which no kernel is made, and what the reason says."""


def rule_of(name: str) -> Rule:
    """A rule of the library, or of one of the tables above."""
    if name in WHOLE:
        return load_rule(WHOLE[name], "whole", get_rule)
    if name in CORRECTED:
        return corrected(CORRECTED[name])
    if name not in MADE:
        return get_rule(name)
    source = f"""from archer.rules import wy
parent = "delta_net"
def prepare(q, k, v, beta, causal):
    return {{**wy(k, v, beta), {MADE[name]}}}
"""
    return load_rule(source, "made", get_rule)


class Taken:
    """Stands in for `kernels_for` and keeps the names of the kernels that were taken; "loop" is that of the
    chunk loop.

    Nothing but the device is overlooked: the interpreter runs the kernels on the processor.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.decide = algebra.kernels_for

    def __call__(self, *given: Any, **named: Any) -> Any:
        with patch.object(torch.Tensor, "is_cuda", True):
            self.module = self.decide(*given, **named)
        return None if self.module is None else self

    def __getattr__(self, name: str) -> Any:
        self.names.add(name)
        return getattr(self.module, name)


@contextmanager
def decided_by(choose: Callable[..., Any]) -> Iterator[None]:
    """`kernels_for` is `choose` in every module that asks it."""
    asking = [m for name, m in sys.modules.items() if name.startswith("archer.") and "kernels_for" in vars(m)]
    with ExitStack() as stack:
        for module in asking:
            stack.enter_context(patch.object(module, "kernels_for", choose))
        yield


def plainly(*_: Any, **__: Any) -> None:
    """`kernels_for` where there are none."""


def some_state(rule: Rule, inputs: Inputs, chunk: int) -> dict[str, Tensor]:
    """A state that this rule can get into: after one chunk of other tokens."""
    _, state = inputs.map(lambda x: x.flip(-2)).tokens(0, chunk).run(rule, None, chunk)
    return {n: x.detach() for n, x in state.items() if n != "tokens"}


def loop_results(
    rule: Rule, inputs: Inputs, state: dict[str, Tensor], chunk: int, kernel: ChunkKernel | None
) -> Named:
    """A rule's loop from this state: outputs, last state and all gradients."""
    leaves = {n: x.detach().requires_grad_() for n, x in inputs.tensors().items()}
    fresh = replace(
        inputs,
        **{n: leaves[n] for n in ("q", "k", "v", "beta")},
        features={n: leaves[n] for n in inputs.features},
        parameters={n: leaves[n] for n in inputs.parameters},
    )
    leaves |= {n: x.detach().requires_grad_() for n, x in state.items()}
    tokens = torch.zeros((), device=inputs.q.device)
    o, end = fresh.run(rule, {**{n: leaves[n] for n in state}, "tokens": tokens}, chunk, kernel)
    outputs = {"o": o, **{f"last {n}": end[n] for n in state}}
    return {**outputs, **gradients(outputs, leaves)}


def loop_errors(name: str, sizes: Sizes, dtype: torch.dtype, device: str, seed: int = 0) -> dict[str, Any]:
    """Relative errors of a rule's loop, {"kernels", "plain"} by name, and the kernels taken."""
    rule = rule_of(name)
    inputs = random_inputs(
        rule, seed, leading=sizes.leading, length=sizes.length, key_width=sizes.key,
        value_width=sizes.value, dtype=torch.float32, spread=0.5, device=device,
    )  # fmt: skip
    inputs = inputs.map(lambda x: x.to(dtype))
    exact = inputs.to(torch.float64)
    start = {n: x.float() for n, x in some_state(rule, exact, sizes.chunk).items()}
    kernel = chunk_kernel(rule, sizes.chunk, sizes.key, sizes.value)

    def results(given: Inputs) -> Named:
        state = {n: x.to(torch.promote_types(given.q.dtype, torch.float32)) for n, x in start.items()}
        return loop_results(rule, given, state, sizes.chunk, kernel)

    return errors(results, inputs, exact)


def wy_errors(
    sizes: tuple[int, int, int], decay: bool, read: bool, dtype: torch.dtype, device: str, count: int = 3,
    repeated: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The same for `wy` alone, with and without decay and a read key of its own. repeated: all keys of a
    chunk are the same, as those of blank tokens are."""
    chunk, key, value = sizes
    shapes = {"k": key, "v": value, "beta": 1, "decay": chunk, "k_read": key}
    given = {
        n: normal(torch.empty(count, 2, chunk, d, device=device), i)
        for i, (n, d) in enumerate(shapes.items())
    }
    given |= {n: torch.nn.functional.normalize(given[n], dim=-1) for n in ("k", "k_read")}
    given |= {n: given[n].sigmoid() for n in ("beta", "decay")}
    if repeated:
        given |= {"k": given["k"][..., :1, :].expand_as(given["k"]), "beta": given["beta"] * 0.01 + 0.99}
    left_out = {n for n, wanted in (("decay", decay), ("k_read", read)) if not wanted}
    given = {n: x.to(dtype) for n, x in given.items() if n not in left_out}

    def results(x: dict[str, Tensor]) -> Named:
        leaves = {n: t.detach().requires_grad_() for n, t in x.items()}
        outputs = algebra.wy(**leaves)
        return {**outputs, **gradients(outputs, leaves)}

    return errors(results, given, {n: x.double() for n, x in given.items()})


def errors(results: Callable[[Any], Named], given: Any, exact: Any) -> dict[str, Any]:
    """Of the kernels and of the plain form in the same precision, against the plain form in float64."""
    algebra.enable_kernels()
    taken = Taken()
    run = ChunkKernel.run

    def seen(kernel: ChunkKernel, *of_a_loop: Any) -> Any:
        taken.names.add("loop")
        return run(kernel, *of_a_loop)

    with decided_by(taken), patch.object(ChunkKernel, "run", seen):
        found = results(given)
    with decided_by(plainly):
        plain, wanted = results(given), results(exact)
    both = {"kernels": found, "plain": plain}
    return {"taken": sorted(taken.names)} | {form: relative_errors(x, wanted) for form, x in both.items()}


def too_large(case: dict[str, Any], bound: float) -> dict[str, float]:
    """Kernel errors beyond the bound and beyond twice what the plain form's own rounding gives."""
    return {n: x for n, x in case["kernels"].items() if not x <= max(bound, 2 * case["plain"][n])}


def over_draws(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """The same from several draws of the inputs: root mean squares of the errors.

    One draw says little in bfloat16: the plain form's own error in the gradient of gated_delta_net's A_log, a
    sum in which nearly all cancels, is 0.2 to 3.5% over eight draws.
    """
    mean = {
        form: {n: sum(case[form][n] ** 2 / len(cases) for case in cases) ** 0.5 for n in cases[0][form]}
        for form in ("kernels", "plain")
    }
    return {"taken": cases[0]["taken"], **mean}


PARTS = {"library": RULES, "operations": (*CORRECTED,), "others": (*MADE, *WHOLE)}


def interpreted(part: str) -> dict[str, dict[str, Any]]:
    """Cases in Triton's interpreter, tiny, in float32; memory that nobody writes to is NaN."""
    make_the_interpreter_count()
    torch.use_deterministic_algorithms(True)  # fills uninitialised memory with NaN
    cases = {f"rule {name}": loop_errors(name, TINY, torch.float32, "cpu") for name in PARTS[part]}
    if part == "others":
        for decay, read in itertools.product((False, True), repeat=2):
            case = wy_errors((16, 16, 32), decay, read, torch.float32, "cpu")
            cases[f"wy{' decay' * decay}{' k_read' * read}"] = case
        cases["wy repeated"] = wy_errors((32, 32, 32), False, False, torch.float32, "cpu", repeated=True)
    return cases


@pytest.mark.parametrize("part", PARTS)
def test_every_kernel_equals_its_plain_form_in_the_interpreter(part):
    cases = answer_of("tests.rules.test_kernels", part)
    assert len(cases) == len(PARTS[part]) + 5 * (part == "others")
    assert max(x for case in cases.values() for x in case["plain"].values()) < 1e-4  # else they say nothing
    wrong = {name: large for name, case in cases.items() if (large := too_large(case, 1e-5))}
    assert not wrong
    without = {n for n, case in cases.items() if n.startswith("rule ") and "loop" not in case["taken"]}
    assert without == set()
    assert all(case["taken"] for name, case in cases.items() if name.startswith("wy"))


def nan_lost() -> list[str]:
    """Rules whose kernel has a number where the plain form has NaN, of one value that is NaN."""
    make_the_interpreter_count()
    algebra.enable_kernels()
    lost = []
    for name in ("softmax", "adam", "topk_error", "layernorm_write", *CORRECTED):
        inputs = random_inputs(
            rule_of(name), length=32, key_width=16, value_width=16, dtype=torch.float32, spread=0.5
        )
        inputs.v[..., 5, 3] = torch.nan
        kernel = chunk_kernel(rule_of(name), 16, 16, 16)
        found, wanted = [], []
        for seen, decide in ((found, Taken()), (wanted, plainly)):
            with decided_by(decide):
                o, state = inputs.run(rule_of(name), None, 16, kernel)
            seen += [o, *(state[n] for n in state if n != "tokens")]
        assert wanted[0].isnan().any()
        if any((y.isnan() & ~x.isnan()).any() for x, y in zip(found, wanted, strict=True)):
            lost.append(name)
    return lost


def test_nan_goes_through_every_operation_of_a_kernel():
    assert answer_of("tests.rules.test_kernels", "nan") == []


OTHERS = {
    "delta_net": "",
    "softmax": "",
    "topk_error": "",
    "another rule": "0.9 * e",
    "another gradient": "0.5 * e + 0.5 * e.detach()",
    "infinite": "e / (e < 1)",
}
"""Kernels that stand in for that of delta_net, by expressions of `correct`; without, a rule's own."""


def refusals() -> dict[str, str]:
    """What `require_equal` says of the kernels of OTHERS; nothing where it takes them."""
    make_the_interpreter_count()
    algebra.enable_kernels()
    said = {}
    for name, expression in OTHERS.items():
        rule = get_rule("delta_net" if expression else name)
        made_of = corrected(expression) if expression else rule
        try:
            with decided_by(Taken()), patch.object(chunk_check, "SEQUENCES", 2):
                require_equal(chunk_kernel(made_of, 16, 16, 16), rule, torch.device("cpu"), torch.float32)
        except NoKernelError as error:
            said[name] = str(error)
    return said


def test_a_kernel_that_computes_something_else_than_its_rule_is_refused_before_it_trains():
    said = answer_of("tests.rules.test_kernels", "refusals")
    assert set(said) == {"another rule", "another gradient", "infinite"}
    assert all("does not compute its rule on this device: " in why for why in said.values())
    assert "gradient of" in said["another gradient"]
    assert "off by inf" in said["infinite"]


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (OutOfResources(300_000, 232_448, "shared memory"), True),
        (RuntimeError("PassManager::run failed"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (ValueError("a fault of ours"), False),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_kernel_that_no_compiler_takes_is_refused_and_other_errors_stay(monkeypatch, error, refused):
    def fail(*_: Any) -> None:
        raise error

    rule = get_rule("delta_net")
    monkeypatch.setattr("archer.rules.loop.kernels_for", lambda *_: True)
    monkeypatch.setattr("archer.rules.chunk_kernel._call", fail)
    expected = (
        pytest.raises(NoKernelError, match="cannot be compiled here: ")
        if refused
        else pytest.raises(type(error))
    )
    with expected:
        require_equal(chunk_kernel(rule, 16, 16, 16), rule, torch.device("cpu"), torch.bfloat16)


@pytest.mark.parametrize("name", [n for n in RULES if get_rule(n).features or get_rule(n).parameters])
def test_a_kernel_is_compared_in_the_precisions_that_it_trains_in(monkeypatch, name):
    """With others it would be compiled twice, and what trains would be the one that nobody compared."""
    seen: list[Any] = []

    def keep(kind: str, key: str, half: bool, given: Any, more: Any) -> None:
        seen.append((kind, key, half, [x.dtype for x in (*given, *more)]))

    monkeypatch.setattr("archer.rules.loop.kernels_for", lambda *_: True)
    monkeypatch.setattr("archer.rules.chunk_kernel._call", keep)
    rule = get_rule(name)
    mixer = RuleMixer(rule, 64, 2, 16)
    kernel = chunk_kernel(rule, 16, mixer.key_size, mixer.value_size)
    with pytest.raises(NoKernelError):  # nothing is computed
        require_equal(kernel, rule, torch.device("cpu"), torch.bfloat16)
    ahead, compared = seen[:2], seen[2:]
    assert ahead == compared  # compiled in the background, while the plain loop runs
    seen.clear()
    object.__setattr__(mixer, "kernel", kernel)
    parameters = {n: x.requires_grad_() for n, x in initialise(mixer.specs(), [0, 1]).items()}
    with torch.autocast("cpu", torch.bfloat16):
        mixer(parameters, torch.randn(2, 4, 32, 64, dtype=torch.bfloat16)).float().sum().backward()
    assert [call[0] for call in seen] == ["forward", "backward"]
    assert compared == seen


def test_every_operation_of_a_kernel_is_met_by_some_rule():
    met = set()
    for name in (*RULES, *CORRECTED):
        trace = trace_chunk(rule_of(name), 16, 16, 16)
        for graph in (trace.forward, trace.backward):
            names = [getattr(node.target, "__name__", "") for node in graph.nodes]
            met |= {name.split(".")[0] for name in names}
    assert {*POINTWISE, *OPERATIONS} - met <= ELSEWHERE


@pytest.mark.parametrize("name", REFUSED_WHOLE)
def test_a_rule_whose_state_is_not_what_it_declares_is_refused(name):
    source, reason = REFUSED_WHOLE[name]
    with pytest.raises(NoKernelError, match=re.escape(reason)):
        trace_chunk(load_rule(source, "whole", get_rule), 16, 16, 16)


@pytest.mark.parametrize("axis", ["e.dim() - 3", "0"])
def test_a_rule_whose_heads_see_each_other_is_refused(axis):
    """Without the axis of heads the first is -1: the trace would be of another rule."""
    with pytest.raises(NoKernelError, match="its heads see each other"):
        chunk_kernel(corrected(f"e - 0.5 * e.mean({axis}, keepdim=True)"), 16, 16, 16)


def test_chunks_of_another_length_do_not_fit_though_nothing_is_read_of_each_token():
    source = """parent = "delta_net"
def prepare(k, v):
    return {"m": v.mean(-2, keepdim=True), "n": k.mean(-2, keepdim=True)}
def step(S, m, n, causal):
    return causal.to(m).sum(-1, keepdim=True) * (m + n @ S), {"S": 0.5 * S + n.mT @ m}
"""
    kernel = chunk_kernel(load_rule(source, "means", get_rule), 16, 16, 16)
    prepared = {"m": torch.zeros(1, 1, 16), "n": torch.zeros(1, 1, 16)}
    S = torch.zeros(16, 16)
    assert kernel.fits({**prepared, "v": torch.zeros(1, 16, 16)}, S)
    assert not kernel.fits({**prepared, "v": torch.zeros(1, 5, 16)}, S)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_kernel_cannot_be_made_of_is_refused_with_the_reason(name):
    expression, reason = REFUSED[name]
    with pytest.raises(NoKernelError, match=re.escape(reason)):
        kernel_text(trace_chunk(corrected(expression), 16, 16, 16), name)


def test_lines_are_put_where_little_is_held_at_a_time():
    lines = [
        "a = tl.load(pa)", "b = tl.load(pb)", "c = a + a", "d = tl.dot(c, b)", "dead = b * b",
        "tl.store(pe, state)", "tl.store(pd, d)", "tl.store(pc, c)",
    ]  # fmt: skip
    assert arranged(lines, ["sum + b"]) == [
        "tl.store(pe, state)", "a = tl.load(pa)", "c = a + a", "tl.store(pc, c)", "b = tl.load(pb)",
        "d = tl.dot(c, b)", "tl.store(pd, d)",
    ]  # fmt: skip


@pytest.mark.parametrize(("size", "key", "value"), [(31, 32, 32), (32, 24, 32), (32, 32, 256)])
def test_sizes_that_no_block_can_have_are_refused(size, key, value):
    with pytest.raises(NoKernelError, match="16, 32, 64 or 128"):
        kernel_text(trace_chunk(get_rule("delta_net"), size, key, value), "delta_net")


def test_without_a_gpu_nothing_is_taken():
    algebra.enable_kernels()
    assert algebra.kernels_for(torch.zeros(2, 32, 32), 32, 32) is None


def test_products_are_as_narrow_as_the_sequence_whatever_prepare_returns(monkeypatch):
    """comba's queries come out of `prepare` in float32."""
    rule, halves = get_rule("comba"), []
    monkeypatch.setattr("archer.rules.loop.kernels_for", lambda *_: True)
    monkeypatch.setattr("archer.rules.chunk_kernel._call", lambda name, key, half, *_: halves.append(half))
    inputs = random_inputs(rule, length=32, key_width=16, value_width=16, dtype=torch.float32)
    o, _ = inputs.map(lambda x: x.bfloat16()).run(rule, None, 16, chunk_kernel(rule, 16, 16, 16))
    assert halves == [True]
    assert o.dtype == torch.bfloat16


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pytest.importorskip("triton", reason="the kernels need triton")
    return "cuda"


BOUNDS = {torch.float32: 2e-5, torch.bfloat16: 1e-2}
PRECISIONS = pytest.mark.parametrize("dtype", BOUNDS, ids=["float32", "bfloat16"])


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # of compilers, on machines that are not ours to choose
@PRECISIONS
@pytest.mark.parametrize("sizes", [REAL, WIDE], ids=["32 by 32", "32 by 64"])
@pytest.mark.parametrize("name", [name for names in PARTS.values() for name in names])
def test_on_a_gpu_every_rule_equals_its_plain_form(cuda, name, sizes, dtype):
    draws = range(6 if dtype == torch.bfloat16 else 1)
    case = over_draws([loop_errors(name, sizes, dtype, cuda, seed) for seed in draws])
    assert not too_large(case, BOUNDS[dtype])
    assert "loop" in case["taken"]


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # of compilers, on machines that are not ours to choose
@PRECISIONS
@pytest.mark.parametrize("read", [False, True], ids=["own keys", "read keys"])
@pytest.mark.parametrize("decay", [False, True], ids=["no decay", "decay"])
@pytest.mark.parametrize("sizes", WY_SIZES.values(), ids=WY_SIZES)
def test_on_a_gpu_wy_equals_its_plain_form(cuda, sizes, decay, read, dtype):
    case = wy_errors(sizes, decay, read, dtype, cuda, count=50)
    assert case["taken"]
    assert not too_large(case, BOUNDS[dtype])


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("dtype", [torch.bfloat16], ids=["bfloat16"])
@pytest.mark.parametrize("name", RULES)
def test_on_a_gpu_no_kernel_of_the_library_is_refused(cuda, name, dtype):
    algebra.enable_kernels()
    rule = get_rule(name)
    require_equal(chunk_kernel(rule, 32, 32, 32), rule, torch.device(cuda), dtype)


if __name__ == "__main__":
    wanted = {"nan": nan_lost, "refusals": refusals}.get(sys.argv[1], partial(interpreted, sys.argv[1]))
    print(json.dumps(wanted()))

"""The chunk loop: the one place where a rule runs.

Axes: [..., T, D] in and out; `...` is whatever the caller has (runs, batch, heads). Inside, the N full
chunks stand in front, [N, ..., C, D]; a shorter last chunk is handled at its own length. For chunk i:

    weights = similarity(q_i, k_i)          [C, C], causal
    e       = correct(u_i - w_i S)          [C, Dv]
    o_i     = read(q_i S) + weights e       [C, Dv]
    S       = retain(S) + write(k_iᵀ e)     [Dk, Dv]
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from archer.rules.algebra import kernels_for
from archer.rules.rule import LOOPS_OWN, PREPARED, Rule, RuleError

if TYPE_CHECKING:
    from archer.rules.chunk_kernel import ChunkKernel

DICTIONARY = (
    "expected a dictionary with `u` and `w`, such as `wy(k, v, beta)`, or more: `{**wy(k, v, beta), ...}`"
)
Values = dict[str, Any]
State = dict[str, Tensor]


def chunk_loop(
    rule: Rule,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    features: Mapping[str, Tensor] | None = None,
    parameters: Mapping[str, Tensor] | None = None,
    state: State | None = None,
    chunk_size: int = 32,
    kernel: ChunkKernel | None = None,
) -> tuple[Tensor, State]:
    """Runs a rule over sequences.

    q, k [..., T, Dk] (q not yet scaled), v [..., T, Dv], beta [..., T, 1], each feature [..., T, width],
    each parameter (its value, not its stored form) [..., rows, columns]. Inputs in bfloat16 mean mixed
    precision: products in bfloat16, the state and the inverse in float32. state: what an earlier call
    returned; its token count must be a multiple of the chunk size. kernel: made of this rule's slots
    (`archer.rules.chunk_kernel`), for whole chunks on a GPU. Returns o [..., T, Dv] and the state:
    S [..., Dk, Dv], the rule's carried values, and `tokens`, the number of tokens seen (a scalar tensor).
    """
    with mixed_precision(q.device, q.dtype):
        return _chunk_loop(rule, q, k, v, beta, features or {}, parameters or {}, state, chunk_size, kernel)


def _chunk_loop(
    rule: Rule,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    features: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    state: State | None,
    chunk_size: int,
    kernel: ChunkKernel | None,
) -> tuple[Tensor, State]:
    length = q.shape[-2]
    sequence = {"q": q * q.shape[-1] ** -0.5, "k": k, "v": v, "beta": beta, **features}
    state = initial_state(rule, q, v) if state is None else dict(state)
    start = state.pop("tokens", torch.zeros((), device=q.device))
    outputs = []
    whole = length - length % chunk_size
    for first, stop, size in ((0, whole, chunk_size), (whole, length, length - whole)):
        if stop == first:
            continue
        chunks = {name: to_chunks(x[..., first:stop, :], size) for name, x in sequence.items()}
        o, state = _run_chunks(rule, chunks, dict(parameters), state, start + first, kernel)
        outputs.append(from_chunks(o))
    o = torch.cat(outputs, dim=-2) if outputs else torch.zeros_like(v)
    return o, {**state, "tokens": start + length}


def chunk_loop_on_chunks(
    rule: Rule,
    chunks: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    kernel: ChunkKernel | None = None,
) -> tuple[Tensor, State]:
    """As `chunk_loop`, from the first token on, for what lies in chunks already: [N, ..., C, D].

    chunks: "q" (already divided by √Dk), "k", "v", "beta" and the features. Returns o [N, ..., C, Dv] and the
    state.
    """
    q, v = chunks["q"], chunks["v"]
    with mixed_precision(q.device, q.dtype):
        start = torch.zeros((), device=q.device)
        state = initial_state(rule, q[0], v[0])
        o, state = _run_chunks(rule, dict(chunks), dict(parameters), state, start, kernel)
    return o, {**state, "tokens": start + q.shape[0] * q.shape[-2]}


def mixed_precision(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Products in this precision where it is half, in their own where not.

    What is so already is left alone: PyTorch keeps no compiled code that changes it between processes.
    """
    half = dtype in (torch.bfloat16, torch.float16)
    if torch.is_autocast_enabled(device.type) == half and (
        not half or torch.get_autocast_dtype(device.type) == dtype
    ):
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype, enabled=half)


def initial_state(rule: Rule, q: Tensor, v: Tensor) -> State:
    """The state before the first token: S and whatever else the rule carries. Float32 at least."""
    dtype = torch.promote_types(v.dtype, torch.float32)
    sizes = {"1": 1, "Dk": q.shape[-1], "Dv": v.shape[-1]}
    leading = v.shape[:-2]
    state = {"S": v.new_zeros(*leading, sizes["Dk"], sizes["Dv"], dtype=dtype)}
    for name, carried in rule.carries.items():
        shape = (*leading, sizes[carried.rows], sizes[carried.columns])
        state[name] = v.new_full(shape, carried.initial, dtype=dtype)
    return state


def prepare_chunks(rule: Rule, chunks: Values, parameters: Values, start: Tensor) -> Values:
    """All that does not depend on the state, for all chunks at once: u, w, scores and, mostly, weights."""
    count, size = chunks["q"].shape[0], chunks["q"].shape[-2]
    values = {**chunks, **parameters, **_constants(count, size, chunks["q"], start)}
    return with_weights(rule, values | check_prepared(rule, _call(rule, "prepare", values)))


def with_weights(rule: Rule, values: Values) -> Values:
    """What `prepare` gave, and what the loop makes of it: scores, second names, and mostly weights."""
    scores = values["q"] @ values["k"].mT
    values = {"q_read": values["q"], "k_write": values["k"], **values, "scores": scores}
    if "step" not in rule.slots and not _depends_on_state(rule, "similarity"):
        values["weights"] = _weights(rule, values)
    return values


def check_prepared(rule: Rule, returned: Values) -> Values:
    """What `prepare` returned: a dictionary of tensors, u and w among them where no `step` does without.

    Raises RuleError for anything else, and for a name that the loop itself makes.
    """
    said = f"rule {rule.name}: slot `prepare` returned "
    if not isinstance(returned, dict):
        raise RuleError(f"{said}{described(returned)}; {DICTIONARY}")
    fixed = [name for name in (*LOOPS_OWN, *rule.carries) if name in returned]
    if fixed:
        raise RuleError(
            f"{said}`{fixed[0]}`, which the loop itself makes; it may return {', '.join(PREPARED)}, or a "
            "name of its own"
        )
    missing = [name for name in ("u", "w") if name not in returned and "step" not in rule.slots]
    if missing:
        raise RuleError(f"{said}no `{missing[0]}`; {DICTIONARY}")
    for name, value in returned.items():
        if not isinstance(value, Tensor):
            raise RuleError(f"{said}{described(value)} as `{name}`; a tensor was expected")
    return returned


def described(returned: Any) -> str:
    """What a slot returned instead of what was expected of it, in words."""
    if returned is None:
        return "nothing (does it end with `return`?)"
    if isinstance(returned, Tensor):
        return f"a tensor of the shape {list(returned.shape)}"
    return f"a {type(returned).__name__}"


def run_chunk(rule: Rule, values: Values, state: State) -> tuple[Tensor, State]:
    """One chunk: o [..., C, Dv] and the next state. values: one chunk of what `prepare_chunks` gave."""
    values = {**values, **state}
    if "step" in rule.slots:
        returned = _call(rule, "step", values)
        _require_pair(rule, "step", returned)
        o, changed = returned
        _require_declared(rule, "step", changed, {"S", *rule.carries})
        return o, {**state, **changed}
    S = values["S"]
    if "weights" not in values:
        values["weights"] = _weights(rule, values)
    values["e"] = values["u"] - values["w"] @ S
    values["e"] = _kept(rule, "correct", values)
    values["o"] = values["q_read"] @ S
    o = _kept(rule, "read", values) + values["weights"] @ values["e"]
    if "G" in rule.arguments("write"):
        values["G"] = values["k_write"].mT @ values["e"]
    if "keep" in values:
        values["S"] = values["keep"] * S
    retained = _kept(rule, "retain", values)
    S = retained + _kept(rule, "write", values)
    return o, {"S": S, **{name: values[name] for name in state if name != "S"}}


def _run_chunks(
    rule: Rule, chunks: Values, parameters: Values, state: State, start: Tensor, kernel: ChunkKernel | None
) -> tuple[Tensor, State]:
    prepared = prepare_chunks(rule, chunks, parameters, start)
    if kernel is not None and kernel.fits(prepared, state["S"]) and kernels_for(chunks["q"]) is not None:
        return kernel.run(prepared, parameters, state, chunks["q"].dtype)
    return run_prepared(rule, prepared, parameters, state)


def run_prepared(rule: Rule, prepared: Values, parameters: Values, state: State) -> tuple[Tensor, State]:
    """All chunks of what `prepare_chunks` gave, one after the other: o [N, ..., C, Dv] and the last state."""
    count, axes = prepared["q"].shape[0], prepared["q"].dim()
    whole = {n: x for n, x in prepared.items() if x is parameters.get(n) or n == "causal"}
    # unbind, not x[index]: its gradient is one stack, where N selections would each fill a tensor of all N
    per_chunk = {n: _for_each_chunk(x, count, axes).unbind() for n, x in prepared.items() if n not in whole}
    outputs = []
    for index in range(count):
        o, state = run_chunk(rule, {**whole, **{n: x[index] for n, x in per_chunk.items()}}, state)
        outputs.append(o)
    return torch.stack(outputs), state


def _for_each_chunk(x: Tensor, count: int, axes: int) -> Tensor:
    """[N, ..., C, D] also for what was made of parameters or constants alone, which lacks the axis N."""
    x = x.reshape((1,) * (axes - x.dim()) + tuple(x.shape))
    return x.expand(count, *x.shape[1:])


def _weights(rule: Rule, values: Values) -> Tensor:
    weights = _call(rule, "similarity", values)
    return weights * values["decay"] if "decay" in values else weights


def _constants(count: int, size: int, like: Tensor, start: Tensor) -> Values:
    position = start + torch.arange(count * size, device=like.device, dtype=torch.float32)
    causal = torch.ones(size, size, dtype=torch.bool, device=like.device).tril()
    axes = (1,) * (like.dim() - 3)
    return {"position": position.view(count, *axes, size, 1), "causal": causal}


def _depends_on_state(rule: Rule, slot: str) -> bool:
    return bool({"S", "e", "o", "G", *rule.carries} & set(rule.arguments(slot)))


def _call(rule: Rule, slot: str, values: Values) -> Any:
    names = rule.arguments(slot)
    missing = [name for name in names if name not in values]
    if missing:
        raise RuleError(
            f"rule {rule.name}: slot `{slot}` asks for `{missing[0]}`, which does not exist at that point "
            f"of the loop; there it may ask for {', '.join(sorted(values))}"
        )
    return rule.slots[slot](**{name: values[name] for name in names})


def _kept(rule: Rule, slot: str, values: Values) -> Any:
    """A slot returns its value, or its value and a dictionary of carried values, which are kept."""
    returned = _call(rule, slot, values)
    if isinstance(returned, tuple):
        _require_pair(rule, slot, returned)
        _require_declared(rule, slot, returned[1], rule.carries)
        values.update(returned[1])
        return returned[0]
    return returned


def _require_pair(rule: Rule, slot: str, returned: Any) -> None:
    if not isinstance(returned, tuple) or len(returned) != 2:
        what = f"{len(returned)} values" if isinstance(returned, tuple) else described(returned)
        wanted = (
            "o and the states by name, as in `return o, {'S': S}`"
            if slot == "step"
            else "its matrix, or its matrix and a dictionary of carried states by name"
        )
        raise RuleError(f"rule {rule.name}: slot `{slot}` returned {what}; expected {wanted}")


def _require_declared(rule: Rule, slot: str, returned: Any, declared: Collection[str]) -> None:
    if not isinstance(returned, dict):
        raise RuleError(
            f"rule {rule.name}: slot `{slot}` returned two values, the second a {type(returned).__name__}; "
            "expected its matrix, or its matrix and a dictionary of carried states by name"
        )
    unknown = [name for name in returned if name not in declared]
    if unknown:
        raise RuleError(
            f"rule {rule.name}: slot `{slot}` returned `{unknown[0]}` as a state, which nobody declares; "
            f"declare `{unknown[0]} = Carried()` at the top of the file, or return the matrix alone"
        )


def to_chunks(x: Tensor, size: int) -> Tensor:
    """[..., N * C, D] to [N, ..., C, D]."""
    return x.unflatten(-2, (-1, size)).movedim(-3, 0).contiguous()


def from_chunks(x: Tensor) -> Tensor:
    """[N, ..., C, D] to [..., N * C, D]."""
    return x.movedim(0, -3).flatten(-3, -2)

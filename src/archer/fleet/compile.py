"""Compiled regions: the parts of a model, each compiled once per shape of one member, for fleets of any size,
and kept on disk between processes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from archer.fleet.run import Run
from archer.model.backbone import Model, Region
from archer.model.mixer import ModuleMixer, RuleMixer
from archer.rules.launch import compiled_only

RECOMPILATIONS = 1000
"""How many shapes and rules one process may compile for; PyTorch gives up on a function after 8."""


def compiler(exact: bool = False) -> Region:
    """Wraps a model's parts so that each is compiled, once per shape (and, for the mixer, per rule); on a GPU
    those that no rule changes are kernels that are compiled once for all shapes (`archer.fleet.fixed`).

    exact: on a GPU, for float32: a member's numbers are the same to the last bit in fleets of every size from
    two rows on. Slower: see `archer.fleet.products`.
    """
    torch._dynamo.config.recompile_limit = RECOMPILATIONS
    torch._dynamo.config.accumulated_recompile_limit = RECOMPILATIONS
    _keep_custom_gradients()
    if exact:
        return lambda function, name: _exactly_compiled(function)
    return _part


@dataclass(frozen=True)
class Trouble:
    """What a fleet can go on after. kind: "memory" did not suffice, the card cannot take our "kernels",
    PyTorch's "compiler" cannot do something. why: in a line."""

    kind: str
    why: str


FAILED_BELOW_TRITON = "PassManager::run failed"
"""What a RuntimeError of Triton's compiler says: 3.2 cannot compile the WY form's gradient in bf16."""


def trouble_of(error: Exception) -> Trouble | None:
    """What kind of trouble an error is; None where it is none of these."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = " ".join(lines[:2])[:300] or type(error).__name__
    if isinstance(error, torch.OutOfMemoryError):
        return Trouble("memory", why)
    if type(error).__module__.partition(".")[0] == "triton" or FAILED_BELOW_TRITON in str(error):
        return Trouble("kernels", why)
    compilers = sys.modules.get("torch._dynamo.exc")
    if compilers is not None and isinstance(error, compilers.TorchDynamoException):
        return Trouble("compiler", why)
    return None


def compile_kernels(model: Model, run: Run, device: torch.device) -> None:
    """Has the kernels that a training step of such runs needs compiled in the background, several at a time:
    goes through a step in which none is started, and PyTorch's compiler asked for nothing. What a rule raises
    there, where it is given random numbers, is not raised: in training it will meet what it meets.

    Left out are the chunk loop's, which are made later (`RuleMixer.make_kernel`), and modules.
    """
    parts = {"mixer": _mix_nothing} if not isinstance(model.mixer, RuleMixer) else {}
    if run.recipe.precision == "bf16":  # in float32 these parts are compiled by PyTorch
        parts |= fixed_parts()
    parameters = {
        name: value.to(device).requires_grad_()
        for name, value in model.initial_parameters([run.seed, run.seed]).items()
    }
    tokens = torch.zeros(2, run.recipe.batch_size, run.padded_length, dtype=torch.long, device=device)
    with suppress(Exception), compiled_only(fill=True):
        with torch.autocast(device.type, torch.bfloat16, enabled=run.recipe.precision == "bf16"):
            logits = model.logits(parameters, tokens, lambda function, name: parts.get(name, function))
        losses = parts["loss"](logits, tokens)[0] if "loss" in parts else logits.float()
        torch.autograd.grad(losses.sum(), list(parameters.values()), materialize_grads=True)


def _mix_nothing(*given: Any) -> Any:
    return given[-1]


def forget_what_is_compiled() -> None:
    """Everything is compiled anew from here on: what it was compiled of has changed."""
    torch._dynamo.reset()
    _compiled.cache_clear()
    _exactly_compiled.cache_clear()


def _keep_custom_gradients() -> None:
    """Lets the cache on disk hold functions with a gradient of their own, as the mixer's are: without, the
    mixer is traced, partitioned and looked up anew by every process. No option of older versions of PyTorch.
    """
    from torch._functorch import config

    if hasattr(config, "autograd_cache_allow_custom_autograd_functions"):
        config.autograd_cache_allow_custom_autograd_functions = True


def _part(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """What stands in for a part of the model; the last thing given says where it is computed."""
    plain = function if name == "embed" else _compiled(function)  # one look-up is quick uncompiled

    def call(*given: Any) -> Any:
        fixed = fixed_parts().get(name) if given[-1].is_cuda else None
        return (fixed or plain)(*given)

    return call


@cache
def fixed_parts() -> dict[str, Callable[..., Any]]:
    """The kernels for parts that no rule changes, by the parts' names; none without Triton."""
    if find_spec("triton") is None:
        return {}
    from archer.fleet.fixed import PARTS

    return PARTS


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(function, dynamic=False)

    def call(*given: Any) -> Any:
        _leave_open_how_many_members(given)
        return compiled(*given)

    return call


@cache
def _exactly_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled for two members, whoever comes first: how a sum is divided is decided by the size that is seen
    when compiling, and stays for all others."""
    compiled = torch.compile(function, dynamic=False, options=_exact_options())
    seen: set[Any] = set()

    def call(*given: Any) -> Any:
        shape = _shape_of_one(given)
        if shape not in seen and not _has_a_module(given):
            seen.add(shape)
            pair = _pair(given)
            _leave_open_how_many_members(pair)
            compiled(*pair)
        _leave_open_how_many_members(given)
        return compiled(*given)

    return call


def _exact_options() -> dict[str, Any]:
    """For Inductor: nothing is decided by timing, and products have one way of adding up."""
    from torch._inductor import config

    from archer.fleet.products import ONE_WAY

    wanted = {"deterministic": True, "shape_padding": False, "post_grad_custom_pre_pass": ONE_WAY}
    return {name: value for name, value in wanted.items() if hasattr(config, name)}


def _shape_of_one(given: Any) -> Any:
    """What a region is compiled anew for: shapes without the first axis, strides, kinds, and which mixer."""
    if isinstance(given, torch.Tensor):
        return given.shape[1:], given.stride()[1:], given.dtype, given.requires_grad, torch.is_grad_enabled()
    if isinstance(given, tuple | dict):
        return tuple(map(_shape_of_one, given.values() if isinstance(given, dict) else given))
    return id(given)


def _pair(given: Any) -> Any:
    """The same for the first two members, cut off from whatever made it."""
    if isinstance(given, torch.Tensor):
        return given[:2].detach().requires_grad_(given.requires_grad)
    if isinstance(given, tuple):
        return tuple(map(_pair, given))
    return {name: _pair(x) for name, x in given.items()} if isinstance(given, dict) else given


def _leave_open_how_many_members(given: Any) -> None:
    """Marks the first axis of all tensors as one that may change: a fleet that shrinks, and one of another
    size, need no compilation of their own. Where a function fixes the number all the same, it is compiled
    anew for another one. So are modules, which run under vmap: some of its rules (linear's, on a GPU with
    PyTorch 2.11) know no sizes that may change, and tracing ends there.
    """
    if isinstance(given, torch.Tensor):
        torch._dynamo.maybe_mark_dynamic(given, 0)
    elif isinstance(given, tuple | dict) and not _has_a_module(given):
        for one in given.values() if isinstance(given, dict) else given:
            _leave_open_how_many_members(one)


def _has_a_module(given: Any) -> bool:
    return isinstance(given, tuple) and any(isinstance(one, ModuleMixer) for one in given)

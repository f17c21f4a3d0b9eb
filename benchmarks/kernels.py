"""Times the mixer's Triton kernels one by one, after checking them, beside what the device's memory can do.

    python benchmarks/kernels.py [--rules delta_net,softmax,gated_delta_net] [--members 48] [--length 128]

For each rule the outputs and gradients of its chunk loop are compared with the plain form in float64. Then
one training step of a fleet is run, its kernels are recorded with what they were given, and each is called
again, alone: milliseconds a call (the fastest of ten), how often a step calls it, and the bytes of all that
it is given and makes, as a share of what a large copy in the same process moves in that time. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from archer.fleet.fleet import Fleet
from archer.fleet.train import build_model
from archer.rules import algebra, chunk_loop, get_rule, loop
from archer.rules.chunk_kernel import chunk_kernel
from archer.rules.inputs import random_inputs
from fleet import best_seconds, ceilings, make_runs, random_examples, step

BOUND = 0.02
"""Of relative errors, or twice what the plain form's own rounding gives: in bfloat16 the gradient of
gated_delta_net's A_log, a sum in which nearly all cancels, is up to 3.5% off in one draw."""


def relative_errors(rule: str, dtype: torch.dtype, device: str) -> dict[str, tuple[float, float]]:
    """|found - wanted| / |wanted| of outputs, last state and every gradient: of the kernels, and of the plain
    form in the same precision. Wanted is the plain form in float64."""
    value = 64 if get_rule(rule).layer.expand_value > 1 else 32
    inputs = random_inputs(
        get_rule(rule), 0, leading=(64,), length=128, key_width=32, value_width=value, dtype=torch.float32,
        spread=0.5, device=device,
    )  # fmt: skip
    kernel = chunk_kernel(get_rule(rule), 32, 32, value)
    out = torch.randn(inputs.v.shape, generator=torch.Generator().manual_seed(0)).double().to(device)

    def results(kind: torch.dtype) -> dict[str, torch.Tensor]:
        leaves = {n: x.to(dtype).to(kind).requires_grad_() for n, x in inputs.tensors().items()}
        sequence = [leaves[n] for n in ("q", "k", "v", "beta")]
        named = [{n: leaves[n] for n in given} for given in (inputs.features, inputs.parameters)]
        o, state = chunk_loop(get_rule(rule), *sequence, *named, kernel=kernel)
        gradients = torch.autograd.grad((o * out.to(o.dtype)).sum(), list(leaves.values()))
        return {"o": o, "S": state["S"]} | {f"d{n}": g for n, g in zip(leaves, gradients, strict=True)}

    wanted, found = results(torch.float64), results(dtype)  # float64 never takes the kernels
    with (
        patch.object(algebra, "kernels_for", lambda *_: None),
        patch.object(loop, "kernels_for", lambda *_: None),
    ):
        plain = results(dtype)

    def error(of: torch.Tensor, name: str) -> float:
        return ((of.double() - wanted[name]).norm() / wanted[name].norm()).item()

    return {name: (error(found[name], name), error(plain[name], name)) for name in wanted}


@dataclass
class Call:
    """One kernel as a training step calls it. count: how often. bytes: of all that it is given and makes."""

    run: Callable[[], Any]
    bytes: int
    count: int = 1


@dataclass
class Recorder(TorchDispatchMode):
    """Keeps the first call of each of our kernels, with its arguments."""

    calls: dict[str, Call] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if function.namespace == "archer":
            name = function.name().partition("::")[2]
            if name in self.calls:
                self.calls[name].count += 1
            else:
                tensors = [x for x in tree_leaves((args, made)) if isinstance(x, torch.Tensor)]
                moved = sum(x.numel() * x.element_size() for x in tensors)
                self.calls[name] = Call(lambda: function(*args, **(kwargs or {})), moved)
        return made


def recorded(rule: str, members: int, length: int, device: torch.device) -> dict[str, Call]:
    """The kernels of one training step of a fleet that is not compiled."""
    runs = make_runs(rule, members, length, "bf16")
    fleet = Fleet.start(build_model(runs[0]), runs, random_examples, device)
    with Recorder() as recorder:
        step(fleet, 0)
    return recorder.calls


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rules", default="delta_net,softmax,gated_delta_net")
    parser.add_argument("--members", type=int, default=48)
    parser.add_argument("--length", type=int, default=128, help="tokens as trained")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/kernels.py needs a CUDA device; this machine has none")
    device = torch.device("cuda")
    algebra.enable_kernels()
    limit = ceilings(device)["gb_per_second"]
    rows, errors = [], {}
    for rule in arguments.rules.split(","):
        for dtype in (torch.float32, torch.bfloat16):
            found = relative_errors(rule, dtype, "cuda")
            wrong = {name: both for name, both in found.items() if not both[0] < max(BOUND, 2 * both[1])}
            assert not wrong, f"{rule}, {dtype}: errors of kernels and plain form {wrong}"
            errors[f"{rule} {dtype}"] = {name: of_kernels for name, (of_kernels, _) in found.items()}
        for name, call in recorded(rule, arguments.members, arguments.length, device).items():
            seconds = best_seconds(call.run, device)
            rate = call.bytes / seconds / 1e9
            rows.append(
                {"rule": rule, "kernel": name, "ms": seconds * 1e3, "calls": call.count,
                 "gb": call.bytes / 1e9, "gb_per_second": rate, "share_of_copy": rate / limit}
            )  # fmt: skip
            print({n: round(x, 4) if isinstance(x, float) else x for n, x in rows[-1].items()}, flush=True)
    print(
        json.dumps(
            {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "members": arguments.members,
             "length": arguments.length, "kernels": rows, "relative_errors": errors}
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()

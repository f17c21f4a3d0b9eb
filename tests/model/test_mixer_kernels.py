"""The kernel before the chunk loop against the plain layers: in Triton's interpreter, and on a GPU.

The reference is the same token mixer in float64, which takes no kernel. Compared are the relative errors
|found - wanted| / |wanted| of the output and of the gradients of all parameters and of the input.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tests.interpreter import answer_of, make_the_interpreter_count
from torch import Tensor

import archer.model.mixer
from archer.model.mixer import RuleMixer
from archer.model.parameters import initialise
from archer.rules import algebra, get_rule


@dataclass(frozen=True)
class Sizes:
    runs: int
    batch: int
    length: int
    width: int
    heads: int
    chunk: int


CASES = {
    "two segments": ("delta_net", Sizes(runs=2, batch=3, length=32, width=32, heads=2, chunk=16)),
    "many segments": ("delta_net", Sizes(runs=1, batch=2, length=96, width=32, heads=2, chunk=32)),
    "wide values": ("gated_delta_net", Sizes(runs=2, batch=2, length=48, width=32, heads=2, chunk=16)),
    "tiles of the batch": ("delta_net", Sizes(runs=2, batch=5, length=16, width=32, heads=1, chunk=16)),
}
TILE, SEGMENT = 64, 24
"""So small that a program takes two or four sequences, and that most lengths are several segments, of which
the last is shorter."""


def make(name: str, sizes: Sizes, device: str) -> tuple[RuleMixer, dict[str, Tensor], Tensor]:
    """A mixer, its parameters moved away from their first values, and an input."""
    mixer = RuleMixer(get_rule(name), sizes.width, sizes.heads, sizes.chunk)
    generator = torch.Generator().manual_seed(3)
    parameters = {
        n: x + 0.1 * torch.randn(x.shape, generator=generator)
        for n, x in initialise(mixer.specs(), list(range(sizes.runs))).items()
    }
    x = torch.randn(sizes.runs, sizes.batch, sizes.length, sizes.width, generator=generator)
    return mixer, {n: p.to(device) for n, p in parameters.items()}, x.to(device)


def results(
    mixer: RuleMixer, parameters: dict[str, Tensor], x: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Output and gradients; bfloat16 means mixed precision."""
    exact = torch.float32 if dtype == torch.bfloat16 else dtype
    leaves = {n: p.to(exact).detach().requires_grad_() for n, p in {**parameters, "x": x}.items()}
    with torch.autocast(x.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = mixer({n: p for n, p in leaves.items() if n != "x"}, leaves["x"])
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    found = torch.autograd.grad((y * weights).sum(), list(leaves.values()))
    return {"y": y, **dict(zip(leaves, found, strict=True))}


def errors(name: str, sizes: Sizes, dtype: torch.dtype, device: str) -> dict[str, float]:
    mixer, parameters, x = make(name, sizes, device)
    found, wanted = results(mixer, parameters, x, dtype), results(mixer, parameters, x, torch.float64)
    distances = {n: (found[n].double() - wanted[n]).norm() / wanted[n].norm() for n in wanted}
    return {n: x.item() if x.isfinite() else 1e9 for n, x in distances.items()}


def interpreted() -> dict[str, dict[str, float]]:
    """All cases in Triton's interpreter; memory that nobody writes to is NaN."""
    import archer.model.kernels as kernels

    make_the_interpreter_count()
    torch.use_deterministic_algorithms(True)
    algebra.enable_kernels()
    decide, taken = algebra.kernels_for, []

    def as_on_a_gpu(*given: Any) -> Any:
        with patch.object(torch.Tensor, "is_cuda", True):
            taken.append(decide(*given))
        return taken[-1]

    with (
        patch.object(archer.model.mixer, "kernels_for", as_on_a_gpu),
        patch.multiple(kernels, TILE=TILE, SEGMENT=SEGMENT),
    ):
        found = {case: errors(name, sizes, torch.float32, "cpu") for case, (name, sizes) in CASES.items()}
    assert any(taken)
    return found


def test_the_kernel_equals_the_plain_layers_in_the_interpreter():
    pytest.importorskip("triton", reason="the kernels need triton: pip install triton")
    found = answer_of("tests.model.test_mixer_kernels")
    assert set(found) == set(CASES)
    wrong = {(case, n): x for case, of in found.items() for n, x in of.items() if not x < 1e-5}
    assert not wrong


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)], ids=["float32", "bf16"]
)
@pytest.mark.parametrize("name", ["delta_net", "gated_delta_net"])
def test_on_a_gpu_the_kernel_equals_the_plain_layers(name, dtype, bound):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    algebra.enable_kernels()
    sizes = Sizes(runs=3, batch=20, length=160, width=128, heads=4, chunk=32)
    found = errors(name, sizes, dtype, "cuda")
    assert {n: x for n, x in found.items() if not x < bound} == {}


if __name__ == "__main__":
    print(json.dumps(interpreted()))

"""Products with one way of adding up: their numbers in Triton's interpreter, and their place in a graph."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from tests.interpreter import answer_of
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

pytest.importorskip("triton", reason="the kernel needs triton: pip install triton")

from archer.fleet.products import ONE_WAY, product

SHAPES = {
    "one tile": (3, 32, 32, 32),
    "several tiles": (2, 96, 70, 130),
    "a long sum": (1, 16, 1000, 48),
    "odd": (2, 5, 3, 1),
    "nothing": (2, 0, 4, 4),
}


def operands(shape: tuple[int, ...], transposed: bool) -> tuple[Tensor, Tensor]:
    """[L, M, K] and [L, K, N] of a shape L, M, K, N; the first may lie in memory as its transpose."""
    count, rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(count, inner, rows, generator=generator).mT if transposed else None
    a = torch.randn(count, rows, inner, generator=generator) if a is None else a
    return a, torch.randn(count, inner, columns, generator=generator)


def interpreted() -> dict[str, float]:
    """Largest distance from the product in float64, by case; 1e9 where a member depends on its neighbours."""
    torch.use_deterministic_algorithms(True)  # memory that nobody writes to is NaN
    found = {}
    for case, shape in SHAPES.items():
        for transposed in (False, True):
            a, b = operands(shape, transposed)
            made = product(a, b)
            distance = (made - a.double() @ b.double()).abs().max().item() if made.numel() else 0.0
            alone = torch.stack([product(x, y) for x, y in zip(a, b, strict=True)])
            same = torch.equal(made, alone) and made.shape == (a @ b).shape
            found[f"{case}, transposed {transposed}"] = distance if same else 1e9
    return {**found, "all forms in a graph": distance_of_graphs()}


def test_the_product_is_right_and_one_is_computed_as_it_is_among_many() -> None:
    found = answer_of("tests.fleet.test_products")
    assert len(found) == 2 * len(SHAPES) + 1
    assert {case: x for case, x in found.items() if not x < 1e-4} == {}


def work(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Every form of product."""
    batched = torch.baddbmm(bias, a, b, beta=0.5, alpha=2.0) + a @ b
    return torch.addmm(bias, batched[0], b[0]) + batched[0] @ b[1]


def replaced(device: str, kind: torch.dtype) -> torch.fx.GraphModule:
    """The graph of `work` after the replacement, traced on the processor for another device."""
    module = make_fx(work)(*(torch.zeros(*shape) for shape in ((8,), (2, 8, 8), (2, 8, 8))))
    for node in module.graph.nodes:
        node.meta["val"] = SimpleNamespace(device=torch.device(device), dtype=kind)
    ONE_WAY(module.graph)
    module.graph.lint()
    module.recompile()
    return module


def distance_of_graphs() -> float:
    """Between what `work` computes and what it computes after the replacement."""
    generator = torch.Generator().manual_seed(1)
    given = [torch.randn(*shape, generator=generator) for shape in ((8,), (2, 8, 8), (2, 8, 8))]
    return (replaced("cuda", torch.float32)(*given) - work(*given)).abs().max().item()


def targets(device: str, kind: torch.dtype) -> list[str]:
    return [str(node.target) for node in replaced(device, kind).graph.nodes if node.op == "call_function"]


def test_all_products_in_float32_on_a_gpu_are_replaced() -> None:
    found = targets("cuda", torch.float32)
    assert found.count("archer.product.default") == 4
    assert not [name for name in found if "mm" in name]


@pytest.mark.parametrize(("device", "kind"), [("cpu", torch.float32), ("cuda", torch.bfloat16)])
def test_others_are_left_alone(device: str, kind: torch.dtype) -> None:
    found = targets(device, kind)
    assert "archer.product.default" not in found
    assert sorted(name for name in found if "mm" in name) == sorted(
        ["aten.addmm.default", "aten.baddbmm.default", "aten.bmm.default", "aten.mm.default"]
    )


if __name__ == "__main__":
    print(json.dumps(interpreted()))

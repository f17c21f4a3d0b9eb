"""Products in float32 on GPUs whose every number is added up in one order, however many products there are.

cuBLAS chooses another algorithm for another number of products, so that a member's last bits would depend on
the size of its fleet, and training makes 1e-4 of them. Here each tile of each product is one program that
goes through the inner axis from its start to its end. `ONE_WAY` puts this product in the place of all others
in what Inductor compiles, forward and backward. It is slower than cuBLAS: for `precision="fp32"` alone.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

from archer.rules.launch import launch

aten = torch.ops.aten


@triton.jit
def _multiply(
    a, b, c, M, N, a_batch, a_row, a_column, b_batch, b_row, b_column,
    K: tl.constexpr, TILE: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    index, across = tl.program_id(0).to(tl.int64), tl.cdiv(N, TILE)
    rows = ((tl.program_id(1) // across) * TILE + tl.arange(0, TILE)).to(tl.int64)[:, None]
    columns = ((tl.program_id(1) % across) * TILE + tl.arange(0, TILE)).to(tl.int64)[None, :]
    inner = tl.arange(0, STEP).to(tl.int64)
    total = tl.zeros((TILE, TILE), tl.float32)
    for start in range(0, K, STEP):
        along = start + inner
        left = tl.load(
            a + index * a_batch + rows * a_row + along[None, :] * a_column,
            mask=(rows < M) & (along[None, :] < K), other=0.0,
        )  # fmt: skip
        right = tl.load(
            b + index * b_batch + along[:, None] * b_row + columns * b_column,
            mask=(along[:, None] < K) & (columns < N), other=0.0,
        )  # fmt: skip
        total += tl.dot(left, right, input_precision="ieee")
    tl.store(c + (index * M + rows) * N + columns, total, mask=(rows < M) & (columns < N))


@torch.library.custom_op("archer::product", mutates_args=())
def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32: [M, K] and [K, N], or [L, M, K] and [L, K, N], of any strides."""
    c = _like(a, b)
    left, right = (x if x.dim() == 3 else x[None] for x in (a, b))
    (count, rows, inner), columns = left.shape, right.shape[2]
    tile = 64 if min(rows, columns) > 32 else 32
    if c.numel():
        launch(
            _multiply, (count, -(-rows // tile) * -(-columns // tile)), left, right, c, rows,
            columns, *left.stride(), *right.stride(), K=inner, TILE=tile, STEP=32, num_warps=tile // 16,
        )  # fmt: skip
    return c


@product.register_fake
def _like(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(*a.shape[:-1], b.shape[-1])


class _OneWay(CustomGraphPass):
    """Replaces the products of a graph, before Inductor looks for better ones."""

    def __call__(self, graph: Graph) -> None:
        for node in list(graph.nodes):
            if node.target in (aten.mm.default, aten.bmm.default) and _is_precise(node):
                node.target = torch.ops.archer.product.default
            elif node.target in (aten.addmm.default, aten.baddbmm.default) and _is_precise(node):
                _replace_sum(graph, node)

    def uuid(self) -> Any:
        return get_hash_for_files((__file__,))


ONE_WAY = _OneWay()


def _is_precise(node: Node) -> bool:
    value = node.meta["val"]
    return value.device.type == "cuda" and value.dtype == torch.float32


def _replace_sum(graph: Graph, node: Node) -> None:
    """beta · x + alpha · a @ b, with what is 1 left out."""
    value = node.meta["val"]

    def put(target: Any, *given: Any, **options: Any) -> Node:
        made = graph.call_function(target, given, options)
        made.meta["val"] = value
        return made

    added, a, b = node.args
    with graph.inserting_before(node):
        made = put(torch.ops.archer.product.default, a, b)
        if node.kwargs.get("alpha", 1) != 1:
            made = put(aten.mul.Tensor, made, node.kwargs["alpha"])
        made = put(aten.add.Tensor, made, added, alpha=node.kwargs.get("beta", 1))
    node.replace_all_uses_with(made)
    graph.erase_node(node)

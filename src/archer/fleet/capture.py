"""A training step as one CUDA graph: a small fleet's step is hundreds of short kernels, and starting them one
by one from Python takes longer than running them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from archer.fleet.fleet import Fleet

Step = Callable[[Tensor, Tensor], Tensor]
WARM_UP = 3


def captured_step(fleet: Fleet) -> Step:
    """The fleet's `train_step(order, rates) -> losses`, recorded once and replayed.

    Recording runs the step a few times (compilation, workspaces) and puts the state back. The graph belongs
    to these very tensors: a fleet that changes its members needs a new one. What a step returns is written
    over by the next.
    """
    order = torch.zeros(
        fleet.size, fleet.members[0].run.recipe.batch_size, dtype=torch.long, device=fleet.device
    )
    rates = torch.zeros_like(fleet.rates)
    before = fleet.weights.snapshot()
    stream = torch.cuda.Stream(fleet.device)
    stream.wait_stream(torch.cuda.current_stream(fleet.device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            fleet.train_step(order, rates)
    torch.cuda.current_stream(fleet.device).wait_stream(stream)
    fleet.weights.restore(before)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = fleet.train_step(order, rates)
    fleet.weights.restore(before)

    def step(new_order: Tensor, new_rates: Tensor) -> Tensor:
        order.copy_(new_order)
        rates.copy_(new_rates)
        graph.replay()
        return losses

    return step

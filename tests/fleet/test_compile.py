"""Compiled regions: what is compiled for one fleet serves fleets of every size."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tests.fleet.tiny import load, tiny_runs
from torch._dynamo.utils import counters

from archer.fleet import compile as compiling
from archer.fleet.fleet import Fleet
from archer.fleet.train import build_model

CPU = torch.device("cpu")


@pytest.mark.filterwarnings("ignore")  # of PyTorch, about its own tracing
@pytest.mark.parametrize("rule", ["gated_delta_net", "adam"])
def test_a_fleet_of_another_size_compiles_nothing_and_loses_the_same(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and not translated to machine code, which would take a minute; traces are what sizes decide."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiling._compiled.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    runs = tiny_runs(5, rule)
    graphs = []
    for size in (3, 5, 2):
        region = compiling.compiler()
        fleets = [Fleet.start(build_model(runs[0]), runs[:size], load, CPU, each) for each in (region, None)]
        for fleet in fleets:
            fleet.run_epoch()
            fleet.evaluate()
        graphs.append(counters["stats"]["unique_graphs"])
        compiled, plain = ([m.curve[-1].train_loss for m in fleet.members] for fleet in fleets)
        assert compiled == pytest.approx(plain, abs=1e-6)
    assert graphs[0] > 0
    assert len(set(graphs)) == 1
    compiling._compiled.cache_clear()

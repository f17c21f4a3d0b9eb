"""Compiled regions: what is compiled for one fleet serves fleets of every size."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib import import_module

import pytest
import torch
from tests.fleet.tiny import load, tiny_runs
from torch._dynamo.utils import counters

from archer.cycle.plan import named_subject
from archer.fleet import compile as compiling
from archer.fleet.compile import forget_what_is_compiled
from archer.fleet.fleet import Fleet
from archer.fleet.train import build_model
from archer.model.mixer import RuleMixer
from archer.model.parameters import initialise
from archer.rules import algebra, get_rule, loop

CPU = torch.device("cpu")


@pytest.mark.filterwarnings("ignore")  # of PyTorch, about its own tracing
@pytest.mark.parametrize(("rule", "exact"), [("gated_delta_net", False), ("adam", False), ("decay", True)])
def test_a_fleet_of_another_size_compiles_nothing_and_loses_the_same(
    rule: str, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and not translated to machine code, which would take a minute; traces are what sizes decide."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(compiling, "_exact_options", dict)
    forget_what_is_compiled()
    counters.clear()
    runs = tiny_runs(5, rule)
    graphs = []
    for size in (3, 5, 1):
        region = compiling.compiler(exact)
        fleets = [Fleet.start(build_model(runs[0]), runs[:size], load, CPU, each) for each in (region, None)]
        for fleet in fleets:
            fleet.run_epoch()
            fleet.evaluate()
        graphs.append(counters["stats"]["unique_graphs"])
        compiled, plain = ([m.curve[-1].train_loss for m in fleet.members] for fleet in fleets)
        assert compiled == pytest.approx(plain, abs=1e-6)
    assert graphs[0] > 0
    assert len(set(graphs)) == 1
    forget_what_is_compiled()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("exact", [False, True])
def test_a_module_is_compiled_for_each_size_of_its_fleets(
    exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vmap's rules do not all know sizes that may change: what is traced has numbers alone."""
    sizes: set[object] = set()

    def traced(graph: torch.fx.GraphModule, example: list[object]) -> object:
        given = [node for node in graph.graph.nodes if node.op == "placeholder"]
        if any("linear" in str(node.target) for node in graph.graph.nodes):
            sizes.update(type(size) for node in given for size in node.meta["example_value"].shape)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=traced))
    monkeypatch.setattr(compiling, "_exact_options", dict)
    forget_what_is_compiled()
    runs = [replace(run, subject=named_subject("gla")) for run in tiny_runs(4)]
    for size in (3, 4):
        region = compiling.compiler(exact)
        fleets = [Fleet.start(build_model(runs[0]), runs[:size], load, CPU, each) for each in (region, None)]
        for fleet in fleets:
            fleet.run_epoch()
            fleet.evaluate()
        compiled, plain = ([m.curve[-1].train_loss for m in fleet.members] for fleet in fleets)
        assert compiled == pytest.approx(plain, abs=1e-6)
    assert sizes == {int}
    forget_what_is_compiled()


def test_what_is_exact_is_compiled_for_two_members_whoever_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """How sums are divided is decided by the first size, and must not differ between processes."""
    rows: dict[str, list[int]] = {}

    def compiles_nothing(function, **_):
        def call(*given):
            first = next(x for x in given if isinstance(x, torch.Tensor))
            rows.setdefault(function.__name__, []).append(len(first))
            return function(*given)

        return call

    monkeypatch.setattr(torch, "compile", compiles_nothing)
    forget_what_is_compiled()
    runs = tiny_runs(3)
    fleets = [Fleet.start(build_model(runs[0]), runs, load, CPU, compiling.compiler(True)) for _ in "ab"]
    fleets.append(Fleet.start(build_model(runs[0]), runs, load, CPU))
    losses = [fleet.train_step(torch.arange(16).expand(3, -1), fleet.rates) for fleet in fleets]
    assert set(rows) == {"embed", "_mix", "_swiglu", "_unembed", "loss_and_predictions"}
    assert all(seen == [2, 3, 3] for seen in rows.values()), rows
    assert torch.equal(losses[0], losses[2])
    forget_what_is_compiled()


@pytest.mark.filterwarnings("ignore")
def test_a_loop_that_is_a_kernel_is_as_short_a_graph_for_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled does not grow with the chunks; nor does it know how many runs there are."""
    chunk_kernel = pytest.importorskip("archer.rules.chunk_kernel", reason="kernels need triton")
    chunk_check = import_module("archer.rules.chunk_check")
    monkeypatch.setattr(algebra._Kernels, "module", object())
    monkeypatch.setattr(algebra, "kernels_for", lambda *_: None)  # `wy` and what stands before it stay plain
    monkeypatch.setattr(loop, "kernels_for", lambda *_: True)
    monkeypatch.setattr(chunk_kernel, "_call", lambda *_: None)
    monkeypatch.setattr(chunk_check, "require_equal", lambda *_: None)
    mixer = RuleMixer(get_rule("adam"), 32, 2, 16)
    mixer.make_kernel(torch.device("cuda"), torch.float32)
    assert not mixer.without_kernel
    sizes, graphs = [], []

    def traced(graph: torch.fx.GraphModule, example: list[object]) -> object:
        names = [str(node.target) for node in graph.graph.nodes]
        graphs.append((len(names), sum("autograd_function_apply" in name for name in names)))
        values = [n.meta["example_value"] for n in graph.graph.nodes if n.op == "placeholder"]
        sizes.extend(type(x.shape[0]) for x in values if isinstance(x, torch.Tensor))
        return graph.forward

    for chunks in (2, 8):
        torch._dynamo.reset()
        mix = torch.compile(mixer.__call__, backend=traced, fullgraph=True, dynamic=False)
        given = (initialise(mixer.specs(), [0, 1, 2]), torch.randn(3, 4, 16 * chunks, 32))
        for x in (*given[0].values(), given[1]):
            torch._dynamo.maybe_mark_dynamic(x.requires_grad_(), 0)
        assert mix(*given).shape == given[1].shape
    assert graphs[0] == graphs[1]
    assert graphs[0][1] == 2  # the inverse in `wy`, and the loop
    assert torch.SymInt in sizes
    torch._dynamo.reset()

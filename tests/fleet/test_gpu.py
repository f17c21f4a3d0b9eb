"""What must hold on a GPU: compiled regions, Triton kernels and CUDA graphs change no result.

PYTHONPATH=src python -m pytest tests/fleet/test_gpu.py -q        # torch, numpy and pytest suffice
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fleet.test_fleet import results
from tests.fleet.tiny import load, training_process

from archer.cycle.plan import named_subject
from archer.fleet.capture import captured_step
from archer.fleet.compile import compiler
from archer.fleet.fleet import Fleet
from archer.fleet.launch import launch
from archer.fleet.process import Plan
from archer.fleet.run import Outcome, Recipe, Run
from archer.fleet.subjects import rule_subject
from archer.fleet.train import Options, build_model, train
from archer.fleet.wire import outcome_from_json
from archer.mad import Setting
from archer.model.backbone import Region
from archer.rules import algebra, get_rule

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here"),
    pytest.mark.filterwarnings("ignore"),  # compilers and drivers warn as they like
]

GPU = torch.device("cuda:0")
COUNTS: dict[str, Any] = {"train_examples": 256, "validation_examples": 128, "test_examples": 128}
RECALL = Setting("Context Recall", 8, 64, **COUNTS)
MEMORIZE = Setting("Memorize", 16, 32, **COUNTS)


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Products in float32 and not in TF32, as on a CPU."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def gpu_runs(count: int, rule: str = "delta_net", setting: Setting = RECALL, **recipe: object) -> list[Run]:
    """Runs with heads of 32 and chunks of 32, which the kernels take; seeds differ, and rates."""
    numbers = {"width": 64, "mixers": 1, "heads": 2, "chunk_size": 32, "batch_size": 64, "epochs": 6}
    made = Recipe(**{**numbers, "precision": "fp32", **recipe})  # type: ignore[arg-type]
    subject = rule_subject(get_rule(rule))
    return [Run(subject, setting, made, (1e-3, 3e-3)[i % 2], 0.1 * (i % 2), i) for i in range(count)]


def curves(runs: list[Run], **options: object) -> dict[str, torch.Tensor]:
    """Losses of every run at every evaluation: [evaluations, 3]."""
    found = train(runs, Options(device="cuda:0", **options), load=load)  # type: ignore[arg-type]
    return {
        o.key: torch.tensor([[p.train_loss, p.validation_loss, p.test_loss] for p in o.curve]) for o in found
    }


@pytest.mark.parametrize("rule", ["delta_net", "gated_delta_net"])
def test_two_executions_agree(rule: str) -> None:
    """To the last bit: the order of every sum is fixed, and no atomic additions are made."""
    runs = gpu_runs(4, rule)
    first, second = curves(runs), curves(runs)
    assert first.keys() == second.keys() == {run.key for run in runs}
    for key, losses in first.items():
        assert torch.equal(losses, second[key])
    assert len({tuple(losses.flatten().tolist()) for losses in first.values()}) == len(runs)


@pytest.mark.parametrize("rule", ["delta_net", "gated_delta_net", "decay"])
def test_a_member_equals_the_same_run_alone(rule: str) -> None:
    """Compiled and captured, in a fleet of four, of three and alone: 200 steps, float32, to the last bit.

    Against the same run uncompiled, whose sums have another order, 1e-3: differences of 1e-7 grow with
    training (an H200 showed 2.4e-4 to 3.3e-4 at a rate of 3e-3).
    """
    runs = gpu_runs(4, rule)
    together = losses_of(runs, compiler(exact=True))
    fewer = losses_of(runs[1:], compiler(exact=True))
    assert torch.equal(together[:, 1:], fewer)
    for index in (0, 3):
        alone = losses_of(runs[index : index + 1], compiler(exact=True))
        plain = losses_of(runs[index : index + 1], None)
        assert torch.equal(together[:, index], alone[:, 0])
        assert (together[:, index] - plain[:, 0]).abs().max() < 1e-3
    if rule == "delta_net":
        assert together[-1].mean() < 1.5, "nothing was learned, so nothing was compared"


@pytest.mark.parametrize("shape", [(7, 200, 128, 400), (7, 128, 16384, 400), (900, 32, 32, 32), (7, 5, 3, 1)])
def test_a_product_has_the_same_bits_whatever_is_computed_beside_it(shape: tuple[int, ...]) -> None:
    from archer.fleet.products import product

    count, rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(count, inner, rows, generator=generator).to(GPU).mT
    b = torch.randn(count, inner, columns, generator=generator).to(GPU)
    made = product(a, b)
    exact = a.double() @ b.double()
    assert ((made - exact).norm() / exact.norm()).item() < 1e-5
    for some in (slice(0, 1), slice(2, 4), slice(1, count)):
        assert torch.equal(product(a[some], b[some]), made[some])


def losses_of(runs: list[Run], region: Region | None, steps: int = 200) -> torch.Tensor:
    """Of every run before every step: [steps, runs]."""
    fleet = Fleet.start(build_model(runs[0]), runs, load, GPU, region)
    step = captured_step(fleet) if fleet.captures else fleet.train_step
    orders = torch.arange(256, device=GPU).view(4, 64)
    losses = [step(orders[i % 4].expand(fleet.rows, -1), fleet.rates).clone() for i in range(steps)]
    return torch.stack(losses)[:, : fleet.size].cpu()


def test_a_diverging_member_disturbs_no_other() -> None:
    """Under a CUDA graph too: the others' losses are the same to the last bit."""
    calm = gpu_runs(4)
    wild = [replace(run, learning_rate=float("nan")) if i == 1 else run for i, run in enumerate(calm)]
    found = {o.key: o for o in train(wild, Options(device="cuda:0"), load=load)}
    usual = curves(calm)
    assert found[wild[1].key].status == "diverged"
    for run in (calm[0], calm[2], calm[3]):
        one = found[run.key]
        assert one.status == "finished"
        losses = torch.tensor([[p.train_loss, p.validation_loss, p.test_loss] for p in one.curve])
        # after the first evaluation the fleets have different sizes, and sums another order
        assert torch.equal(losses[0], usual[run.key][0])
        assert torch.allclose(losses, usual[run.key], atol=1e-3, rtol=1e-3)


def test_bf16_ends_where_float32_ends() -> None:
    """Twelve seeds of each; Welch's t of the final accuracies below 3, or means closer than 0.01."""
    scores = {}
    for precision in ("fp32", "bf16"):
        runs = [
            replace(run, learning_rate=3e-3, weight_decay=0.0)
            for run in gpu_runs(12, setting=MEMORIZE, epochs=40, precision=precision)
        ]
        scores[precision] = [o.held_out or 0.0 for o in train(runs, Options(device="cuda:0"), load=load)]
        assert len(scores[precision]) == 12
    mean = {name: statistics.mean(values) for name, values in scores.items()}
    error = sum(statistics.variance(values) / len(values) for values in scores.values()) ** 0.5
    assert min(mean.values()) > 2 / 16, f"nothing was learned: {mean}"
    assert abs(mean["fp32"] - mean["bf16"]) < max(3 * error, 0.01), (mean, error)


@pytest.mark.parametrize("rule", ["delta_net", "gated_delta_net"])
def test_recorded_steps_and_looks_share_memory_and_change_nothing(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps and looks in turn, half of the members gone after the first epoch: as without recording."""
    runs = [*gpu_runs(4, rule), *(replace(r, learning_rate=float("nan")) for r in gpu_runs(8, rule)[4:])]
    recorded = curves(runs)
    monkeypatch.setattr(Fleet, "captures", False)
    plain = curves(runs)
    for run in runs[:4]:
        assert torch.equal(recorded[run.key], plain[run.key])


@pytest.mark.parametrize("share", [0.35, 0.5, 0.65, 0.8])
def test_out_of_memory_makes_the_fleet_smaller(share: float) -> None:
    """The memory that sixteen runs take, and then less of it: they end with the same results."""
    runs = gpu_runs(16, setting=replace(RECALL, length=256), epochs=2, width=128, heads=4)
    torch.cuda.init()  # without, there is nothing to reset where this test is the first
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(GPU)
    wanted = curves(runs, largest=16)
    needed = torch.cuda.max_memory_reserved(GPU)
    torch.cuda.empty_cache()
    events: list[dict[str, Any]] = []
    torch.cuda.set_per_process_memory_fraction(share * needed / torch.cuda.mem_get_info(GPU)[1], GPU)
    try:
        found = list(train(runs, Options(device="cuda:0", largest=16), load=load, report=events.append))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    assert [e["members"] for e in events if e["event"] == "smaller"][:1] == [8]
    assert {outcome.key for outcome in found} == wanted.keys()
    for outcome in found:
        losses = torch.tensor([[p.train_loss, p.validation_loss, p.test_loss] for p in outcome.curve])
        assert torch.equal(losses, wanted[outcome.key])


@pytest.mark.parametrize("name", ["gla", "attention"])
def test_modules_train_compiled_and_end_as_uncompiled(name: str) -> None:
    runs = [replace(run, subject=named_subject(name)) for run in gpu_runs(3, epochs=2)]
    events: list[dict[str, Any]] = []
    options = Options(device="cuda:0", compiled=True)
    compiled = {o.key: o for o in train(runs, options, load=load, report=events.append)}
    assert {event["event"] for event in events} - {"steps"} == {"fleet", "epoch"}
    plain = curves(runs, compiled=False)
    for run in runs:
        curve = compiled[run.key].curve
        losses = torch.tensor([[p.train_loss, p.validation_loss, p.test_loss] for p in curve])
        assert torch.allclose(losses, plain[run.key], atol=1e-3, rtol=1e-3)


def test_heads_that_no_card_has_the_shared_memory_for_train_without_the_kernels() -> None:
    """In float32 the gradient of a state of 128 by 128 needs 376 kB; in bf16 192, which an H100 has."""
    loop, every = {"a kernel for its loop"}, {"a kernel for its loop", "Archer's kernels"}
    for precision, expected in (("bf16", [set()]), ("fp32", [loop, every])):
        runs = gpu_runs(2, epochs=1, width=128, heads=1, precision=precision)
        events: list[dict[str, Any]] = []
        try:
            found = list(train(runs, Options(device="cuda:0"), load=load, report=events.append))
        finally:
            algebra._Kernels.refused = False
        assert {outcome.status for outcome in found} == {"finished"}
        assert {event["without"] for event in events if event["event"] == "plainer"} in expected


def heard(process: subprocess.Popen[str], runs: list[Run], kill_after: int) -> list[Outcome]:
    """What a process says until its end, or until it is killed after so many epochs."""
    found, epochs = [], 0
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        epochs += event["event"] == "epoch"
        if event["event"] == "outcome":
            found.append(outcome_from_json(event["outcome"], {run.key for run in runs}))
        if epochs >= kill_after:
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    process.wait()
    return found


def test_killed_on_the_gpu_it_ends_with_the_same_results(tmp_path: Path) -> None:
    runs = gpu_runs(3, epochs=10)
    assert heard(training_process(tmp_path, runs, device="cuda:0"), runs, kill_after=4) == []
    assert list((tmp_path / "checkpoints").glob("fleet-*.pt"))
    resumed = heard(training_process(tmp_path, runs, device="cuda:0"), runs, kill_after=10**9)
    undisturbed = sorted(map(results, train(runs, Options(device="cuda:0"), load=load)))
    assert sorted(map(results, resumed)) == undisturbed


def test_several_processes_on_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shapes in two processes that share a GPU end as in one process."""
    monkeypatch.setenv("ARCHER_CACHE", str(tmp_path / "cache"))
    runs = [*gpu_runs(2), *gpu_runs(2, setting=MEMORIZE)]
    plan = Plan(("cuda:0",), tmp_path, threads=4, processes_per_device=2)
    found = [o for o in launch(runs, plan) if isinstance(o, Outcome)]
    assert sorted(map(results, found)) == sorted(
        map(results, train(runs, Options(device="cuda:0"), load=load))
    )


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU or none here")
def test_two_gpus_give_the_outcomes_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHER_CACHE", str(tmp_path / "cache"))
    runs = [*gpu_runs(2), *gpu_runs(2, setting=MEMORIZE)]
    events: list[dict[str, Any]] = []
    two = Plan(("cuda:0", "cuda:1"), tmp_path / "two", threads=4)
    both = [o for o in launch(runs, two, report=events.append) if isinstance(o, Outcome)]
    alone = Plan(("cuda:0",), tmp_path / "one", threads=4)
    one = [o for o in launch(runs, alone) if isinstance(o, Outcome)]
    assert {event["device"] for event in events} == {"cuda:0", "cuda:1"}
    assert sorted(map(results, both)) == sorted(map(results, one))

"""Times a fleet's training step, after checking it: milliseconds per optimiser step per run.

    python benchmarks/fleet.py [--rules delta_net,softmax] [--members 48] [--length 128] [--solo]

Checks first that member i of a compiled fleet has the losses of the same run alone, uncompiled. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

from archer.fleet.capture import captured_step
from archer.fleet.compile import compiler
from archer.fleet.fleet import Fleet
from archer.fleet.run import Recipe, Run
from archer.fleet.subjects import rule_subject
from archer.fleet.train import build_model
from archer.mad import Examples, Setting
from archer.rules import get_rule


def random_examples(setting: Setting, seed: int, split: str) -> Examples:
    """Random tokens of the right shape: the time of a step does not depend on them."""
    draw = np.random.default_rng(seed)
    shape = (256, setting.input_length)
    return Examples(draw.integers(0, setting.vocabulary, shape), draw.integers(0, setting.vocabulary, shape))


def make_runs(rule: str, members: int, length: int, precision: str) -> list[Run]:
    setting = Setting("Context Recall", vocabulary=16, length=length, train_examples=256)
    recipe = Recipe(precision=precision)  # type: ignore[arg-type]
    subject = rule_subject(get_rule(rule))
    return [Run(subject, setting, recipe, 5e-4, 0.0, seed) for seed in range(members)]


def step(fleet: Fleet, index: int, captured: bool = False) -> torch.Tensor:
    rows = torch.arange(128, device=fleet.device) + 128 * (index % 2)
    if fleet.step is None:
        fleet.step = captured_step(fleet) if captured else fleet.train_step
    return fleet.step(rows.expand(fleet.size, -1), fleet.rates).clone()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    runs: list[Run], device: torch.device, compiled: bool, steps: int, captured: bool = False
) -> dict[str, float]:
    """Seconds to the first step, then milliseconds per step per run (median of five blocks)."""
    began = time.perf_counter()
    model = build_model(runs[0])
    region = compiler() if compiled else None
    fleet = Fleet.start(model, runs, random_examples, device, region)
    step(fleet, 0, captured)
    wait(device)
    first = time.perf_counter() - began
    for i in range(2):
        step(fleet, i)
    wait(device)
    blocks = []
    for _ in range(5):
        began = time.perf_counter()
        for i in range(steps):
            step(fleet, i)
        wait(device)
        blocks.append((time.perf_counter() - began) / steps / len(runs) * 1e3)
    peak = torch.cuda.max_memory_allocated(device) / len(runs) if device.type == "cuda" else 0
    return {
        "first_step_seconds": first,
        "ms_per_run_step": float(np.median(blocks)),
        "peak_bytes_per_run": peak,
    }


def profile(runs: list[Run], device: torch.device, compiled: bool) -> None:
    """Prints the operations that took most of the device's time in three steps."""
    region = compiler() if compiled else None
    fleet = Fleet.start(build_model(runs[0]), runs, random_examples, device, region)
    step(fleet, 0)
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profiler:
        for i in range(3):
            step(fleet, i)
        wait(device)
    print(
        profiler.key_averages().table(
            sort_by="self_device_time_total", row_limit=45, max_name_column_width=70
        )
    )


def check(rule: str, device: torch.device, compiled: bool, length: int) -> float:
    """Largest difference between the losses of a fleet's members and the same runs alone, over 20 steps."""
    runs = make_runs(rule, 4, length, "fp32")
    region = compiler() if compiled else None
    together = Fleet.start(build_model(runs[0]), runs, random_examples, device, region)
    alone = [Fleet.start(build_model(run), [run], random_examples, device) for run in (runs[0], runs[3])]
    worst = 0.0
    for i in range(20):
        losses = step(together, i)
        for index, fleet in zip((0, 3), alone, strict=True):
            worst = max(worst, (losses[index] - step(fleet, i)[0]).abs().item())
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rules", default="delta_net")
    parser.add_argument("--members", type=int, default=48)
    parser.add_argument("--length", type=int, default=129)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--solo", action="store_true", help="also time one run alone, eager and compiled")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--profile", action="store_true", help="print where the device's time goes")
    parser.add_argument("--no-check", action="store_true")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    length = arguments.length + arguments.length % 2
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    results = []
    for rule in arguments.rules.split(","):
        runs = make_runs(rule, arguments.members, length, "bf16" if device.type == "cuda" else "fp32")
        row = {"rule": rule, "members": len(runs), "length": length}
        if not arguments.no_check:
            row |= {"check": check(rule, device, not arguments.eager, length)}
        row |= measure(
            runs, device, not arguments.eager, arguments.steps, device.type == "cuda" and not arguments.eager
        )
        if arguments.solo:
            row["solo_eager_ms"] = measure(runs[:1], device, False, arguments.steps)["ms_per_run_step"]
            row["solo_compiled_ms"] = measure(runs[:1], device, True, arguments.steps, device.type == "cuda")[
                "ms_per_run_step"
            ]
        if arguments.profile:
            profile(runs, device, not arguments.eager)
        results.append(row)
        print(row, flush=True)
    print(json.dumps({"device": name, "torch": torch.__version__, "results": results}))


if __name__ == "__main__":
    main()

"""Times a fleet's training step, after checking it, beside what the device can do at most.

    python benchmarks/fleet.py [--rules delta_net,softmax | all] [--members 48] [--lengths 128,1024] [--solo]
    python benchmarks/fleet.py --rules all --json figures.jsonl --limit 540     # again, until all are there
    python benchmarks/fleet.py --first-step                                     # cold, then warm caches

Checks first that a member of a compiled fleet has the losses of the same run alone, uncompiled. Each figure
is printed and added to the file as it comes; what the file has is not measured again. A step's time is the
fastest of nine blocks (and, beside it, their median). The last line is JSON.

Counted: `flop` are the multiplications and additions of all matrix products of one run's step, forward and
backward, in the plain form of the rule (the kernels compute the same products). `bytes` are the fewest that a
step must move if every region recomputes what is inside it: a region's input read and output written, then
input and output gradient read and input gradient written; parameters read forward and backward; gradient,
both moments and parameters by the optimiser. What the device really moved is not measured. Ceilings: a large
bfloat16 product, and a large copy (read and written), in the same process.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import archer.fleet.capture
import archer.fleet.memory
from archer.fleet.capture import captured_step
from archer.fleet.compile import compiler
from archer.fleet.devices import available_devices, processes_per_device, threads_for
from archer.fleet.fleet import Fleet
from archer.fleet.memory import capacity
from archer.fleet.run import Recipe, Run
from archer.fleet.standby import prepare
from archer.fleet.subjects import rule_subject
from archer.fleet.train import build_model
from archer.fleet.worker import thread_settings
from archer.mad import Examples, Setting
from archer.model.mixer import RuleMixer
from archer.rules import get_rule, rule_names

BATCH = 128


def random_examples(setting: Setting, seed: int, split: str) -> Examples:
    """Random tokens of the right shape: the time of a step does not depend on them."""
    draw = np.random.default_rng(seed)
    shape = (2 * BATCH, setting.input_length)
    return Examples(draw.integers(0, setting.vocabulary, shape), draw.integers(0, setting.vocabulary, shape))


def make_runs(rule: str, members: int, length: int, precision: str, vocabulary: int = 16) -> list[Run]:
    """Runs whose sequences are `length` tokens long as they are trained."""
    setting = Setting("Context Recall", vocabulary, length + length % 2, train_examples=2 * BATCH)
    recipe = Recipe(precision=precision)  # type: ignore[arg-type]
    subject = rule_subject(get_rule(rule))
    return [Run(subject, setting, recipe, 5e-4, 0.0, seed) for seed in range(members)]


def step(fleet: Fleet, index: int, captured: bool = False) -> torch.Tensor:
    rows = torch.arange(BATCH, device=fleet.device) + BATCH * (index % 2)
    if fleet.step is None:
        fleet.step = captured_step(fleet) if captured else fleet.train_step
    return fleet.step(rows.expand(fleet.rows, -1), fleet.rates).clone()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def tidy(device: torch.device) -> None:
    """Memory as if nothing had been measured before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.init()  # before that there are no statistics to reset, and asking for it is an error
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def milliseconds(fleet: Fleet, steps: int) -> dict[str, float]:
    """Per step per run: the fastest of nine blocks, which others on the machine disturb least; the median."""
    blocks = []
    for _ in range(9):
        began = time.perf_counter()
        for i in range(steps):
            step(fleet, i)
        wait(fleet.device)
        blocks.append((time.perf_counter() - began) / steps / fleet.size * 1e3)
    return {"ms_per_run_step": min(blocks), "median_ms_per_run_step": float(np.median(blocks))}


def measure(runs: list[Run], device: torch.device, compiled: bool, steps: int) -> dict[str, float]:
    """Seconds to the first step and of the first evaluation, milliseconds per step per run, memory."""
    tidy(device)
    began = time.perf_counter()
    fleet = Fleet.start(build_model(runs[0]), runs, random_examples, device, compiler() if compiled else None)
    wait(device)
    started = time.perf_counter()
    step(fleet, 0, captured=compiled and device.type == "cuda")
    wait(device)
    stepped = time.perf_counter()
    for i in range(2):
        step(fleet, i)
    found = {
        "start_seconds": round(started - began, 3),
        "first_step_seconds": round(stepped - started, 3),
        **milliseconds(fleet, steps),
    }
    if device.type == "cuda":
        found["peak_bytes_per_run"] = torch.cuda.max_memory_allocated(device) / len(runs)
    began = time.perf_counter()
    fleet.evaluate()
    found["first_evaluation_seconds"] = round(time.perf_counter() - began, 3)
    return found


def flop_per_step(run: Run) -> float:
    """Of one run's step, counted on the CPU on two sequences and scaled to the batch."""
    from torch.utils.flop_counter import FlopCounterMode

    fleet = Fleet.start(build_model(run), [run], random_examples, torch.device("cpu"))
    counter = FlopCounterMode(display=False)
    with counter:
        loss = fleet.losses(*fleet.splits["train"].batch(torch.arange(2)[None]))[0]
        fleet.weights.gradient(loss.sum())
    return counter.get_total_flops() / 2 * run.recipe.batch_size


def bytes_per_step(run: Run) -> float:
    """The fewest that a step must move; see the top of this file."""
    model, wide = build_model(run), 2 if run.recipe.precision == "bf16" else 4
    activation = run.recipe.batch_size * run.padded_length * model.width * wide
    regions = 2 * model.mixers + 2  # with the embedding and the loss
    optimiser, forward_and_backward = 8, 2
    return 5 * regions * activation + (optimiser + forward_and_backward) * 4 * model.parameters


def ceilings(device: torch.device) -> dict[str, float]:
    """TFLOP/s of a large product, GB/s of a large copy: the best of ten."""
    tidy(device)
    size, kind = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    source = torch.empty(2**30 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product, copy = (best_seconds(work, device) for work in (lambda: a @ b, lambda: target.copy_(source)))
    return {"tflop_per_second": 2 * size**3 / product / 1e12, "gb_per_second": 2 * len(source) / copy / 1e9}


def best_seconds(work: Callable[[], object], device: torch.device) -> float:
    for _ in range(3):
        work()
    times = []
    for _ in range(10):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - began)
    return min(times)


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


def one_row(
    rule: str, length: int, arguments: argparse.Namespace, device: torch.device, limits: dict
) -> dict:
    """Everything about one rule at one length."""
    compiled = not arguments.eager
    runs = make_runs(rule, arguments.members, length, "bf16" if device.type == "cuda" else "fp32")
    row: dict = {
        "rule": rule,
        "members": len(runs),
        "length": length,
        "parameters": build_model(runs[0]).parameters,
    }
    if not arguments.no_check:
        row["check"] = check(rule, device, compiled, length)
        assert row["check"] < 1e-3, (
            f"{rule}: a member's losses differ from the same run alone by {row['check']}"
        )
    row |= measure(runs, device, compiled, arguments.steps)
    mixer = build_model(runs[0]).mixer
    if isinstance(mixer, RuleMixer) and mixer.without_kernel:
        row["without_kernel"] = mixer.without_kernel
    seconds = row["ms_per_run_step"] / 1e3
    flop, moved = flop_per_step(runs[0]), bytes_per_step(runs[0])
    row |= {
        "microseconds_per_token": row["ms_per_run_step"] / BATCH / length * 1e3,
        "gflop": flop / 1e9, "tflop_per_second": flop / seconds / 1e12,
        "share_of_product": flop / seconds / 1e12 / limits["tflop_per_second"],
        "gb_fewest": moved / 1e9, "gb_per_second_fewest": moved / seconds / 1e9,
        "share_of_copy": moved / seconds / 1e9 / limits["gb_per_second"],
    }  # fmt: skip
    if arguments.solo:
        row["solo_eager_ms"] = measure(runs[:1], device, False, arguments.steps)["ms_per_run_step"]
        row["solo_compiled_ms"] = measure(runs[:1], device, True, arguments.steps)["ms_per_run_step"]
    if arguments.profile:
        profile(runs, device, compiled)
    return row


SHAPES = (
    ("delta_net", 128, 16),
    ("delta_net", 128, 64),
    ("delta_net", 256, 64),
    ("softmax", 128, 16),
    ("gated_delta_net", 128, 16),
)
"""Rule, length and vocabulary of the shapes that a process meets, in this order: after the first another
vocabulary, another length, other rules."""


def first_steps(members: int) -> dict:
    """Seconds until a process stands by, and from being given a shape to its first optimiser step and
    evaluation: with empty caches, then with what the first process kept. It has the threads that a training
    process has here: with one for each of 32 cores, compiling starts 32 processes."""
    threads = threads_for(processes_per_device(available_devices()))
    with tempfile.TemporaryDirectory(prefix="archer-caches-") as folder:
        found: dict = {"members": members, "threads": threads}
        for name in ("cold", "warm"):
            environment = {
                **thread_settings(threads), "OMP_NUM_THREADS": str(threads), **os.environ,
                "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
                "TRITON_CACHE_DIR": f"{folder}/triton", "ARCHER_BEGAN": repr(time.time()),
            }  # fmt: skip
            command = [sys.executable, __file__, "--one-process", "--members", str(members)]
            print(name, file=sys.stderr, flush=True)
            said = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
            found[name] = json.loads(said.stdout.splitlines()[-1])
        return found


@contextmanager
def parts_of_the_way(device: torch.device) -> Iterator[Counter[str]]:
    """Seconds of this thread by what they go to. Some lie within others: memory is measured with the loop's
    kernel already made, tracing calls the compiler, which waits for its workers, and all of that may happen
    while memory is measured or the step is recorded."""
    seconds: Counter[str] = Counter()
    where: list[tuple[str, Any, str]] = [
        ("memory measured", archer.fleet.memory, "_bytes_per_run_cuda"),
        ("the loop's kernel made and compared", RuleMixer, "make_kernel"),
        ("the step recorded", archer.fleet.capture, "_recorded"),
        ("traced, with the compiler", import_module("torch._dynamo.convert_frame"), "_compile"),
        ("PyTorch's compiler", import_module("torch._inductor.compile_fx"), "compile_fx"),
        ("of these, code generated", import_module("torch._inductor.graph").GraphLowering, "codegen"),
        ("waited for its workers", import_module("torch._inductor.async_compile").AsyncCompile, "wait"),
        ("variants of its kernels timed",
         import_module("torch._inductor.runtime.triton_heuristics").CachingAutotuner,
         "autotune_to_one_config"),
    ]  # fmt: skip
    if device.type == "cuda":
        where.append(("Triton, not in the background", import_module("triton").JITFunction, "_do_compile"))
    with ExitStack() as stack:
        for label, owner, name in where:
            if hasattr(owner, name):  # private names of PyTorch and Triton: not in every version
                stack.enter_context(patch.object(owner, name, clocked(getattr(owner, name), label, seconds)))
        yield seconds


def clocked(function: Callable[..., Any], label: str, seconds: Counter[str]) -> Callable[..., Any]:
    main = threading.get_ident()

    def call(*given: Any, **more: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*given, **more)
        finally:
            if threading.get_ident() == main:
                seconds[label] += time.perf_counter() - began

    return call


def one_process(members: int, device: torch.device) -> dict[str, Any]:
    """What a training process does, from its start: it stands by, then trains each shape for a step."""
    found: dict[str, Any] = {}

    def took(name: str, began: float) -> None:
        found[name] = round(time.time() - began, 2)
        print(f"{found[name]:8.2f} s  {name}", file=sys.stderr, flush=True)

    prepare(str(device))
    wait(device)
    took("stands by", float(os.environ["ARCHER_BEGAN"]))
    region = compiler()
    for rule, length, vocabulary in SHAPES:
        runs = make_runs(rule, members, length, "bf16" if device.type == "cuda" else "fp32", vocabulary)
        began = time.time()
        with parts_of_the_way(device) as parts:
            model = build_model(runs[0])
            capacity(model, runs[0], device, random_examples)
            fleet = Fleet.start(model, runs, random_examples, device, region)
            step(fleet, 0, captured=device.type == "cuda")
            wait(device)
        name = f"{rule}, {length} tokens, {vocabulary} words"
        took(name, began)
        found[f"{name}: parts"] = {label: round(x, 2) for label, x in parts.items()}
        for label, x in parts.items():
            print(f"{'':12}{x:6.2f} s  {label}", file=sys.stderr)
        fleet.evaluate()
        took(f"{name}: evaluated", began)
        del fleet
        tidy(device)
    return found


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rules", default="delta_net", help="names, separated by commas, or all")
    parser.add_argument("--members", type=int, default=48)
    parser.add_argument("--lengths", default="128", help="tokens as trained, separated by commas")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--solo", action="store_true", help="also time one run alone, eager and compiled")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--profile", action="store_true", help="print where the device's time goes")
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--json", type=Path, help="file to which every figure is added as a line")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds; nothing new is begun after them")
    parser.add_argument("--first-step", action="store_true", help="time to the first step, cold and warm")
    parser.add_argument("--one-process", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def kept(path: Path | None) -> list[dict]:
    """The rows that the file has, a torn last line left out."""
    lines = path.read_text().splitlines(keepends=True) if path and path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def main() -> None:
    began, arguments = time.monotonic(), read_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rules = rule_names() if arguments.rules == "all" else arguments.rules.split(",")
    wanted = [(rule, int(length)) for length in arguments.lengths.split(",") for rule in rules]
    if arguments.one_process:
        print(json.dumps(one_process(arguments.members, device)))
        return
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    where = {"device": name, "torch": torch.__version__}
    if arguments.first_step:
        print(json.dumps({**where, "kind": "first step", **first_steps(arguments.members)}))
        return
    limits = ceilings(device)
    print({**where, **limits}, flush=True)
    rows = [row for row in kept(arguments.json) if row.get("kind") == "step" and row["device"] == name]
    there = {(row["rule"], row["length"], row["members"]) for row in rows}
    for rule, length in wanted:
        if (rule, length, arguments.members) in there or time.monotonic() - began > arguments.limit:
            continue
        row = one_row(rule, length, arguments, device, limits)
        rows.append({"kind": "step", **where, **row})
        print(row, flush=True)
        if arguments.json:
            with open(arguments.json, "a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(json.dumps({**where, "ceilings": limits, "results": rows}))


if __name__ == "__main__":
    main()

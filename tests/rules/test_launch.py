"""Kernels that are compiled in the background, as for a card of compute capability 9.0, without a card."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

WITHOUT_A_CARD = """
import sys
from collections import Counter
from unittest.mock import patch

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

import archer.model.mixer
from archer.fleet.compile import compile_kernels, fixed_parts
from archer.fleet.fleet import Fleet
from archer.fleet.run import Recipe, Run
from archer.fleet.subjects import rule_subject
from archer.fleet.train import build_model
from archer.mad import Setting, generate
from archer.rules import algebra, get_rule, launch, load_rule, loop


class Card:
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0
    def get_current_target(self): return GPUTarget("cuda", 90, 32)


started, compiled, device = Counter(), Counter(), torch.device("cpu")
run, compile = JITFunction.run, JITFunction._do_compile


def only_counted(kernel, *given, grid, warmup, **constants):
    started[kernel.__name__] += not warmup
    return run(kernel, *given, grid=grid, warmup=True, **constants)


def compile_and_count(kernel, *given):
    compiled[kernel.__name__] += 1
    return compile(kernel, *given)


driver.set_active(Card())
JITFunction.run, JITFunction._do_compile = only_counted, compile_and_count
algebra.enable_kernels()
for module in (algebra, archer.model.mixer, loop):
    module.kernels_for = lambda *sizes: algebra._Kernels.module

recipe = Recipe(width=64, mixers=1, heads=2, chunk_size=32, batch_size=16, epochs=1)
setting = Setting("Context Recall", 16, 64, train_examples=16, test_examples=16, validation_examples=16)
given = sys.argv[1]
rule = get_rule(given) if given.isidentifier() else load_rule(given, "indexes", get_rule)
subject = rule_subject(rule)
runs = [Run(subject, setting, recipe, 1e-3, 0.0, seed) for seed in range(3)]
model = build_model(runs[0])

torch.use_deterministic_algorithms(True)  # and so: what nobody has written yet is not a number
compile_kernels(model, runs[0], device)
torch.use_deterministic_algorithms(False)
asked = [future for futures in launch._Background.under_way.values() for future in futures]
assert not +started, f"inside compiled_only these were started: {started}"
if rule.name == "indexes":  # not with a step in which nothing is computed
    assert not any(future.exception() for future in asked)
    print("kernels:", *sorted(compiled))
    sys.exit()

parts = fixed_parts()
fleet = Fleet.start(model, runs, generate, device, lambda function, name: parts.get(name, function))
order = torch.arange(16).expand(3, -1)
fleet.weights.gradient(fleet.losses(*fleet.splits["train"].batch(order))[0].sum())
assert all(future.done() and not future.exception() for future in asked)
assert sum(compiled.values()) == len(asked), f"asked for {len(asked)}, compiled {compiled}"
assert (+started).keys() == compiled.keys(), (started, compiled)
assert not launch._Background.under_way
print("kernels:", *sorted(compiled))
"""


INDEXES = """
parent = "delta_net"
def read(o):
    return 1.5 * o.gather(-1, (o.softmax(-1) * (o.shape[-1] - 1)).long())
"""


@pytest.mark.parametrize("rule", ["delta_net", "gated_delta_net", INDEXES], ids=["delta", "gated", "indexes"])
def test_what_a_fleet_starts_was_compiled_before_for_two_of_its_runs(rule: str, tmp_path) -> None:
    """Just the kernels that a step of three runs starts, each compiled once, none of them started; and a rule
    that makes indices of what kernels write makes none of what none has written."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", WITHOUT_A_CARD, rule]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    parts = "look_up norm_forward norm_backward gate_forward gate_backward add loss_forward loss_backward"
    mixer = "forward backward wy_forward wy_backward"
    assert done.stdout.split()[1:] == sorted(f"_{name}" for name in f"{parts} {mixer}".split())

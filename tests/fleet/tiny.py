"""Runs small enough to train in a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from archer.fleet.run import Recipe, Run
from archer.fleet.subjects import rule_subject
from archer.fleet.wire import runs_to_json
from archer.mad import Examples, Setting, generate
from archer.rules import get_rule

SETTINGS = {
    "recall": Setting("Context Recall", 8, 20, train_examples=64, test_examples=32, validation_examples=32),
    "memorize": Setting("Memorize", 9, 20, train_examples=64, test_examples=32, validation_examples=32),
    "compress": Setting("Compress", 8, 12, train_examples=64, test_examples=32, validation_examples=32),
}


def tiny_recipe(**changes: object) -> Recipe:
    numbers = {"width": 16, "mixers": 1, "heads": 2, "chunk_size": 8, "batch_size": 16, "epochs": 4}
    return Recipe(**{**numbers, "precision": "fp32", **changes})  # type: ignore[arg-type]


def tiny_runs(
    count: int = 3, rule: str = "delta_net", setting: str = "recall", rates: tuple[float, ...] = (1e-3, 1e-2),
    **recipe: object,
) -> list[Run]:  # fmt: skip
    """`count` runs with different seeds, taking turns at the learning rates."""
    subject = rule_subject(get_rule(rule))
    made = tiny_recipe(**recipe)
    return [
        Run(subject, SETTINGS[setting], made, rates[i % len(rates)], 0.1 * (i % 2), i) for i in range(count)
    ]


def load(setting: Setting, seed: int, split: str) -> Examples:
    """Generated anew: tests leave the cache alone."""
    return generate(setting, seed, split)  # type: ignore[arg-type]


def training_process(
    folder: Path, *plans: list[Run], device: str = "cpu", **options: Any
) -> subprocess.Popen[str]:
    """A real training process that is told these plans, with a checkpoint after every step (on a GPU, every
    epoch)."""
    here = {"device": device, "checkpoints": str(folder / "checkpoints"), "checkpoint_seconds": 0.0}
    path = folder / "plans.jsonl"
    orders = ({**runs_to_json(runs), "options": {**here, **options}, "data_dir": None} for runs in plans)
    path.write_text("".join(json.dumps(order) + "\n" for order in orders))
    with open(path) as told:
        return subprocess.Popen(
            [sys.executable, "-m", "archer.fleet.worker", device, "1"], stdin=told, stdout=subprocess.PIPE,
            text=True, env={**os.environ, "ARCHER_CACHE": str(folder / "cache")},
        )  # fmt: skip

"""Runs small enough to train in a test."""

from __future__ import annotations

from archer.fleet.run import Recipe, Run
from archer.fleet.subjects import rule_subject
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

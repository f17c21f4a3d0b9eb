"""Runs made up for the judge's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from archer.ledger.records import TASKS, RunRecord

Score = Callable[[str, str, str, int], float]


def make_run(
    rule: str,
    task: str,
    setting: str,
    seed: int,
    score: float | None,
    *,
    validation: float | None = None,
    learning_rate: float = 1e-3,
    status: str = "finished",
    preset: str = "full",
    rule_hash: str | None = None,
    finished_at: str = "2026-01-01T00:00:00+00:00",
) -> RunRecord:
    """One run; its validation score is its score unless said otherwise."""
    return RunRecord(
        key=f"{rule}/{setting}/{seed}/{learning_rate}/{finished_at}",
        rule=rule,
        rule_hash=rule_hash or f"hash of {rule}",
        task=task,
        setting=setting,
        learning_rate=learning_rate,
        weight_decay=0.0,
        seed=seed,
        preset=preset,
        status=status,  # type: ignore[arg-type]
        mad=score,
        held_out=score,
        validation=score if validation is None else validation,
        epochs=1,
        parameters=1,
        wall_seconds=1.0,
        device="cpu",
        revision="r",
        finished_at=finished_at,
    )


def make_runs(
    rules: Iterable[str],
    score: Score,
    *,
    settings: int = 1,
    seeds: Sequence[int] = (0, 1, 2),
    tasks: Sequence[str] = TASKS,
    preset: str = "full",
) -> list[RunRecord]:
    """A run for every rule, task, setting and seed, with `score(rule, task, setting, seed)`."""
    return [
        make_run(
            rule, task, f"{task} {index}", seed, score(rule, task, f"{task} {index}", seed), preset=preset
        )
        for rule in rules
        for task in tasks
        for index in range(settings)
        for seed in seeds
    ]


def noisy(levels: dict[str, float], sd: float, seed: int = 0) -> Score:
    """Each rule's level plus normal noise."""
    generator = np.random.default_rng(seed)
    return lambda rule, task, setting, run_seed: float(levels[rule] + sd * generator.standard_normal())

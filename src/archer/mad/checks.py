"""`archer mad --check`: every task read by its exact solver, its chance level, its generation time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from archer.mad.score import macro_accuracy
from archer.mad.settings import BASELINES, IGNORED, Setting
from archer.mad.task import UNANSWERED
from archer.mad.tasks import TASKS, generate


@dataclass(frozen=True)
class CheckRow:
    """solver: its score where the targets are determined; 1.0, or the task is broken.

    determined: the fraction of scored targets that the inputs (in Memorize, the training set) determine.
    seconds: drawing the training set, without the cache.
    """

    task: str
    setting: str
    solver: float
    determined: float
    chance: float
    seconds: float


def check_setting(setting: Setting, seed: int = 0) -> CheckRow:
    """One row."""
    task = TASKS[setting.task]
    started = time.perf_counter()
    train = generate(setting, seed, "train")
    seconds = time.perf_counter() - started
    test = generate(setting, seed, "test")
    answers = task.solve(setting, test.inputs, train)
    scored = test.targets != IGNORED
    answered = scored & (answers != UNANSWERED)
    targets = np.where(answered, test.targets, IGNORED)
    return CheckRow(
        task=task.name,
        setting=setting.name,
        solver=macro_accuracy(answers, targets, setting.vocabulary),
        determined=float(answered.sum() / scored.sum()),
        chance=task.chance(setting),
        seconds=seconds,
    )


def check(settings: tuple[Setting, ...] = BASELINES, seed: int = 0) -> list[CheckRow]:
    """One row for each setting; by default the baseline of each task."""
    return [check_setting(setting, seed) for setting in settings]

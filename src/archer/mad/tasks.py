"""The six tasks by name, and `generate`."""

from __future__ import annotations

from archer.mad import compress, context_recall, fuzzy_recall, memorize, noisy_recall, selective_copy
from archer.mad.settings import TASK_NAMES, Setting, SettingError, nearest
from archer.mad.stream import Stream
from archer.mad.task import SPLITS, Examples, Split, Task

GENERATOR_VERSION = 1
"""Raised whenever the same (setting, seed, split) would give other data than before."""

_MODULES = (compress, context_recall, fuzzy_recall, memorize, noisy_recall, selective_copy)

TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in _MODULES}
assert tuple(TASKS) == TASK_NAMES


def find_task(name: str) -> Task:
    """The task with this display name or slug. Raises SettingError with the nearest name."""
    for task in TASKS.values():
        if name in (task.name, task.slug):
            return task
    raise SettingError(f"no task is named {name!r}.{nearest(name, TASK_NAMES)}")


def generate(setting: Setting, seed: int, split: Split) -> Examples:
    """The sequences of one split: inputs and targets [N, T] int64.

    The same (setting, seed, split) gives the same bytes on every machine. The three splits are drawn
    from unrelated streams; Memorize's table of facts is shared by the splits (and by all settings of
    the same vocabulary and seed).
    """
    if split not in SPLITS:
        raise SettingError(f"no split is named {split!r}.{nearest(str(split), SPLITS)}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise SettingError(f"the seed is {seed!r}, expected a whole number")
    stream = Stream("archer.mad", GENERATOR_VERSION, setting.name, seed, split)
    facts = Stream("archer.mad", GENERATOR_VERSION, setting.task, "facts", setting.vocabulary, seed)
    count = setting.examples_in(split)
    return TASKS[setting.task].draw(setting, count, split == "train", stream, facts)

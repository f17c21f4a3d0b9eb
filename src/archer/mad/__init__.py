"""The six tasks of MAD (Poli 2024, arXiv:2403.17844): data, settings, presets and the score; numpy only."""

from archer.mad.checks import CheckRow, check
from archer.mad.presets import PRESETS, Preset, find_preset
from archer.mad.score import macro_accuracy, macro_accuracy_torch
from archer.mad.settings import BASELINES, SETTINGS, TASK_NAMES, Setting, SettingError, find_setting
from archer.mad.store import CacheWarning, load
from archer.mad.task import Examples, Split, Task
from archer.mad.tasks import GENERATOR_VERSION, TASKS, find_task, generate

__all__ = [
    "BASELINES",
    "GENERATOR_VERSION",
    "PRESETS",
    "SETTINGS",
    "TASKS",
    "TASK_NAMES",
    "CacheWarning",
    "CheckRow",
    "Examples",
    "Preset",
    "Setting",
    "SettingError",
    "Split",
    "Task",
    "check",
    "find_preset",
    "find_setting",
    "find_task",
    "generate",
    "load",
    "macro_accuracy",
    "macro_accuracy_torch",
]

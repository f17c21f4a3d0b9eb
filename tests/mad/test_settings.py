"""The settings are mad-lab's 66, under names that never change; impossible ones are refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from archer.mad import (
    BASELINES,
    PRESETS,
    SETTINGS,
    TASK_NAMES,
    Setting,
    SettingError,
    find_preset,
    find_setting,
)


def test_there_are_66_settings_task_by_task() -> None:
    counts = Counter(setting.task for setting in SETTINGS)
    assert [counts[task] for task in TASK_NAMES] == [11, 11, 11, 6, 14, 13]
    assert len(set(SETTINGS)) == 66
    assert len({setting.name for setting in SETTINGS}) == 66


def test_each_task_begins_with_its_baseline() -> None:
    first = {task: next(s for s in SETTINGS if s.task == task) for task in TASK_NAMES}
    assert tuple(first.values()) == BASELINES
    numbers = [(s.vocabulary, s.length, s.train_examples) for s in BASELINES]
    assert numbers == [
        (16, 32, 12800),
        (16, 128, 12800),
        (16, 128, 12800),
        (256, 32, 256),
        (32, 128, 12800),
        (16, 256, 12800),
    ]


def test_settings_vary_one_number_of_the_baseline() -> None:
    baselines = {s.task: s for s in BASELINES}
    for setting in SETTINGS:
        base = baselines[setting.task]
        changed = [f for f in setting.__dataclass_fields__ if getattr(setting, f) != getattr(base, f)]
        assert len(changed) == (setting is not base), setting.name


def test_names_never_change() -> None:
    """The ledger keeps settings by name: a name that changes loses its runs."""
    assert find_setting("context-recall-v16-t128-n12800") is BASELINES[1]
    names = "\n".join(setting.name for setting in SETTINGS)
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "2ff95f573c4b277f"


def test_lengths_that_a_model_reads() -> None:
    lengths = {task: sorted({s.input_length for s in SETTINGS if s.task == task}) for task in TASK_NAMES}
    assert list(lengths.values()) == [
        [32, 64, 128, 256],
        [127, 255, 511, 1023],
        [128, 256, 512, 1024],
        [32],
        [127, 255, 511, 1023],
        [256, 512, 1024],
    ]


def test_names_tell_settings_apart() -> None:
    base = BASELINES[4]
    others = [
        replace(base, noise_fraction=0.4),
        replace(base, noise_vocabulary=8),
        replace(base, test_examples=640),
        replace(base, validation_examples=640),
        replace(base, multi_query=False),
    ]
    assert len({setting.name for setting in (base, *others)}) == 6
    fuzzy = [replace(BASELINES[2], key_motif=key, value_motif=value) for key in (1, 3) for value in (1, 3)]
    assert len({setting.name for setting in fuzzy}) == 4


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"task": "Context Recal"}, "Did you mean 'Context Recall'"),
        ({"vocabulary": 0}, "vocabulary is 0"),
        ({"vocabulary": 16.0}, "whole number"),
        ({"vocabulary": 1}, "at least one key and one value"),
        ({"length": 127}, "length is 127, expected an even number"),
        ({"length": 2}, "at least 4"),
        ({"train_examples": 0}, "train_examples is 0"),
        ({"noise_fraction": 0.2}, "belong to Noisy Recall"),
        ({"task": "Noisy Recall"}, "noise_vocabulary is 0"),
        ({"task": "Noisy Recall", "noise_vocabulary": 8, "noise_fraction": 1.0}, "below 1"),
        ({"task": "Noisy Recall", "noise_vocabulary": 15, "noise_fraction": 0.5}, "leaves no room"),
        ({"tokens_to_copy": 4}, "belongs to Selective Copy"),
        ({"task": "Selective Copy"}, "tokens_to_copy is 0"),
        ({"task": "Selective Copy", "tokens_to_copy": 64}, "takes at least 130"),
        ({"task": "Selective Copy", "tokens_to_copy": 4, "vocabulary": 2}, "expected at least 3"),
        ({"key_motif": 2}, "belong to Fuzzy Recall"),
        ({"task": "Fuzzy Recall", "key_motif": 8}, "expected 1 to 7"),
        ({"task": "Fuzzy Recall", "value_motif": 0}, "value_motif is 0"),
        ({"task": "Fuzzy Recall", "key_motif": 3, "value_motif": 3, "length": 12}, "need at least 13"),
        ({"task": "Compress", "multi_query": False}, "belongs to the three recall tasks"),
        ({"task": "Compress", "length": 1}, "at least 2"),
        ({"task": "Memorize", "vocabulary": 2}, "at least one key and one value"),
        ({"task": "Memorize", "length": 31}, "even number"),
    ],
)
def test_impossible_settings_are_refused(numbers: dict[str, object], message: str) -> None:
    given = {"task": "Context Recall", "vocabulary": 16, "length": 128, "train_examples": 128} | numbers
    with pytest.raises(SettingError, match=message):
        Setting(**given)  # type: ignore[arg-type]


def test_unknown_names_list_the_nearest() -> None:
    with pytest.raises(SettingError, match="context-recall-v16-t128-n12800"):
        find_setting("context-recall-v16-t128-n1280")
    with pytest.raises(
        SettingError, match=r"Did you mean 'baseline'\? Choices: smoke, quick, baseline, full"
    ):
        find_preset("base-line")


def test_presets() -> None:
    assert PRESETS["full"].settings == SETTINGS
    assert PRESETS["full"].runs == 396 * PRESETS["full"].seeds
    assert PRESETS["baseline"].settings == BASELINES
    assert PRESETS["baseline"].learning_rates == (1e-4, 5e-4, 1e-3)
    assert PRESETS["baseline"].weight_decays == (0.0, 0.1)
    assert {name: preset.seeds for name, preset in PRESETS.items()} == {
        "smoke": 2, "quick": 3, "baseline": 3, "full": 1
    }  # fmt: skip
    assert [PRESETS[name].epochs for name in ("quick", "baseline", "full")] == [60, 200, 200]
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert {setting.task for setting in preset.settings} == set(TASK_NAMES)
        assert len({setting.name for setting in preset.settings}) == len(preset.settings)
        assert preset.width % preset.heads == 0
    assert [name for name, preset in PRESETS.items() if not preset.ranks] == ["smoke"]


def test_importing_the_room_needs_neither_torch_nor_scipy() -> None:
    code = "import sys, archer.mad; print([m for m in ('torch', 'scipy', 'pandas') if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"

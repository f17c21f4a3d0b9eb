"""Every task: its exact reader, its worked example, its lengths; the same data everywhere."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from archer.mad import (
    BASELINES,
    SETTINGS,
    TASK_NAMES,
    TASKS,
    Examples,
    Setting,
    SettingError,
    find_task,
    generate,
)
from archer.mad.settings import (
    CONTEXT_RECALL,
    FUZZY_RECALL,
    IGNORED,
    MEMORIZE,
    NOISY_RECALL,
    SELECTIVE_COPY,
    tokens_of,
)
from archer.mad.task import SPLITS, UNANSWERED
from archer.mad.tasks import GENERATOR_VERSION

SINGLE_QUERY = [replace(BASELINES[i], multi_query=False) for i in (1, 2, 4)]
TINY = [
    Setting("Compress", 2, 2, 64),
    Setting(CONTEXT_RECALL, 2, 4, 64),
    Setting(FUZZY_RECALL, 4, 5, 64),
    Setting(FUZZY_RECALL, 8, 16, 64, key_motif=2, value_motif=3),
    Setting(MEMORIZE, 3, 2, 64),
    Setting(NOISY_RECALL, 4, 4, 64, noise_vocabulary=1, noise_fraction=0.99),
    Setting(SELECTIVE_COPY, 3, 4, 64, tokens_to_copy=1),
]


def read(setting: Setting, examples: Examples, facts: Examples) -> tuple[float, float]:
    """The reader's accuracy where it answers a scored target, and the fraction of those that it answers."""
    answers = TASKS[setting.task].solve(setting, examples.inputs, facts)
    scored = examples.targets != IGNORED
    answered = scored & (answers != UNANSWERED)
    return float((answers == examples.targets)[answered].mean()), float(answered.sum() / scored.sum())


def small(setting: Setting) -> Setting:
    counts = {"test_examples": 128, "validation_examples": 64}
    return replace(setting, train_examples=min(setting.train_examples, 256), **counts)


@pytest.mark.parametrize("setting", [*SETTINGS, *SINGLE_QUERY, *TINY], ids=lambda s: s.name)
def test_reader_is_right_wherever_targets_are_determined(setting: Setting) -> None:
    setting = small(setting)
    train = generate(setting, 3, "train")
    for split in ("validation", "test"):
        accuracy, determined = read(setting, generate(setting, 3, split), train)
        assert accuracy == 1.0
        if setting.task == FUZZY_RECALL and setting.length >= 128:
            assert determined > (0.8 if not setting.multi_query else 0.9)
        elif setting.task not in (FUZZY_RECALL, MEMORIZE):
            assert determined == 1.0
    assert read(setting, train, train)[0] == 1.0


def test_memorize_is_determined_as_far_as_its_facts_were_seen() -> None:
    """4,096 even draws out of K keys miss each key with probability (1 - 1/K)**4096."""
    for setting in (s for s in SETTINGS if s.task == MEMORIZE):
        _, determined = read(setting, generate(setting, 0, "test"), generate(setting, 0, "train"))
        keys = tokens_of(setting).keys
        assert determined == pytest.approx(1 - (1 - 1 / keys) ** 4096, abs=0.02)


@pytest.mark.parametrize("split", ["train", "test"])
def test_reader_is_right_on_mad_labs_own_sequences(sample, split: str) -> None:
    setting, facts = sample.setting, sample.train
    if setting.task == MEMORIZE:
        keys, values = sample.table.T.astype(np.int64)
        facts = Examples(np.stack([keys, keys * 0], 1), np.stack([values * 0, values], 1))
    accuracy, determined = read(setting, sample.split(split), facts)
    assert accuracy == 1.0
    if split == "test":
        assert determined == 1.0 if setting.task != FUZZY_RECALL else determined > 0.9


def test_reader_gets_wrong_what_is_made_wrong() -> None:
    """The reader does not copy the targets: a value changed in the inputs changes its answers."""
    setting = small(BASELINES[1])
    test = generate(setting, 0, "test")
    inputs = test.inputs.copy()
    inputs[:, 1] = (inputs[:, 1] - 8 + 1) % 8 + 8
    assert read(setting, Examples(inputs, test.targets), test)[0] < 1.0


EXAMPLES = {
    "Compress": (Setting("Compress", 16, 8, 1), "3 9 0 14 9 2 7 15", "3 9 0 14 9 2 7 15"),
    "Context Recall": (Setting(CONTEXT_RECALL, 8, 10, 1), "2 6 0 5 2 6 3 5 0", ". . . . 6 . . . 5"),
    "Fuzzy Recall": (
        Setting(FUZZY_RECALL, 12, 16, 1, key_motif=2, value_motif=2),
        "11 11 11 0 3 7 4 1 9 5 0 3 7 4 1 9",
        ". . . . . . . . . . . 7 . . 9 5",
    ),
    "Memorize": (Setting(MEMORIZE, 8, 6, 1), "1 7 0 7 1 7", ". 3 . 5 . 3"),
    "Noisy Recall": (
        Setting(NOISY_RECALL, 12, 12, 1, noise_vocabulary=4, noise_fraction=0.2),
        "2 6 9 8 0 5 2 6 11 9 0",
        ". . . . . . 6 . . . 5",
    ),
    "Selective Copy": (
        Setting(SELECTIVE_COPY, 8, 14, 1, tokens_to_copy=3),
        "6 6 4 0 6 6 6 6 6 2 7 6 6 6",
        ". . . . . . . . . . . 4 0 2",
    ),
}


@pytest.mark.parametrize("task", TASK_NAMES)
def test_worked_example_of_the_docstring(task: str) -> None:
    setting, inputs, targets = EXAMPLES[task]
    described = " ".join(TASKS[task].description.split())
    assert inputs in described
    assert targets in described
    tokens = np.array([inputs.split()], dtype=np.int64)
    wanted = np.array([[UNANSWERED if t == "." else int(t) for t in targets.split()]])
    facts = Examples(tokens, wanted) if task == MEMORIZE else None
    answers = TASKS[task].solve(setting, tokens, facts)
    assert tokens.shape == (1, setting.input_length)
    np.testing.assert_array_equal(answers, wanted)


@pytest.mark.parametrize("setting", [*BASELINES, *SINGLE_QUERY, *TINY], ids=lambda s: s.name)
def test_shapes_types_and_ranges(setting: Setting) -> None:
    setting = small(setting)
    for split in SPLITS:
        examples = generate(setting, 0, split)
        for array in (examples.inputs, examples.targets):
            assert array.shape == (setting.examples_in(split), setting.input_length)
            assert array.dtype == np.int64
            assert array.flags.c_contiguous
            assert array.max() < setting.vocabulary
        assert examples.inputs.min() >= 0
        assert set(np.unique(examples.targets[examples.targets < 0])) <= {IGNORED}


@pytest.mark.parametrize("setting", [BASELINES[1], BASELINES[2], BASELINES[4]], ids=lambda s: s.name)
def test_recall_trains_on_the_whole_sequence_and_is_tested_on_the_values_asked_for(setting: Setting) -> None:
    train = generate(setting, 0, "train")
    np.testing.assert_array_equal(train.targets[:, :-1], train.inputs[:, 1:])
    test = generate(setting, 0, "test")
    scored = test.targets != IGNORED
    np.testing.assert_array_equal(test.targets[:, :-1][scored[:, :-1]], test.inputs[:, 1:][scored[:, :-1]])
    tokens = tokens_of(setting)
    assert test.targets[scored].min() >= tokens.keys
    assert test.targets[scored].max() < tokens.values_end
    assert scored[:, -1].all()
    assert 0 < scored.mean() < 0.5


def test_data_never_change() -> None:
    """The same on every machine and with every numpy; whoever changes a stream raises GENERATOR_VERSION."""
    hashes = {
        (setting.task, split): fingerprint(generate(small(setting), 12345, split))
        for setting in BASELINES
        for split in SPLITS
    }
    assert GENERATOR_VERSION == 1
    assert hashes == GOLDEN


def fingerprint(examples: Examples) -> str:
    content = examples.inputs.astype("<i8").tobytes() + examples.targets.astype("<i8").tobytes()
    return hashlib.sha256(content).hexdigest()[:12]


GOLDEN = {
    ("Compress", "train"): "fe465c9c33e4",
    ("Compress", "validation"): "461b68c5d921",
    ("Compress", "test"): "1ad476c89146",
    ("Context Recall", "train"): "3a02051b0442",
    ("Context Recall", "validation"): "36b33286c0ee",
    ("Context Recall", "test"): "a50b5ef22d75",
    ("Fuzzy Recall", "train"): "7da15b206e46",
    ("Fuzzy Recall", "validation"): "ce672f2552c9",
    ("Fuzzy Recall", "test"): "0c72f5e8ee7c",
    ("Memorize", "train"): "172ebf8909ae",
    ("Memorize", "validation"): "e57e3f5f262a",
    ("Memorize", "test"): "a1405967a31d",
    ("Noisy Recall", "train"): "2e6167791e8d",
    ("Noisy Recall", "validation"): "acfe06a03f59",
    ("Noisy Recall", "test"): "7ff68a963e79",
    ("Selective Copy", "train"): "b839f3fb080a",
    ("Selective Copy", "validation"): "5977372fe6e5",
    ("Selective Copy", "test"): "afd7b42e165e",
}


@pytest.mark.parametrize("setting", BASELINES, ids=lambda s: s.name)
def test_seeds_and_splits_are_unrelated(setting: Setting) -> None:
    setting = replace(setting, train_examples=256, test_examples=256, validation_examples=256)
    rows = [
        tuple(row)
        for seed in (0, 1)
        for split in SPLITS
        for row in generate(setting, seed, split).inputs.tolist()
    ]
    assert len(set(rows)) == len(rows) == 6 * 256
    again = generate(setting, 0, "train")
    np.testing.assert_array_equal(again.inputs, generate(setting, 0, "train").inputs)


def test_memorize_shares_its_table_among_splits_and_lengths_but_not_among_seeds() -> None:
    def table(setting: Setting, seed: int, split: str) -> np.ndarray:
        examples = generate(setting, seed, split)
        found = np.full(127, -1)
        found[examples.inputs[:, 0::2]] = examples.targets[:, 1::2]
        return found

    setting = replace(BASELINES[3], train_examples=1280)
    first = table(setting, 0, "train")
    assert (first >= 127).all()
    assert first.max() <= 254
    assert len(set(first.tolist())) == 127
    for split in ("validation", "test"):
        np.testing.assert_array_equal(first, table(setting, 0, split))
    np.testing.assert_array_equal(first, table(replace(setting, length=64), 0, "train"))
    assert (first != table(setting, 1, "train")).mean() > 0.9


def test_memorize_needs_its_facts() -> None:
    with pytest.raises(ValueError, match="pass the training examples"):
        TASKS[MEMORIZE].solve(BASELINES[3], np.zeros((1, 32), np.int64), None)


def test_noisy_recall_always_keeps_a_pair() -> None:
    """mad-lab stops with an error where all pairs but the last are noise."""
    setting = Setting(NOISY_RECALL, 8, 4, 2048, noise_vocabulary=4, noise_fraction=0.95)
    examples = generate(setting, 0, "train")
    assert (examples.inputs[:, 0] < 2).all()
    longer = generate(replace(setting, length=8), 0, "train")
    keys = longer.inputs[:, 0:6:2]
    assert (keys < 2).any(axis=1).all()
    assert (keys >= 4).any()


def test_unknown_names() -> None:
    with pytest.raises(SettingError, match="Did you mean 'validation'"):
        generate(BASELINES[0], 0, "valid")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"seed is 0\.5"):
        generate(BASELINES[0], 0.5, "test")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="Did you mean 'Memorize'"):
        find_task("Memorise")
    assert find_task("noisy-recall") is TASKS["Noisy Recall"]

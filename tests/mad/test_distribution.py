"""Our sequences and mad-lab's cannot be told apart, and the comparison tells a wrong generator at once.

The comparison: up to 140 features of a sequence (see mad_features), and a permutation test of the largest
standardised difference of means. It is exact at any number of features. 28 comparisons (14 samples, two
splits) at 0.0005 each raise a false alarm in fewer than 2 of 100 generator versions. Its power is shown by
the planted faults below: each must be caught by at least one comparison of its task, and the same code
without the fault by none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from mad_features import compare, features

from archer.mad import Examples, Setting, fuzzy_recall, generate
from archer.mad.published import _score_like_a_test
from archer.mad.settings import (
    COMPRESS,
    CONTEXT_RECALL,
    FUZZY_RECALL,
    IGNORED,
    MEMORIZE,
    NOISY_RECALL,
    SELECTIVE_COPY,
    tokens_of,
)

LEVEL = 0.0005
SHUFFLES = 1999
OURS = 1024

Random = np.random.Generator


@cache
def described(sample, split: str) -> tuple[list[str], np.ndarray]:
    return features(sample.setting, sample.split(split))


def compared(sample, split: str, ours: Examples) -> tuple[float, str]:
    names, theirs = described(sample, split)
    _, columns = features(sample.setting, ours)
    p_value, worst = compare(columns, theirs, SHUFFLES)
    return p_value, names[worst]


@pytest.mark.parametrize("split", ["train", "test"])
def test_same_distribution(sample, split: str) -> None:
    p_value, worst = compared(sample, split, generate(sample.ours(OURS), 0, split))
    assert p_value > LEVEL, f"p = {p_value:.4f}; most different: {worst}"


def test_permutation_test_keeps_its_level() -> None:
    """Two draws of one distribution: p-values are even over (0, 1], strongly dependent columns included."""
    random = np.random.default_rng(0)
    found = []
    for trial in range(200):
        base = random.standard_exponential((120, 1))
        columns = np.concatenate([base, base**2, random.integers(0, 2, (120, 20))], axis=1)
        found.append(compare(columns[:90], columns[90:], shuffles=99, seed=trial)[0])
    assert 0.03 <= np.mean(np.array(found) <= 0.1) <= 0.18
    assert 0.4 <= np.mean(np.array(found) <= 0.5) <= 0.6


# Plain generators with a fault to choose, written apart from ours: no fault, no alarm.


def plain_compress(setting: Setting, split: str, random: Random, fault: str) -> Examples:
    content = setting.vocabulary - (2 if fault == "one token is never drawn" else 1)
    inputs = random.integers(0, content, (OURS, setting.length))
    if fault == "no token follows itself":
        for place in range(1, setting.length):
            again = inputs[:, place] == inputs[:, place - 1]
            inputs[:, place] = np.where(again, (inputs[:, place] + 1) % content, inputs[:, place])
    inputs[:, 0 if fault == "compression token in front" else -1] = setting.vocabulary - 1
    return Examples(inputs, inputs)


def plain_recall(setting: Setting, split: str, random: Random, fault: str) -> Examples:
    tokens, pairs = tokens_of(setting), setting.length // 2 - 1
    keys, end = tokens.keys, tokens.values_end
    noise = setting.noise_fraction + (0.06 if fault == "a little more noise" else 0)
    noisy = random.random((OURS, pairs)) < noise
    sequences, scores = [], []
    for row in range(OURS):
        sequence, scored = recall_row(
            fault,
            noisy[row].tolist(),
            random.integers(end, end + max(1, setting.noise_vocabulary), (pairs, 2)).tolist(),
            random.integers(0, keys, pairs).tolist(),
            random.integers(keys, end, pairs).tolist(),
            random.random(pairs + 2).tolist(),
        )
        sequences.append(sequence)
        scores.append(scored)
    whole = np.array(sequences)
    targets = whole if split == "train" else np.where(np.array(scores), whole, IGNORED)
    return Examples(whole[:, :-1], targets[:, 1:])


def recall_row(
    fault: str,
    noisy: list[bool],
    noise: list[list[int]],
    keys: list[int],
    values: list[int],
    luck: list[float],
) -> tuple[list[int], list[bool]]:
    memory: dict[int, int] = {}
    shown: list[int] = []
    sequence: list[int] = []
    scored: list[bool] = []
    for slot, key in enumerate(keys):
        if noisy[slot]:
            sequence += (
                [noise[slot][0], noise[slot][0]] if fault == "noise tokens come twice" else noise[slot]
            )
            scored += [False, False]
            continue
        if fault == "no key twice in turn" and shown and shown[-1] == key:
            key = key - 1 if key else key + 1
        known = key in memory
        if not known or (fault == "a value changes now and then" and luck[slot] < 0.02):
            memory[key] = values[slot]
        sequence += [key, memory[key]]
        scored += [False, known or (fault == "first occurrences are scored" and luck[slot] < 0.1)]
        shown.append(key)
    choices = shown if fault == "the probe is drawn over occurrences" else sorted(set(shown))
    probe = choices[int(luck[-1] * len(choices))]
    if fault == "the probe is often the last key" and luck[-2] < 0.25:
        probe = shown[-1]
    return [*sequence, probe, memory[probe]], [*scored, False, True]


def plain_memorize(setting: Setting, split: str, random: Random, fault: str) -> Examples:
    keys, pairs = tokens_of(setting).keys, setting.length // 2
    drawn = random.integers(0, keys - (4 if fault == "four keys are missing" else 0), (OURS, pairs))
    if fault == "no key twice":
        drawn = np.stack([random.permutation(keys)[:pairs] for _ in range(OURS)])
    inputs = np.full((OURS, setting.length), setting.vocabulary - 1)
    targets = np.full(inputs.shape, IGNORED)
    inputs[:, 0::2] = np.sort(drawn, axis=1) if fault == "keys in order" else drawn
    targets[:, 1::2] = keys + inputs[:, 0::2]
    return Examples(inputs, targets)


def plain_copy(setting: Setting, split: str, random: Random, fault: str) -> Examples:
    tokens, copied = tokens_of(setting), setting.tokens_to_copy
    rest = setting.length - 2 * copied - 1
    inputs = np.full((OURS, setting.length), setting.vocabulary - 2)
    targets = np.full(inputs.shape, IGNORED)
    for row in range(OURS):
        content = random.integers(0, tokens.content, copied)
        ends = copied + (fault == "blanks after the last token too")
        runs = np.bincount(random.integers(0, ends, rest), minlength=ends)[:copied]
        places = np.arange(copied) + np.cumsum(runs)
        if fault == "places drawn evenly over all arrangements":
            places[:-1] = np.sort(random.permutation(copied + rest - 1)[: copied - 1])
        inputs[row, places] = content
        inputs[row, copied + rest] = setting.vocabulary - 1
        targets[row, -copied:] = content[::-1] if fault == "copied backwards" else content
    if fault == "one token is never drawn":
        inputs, targets = (np.where(array == 3, 4, array) for array in (inputs, targets))
    return Examples(inputs, targets)


PLAIN: dict[str, Callable[[Setting, str, Random, str], Examples]] = {
    COMPRESS: plain_compress,
    CONTEXT_RECALL: plain_recall,
    MEMORIZE: plain_memorize,
    NOISY_RECALL: plain_recall,
    SELECTIVE_COPY: plain_copy,
}
NO_FAULT = "none"
PLANTED = [
    (COMPRESS, "one token is never drawn"),
    (COMPRESS, "no token follows itself"),
    (COMPRESS, "compression token in front"),
    (CONTEXT_RECALL, "the probe is drawn over occurrences"),
    (CONTEXT_RECALL, "the probe is often the last key"),
    (CONTEXT_RECALL, "no key twice in turn"),
    (CONTEXT_RECALL, "a value changes now and then"),
    (CONTEXT_RECALL, "first occurrences are scored"),
    (MEMORIZE, "no key twice"),
    (MEMORIZE, "four keys are missing"),
    (MEMORIZE, "keys in order"),
    (NOISY_RECALL, "a little more noise"),
    (NOISY_RECALL, "noise tokens come twice"),
    (SELECTIVE_COPY, "blanks after the last token too"),
    (SELECTIVE_COPY, "places drawn evenly over all arrangements"),
    (SELECTIVE_COPY, "one token is never drawn"),
]


def caught(samples: list[Any], task: str, draw: Callable[[Setting, str], Examples]) -> bool:
    """Whether one of the task's samples tells the drawn sequences from mad-lab's, in either split."""
    return any(
        compared(sample, split, draw(sample.ours(OURS), split))[0] <= LEVEL
        for sample in samples
        if sample.setting.task == task
        for split in ("test", "train")
    )


@pytest.mark.parametrize("task", PLAIN)
def test_plain_generators_without_a_fault_pass(samples, task: str) -> None:
    random = np.random.default_rng(5)
    assert not caught(samples, task, lambda setting, split: PLAIN[task](setting, split, random, NO_FAULT))


@pytest.mark.parametrize(("task", "planted"), PLANTED)
def test_planted_fault_is_caught(samples, task: str, planted: str) -> None:
    random = np.random.default_rng(5)
    assert caught(samples, task, lambda setting, split: PLAIN[task](setting, split, random, planted))


# Fuzzy Recall: faults put into our own generator.


def keys_of_every_size(patch: pytest.MonkeyPatch, setting: Setting, split: str) -> Examples:
    return _score_like_a_test(setting, generate(setting, 0, "train"))


def values_always_largest(patch: pytest.MonkeyPatch, setting: Setting, split: str) -> Examples:
    original = fuzzy_recall._values_of

    def values_of(number, salt, values):
        size, order = original(number, salt, values)
        return size * 0 + values.largest, order

    patch.setattr(fuzzy_recall, "_values_of", values_of)
    return generate(setting, 0, split)


def probe_put_in_front(patch: pytest.MonkeyPatch, setting: Setting, split: str) -> Examples:
    patch.setattr(fuzzy_recall, "_place_probe", lambda setting, number, length, stream: number[:, 0] * 0)
    return generate(setting, 0, split)


def probe_never_put_in(patch: pytest.MonkeyPatch, setting: Setting, split: str) -> Examples:
    patch.setattr(fuzzy_recall, "_place_probe", lambda setting, number, length, stream: number[:, 0] * 0 - 1)
    return generate(setting, 0, split)


def tokens_repeat_inside_motifs(patch: pytest.MonkeyPatch, setting: Setting, split: str) -> Examples:
    def tokens(self, order):
        return [self.first + order // 7**place % self.alphabet for place in range(self.largest)]

    patch.setattr(fuzzy_recall._Motifs, "tokens", tokens)
    return generate(setting, 0, split)


def sequences_end_early(patch: pytest.MonkeyPatch, setting: Setting, split: str) -> Examples:
    original = fuzzy_recall._limit
    patch.setattr(fuzzy_recall, "_limit", lambda setting, probe_length: original(setting, probe_length) - 2)
    return generate(setting, 0, split)


def a_key_changes_its_value(patch: pytest.MonkeyPatch, setting: Setting, split: str) -> Examples:
    original = fuzzy_recall._values_of

    def values_of(number, salt, values):
        return original(number + 997 * (np.arange(number.shape[1]) // 20), salt, values)

    patch.setattr(fuzzy_recall, "_values_of", values_of)
    return generate(setting, 0, split)


FUZZY_FAULTS = [
    keys_of_every_size,
    values_always_largest,
    probe_put_in_front,
    probe_never_put_in,
    tokens_repeat_inside_motifs,
    sequences_end_early,
    a_key_changes_its_value,
]


@pytest.mark.parametrize("planted", FUZZY_FAULTS, ids=lambda planted: planted.__name__)
def test_planted_fault_in_fuzzy_recall_is_caught(samples, monkeypatch, planted) -> None:
    sample = next(s for s in samples if s.setting.task == FUZZY_RECALL)
    ours = planted(monkeypatch, sample.ours(OURS), "test")
    p_value, _ = compared(sample, "test", ours)
    assert p_value <= LEVEL


# What holds for every single sequence, theirs and ours.


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_sequence_is_well_formed(sample, split: str) -> None:
    setting = sample.setting
    ours = replace(setting, train_examples=256, test_examples=256)
    for examples in (sample.split(split), generate(ours, 4, split)):
        assert examples.inputs.shape[1] == setting.input_length
        WELL_FORMED[setting.task](setting, examples)


def well_formed_compress(setting: Setting, examples: Examples) -> None:
    np.testing.assert_array_equal(examples.inputs, examples.targets)
    assert ((examples.inputs == setting.vocabulary - 1).nonzero()[1] == setting.length - 1).all()


def well_formed_recall(setting: Setting, examples: Examples) -> None:
    tokens = tokens_of(setting)
    for row in examples.inputs.tolist():
        memory: dict[int, int] = {}
        for key, value in zip(row[0:-1:2], row[1::2], strict=True):
            if key >= tokens.values_end:
                assert tokens.values_end <= value < tokens.noise_end
                continue
            assert key < tokens.keys <= value < tokens.values_end
            assert memory.setdefault(key, value) == value
        assert row[-1] in memory


def well_formed_memorize(setting: Setting, examples: Examples) -> None:
    tokens = tokens_of(setting)
    assert (examples.inputs[:, 1::2] == setting.vocabulary - 1).all()
    assert (examples.inputs[:, 0::2] < tokens.keys).all()
    assert (examples.targets[:, 0::2] == IGNORED).all()
    facts = set(
        zip(
            examples.inputs[:, 0::2].ravel().tolist(), examples.targets[:, 1::2].ravel().tolist(), strict=True
        )
    )
    keys, values = zip(*facts, strict=True)
    assert len(set(keys)) == len(set(values)) == len(facts)
    assert tokens.keys <= min(values) <= max(values) < setting.vocabulary - 1


def well_formed_copy(setting: Setting, examples: Examples) -> None:
    copied, blank = setting.tokens_to_copy, setting.vocabulary - 2
    for row, wanted in zip(examples.inputs.tolist(), examples.targets.tolist(), strict=True):
        assert row[-copied:] == [blank] * copied
        assert row[-copied - 1] == setting.vocabulary - 1
        assert row[-copied - 2] < blank
        assert [token for token in row if token < blank] == wanted[-copied:]
        assert set(wanted[:-copied]) == {IGNORED}


def well_formed_fuzzy(setting: Setting, examples: Examples) -> None:
    names, columns = features(setting, examples)
    column = dict(zip(names, columns.T, strict=True))
    assert (column["motifs with a repeated token"] == 0).all()
    assert (column["keys with two values"] == 0).all()
    assert column["padding"].min() >= 1
    pad = setting.vocabulary - 1
    np.testing.assert_array_equal((examples.inputs == pad).sum(1), column["padding"])


WELL_FORMED = {
    COMPRESS: well_formed_compress,
    CONTEXT_RECALL: well_formed_recall,
    FUZZY_RECALL: well_formed_fuzzy,
    MEMORIZE: well_formed_memorize,
    NOISY_RECALL: well_formed_recall,
    SELECTIVE_COPY: well_formed_copy,
}

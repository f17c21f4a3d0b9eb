"""Numbers that describe one sequence: what a wrong generator would get wrong.

Every feature is a column, every sequence a row, [N, K] float. A comparison of two generators compares the
columns' means (see `compare`), so a feature also has a square or a histogram where its spread matters.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from archer.mad.settings import (
    CONTEXT_RECALL,
    FUZZY_RECALL,
    IGNORED,
    MEMORIZE,
    NOISY_RECALL,
    SELECTIVE_COPY,
    Setting,
    tokens_of,
)
from archer.mad.task import Examples

Array = np.ndarray[Any, Any]
Columns = dict[str, Array]

BINS = 16


def features(setting: Setting, examples: Examples) -> tuple[list[str], Array]:
    """Names and columns [N, K] for one split."""
    inputs, targets = np.asarray(examples.inputs, np.int64), np.asarray(examples.targets, np.int64)
    columns = _common(setting, inputs, targets)
    if setting.task in (CONTEXT_RECALL, NOISY_RECALL):
        columns |= _recall(setting, inputs)
    elif setting.task == FUZZY_RECALL:
        columns |= _fuzzy(setting, inputs, targets)
    elif setting.task == SELECTIVE_COPY:
        columns |= _copy(setting, inputs)
    elif setting.task == MEMORIZE:
        columns |= _memorize(inputs)
    return list(columns), np.stack([np.asarray(column, float) for column in columns.values()], axis=1)


def _bins(length: int) -> list[slice]:
    edges = np.linspace(0, length, min(BINS, length) + 1).astype(int)
    return [slice(a, b) for a, b in pairwise(edges)]


def _common(setting: Setting, inputs: Array, targets: Array) -> Columns:
    columns: Columns = {}
    scored = targets != IGNORED
    edges = np.unique(np.linspace(0, setting.vocabulary, min(32, setting.vocabulary) + 1).astype(int))
    for low, high in pairwise(edges):
        columns[f"tokens {low} to {high - 1}"] = ((inputs >= low) & (inputs < high)).sum(1)
        if setting.task != MEMORIZE:  # the table of facts is another one
            columns[f"targets {low} to {high - 1}"] = ((targets >= low) & (targets < high)).sum(1)
    for part in _bins(inputs.shape[1]):
        columns[f"mean token at {part.start}"] = inputs[:, part].mean(1)
        columns[f"scored at {part.start}"] = scored[:, part].sum(1)
    for lag in (1, 2, 3, 4, 6, 8):
        columns[f"equal at distance {lag}"] = (inputs[:, lag:] == inputs[:, :-lag]).sum(1)
    columns["distinct tokens"] = _distinct(inputs)
    columns["scored"] = scored.sum(1)
    columns["scored, squared"] = scored.sum(1) ** 2
    return columns


def _distinct(rows: Array) -> Array:
    ordered = np.sort(rows, axis=1)
    return 1 + (np.diff(ordered, axis=1) != 0).sum(1)


def _recall(setting: Setting, inputs: Array) -> Columns:
    """Pairs stand at even positions; the last input is the key asked for."""
    tokens = tokens_of(setting)
    keys, values = inputs[:, 0:-1:2], inputs[:, 1::2]
    probe = inputs[:, -1]
    noisy = keys >= tokens.values_end
    shown = (keys == probe[:, None]) & ~noisy
    distance = shown.shape[1] - 1 - np.argmax(shown[:, ::-1], axis=1)
    columns: Columns = {
        "occurrences of the probe": shown.sum(1),
        "occurrences of the probe, squared": shown.sum(1) ** 2,
        "first place of the probe": np.argmax(shown, axis=1),
        "last place of the probe": distance,
        "probe": probe,
        "probe is the last key": shown[:, -1],
        "noise slots": noisy.sum(1),
        "noise slots, squared": noisy.sum(1) ** 2,
        "noise after noise": (noisy[:, 1:] & noisy[:, :-1]).sum(1),
        "equal noise in a slot": (noisy & (keys == values)).sum(1),
        "equal keys in turn": ((keys[:, 1:] == keys[:, :-1]) & ~noisy[:, 1:]).sum(1),
        "key counts, squared": _squared_counts(np.where(noisy, tokens.keys, keys), tokens.keys),
        "value of the lowest key": np.max(np.where(keys == 0, values, 0), axis=1),
        "keys with two values": _keys_with_two_values(keys, values, tokens.keys),
    }
    for part in _bins(noisy.shape[1]):
        columns[f"noise at slot {part.start}"] = noisy[:, part].sum(1)
    return columns


def _keys_with_two_values(keys: Array, values: Array, bound: int) -> Array:
    total = np.zeros(len(keys))
    for key in range(bound):
        here = keys == key
        largest = np.where(here, values, -1).max(1)
        total += here.any(1) & (np.where(here, values, largest[:, None]).min(1) < largest)
    return total


def _squared_counts(rows: Array, bound: int) -> Array:
    counts = np.stack([(rows == token).sum(1) for token in range(min(bound, 64))], axis=1)
    return (counts**2).sum(1)


def _copy(setting: Setting, inputs: Array) -> Columns:
    tokens, copied = tokens_of(setting), setting.tokens_to_copy
    body = inputs[:, : inputs.shape[1] - copied - 1]
    places = np.nonzero(body < tokens.content)[1].reshape(len(body), -1)
    runs = np.diff(places, axis=1, prepend=-1) - 1
    columns: Columns = {
        "blanks after the last token": body.shape[1] - 1 - places[:, -1],
        "longest run of blanks": runs.max(1),
        "runs, squared": (runs**2).sum(1),
        "tokens in a row": (runs == 0).sum(1),
        "runs in turn": (runs[:, 1:] * runs[:, :-1]).sum(1),
    }
    for part in _bins(runs.shape[1]):
        columns[f"blanks before token {part.start}"] = runs[:, part].sum(1)
        columns[f"blanks before token {part.start}, squared"] = (runs[:, part] ** 2).sum(1)
    return columns


def _memorize(inputs: Array) -> Columns:
    keys = inputs[:, 0::2]
    return {
        "distinct keys": _distinct(keys),
        "equal keys in turn": (keys[:, 1:] == keys[:, :-1]).sum(1),
        "first key": keys[:, 0],
        "last key": keys[:, -1],
    }


def _fuzzy(setting: Setting, inputs: Array, targets: Array) -> Columns:
    rows = [
        _fuzzy_row(setting, row, wanted)
        for row, wanted in zip(inputs.tolist(), targets.tolist(), strict=True)
    ]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _fuzzy_row(setting: Setting, sequence: list[int], targets: list[int]) -> dict[str, float]:
    tokens = tokens_of(setting)
    padding = next(i for i, token in enumerate(sequence) if token != tokens.blank)
    pairs: list[tuple[list[int], list[int], int]] = []  # key, value, where the pair begins
    for place, token in enumerate([*sequence[padding:], targets[-1]]):
        if token < tokens.keys:
            if not pairs or pairs[-1][1]:
                pairs.append(([], [], padding + place))
            pairs[-1][0].append(token)
        else:
            pairs[-1][1].append(token)
    keys = [tuple(key) for key, _, _ in pairs[:-1]]
    probe, answer = tuple(pairs[-1][0]), pairs[-1][1]
    places = [begin for key, _, begin in pairs[:-1] if tuple(key) == probe]
    row: dict[str, float] = {
        "padding": padding,
        "padding, squared": padding**2,
        "pairs": len(keys),
        "distinct keys": len(set(keys)),
        "probe was shown": bool(places),
        "occurrences of the probe": len(places),
        "first place of the probe": places[0] if places else -1,
        "first place of the probe, squared": places[0] ** 2 if places else 0,
        "last place of the probe": places[-1] if places else -1,
        "probe is the first pair": bool(keys) and keys[0] == probe,
        "probe is the last pair": bool(keys) and keys[-1] == probe,
        "equal keys in turn": sum(a == b for a, b in pairwise(keys)),
        "keys with two values": sum(len(v) > 1 for v in _values_of_keys(pairs).values()),
        "motifs with a repeated token": sum(len(set(m)) < len(m) for pair in pairs for m in pair[:2]),
    }
    for size in range(1, setting.key_motif + 1):
        row[f"keys of size {size}"] = sum(len(key) == size for key in keys)
        row[f"probe key of size {size}"] = len(probe) == size
    for size in range(1, setting.value_motif + 1):
        row[f"values of size {size}"] = sum(len(value) == size for _, value, _ in pairs[:-1])
        row[f"probe value of size {size}"] = len(answer) == size
    for place in range(setting.value_motif):
        row[f"mean value token {place}"] = sum(value[place] for _, value, _ in pairs if len(value) > place)
    for place in range(setting.key_motif):
        row[f"mean key token {place}"] = sum(key[place] for key, _, _ in pairs if len(key) > place)
    return row


def _values_of_keys(
    pairs: list[tuple[list[int], list[int], int]],
) -> dict[tuple[int, ...], set[tuple[int, ...]]]:
    values: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for key, value, _ in pairs:
        values.setdefault(tuple(key), set()).add(tuple(value))
    return values


def compare(ours: Array, theirs: Array, shuffles: int = 999, seed: int = 0) -> tuple[float, int]:
    """Permutation test of the largest standardised difference of means over all columns.

    Returns the p-value (at least 1 / (shuffles + 1)) and the column that differs most. Exact for every
    distribution of the columns and every dependence between them, many columns at once included.
    """
    pooled = np.concatenate([ours, theirs]).astype(np.float64)
    varied = pooled.std(0) > 0
    scaled = (pooled - pooled.mean(0)) / np.where(varied, pooled.std(0), 1)
    # The pooled mean is 0, so the smaller group's sum says everything about the difference.
    distance = np.abs(_labels(len(ours), len(theirs), shuffles, seed) @ scaled.astype(np.float32))
    largest = distance.max(1)
    p_value = float((largest >= largest[0] * (1 - 1e-6)).mean())
    return p_value, int(np.argmax(distance[0]))


@cache
def _labels(ours: int, theirs: int, shuffles: int, seed: int) -> Array:
    """[shuffles + 1, ours + theirs] float32: 1 for "theirs"; the first row as it is, the others shuffled."""
    chosen = np.arange(ours + theirs) >= ours
    random = np.random.Generator(np.random.PCG64(seed))
    rows = [chosen, *(random.permutation(chosen) for _ in range(shuffles))]
    return np.stack(rows).astype(np.float32)

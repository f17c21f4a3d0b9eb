"""Fuzzy Recall: Context Recall where keys and values are motifs of one to three adjacent tokens.

Worked example (vocabulary 12: keys 0-4, values 5-10, pad 11; motifs of up to two tokens; length 16):

    pairs            pad        0 3 > 7  4 1 > 9 5  0 3 > 7  4 1 > 9 5
    inputs           11 11 11   0 3 7    4 1 9 5    0 3 7    4 1 9
    test targets      .  .  .   . . .    . . . .    . 7 .    . 9 5        ('.' is -100: not scored)
    train targets    11 11  0   3 7 4    1 9 5 0    3 7 4    1 9 5        (the whole sequence, shifted by one)

No token repeats inside a motif. In training the size of each key is drawn evenly from 1 to `key_motif`; in
validation and test every key has `key_motif` tokens. The size of a value is drawn evenly from 1 to
`value_motif`. A key keeps its value within a sequence.

The pair that is asked for at the end (the probe) is put in at the first boundary between pairs at or after a
random place, unless its key came up by itself before. The place is drawn from a range that reaches a little
beyond the last boundary, as in mad-lab: in a few sequences of each hundred the probe was never shown, its
last targets are not determined, and the reader leaves them unanswered.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import perm
from typing import Any

import numpy as np

from archer.mad.settings import FUZZY_RECALL, IGNORED, Setting, tokens_of
from archer.mad.stream import BitArray, IntArray, Stream, mix, spread
from archer.mad.task import UNANSWERED, Examples, Task

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]

_ROWS = 256  # sequences drawn at a time: part of the stream's order, so never change it without a new version


@dataclass(frozen=True)
class _Motifs:
    """Motifs of up to `largest` tokens out of [first, first + alphabet), as numbers.

    A motif is the beginning of an ordered draw of `largest` different tokens; `order` [..] numbers the whole
    draw, `size` [..] says how many tokens count.
    """

    first: int
    alphabet: int
    largest: int

    @property
    def orders(self) -> int:
        return perm(self.alphabet, self.largest)

    def number(self, order: IntArray, size: IntArray) -> IntArray:
        """[..]: equal exactly where the motifs are equal."""
        rest = np.array([perm(self.alphabet - s, self.largest - s) for s in range(self.largest + 1)])
        return (order // rest[size]) * (self.largest + 1) + size

    def tokens(self, order: IntArray) -> list[IntArray]:
        """The `largest` tokens of each draw: the i-th digit counts among the tokens not yet used."""
        drawn: list[IntArray] = []
        ascending: list[IntArray] = []
        for place in range(self.largest):
            token = (
                order // perm(self.alphabet - place - 1, self.largest - place - 1) % (self.alphabet - place)
            )
            for smaller in ascending:
                token = token + (token >= smaller)
            drawn.append(self.first + token)
            for rank, other in enumerate(ascending):
                ascending[rank], token = np.minimum(other, token), np.maximum(other, token)
            ascending.append(token)
        return drawn


def draw(setting: Setting, count: int, training: bool, stream: Stream, facts: Stream) -> Examples:
    """`count` sequences, drawn in blocks of rows so that the work stays in the cache."""
    inputs = np.empty((count, setting.length), dtype=np.int64)
    targets = np.empty((count, setting.length), dtype=np.int64)
    for start in range(0, count, _ROWS):
        rows = min(_ROWS, count - start)
        sequence, scored = _draw_rows(setting, rows, training, stream)
        inputs[start : start + rows] = sequence[:, :-1]
        shown = sequence if training else np.where(scored, sequence, IGNORED)
        targets[start : start + rows] = shown[:, 1:]
    return Examples(inputs, targets)


def _draw_rows(setting: Setting, rows: int, training: bool, stream: Stream) -> tuple[IntArray, BoolArray]:
    """Sequences [rows, length + 1], and which of their tokens are scored as targets in a test set."""
    tokens = tokens_of(setting)
    keys = _Motifs(0, tokens.keys, setting.key_motif)
    values = _Motifs(tokens.keys, tokens.values_end - tokens.keys, setting.value_motif)
    smallest_key = 1 if training else setting.key_motif
    pairs = -(-(setting.length - smallest_key - 1) // (smallest_key + 1))

    # One column for each pair that could fit, and a last one for the probe.
    key_size = smallest_key + stream.below(setting.key_motif - smallest_key + 1, rows, pairs + 1)
    key_order = stream.below(keys.orders, rows, pairs + 1)
    number = keys.number(key_order, key_size)
    value_size, value_order = _values_of(number, stream.bits(rows, 1), values)

    place = _place_probe(setting, number, key_size + value_size, stream)
    swap = np.arange(pairs + 1) == place[:, None]
    number, key_size, key_order, value_size, value_order = (
        np.where(swap, column[:, -1:], column)
        for column in (number, key_size, key_order, value_size, value_order)
    )
    used, start = _lay_out(setting, key_size + value_size)
    keep = np.r_[: int(used[:, :-1].sum(axis=1).max()), pairs]
    used = used[:, keep]
    start, number, key_size, key_order, value_size, value_order = (
        column[:, keep] for column in (start, number, key_size, key_order, value_size, value_order)
    )

    sequence = np.full((rows, setting.length + 1), tokens.blank, dtype=np.int64)
    _write(sequence, used, start, key_size, keys.tokens(key_order))
    _write(sequence, used, start + key_size, value_size, values.tokens(value_order))
    if tokens.special is not None:
        sequence[np.arange(rows), start[:, -1] - 1] = tokens.special
    scored = np.zeros(sequence.shape, dtype=bool)
    if not training:
        asked = _repeated(np.where(used, number, -1 - np.arange(len(keep)))) & setting.multi_query
        asked[:, -1] = True
        _write(scored, used & asked, start + key_size, value_size, [asked] * setting.value_motif)
    return sequence, scored


def _values_of(number: IntArray, salt: BitArray, values: _Motifs) -> tuple[IntArray, IntArray]:
    """Size and order of each key's value: a fixed random function of the key, another one in each row."""
    bits = mix(mix(number.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)) ^ salt)
    size = 1 + spread(bits, values.largest)
    return size, spread(mix(bits + np.uint64(0x9E3779B97F4A7C15)), values.orders)


def _limit(setting: Setting, probe_length: IntArray) -> IntArray:
    """[rows]: no pair begins at or after this token, so that the longest pair and the probe still fit."""
    return setting.length - probe_length - (setting.key_motif + setting.value_motif)


def _place_probe(setting: Setting, number: IntArray, length: IntArray, stream: Stream) -> IntArray:
    """[rows]: the column that becomes the probe; -1 where none does."""
    probe_length = length[:, -1]
    wanted = stream.below(setting.length - 2 * probe_length, len(number))
    start = np.cumsum(length[:, :-1], axis=1) - length[:, :-1]
    place = np.argmax(start >= wanted[:, None], axis=1)
    at = np.take_along_axis(start, place[:, None], axis=1)[:, 0]
    fits = (at >= wanted) & (at < _limit(setting, probe_length))
    before = np.arange(number.shape[1] - 1) < place[:, None]
    shown = ((number[:, :-1] == number[:, -1:]) & before).any(axis=1)
    return np.where(fits & ~shown, place, -1)


def _lay_out(setting: Setting, length: IntArray) -> tuple[BoolArray, IntArray]:
    """Which columns are in the sequence, and at which token each begins; all end at the right edge."""
    end = np.cumsum(length[:, :-1], axis=1)
    start = end - length[:, :-1]
    used = start < _limit(setting, length[:, -1])[:, None]
    prefix = 0 if setting.multi_query else 1
    body = np.where(used, end, 0).max(axis=1, keepdims=True)
    padding = setting.length + 1 - body - prefix - length[:, -1:]
    start = np.concatenate([start + padding, body + padding + prefix], axis=1)
    return np.concatenate([used, np.ones_like(used[:, :1])], axis=1), start


def _repeated(number: IntArray) -> BoolArray:
    """Where the same number stands further left in the row."""
    order = np.argsort(number, axis=1, kind="stable")
    ordered = np.take_along_axis(number, order, axis=1)
    again = np.zeros(number.shape, dtype=bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeated = np.empty_like(again)
    np.put_along_axis(repeated, order, again, axis=1)
    return repeated


def _write(
    into: np.ndarray[Any, Any], used: BoolArray, start: IntArray, size: IntArray, tokens: list[Any]
) -> None:
    """Writes the first `size` tokens of each used column at `start`, `start` + 1, ..."""
    width = into.shape[1]
    flat = into.reshape(-1)
    cell = start + width * np.arange(len(start))[:, None]
    for place, token in enumerate(tokens):
        here = used & (size > place)
        flat[cell[here] + place] = token[here]


def solve(setting: Setting, inputs: IntArray, facts: Examples | None = None) -> IntArray:
    """Reads from left to right; a run of key tokens is a key, the run of value tokens after it its value.

    Answers after a complete key (one of `key_motif` tokens; a shorter one may still grow) and inside a value,
    where that key has been seen before.
    """
    answers = np.full(inputs.shape, UNANSWERED, dtype=np.int64)
    for row, sequence in enumerate(inputs.tolist()):
        answers[row] = _read(setting, sequence)
    return answers


def _read(setting: Setting, sequence: list[int]) -> list[int]:
    tokens = tokens_of(setting)
    memory: dict[tuple[int, ...], list[int]] = {}
    key: tuple[int, ...] = ()
    value: list[int] = []
    answers = []
    for token in sequence:
        if tokens.keys <= token < tokens.values_end:
            value.append(token)
        else:
            if value:
                memory.setdefault(key, value)
                key, value = (), []
            key = (*key, token) if token < tokens.keys else ()
        known = memory.get(key, ()) if value or len(key) == setting.key_motif else ()
        answers.append(known[len(value)] if len(value) < len(known) else UNANSWERED)
    return answers


def chance(setting: Setting) -> float:
    """One of the value tokens."""
    tokens = tokens_of(setting)
    return 1.0 / (tokens.values_end - tokens.keys)


TASK = Task(FUZZY_RECALL, "fuzzy-recall", "language-model", draw, solve, chance, __doc__ or "")

"""Context Recall: say again which value came with a key earlier in the sequence.

Worked example (vocabulary 8: keys 0-3, values 4-7; length 10, so 9 tokens are read):

    pairs            2 6   0 5   2 6   3 5   0 5
    inputs           2 6   0 5   2 6   3 5   0
    test targets     .  .  .  .  6  .  .  .  5         ('.' is -100: not scored)
    train targets    6 0   5 2   6 3   5 0   5         (the whole sequence, shifted by one)

Keys are drawn evenly with repetition, each key has one value within a sequence and another in the next.
The last pair repeats a key that was shown (even over the distinct keys shown). With `multi_query=False` a
prefix token (vocabulary - 1) stands before the last key, and only its value is scored.

Noise (Noisy Recall) replaces a pair by two noise tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from archer.mad.settings import CONTEXT_RECALL, IGNORED, Setting, Tokens, tokens_of
from archer.mad.stream import IntArray, Stream
from archer.mad.task import UNANSWERED, Examples, Task

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


_ROWS = 512  # sequences drawn at a time: part of the stream's order, so never change it without a new version


def draw(setting: Setting, count: int, training: bool, stream: Stream, facts: Stream) -> Examples:
    """`count` sequences, noisy where the setting is, in blocks so that the work stays in the cache."""
    inputs = np.empty((count, setting.input_length), dtype=np.int64)
    targets = np.empty((count, setting.input_length), dtype=np.int64)
    for start in range(0, count, _ROWS):
        rows = min(_ROWS, count - start)
        sequence, scored = _draw_rows(setting, rows, stream)
        inputs[start : start + rows] = sequence[:, :-1]
        shown = sequence if training else np.where(scored, sequence, IGNORED)
        targets[start : start + rows] = shown[:, 1:]
    return Examples(inputs, targets)


def _draw_rows(setting: Setting, count: int, stream: Stream) -> tuple[IntArray, BoolArray]:
    """Whole sequences [count, input_length + 1], and which of their tokens are scored in a test set."""
    tokens = tokens_of(setting)
    pairs = setting.length // 2 - 1
    keys = stream.below(tokens.keys, count, pairs)
    value_of_key = tokens.keys + stream.below(tokens.values_end - tokens.keys, count, tokens.keys)
    noisy = _noisy_slots(setting, count, pairs, stream)
    first, probe = _shown(keys, ~noisy, tokens.keys, stream.below(2**53, count))

    body = np.empty((count, pairs, 2), dtype=np.int64)
    body[:, :, 0] = keys
    body[:, :, 1] = np.take_along_axis(value_of_key, keys, axis=1)
    if setting.noise_fraction:
        noise = tokens.values_end + stream.below(setting.noise_vocabulary, count, pairs, 2)
        body = np.where(noisy[:, :, None], noise, body)
    last = np.stack([probe, np.take_along_axis(value_of_key, probe[:, None], axis=1)[:, 0]], axis=1)
    prefix = np.full((count, 0 if setting.multi_query else 1), tokens.special or 0, dtype=np.int64)
    sequence = np.concatenate([body.reshape(count, -1), prefix, last], axis=1)

    scored = np.zeros(sequence.shape, dtype=bool)
    if setting.multi_query:
        scored[:, 1 : 2 * pairs : 2] = ~noisy & ~first
    scored[:, -1] = True
    return sequence, scored


def _noisy_slots(setting: Setting, count: int, pairs: int, stream: Stream) -> BoolArray:
    """[count, pairs]: True where noise stands instead of a pair; every row keeps at least one pair.

    As in mad-lab, one slot of pairs + 1 is kept from noise, and one of these is the last pair, which is never
    noise anyway. A row without any pair, on which mad-lab stops with an error, gets one at a random slot.
    """
    if not setting.noise_fraction:
        return np.zeros((count, pairs), dtype=bool)
    slots = np.arange(pairs)
    noisy = stream.chance(setting.noise_fraction, count, pairs)
    noisy &= stream.below(pairs + 1, count)[:, None] != slots
    rescue = stream.below(pairs, count)[:, None] == slots
    return noisy & ~(noisy.all(axis=1, keepdims=True) & rescue)


def _shown(keys: IntArray, real: BoolArray, alphabet: int, draw53: IntArray) -> tuple[BoolArray, IntArray]:
    """Where each key appears for the first time [N, P], and one of the keys shown, drawn evenly [N]."""
    rows = np.arange(len(keys))
    seen = np.zeros((len(keys), alphabet + 1), dtype=bool)
    first = np.zeros(keys.shape, dtype=bool)
    columns = np.where(real, keys, alphabet)
    for position in range(keys.shape[1]):
        column = columns[:, position]
        first[:, position] = ~seen[rows, column] & real[:, position]
        seen[rows, column] = True
    rank = np.cumsum(seen[:, :alphabet], axis=1)
    chosen = (draw53.astype(np.float64) * 2.0**-53 * rank[:, -1]).astype(np.int64)
    return first, np.argmax(rank == chosen[:, None] + 1, axis=1)


def solve(setting: Setting, inputs: IntArray, facts: Examples | None = None) -> IntArray:
    """Reads from left to right, remembers the value after each key, answers where the key is known."""
    tokens = tokens_of(setting)
    rows = np.arange(len(inputs))
    memory = np.full((len(inputs), setting.vocabulary), UNANSWERED, dtype=np.int64)
    answers = np.full(inputs.shape, UNANSWERED, dtype=np.int64)
    previous = np.full(len(inputs), tokens.values_end)
    for position in range(inputs.shape[1]):
        token = inputs[:, position]
        pair = (previous < tokens.keys) & _is_value(token, tokens)
        memory[rows[pair], previous[pair]] = token[pair]
        answers[:, position] = np.where(token < tokens.keys, memory[rows, token], UNANSWERED)
        previous = token
    return answers


def _is_value(token: IntArray, tokens: Tokens) -> BoolArray:
    return (token >= tokens.keys) & (token < tokens.values_end)


def chance(setting: Setting) -> float:
    """One of the values."""
    tokens = tokens_of(setting)
    return 1.0 / (tokens.values_end - tokens.keys)


TASK = Task(CONTEXT_RECALL, "context-recall", "language-model", draw, solve, chance, __doc__ or "")

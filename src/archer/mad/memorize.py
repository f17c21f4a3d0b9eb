"""Memorize: learn a fixed table of facts in training, and answer from it.

Worked example (vocabulary 8: keys 0-2, values 3-6, 7 is the insert token; length 6; facts 0>5 1>3 2>6):

    inputs    1 7   0 7   1 7
    targets   . 3   . 5   . 3         ('.' is -100: not scored)

Each key has a value of its own. Nothing in a sequence tells the value: it has to be known. The table is
drawn from (vocabulary, seed) alone and shared by the three splits; another seed gives another table, so that
several seeds also average over tables (mad-lab draws one table, always with the same seed).

With 256 training sequences of 16 facts, 4,096 facts are read in an epoch: enough to see every fact up to
vocabulary 1,024 or so, but only 63% of them at 8,192. What was never shown cannot be known, and the
reader leaves it unanswered.
"""

from __future__ import annotations

import numpy as np

from archer.mad.settings import IGNORED, MEMORIZE, Setting, tokens_of
from archer.mad.stream import IntArray, Stream
from archer.mad.task import UNANSWERED, Examples, Task


def draw(setting: Setting, count: int, training: bool, stream: Stream, facts: Stream) -> Examples:
    """`count` sequences over the table that `facts` draws; training and test alike."""
    tokens = tokens_of(setting)
    value_of_key = tokens.keys + facts.permutation(tokens.values_end - tokens.keys)[: tokens.keys]
    keys = stream.below(tokens.keys, count, setting.length // 2)
    inputs = np.full((count, setting.length), tokens.special, dtype=np.int64)
    targets = np.full((count, setting.length), IGNORED, dtype=np.int64)
    inputs[:, 0::2] = keys
    targets[:, 1::2] = value_of_key[keys]
    return Examples(inputs, targets)


def solve(setting: Setting, inputs: IntArray, facts: Examples | None = None) -> IntArray:
    """Answers from the facts seen in the training examples `facts`."""
    if facts is None:
        raise ValueError(
            "Memorize cannot be read from the inputs alone: pass the training examples as `facts`"
        )
    table = np.full(setting.vocabulary, UNANSWERED, dtype=np.int64)
    table[facts.inputs[:, 0::2]] = facts.targets[:, 1::2]
    answers = np.full(inputs.shape, UNANSWERED, dtype=np.int64)
    answers[:, 1::2] = table[inputs[:, 0::2]]
    return answers


def chance(setting: Setting) -> float:
    """One of the values."""
    tokens = tokens_of(setting)
    return 1.0 / (tokens.values_end - tokens.keys)


TASK = Task(MEMORIZE, "memorize", "language-model", draw, solve, chance, __doc__ or "")

"""Selective Copy: repeat the tokens that matter, in their order, and skip the blanks between them.

Worked example (vocabulary 8: tokens 0-5, blank 6, copy token 7; length 14; three tokens to copy):

    inputs    6 6 4 0 6 6 6 6 6 2 7 6 6 6
    targets   . . . . . . . . . . . 4 0 2         ('.' is -100: not scored)

Every blank chooses the token before which it stands, evenly and on its own. So no blank follows the last
token: it always stands right before the copy token (mad-lab's choice of `randint(0, n)`).
"""

from __future__ import annotations

import numpy as np

from archer.mad.settings import IGNORED, SELECTIVE_COPY, Setting, tokens_of
from archer.mad.stream import IntArray, Stream
from archer.mad.task import UNANSWERED, Examples, Task


def draw(setting: Setting, count: int, training: bool, stream: Stream, facts: Stream) -> Examples:
    """`count` sequences; training and test alike."""
    tokens, copied = tokens_of(setting), setting.tokens_to_copy
    assert tokens.special is not None
    assert tokens.blank is not None
    blanks = setting.length - 2 * copied - 1
    content = stream.below(tokens.content, count, copied)
    before = stream.below(copied, count, blanks) + copied * np.arange(count)[:, None]
    blanks_before = np.bincount(before.ravel(), minlength=count * copied).reshape(count, copied)
    places = np.arange(copied) + np.cumsum(blanks_before, axis=1)

    inputs = np.full((count, setting.length), tokens.blank, dtype=np.int64)
    np.put_along_axis(inputs, places, content, axis=1)
    inputs[:, copied + blanks] = tokens.special
    targets = np.full((count, setting.length), IGNORED, dtype=np.int64)
    targets[:, -copied:] = content
    return Examples(inputs, targets)


def solve(setting: Setting, inputs: IntArray, facts: Examples | None = None) -> IntArray:
    """The content tokens in their order, one at each position after the copy token."""
    tokens = tokens_of(setting)
    answers = np.full(inputs.shape, UNANSWERED, dtype=np.int64)
    for row, sequence in enumerate(inputs):
        start = int(np.argmax(sequence == tokens.special)) + 1
        read = sequence[:start]
        content = read[read < tokens.content]
        answers[row, start : start + len(content)] = content[: len(sequence) - start]
    return answers


def chance(setting: Setting) -> float:
    """One of the content tokens."""
    return 1.0 / tokens_of(setting).content


TASK = Task(SELECTIVE_COPY, "selective-copy", "language-model", draw, solve, chance, __doc__ or "")

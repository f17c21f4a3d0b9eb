"""Compress: put a whole sequence into its last token, and recover it from there.

Worked example (vocabulary 16, length 8; 15 is the compression token):

    inputs    3  9  0 14  9  2  7 15
    targets   3  9  0 14  9  2  7 15

The auto-encoder reads everything, keeps the state at the compression token alone, and must write the
sequence again, one answer for each position. Tokens are drawn evenly from [0, 15). The compression token is
itself a target, so one class is always right for whoever has learned where it stands.
"""

from __future__ import annotations

import numpy as np

from archer.mad.settings import COMPRESS, Setting, tokens_of
from archer.mad.stream import IntArray, Stream
from archer.mad.task import Examples, Task


def draw(setting: Setting, count: int, training: bool, stream: Stream, facts: Stream) -> Examples:
    """`count` sequences; training and test alike."""
    tokens = tokens_of(setting)
    inputs = np.full((count, setting.length), tokens.special, dtype=np.int64)
    inputs[:, :-1] = stream.below(tokens.content, count, setting.length - 1)
    return Examples(inputs, inputs.copy())


def solve(setting: Setting, inputs: IntArray, facts: Examples | None = None) -> IntArray:
    """The sequence itself."""
    return inputs.copy()


def chance(setting: Setting) -> float:
    """Mean over classes: 1 / content for each content token, 1 for the compression token."""
    return 2.0 / setting.vocabulary


TASK = Task(COMPRESS, "compress", "auto-encoder", draw, solve, chance, __doc__ or "")

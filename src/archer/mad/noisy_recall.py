"""Noisy Recall: Context Recall between tokens that mean nothing.

Worked example (vocabulary 12: keys 0-3, values 4-7, noise 8-11; length 12, so 11 tokens are read):

    pairs            2 6   9 8   0 5   2 6   11 9   0 5
    inputs           2 6   9 8   0 5   2 6   11 9   0
    test targets     . .   . .   . .   6 .    . .   5       ('.' is -100: not scored)
    train targets    6 9   8 0   5 2   6 11   9 0   5

Each pair but the last is replaced by two noise tokens with probability `noise_fraction`. The training
targets contain the noise as well, which nobody can predict: the loss never reaches zero.
"""

from __future__ import annotations

from archer.mad.context_recall import chance, draw, solve
from archer.mad.settings import NOISY_RECALL
from archer.mad.task import Task

TASK = Task(NOISY_RECALL, "noisy-recall", "language-model", draw, solve, chance, __doc__ or "")

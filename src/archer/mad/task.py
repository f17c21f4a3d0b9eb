"""What every task offers: a generator, an exact reader, a chance level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from archer.mad.settings import Setting
from archer.mad.stream import IntArray, Stream

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

UNANSWERED = -1
"""What a reader writes where the inputs do not determine the target."""


@dataclass(frozen=True)
class Examples:
    """Sequences of one split. inputs, targets: [N, T] int64; target -100 is neither trained on nor scored."""

    inputs: IntArray
    targets: IntArray

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Task:
    """One of the six tasks.

    draw(setting, count, training, stream, facts) -> Examples: `training` chooses between the targets (and,
    in Fuzzy Recall, the keys) of the training and of the test set; `facts` is a second stream that the
    splits of one seed share.
    solve(setting, inputs [N, T], facts) -> answers [N, T]: what an exact reader answers from the inputs (and,
    in Memorize, from the training examples `facts`); UNANSWERED where nothing is determined.
    chance(setting): the accuracy of a reader who knows which tokens may stand at a scored position and
    guesses evenly among them.
    """

    name: str
    slug: str
    backbone: Literal["language-model", "auto-encoder"]
    draw: Callable[[Setting, int, bool, Stream, Stream], Examples]
    solve: Callable[[Setting, IntArray, Examples | None], IntArray]
    chance: Callable[[Setting], float]
    description: str

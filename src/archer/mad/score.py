"""mad-lab's score: accuracy averaged over classes within a batch of 128, then over batches.

This is torchmetrics' MulticlassAccuracy(average="macro", ignore_index=-100), batch by batch. A class counts
in the average of a batch when it stands among the scored targets or among the predictions at scored
positions; a class that was predicted but is never a target counts with accuracy 0; a class in neither is
left out. A batch without any scored position scores 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from archer.errors import UserError
from archer.mad.settings import BATCH_SIZE, IGNORED

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]


class ScoreError(UserError):
    """Predictions and targets that cannot be compared."""


def macro_accuracy(predictions: Array, targets: Array, classes: int, batch_size: int = BATCH_SIZE) -> float:
    """The score of a whole set. predictions, targets: [N, T] whole numbers, targets -100 where not scored.

    The mean over batches weighs each batch with its number of sequences, as Lightning does; only a set whose
    size is no multiple of `batch_size` notices. Raises ScoreError on shapes that differ and on classes out
    of range.
    """
    predictions, targets = np.asarray(predictions), np.asarray(targets)
    _check(predictions, targets, classes)
    starts = range(0, len(targets), batch_size)
    sizes = [len(targets[start : start + batch_size]) for start in starts]
    scores = [
        batch_accuracy(predictions[start : start + batch_size], targets[start : start + batch_size], classes)
        for start in starts
    ]
    return float(np.average(scores, weights=sizes))


def batch_accuracy(predictions: Array, targets: Array, classes: int) -> float:
    """The score of one batch, [B, T]."""
    scored = targets != IGNORED
    predicted, wanted = predictions[scored], targets[scored]
    right = np.bincount(wanted[predicted == wanted], minlength=classes)
    of_class = np.bincount(wanted, minlength=classes)
    named = np.bincount(predicted, minlength=classes)
    counted = (of_class + named) > 0
    if not counted.any():
        return 0.0
    return float((right / np.maximum(of_class, 1))[counted].mean())


def _check(predictions: Array, targets: Array, classes: int) -> None:
    if predictions.shape != targets.shape or predictions.ndim != 2 or not len(targets):
        raise ScoreError(
            f"predictions {predictions.shape} and targets {targets.shape} must both be [sequences, positions]"
        )
    scored = targets != IGNORED
    for name, array in (("predictions", predictions[scored]), ("targets", targets[scored])):
        if array.size and (array.min() < 0 or array.max() >= classes):
            raise ScoreError(
                f"{name} go from {array.min()} to {array.max()}, expected classes 0 to {classes - 1}"
            )


def macro_accuracy_torch(predictions: torch.Tensor, targets: torch.Tensor, classes: int) -> torch.Tensor:
    """The score of one batch for each member of a fleet: [F, B, T] and [F, B, T] -> [F] float32.

    `targets` may also be [B, T] or [1, B, T], the same for all members. Nothing is read back to the host, so
    classes out of range are not noticed here. The mean over batches is the caller's: add the results and
    divide.
    """
    import torch

    members = predictions.shape[0]
    targets = targets.expand_as(predictions)
    scored = targets != IGNORED
    wanted = torch.where(scored, targets, classes).reshape(members, -1)
    named = torch.where(scored, predictions, classes).reshape(members, -1)
    right = torch.where(wanted == named, wanted, classes)

    def count(index: torch.Tensor) -> torch.Tensor:
        # Counts stay far below 2**24, so that float32 holds them exactly in any order of addition.
        zeros = torch.zeros(members, classes + 1, device=index.device)
        return zeros.scatter_add_(1, index.long(), torch.ones_like(index, dtype=zeros.dtype))[:, :classes]

    of_class = count(wanted)
    counted = (of_class + count(named)) > 0
    per_class = count(right) / of_class.clamp(min=1)
    return (per_class * counted).sum(1) / counted.sum(1).clamp(min=1)

"""A run and its outcome, as plain values: what is asked of the fleet, and what it answers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from archer.mad import Setting, find_task

TRAINING_VERSION = 3
"""Raised when the training code changes what a run results in; it is part of every run's key."""


@dataclass(frozen=True)
class Recipe:
    """How every run of a preset is trained. What is not said here is said by the run.

    heads: for rules that do not bring their own. evaluate_every: epochs between evaluations.
    stop_accuracy: a run stops early once it reaches this on both validation and test.
    schedule: "constant", or "cosine" from the learning rate to a hundredth of it over all epochs.
    """

    width: int = 128
    mixers: int = 2
    heads: int = 4
    chunk_size: int = 32
    batch_size: int = 128
    epochs: int = 200
    evaluate_every: int = 1
    precision: Literal["bf16", "fp32"] = "bf16"
    schedule: Literal["constant", "cosine"] = "constant"
    stop_accuracy: float = 0.999
    embedding_deviation: float = 0.02


@dataclass(frozen=True)
class Subject:
    """What is trained: a rule, by the text of its file and of its ancestors; or any PyTorch module.

    sources: name to text of the rule's ancestors that are not built in. module: "file.py:ClassName", with
    its constructor's arguments, instead of a rule; source is then the text of that file.
    """

    name: str
    source: str
    hash: str
    sources: tuple[tuple[str, str], ...] = ()
    module: str | None = None
    arguments: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Run:
    """One subject on one setting at one learning rate, weight decay and seed."""

    subject: Subject
    setting: Setting
    recipe: Recipe
    learning_rate: float
    weight_decay: float
    seed: int

    @cached_property
    def key(self) -> str:
        """Hash of everything that decides the result (20 hex digits)."""
        decides = {
            "training": TRAINING_VERSION,
            "subject": self.subject.hash,
            "arguments": list(self.subject.arguments),
            "setting": self.setting.name,
            "recipe": asdict(self.recipe),
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "seed": self.seed,
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def epoch_tokens(self) -> int:
        """Tokens that one pass over the training set takes."""
        return self.setting.train_examples * self.padded_length

    @property
    def backbone(self) -> Literal["language-model", "auto-encoder"]:
        return find_task(self.setting.task).backbone

    @property
    def group(self) -> tuple[Any, ...]:
        """Runs with equal groups have equal shapes and steps: they can share a fleet."""
        setting = self.setting
        counts = (setting.train_examples, setting.validation_examples, setting.test_examples)
        shape = (self.backbone, setting.vocabulary, self.padded_length, *counts)
        return (self.subject.hash, self.subject.arguments, shape, self.recipe)

    @property
    def padded_length(self) -> int:
        """T as trained. A language model reads the future never: sequences longer than half a chunk are
        filled up to whole chunks at their end, where nothing is scored (kernels take no others). A module
        reads just what is there."""
        length, chunk = self.setting.input_length, self.recipe.chunk_size
        if self.subject.module or self.backbone == "auto-encoder" or length <= chunk // 2:
            return length
        return length + -length % chunk


@dataclass(frozen=True)
class Evaluation:
    """One look at a run, after `epoch` passes. Losses in nats per scored token; accuracies as MAD scores."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    test_loss: float
    test_accuracy: float


@dataclass(frozen=True)
class Outcome:
    """What became of a run. mad, held_out, validation: None unless it finished (see `select`).

    dropped: a race let it go before its end (see `archer.fleet.race`); it may still be trained to its end.
    """

    key: str
    status: Literal["finished", "diverged", "dropped"]
    mad: float | None
    held_out: float | None
    validation: float | None
    epochs: int
    curve: tuple[Evaluation, ...]
    parameters: int
    wall_seconds: float
    device: str
    message: str = ""


def select(curve: tuple[Evaluation, ...]) -> tuple[float, float, float]:
    """(mad, held_out, validation) of a finished run.

    mad: test accuracy where the test loss is lowest, as mad-lab chooses. held_out: test accuracy where the
    validation loss is lowest; validation: validation accuracy there.
    """
    by_test = min(curve, key=lambda point: point.test_loss)
    by_validation = min(curve, key=lambda point: point.validation_loss)
    return by_test.test_accuracy, by_validation.test_accuracy, by_validation.validation_accuracy

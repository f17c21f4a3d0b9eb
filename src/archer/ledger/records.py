"""The values that Archer keeps: plain, frozen, and the same in memory, in the ledger and in a report.

Nothing here computes. A score is a fraction between 0 and 1, or None where there is none (a run that
diverged has no score; it does not have the score 0). Times are seconds, or ISO 8601 strings in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

TASKS = ("Compress", "Context Recall", "Fuzzy Recall", "Memorize", "Noisy Recall", "Selective Copy")
"""The six MAD tasks (Poli 2024, arXiv:2403.17844), in the order of every table."""

RunStatus = Literal["finished", "diverged", "crashed", "dropped"]
"""dropped: a race let it go before its end; it is no result, and may still be trained to its end."""
Word = Literal["better", "worse", "same", "undecided"]
NoRoom = Literal["", "above", "both"]
"""Whether the ceiling of a task leaves room for a difference above the margin: see TaskComparison."""


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation of a run: after `epoch` passes over its training set."""

    epoch: int
    train_loss: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None


@dataclass(frozen=True)
class RunRecord:
    """One rule trained on one setting at one learning rate, weight decay and seed.

    key: hash of everything that decides the result; the same key is never trained twice. What was trained
    under one preset and counts under another as well stands there as `KEY@PRESET`.
    mad: test accuracy at the checkpoint with the lowest test loss (mad-lab's own selection).
    held_out: test accuracy at the checkpoint with the lowest validation loss.
    validation: validation accuracy at that same checkpoint; it chooses the grid point.
    passed, effective: the settings as asked for, and as used.
    """

    key: str
    rule: str
    rule_hash: str
    task: str
    setting: str
    learning_rate: float
    weight_decay: float
    seed: int
    preset: str
    status: RunStatus
    mad: float | None
    held_out: float | None
    validation: float | None
    epochs: int
    parameters: int
    wall_seconds: float
    device: str
    revision: str
    finished_at: str
    message: str = ""
    curve: tuple[CurvePoint, ...] = ()
    passed: dict[str, Any] = field(default_factory=dict)
    effective: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)

    def under(self, preset: str) -> RunRecord:
        """The record of the same run under this preset."""
        key = self.key if preset == self.preset else f"{self.trained_as}@{preset}"
        return replace(self, preset=preset, key=key)

    @property
    def trained_as(self) -> str:
        """The key of the run that was trained, whatever preset the record stands under."""
        return self.key.partition("@")[0]


@dataclass(frozen=True)
class RuleSource:
    """A rule as it was trained: enough to show it and to write it out again. parent: "" where it has none."""

    rule_hash: str
    rule: str
    parent: str
    source: str


@dataclass(frozen=True)
class Prediction:
    """What a researcher expects a rule to score on one task: the middle, and a 90% interval."""

    task: str
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class ProposalRecord:
    """One change to one rule, with its reason and its numeric predictions.

    slots: the slots that differ from the parent. source: the whole text of the rule file.
    control: True for random proposals and repeats, which measure what a researcher adds over luck.
    promoted_from: the proposal whose rule is tried again here under a dearer preset; "" where it is new.
    """

    id: str
    rule: str
    parent: str
    slots: tuple[str, ...]
    source: str
    reason: str
    predictions: tuple[Prediction, ...]
    researcher: str
    created_at: str
    insights: str = ""
    issue: str = ""
    reasoning: str = ""
    lessons: str = ""
    per_task: dict[str, str] = field(default_factory=dict)
    cites: tuple[str, ...] = ()
    control: bool = False
    cost: dict[str, float] = field(default_factory=dict)
    promoted_from: str = ""


@dataclass(frozen=True)
class CheckRecord:
    """One check of a verification. case: the smallest input that fails, in words."""

    name: str
    passed: bool
    message: str
    seconds: float
    case: str = ""


@dataclass(frozen=True)
class VerificationRecord:
    """What was proved about a rule before anything was trained.

    reach: names of the settings in which the rule differs from its parent; None where not measured.
    measured: names of the settings in which that was looked for; of others nothing is known.
    """

    rule: str
    rule_hash: str
    passed: bool
    checks: tuple[CheckRecord, ...]
    duplicate_of: str | None = None
    reach: tuple[str, ...] | None = None
    trusted: bool = False
    walls: tuple[str, ...] = ()
    measured: tuple[str, ...] | None = None


@dataclass(frozen=True)
class TaskComparison:
    """Candidate minus baseline on one task (or on "Mean"): the paired difference and its 95% interval.

    more_seeds: how many more seeds would likely decide it, for "undecided"; None where that cannot be said.
    p_adjusted: Holm over the six tasks. missing: runs without a score, in words, never averaged away.
    no_room: "above" where the baseline lies within the margin of 1 in every setting and seed, so that the
    candidate cannot be better by the margin; "both" where both rules do: then there is no p-value, low and
    high are the least and the most that the difference of these runs could be, and the word is "same" after
    many seeds ("undecided" before; in records of earlier versions "same" at once).
    """

    task: str
    candidate: float | None
    baseline: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    p_adjusted: float | None
    word: Word
    settings: int
    seeds: int
    more_seeds: int | None = None
    exact_settings: int = 0
    missing: tuple[str, ...] = ()
    no_room: NoRoom = ""

    @property
    def one_function(self) -> bool:
        """Whether the two compute the same in every setting, so that they differ by nothing."""
        return 0 < self.exact_settings == self.settings

    @property
    def may_be_won(self) -> bool:
        """Whether more seeds may decide it between the two: undecided, with scores, and with room."""
        return self.word == "undecided" and self.difference is not None and self.no_room != "both"


@dataclass(frozen=True)
class Look:
    """One look of a comparison to which seeds are added until it is decided.

    seeds: of each rule so far, in the tasks that were open. alpha: the error rate that this look may spend.
    open: the tasks that were judged. decided: those of them that found their word.
    """

    seeds: int
    alpha: float
    open: tuple[str, ...]
    decided: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two rules over the six tasks, under one preset.

    beats_on_all: better on all six; where fresh seeds were to confirm that, they did. looks, method: for
    seeds added until decided, the looks that were taken and how the error rate was kept.
    """

    candidate: str
    baseline: str
    preset: str
    tasks: tuple[TaskComparison, ...]
    mean: TaskComparison
    beats_on_all: bool
    looks: tuple[Look, ...] = ()
    method: str = ""


@dataclass(frozen=True)
class PredictionScore:
    """What one prediction was worth: crps is the continuous ranked probability score (lower is better)."""

    task: str
    predicted: float
    low: float
    high: float
    measured: float | None
    covered: bool | None
    sign_right: bool | None
    crps: float | None


@dataclass(frozen=True)
class ConfirmationRecord:
    """A rule that won was trained again, beside the rule it beat, with seeds that had no part in its win.

    claim: what was won, "all six" or the "mean". first: the difference of the mean (see TaskComparison) as it
    was when the rule won. comparison: of the fresh seeds alone, whose runs are run_keys.
    """

    claim: Literal["all six", "mean"]
    confirmed: bool
    seeds: tuple[int, ...]
    first: TaskComparison
    comparison: Comparison
    run_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerdictRecord:
    """What the runs say about a proposal. confirmation: None where nothing was won, or it was not asked."""

    proposal: str
    rule: str
    parent: str
    reference: str
    preset: str
    against_parent: Comparison
    against_reference: Comparison
    predictions: tuple[PredictionScore, ...]
    noise_floor: dict[str, float | None]
    summary: str
    ranks: bool
    created_at: str
    confirmation: ConfirmationRecord | None = None


@dataclass(frozen=True)
class CycleRecord:
    """One pass of propose, verify, train, judge, record, report; or where it stopped.

    wall_seconds: of its training alone; None where nothing was trained.
    """

    id: str
    preset: str
    seed: int
    state: Literal["running", "finished", "rejected", "failed"]
    started_at: str
    finished_at: str | None = None
    proposal: str | None = None
    rules: tuple[str, ...] = ()
    run_keys: tuple[str, ...] = ()
    report_paths: tuple[str, ...] = ()
    message: str = ""
    wall_seconds: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

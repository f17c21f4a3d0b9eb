"""The verdict on a proposal: two comparisons, what its predictions were worth, and a few plain sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from archer.judge.comparison import compare
from archer.judge.noise import Duplicate, NoiseFloor, noise_floor
from archer.judge.predictions import score_predictions
from archer.ledger.records import (
    TASKS,
    Comparison,
    PredictionScore,
    ProposalRecord,
    RunRecord,
    TaskComparison,
    VerdictRecord,
)

RANKS_NOTHING = (
    "This preset ranks nothing: its runs are too short and too few to tell rules apart. "
    "The numbers show that every part works, no more."
)


def verdict(
    proposal: ProposalRecord,
    runs: Sequence[RunRecord],
    reference: str,
    preset: str,
    *,
    exact_parent: Iterable[str] = frozenset(),
    exact_reference: Iterable[str] = frozenset(),
    duplicates: Iterable[Duplicate] = (),
    ranks: bool = True,
    margin: float = 0.01,
    level: float = 0.95,
    noise: Mapping[str, NoiseFloor] | None = None,
    created_at: str | None = None,
) -> VerdictRecord:
    """Judge the proposal's rule against its parent and the reference, and its predictions against both.

    exact_parent, exact_reference: settings in which the rule is one function with that other rule.
    duplicates: other rules that are one function, whose runs tell the noise. ranks: False for a preset such
    as smoke, of which no word should be believed; the summary says so. created_at: ISO 8601, now if left out.
    """

    def against_other(other: str, exact: Iterable[str]) -> Comparison:
        return compare(
            runs,
            proposal.rule,
            other,
            preset=preset,
            exact_settings=exact,
            margin=margin,
            level=level,
            noise=noise,
        )

    parent = against_other(proposal.parent, exact_parent)
    against = against_other(reference, exact_reference)
    measured = {task.task: task.candidate for task in parent.tasks}
    parents = {task.task: task.baseline for task in parent.tasks}
    predictions = score_predictions(proposal.predictions, measured, parents)
    floors = noise_floor(runs, duplicates, preset=preset) if noise is None else noise
    return VerdictRecord(
        proposal=proposal.id,
        rule=proposal.rule,
        parent=proposal.parent,
        reference=reference,
        preset=preset,
        against_parent=parent,
        against_reference=against,
        predictions=predictions,
        noise_floor=_floor_per_task(floors, parent),
        summary=summarise(parent, against, predictions, ranks=ranks, level=level),
        ranks=ranks,
        created_at=created_at or datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _floor_per_task(floors: Mapping[str, NoiseFloor], comparison: Comparison) -> dict[str, float | None]:
    """Noise of a task score over as many settings as were compared."""
    settings = {task.task: task.settings for task in comparison.tasks}
    return {
        task: floors[task].score_sd(settings[task] or floors[task].settings) if task in floors else None
        for task in TASKS
    }


def summarise(
    parent: Comparison,
    against: Comparison,
    predictions: Sequence[PredictionScore],
    *,
    ranks: bool = True,
    level: float = 0.95,
) -> str:
    """The verdict in plain sentences. Where nothing is ranked, no task is called better or worse."""
    if not ranks:
        return " ".join(
            [RANKS_NOTHING, *_missing_sentences((parent, against)), *_prediction_sentence(predictions)]
        )
    sentences = [headline(against)]
    sentences += [_words_sentence(one, level) for one in dict.fromkeys((against, parent))]
    return " ".join([*sentences, *_missing_sentences((parent, against)), *_prediction_sentence(predictions)])


def headline(comparison: Comparison) -> str:
    """One sentence: does the candidate beat the other on all six tasks?"""
    names = f"{comparison.candidate} {{}} {comparison.baseline} on all six tasks"
    if comparison.candidate == comparison.baseline:
        return f"{comparison.candidate} is compared with itself: there is nothing to decide."
    if comparison.beats_on_all:
        again = "it must be trained again with fresh seeds before it is called a winner"
        return f"{names.format('beats')} (adjusted for six tests); {again}."
    better = sum(task.word == "better" for task in comparison.tasks)
    worse = [task.task for task in comparison.tasks if task.word == "worse"]
    if worse:
        return (
            f"{names.format('does not beat')}: it is worse on {_listed(worse)} and better on {better} of 6."
        )
    return f"{names.format('has not been shown to beat')}: better on {better} of 6, worse on none."


def _words_sentence(comparison: Comparison, level: float) -> str:
    parts = []
    for word, title in (
        ("better", "better"),
        ("worse", "worse"),
        ("same", "the same"),
        ("undecided", "undecided"),
    ):
        found = [task for task in comparison.tasks if task.word == word]
        if found:
            parts.append(f"{title} on {'; '.join(_task_words(task) for task in found)}")
    mean = f"mean over the tasks {_task_numbers(comparison.mean)}, {comparison.mean.word}"
    return f"Against {comparison.baseline} ({level:.0%} intervals): {', '.join(parts)}; {mean}."


def _task_words(task: TaskComparison) -> str:
    if task.exact_settings and task.exact_settings == task.settings:
        return f"{task.task} (one function in every setting, no difference by construction)"
    more = f", about {task.more_seeds} more seeds" if task.more_seeds else ""
    return f"{task.task} {_task_numbers(task)}{more}"


def _task_numbers(task: TaskComparison) -> str:
    if task.difference is None:
        return "(no score)"
    if task.low is None or task.high is None:
        return f"{task.difference:+.3f} (noise unknown)"
    return f"{task.difference:+.3f} [{task.low:+.3f}, {task.high:+.3f}]"


def _missing_sentences(comparisons: Sequence[Comparison]) -> list[str]:
    notes = dict.fromkeys(note for one in comparisons for task in one.tasks for note in task.missing)
    if not notes:
        return []
    shown = list(notes)[:3]
    rest = f", and {len(notes) - 3} more of the kind" if len(notes) > 3 else ""
    return [f"Missing or failed: {'; '.join(shown)}{rest}."]


def _prediction_sentence(predictions: Sequence[PredictionScore]) -> list[str]:
    scored = [one for one in predictions if one.measured is not None]
    if not scored:
        return []
    covered = sum(bool(one.covered) for one in scored)
    signs = [one.sign_right for one in scored if one.sign_right is not None]
    text = f"Of {len(scored)} predictions {covered} held the outcome in their 90% interval"
    return [f"{text}, and {sum(signs)} of {len(signs)} had the right sign." if signs else f"{text}."]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

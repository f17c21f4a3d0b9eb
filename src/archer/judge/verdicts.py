"""The verdict on a proposal: two comparisons, what its predictions were worth, and a few plain sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from archer.figures import interval, signed
from archer.judge.ceiling import MARGIN
from archer.judge.comparison import compare
from archer.judge.noise import NoiseFloor, noise_floor
from archer.judge.predictions import score_predictions
from archer.ledger.records import (
    TASKS,
    Comparison,
    ConfirmationRecord,
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
    floors: Mapping[str, NoiseFloor] | None = None,
    ranks: bool = True,
    margin: float = MARGIN,
    level: float = 0.95,
    noise: Mapping[str, NoiseFloor] | None = None,
    judged: tuple[Comparison, Comparison] | None = None,
    confirmation: ConfirmationRecord | None = None,
    created_at: str | None = None,
) -> VerdictRecord:
    """Judge the proposal's rule against its parent and the reference, and its predictions against both.

    exact_parent, exact_reference: settings in which the rule is one function with that other rule.
    floors: the noise to print beside the scores, of these runs if left out. ranks: False for a preset such
    as smoke, of which no word should be believed; the summary says so. judged: the two comparisons, where
    they were made already (seeds added until decided, say). confirmation: of a win over the reference, with
    fresh seeds; where they did not repeat it, the rule does not count as beating it. created_at: ISO 8601,
    now if left out.
    """

    alike = partial(compare, runs, proposal.rule, preset=preset, margin=margin, level=level, noise=noise)
    parent, against = judged or (
        alike(proposal.parent, exact_settings=exact_parent),
        alike(reference, exact_settings=exact_reference),
    )
    against = confirmed(against, confirmation)
    measured = {task.task: task.candidate for task in parent.tasks}
    parents = {task.task: task.baseline for task in parent.tasks}
    predictions = score_predictions(proposal.predictions, measured, parents)
    known = noise_floor(runs, preset=preset) if noise is None else noise
    return VerdictRecord(
        proposal=proposal.id,
        rule=proposal.rule,
        parent=proposal.parent,
        reference=reference,
        preset=preset,
        against_parent=parent,
        against_reference=against,
        predictions=predictions,
        noise_floor=_floor_per_task(known if floors is None else floors, parent),
        summary=summarise(parent, against, predictions, ranks=ranks, level=level, confirmation=confirmation),
        ranks=ranks,
        created_at=created_at or datetime.now(UTC).isoformat(timespec="seconds"),
        confirmation=confirmation,
    )


def confirmed(won: Comparison, confirmation: ConfirmationRecord | None) -> Comparison:
    """The comparison, which beats on all six only if fresh seeds, where they were asked, say so too."""
    if confirmation is None:
        return won
    return replace(won, beats_on_all=won.beats_on_all and confirmation.confirmed)


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
    confirmation: ConfirmationRecord | None = None,
) -> str:
    """The verdict in plain sentences. Where nothing is ranked, no task is called better or worse."""
    if not ranks:
        return " ".join(
            [RANKS_NOTHING, *_missing_sentences((parent, against)), *_prediction_sentence(predictions)]
        )
    sentences = [headline(against, confirmation)]
    sentences += [_words_sentence(one, level) for one in dict.fromkeys((against, parent))]
    sentences += looks_sentences((against, parent))
    return " ".join([*sentences, *_missing_sentences((parent, against)), *_prediction_sentence(predictions)])


def headline(comparison: Comparison, confirmation: ConfirmationRecord | None = None) -> str:
    """Does the candidate beat the other on all six tasks, and did fresh seeds say so too?"""
    names = f"{comparison.candidate} {{}} {comparison.baseline} on all six tasks"
    if comparison.candidate == comparison.baseline:
        return f"{comparison.candidate} is compared with itself: there is nothing to decide."
    if confirmation is not None:
        claim = "all six tasks" if confirmation.claim == "all six" else "the mean over the tasks"
        names = f"{comparison.candidate} {{}} {comparison.baseline} on {claim}"
        found = "beats" if confirmation.confirmed else "is not confirmed to beat"
        return f"{names.format(found)}: {confirmation_sentence(confirmation)}"
    if comparison.beats_on_all:
        again = "it must be trained again with fresh seeds before it is called a winner"
        return f"{names.format('beats')} (adjusted for six tests); {again}."
    better = sum(task.word == "better" for task in comparison.tasks)
    worse = [task.task for task in comparison.tasks if task.word == "worse"]
    found = f"{names.format('has not been shown to beat')}: better on {better} of 6, worse on none."
    if worse:
        found = (
            f"{names.format('does not beat')}: it is worse on {_listed(worse)} and better on {better} of 6."
        )
    return f"{found} {no_room_sentence(comparison)}".rstrip()


def in_short(comparison: Comparison, confirmation: ConfirmationRecord | None = None) -> str:
    """A comparison in one line: the tasks that are decided, the mean, and what fresh seeds said of a win."""
    decided = [
        f"{word} on {_listed(tasks)}"
        for word in ("better", "worse")
        if (tasks := [task.task for task in comparison.tasks if task.word == word])
    ]
    mean = comparison.mean
    middle = signed(mean.difference, "not known")
    parts = [
        f"{' and '.join(decided) or 'neither better nor worse on any task'} beside {comparison.baseline}",
        f"mean {middle} {interval(mean.low, mean.high, '')}".rstrip(),
    ]
    if confirmation is not None:
        claim = "all six" if confirmation.claim == "all six" else "a lead on the mean"
        parts.append(f"fresh seeds {'confirm' if confirmation.confirmed else 'do not confirm'} {claim}")
    return ", ".join(parts)


def no_room_sentence(comparison: Comparison) -> str:
    """Why better on all six is out of reach under this preset, whatever the seeds; "" where it is not."""
    full = [task.task for task in comparison.tasks if task.no_room]
    if not full:
        return ""
    return (
        f"Better on all six cannot be reached under {comparison.preset}: {comparison.baseline} is within the "
        f"margin of 1 on {_listed(full)}, which leaves no room on {len(full)} of 6 tasks."
    )


def confirmation_sentence(confirmation: ConfirmationRecord) -> str:
    """What the first seeds and the fresh ones said, with both intervals, of all six tasks or of the mean."""
    again, seeds = confirmation.comparison, len(confirmation.seeds)
    better = sum(task.word == "better" for task in again.tasks)
    tasks = f"better on {better} of 6, " if confirmation.claim == "all six" else ""
    verdict = "confirmed" if confirmation.confirmed else "not confirmed"
    return (
        f"{verdict} with {seeds} fresh seed{'s' * (seeds > 1)}: {tasks}mean {_task_numbers(again.mean)}, "
        f"after {_task_numbers(confirmation.first)} with the seeds that it won with."
    )


def looks_sentences(comparisons: Iterable[Comparison]) -> list[str]:
    """Which looks were taken, and how the error rate was kept; nothing where all seeds came at once."""
    taken = [one for one in dict.fromkeys(comparisons) if one.looks]
    found = [f"Looks at {one.candidate} against {one.baseline}: {_looks(one)}." for one in taken]
    methods = dict.fromkeys(one.method for one in taken)
    return [*found, *(f"Method: {method}." for method in methods)]


def _looks(comparison: Comparison) -> str:
    def named(tasks: Sequence[str]) -> str:
        return "all six" if len(tasks) == len(TASKS) else _listed(tasks)

    parts = [
        f"after {look.seeds} seed{'s' * (look.seeds > 1)} "
        + (f"{named(look.decided)} decided" if look.decided else "none decided")
        for look in comparison.looks
    ]
    left = [task.task for task in comparison.tasks if task.word == "undecided"]
    return "; ".join([*parts, f"{named(left)} undecided" if left else "nothing open"])


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
    if task.one_function:
        return f"{task.task} (one function in every setting, no difference by construction)"
    if task.no_room == "both":
        return f"{task.task} {_task_numbers(task)} (no room: both within the margin of 1)"
    more = f", about {task.more_seeds} more seeds" if task.more_seeds else ""
    return f"{task.task} {_task_numbers(task)}{more}"


def _task_numbers(task: TaskComparison) -> str:
    if task.difference is None:
        return "(no score)"
    if task.low is None or task.high is None:
        return f"{signed(task.difference, '')} (noise unknown)"
    return f"{signed(task.difference, '')} {interval(task.low, task.high, '')}"


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

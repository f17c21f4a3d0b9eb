"""The whole verdict on a proposal, and what its sentences say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.judge.runs import make_run, make_runs

from archer.figures import MINUS
from archer.judge import NoiseFloor, verdict
from archer.judge.verdicts import in_short
from archer.ledger.records import (
    TASKS,
    ConfirmationRecord,
    Prediction,
    ProposalRecord,
    RunRecord,
    VerdictRecord,
)

QUIET = {task: NoiseFloor(task, 0.01, 20, "made up", 1, 0.01, heterogeneity=100.0) for task in TASKS}
LEVELS = {"new": 0.7, "parent": 0.5, "gated": 0.6}

PROPOSAL = ProposalRecord(
    id="p1",
    rule="new",
    parent="parent",
    slots=("read",),
    source="",
    reason="",
    predictions=tuple(Prediction(task, 0.65, 0.55, 0.75) for task in TASKS),
    researcher="search",
    created_at="t",
)


def runs_of(levels: dict[str, float] | None = None) -> list[RunRecord]:
    chosen = levels or LEVELS
    return make_runs(chosen, lambda rule, *_: chosen[rule], seeds=(0, 1))


def judge(runs: list[RunRecord], **options: object) -> VerdictRecord:
    return verdict(PROPOSAL, runs, "gated", "full", noise=QUIET, created_at="now", **options)  # type: ignore[arg-type]


def test_a_winner_and_what_must_follow() -> None:
    found = judge(runs_of())
    assert found.against_parent.beats_on_all
    assert found.against_reference.beats_on_all
    assert (found.proposal, found.rule, found.parent, found.reference) == ("p1", "new", "parent", "gated")
    assert found.summary.startswith("new beats gated on all six tasks")
    assert "fresh seeds" in found.summary
    assert (
        "Of 6 predictions 6 held the outcome in their 90% interval, and 6 of 6 had the right sign."
        in found.summary
    )
    assert found.noise_floor == dict.fromkeys(TASKS, pytest.approx(0.01))
    assert judge(runs_of()) == found


def test_a_loser_is_told_where() -> None:
    runs = [
        replace(run, held_out=0.1, validation=0.1) if (run.rule, run.task) == ("new", "Memorize") else run
        for run in runs_of()
    ]
    summary = judge(runs).summary
    assert summary.startswith(
        "new does not beat gated on all six tasks: it is worse on Memorize and better on 5 of 6."
    )
    assert "worse on Memorize −0.500 [" in summary


def test_smoke_ranks_nothing_and_says_so() -> None:
    found = judge(runs_of(), ranks=False)
    assert not found.ranks
    assert found.summary.startswith("This preset ranks nothing")
    for word in ("beat", "better", "worse"):
        assert word not in found.summary


def test_failures_and_missing_tasks_are_in_the_summary() -> None:
    runs = [run for run in runs_of() if (run.rule, run.task, run.seed) != ("new", "Memorize", 1)]
    runs.append(make_run("new", "Memorize", "Memorize 0", 1, None, status="diverged"))
    found = judge(runs)
    assert "diverged" in found.summary
    assert "Memorize (no score)" in found.summary
    memorize = next(one for one in found.predictions if one.task == "Memorize")
    assert (memorize.measured, memorize.covered) == (None, None)


def test_exact_settings_are_named_as_such() -> None:
    found = judge(runs_of(), exact_parent={"Memorize 0"})
    assert "Memorize (one function in every setting, no difference by construction)" in found.summary
    assert found.against_reference.tasks[3].word == "better"


def test_the_reference_may_be_the_parent() -> None:
    found = verdict(replace(PROPOSAL, parent="gated"), runs_of(), "gated", "full", noise=QUIET)
    assert found.summary.count("Against gated") == 1
    assert found.created_at


def test_noise_is_learned_when_it_is_not_given() -> None:
    found = verdict(PROPOSAL, runs_of(), "gated", "full", created_at="now")
    assert set(found.noise_floor) == set(TASKS)
    assert all(value is not None for value in found.noise_floor.values())


def test_in_short_a_comparison_says_what_is_decided_and_the_mean() -> None:
    runs = runs_of({"new": 0.6, "parent": 0.5, "gated": 0.6})
    assert in_short(judge(runs).against_reference).startswith(
        "neither better nor worse on any task beside gated, mean 0.000 ["
    )
    moved = [
        replace(
            run, held_out=0.6 + {"Memorize": 0.2, "Compress": -0.2, "Fuzzy Recall": -0.3}.get(run.task, 0)
        )
        if run.rule == "new"
        else run
        for run in runs
    ]
    against = judge(moved).against_reference
    said = in_short(against)
    assert said.startswith(
        f"better on Memorize and worse on Compress and Fuzzy Recall beside gated, mean {MINUS}0.050 [{MINUS}"
    )
    again = ConfirmationRecord("mean", False, (7, 8), against.mean, against)
    assert in_short(against, again) == f"{said}, fresh seeds do not confirm a lead on the mean"


def test_in_short_what_has_no_score_has_no_mean() -> None:
    runs = [
        replace(run, held_out=None, validation=None, status="diverged")
        if (run.rule, run.task) == ("new", "Memorize")
        else run
        for run in runs_of()
    ]
    assert in_short(judge(runs).against_reference).endswith("beside gated, mean not known")

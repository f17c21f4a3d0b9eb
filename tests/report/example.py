"""A realistic cycle, made up for the tests: true scores from the history tables, noise from a fixed seed.

Nothing here was measured. Scores drift around the tables' numbers with the spread that repeats have there;
one run diverges and one crashes, so that every form of "no score" is present.
"""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from statistics import mean, stdev

from archer.ledger.history import builtin_history
from archer.ledger.records import (
    TASKS,
    CheckRecord,
    Comparison,
    ConfirmationRecord,
    CurvePoint,
    CycleRecord,
    Look,
    Prediction,
    PredictionScore,
    ProposalRecord,
    RunRecord,
    TaskComparison,
    VerdictRecord,
    VerificationRecord,
)
from archer.report.costs import Decoding, RuleCost, Surplus
from archer.report.facts import Facts, RuleFacts
from archer.report.summary import Campaign

CANDIDATE, PARENT, REFERENCE = "hybrid_decay", "delta_net", "gated_delta_net"
MODELS = {
    CANDIDATE: "delta_net_4layer_hybrid_softmax_raw_attention_in_for_loop",
    PARENT: "delta_net_4layer",
    REFERENCE: "gated_delta_net_4layer",
}
NOISE = {
    "Compress": 0.012,
    "Context Recall": 0.004,
    "Fuzzy Recall": 0.015,
    "Memorize": 0.020,
    "Noisy Recall": 0.004,
    "Selective Copy": 0.018,
}
CHANCE = dict.fromkeys(TASKS, 1 / 16)
EPOCHS = 12

PARENT_SOURCE = '''"""DeltaNet: every write corrects what the state already holds for its key.

    S = S + kᵀ (u - w S),  o = q S + tril(q kᵀ) (u - w S)

Source: Yang 2024, arXiv:2406.06484
"""

from archer.rules import wy


def similarity(scores, causal):
    return scores * causal


def retain(S):
    return S
'''

CANDIDATE_SOURCE = '''"""Hybrid with decay: softmax weights mixed with the raw products, a state that forgets.

    A = a softmax(mask(q kᵀ)) + (1 - a) tril(q kᵀ),  S = γ S + kᵀ e
"""

import torch

from archer.rules import Parameter

parent = "delta_net"
a = Parameter(0.5, within=(0, 1))
gamma = Parameter(0.98, within=(0, 1))


def similarity(scores, causal, a):
    sharp = scores.masked_fill(~causal, -torch.inf).softmax(-1)
    return a * sharp + (1 - a) * (scores * causal)


def retain(S, gamma):
    return gamma * S
'''

RULES = {
    PARENT: RuleFacts(
        PARENT,
        None,
        "DeltaNet: every write corrects what the state already holds for its key",
        "S = S + kᵀ (u - w S),  o = q S + tril(q kᵀ) (u - w S)",
        "Yang 2024, arXiv:2406.06484",
        PARENT_SOURCE,
        "4f1d22c09a7b",
        ("similarity", "retain"),
    ),
    REFERENCE: RuleFacts(
        REFERENCE,
        PARENT,
        "Gated DeltaNet: every token first fades the whole state by its own factor, then writes",
        "α_t = exp(-A softplus(W_a x_t + b)),  S_t = α_t S_{t-1} + k_tᵀ β_t (v_t - α_t k_t S_{t-1})",
        "Yang 2024, arXiv:2412.06464",
        'parent = "delta_net"\n',
        "90be11d7c3aa",
        ("prepare",),
    ),
    CANDIDATE: RuleFacts(
        CANDIDATE,
        PARENT,
        "Hybrid with decay: softmax weights mixed with the raw products, on a state that forgets",
        "A = a softmax(mask(q kᵀ)) + (1 - a) tril(q kᵀ),  S = γ S + kᵀ e",
        "",
        CANDIDATE_SOURCE,
        "c7713e5b02d4",
        ("similarity", "retain"),
        ("a", "gamma"),
    ),
    "local_softmax": RuleFacts("local_softmax", PARENT, slots=("read",)),
}

MACHINE = "a processor of the example"
COSTS = {
    CANDIDATE: RuleCost(214_024, 1024, 4, 273_500.0, {"cpu, 2 cores": 0.0031}),
    PARENT: RuleCost(
        214_016, 1024, 4, 272_702.0, {"cpu, 2 cores": 0.0029},
        (Decoding(PARENT, "4f1d22c09a7b", 128, 4, 32, MACHINE, "2.13.0", 0.0016),),
    ),
    REFERENCE: RuleCost(263_296, 2048, 4, 451_364.0),
}  # fmt: skip
SURPLUSES = (Surplus(CANDIDATE, PARENT, "quick", 8, 8 / 214_016, 132),)

ALIASES = {
    "delta_net_4layer": PARENT,
    "gated_delta_net_4layer": REFERENCE,
    "delta_net_4layer_decay_state_update_in_for_loop": "decay",
}


def facts(preset: str = "quick", ranks: bool = True, seeds: int = 3, settings: int = 3) -> Facts:
    """The whole example. The same arguments give the same facts."""
    runs = make_runs(preset, seeds, settings)
    verdict = make_verdict(runs, preset, ranks)
    return Facts(
        cycle=make_cycle(runs, preset),
        proposal=make_proposal(),
        verification=make_verification(),
        verdict=verdict,
        runs=runs,
        history=builtin_history(),
        rules=RULES,
        aliases=ALIASES,
        chance=CHANCE,
        files=("rules/hybrid_decay.py",),
        costs=COSTS,
        surpluses=SURPLUSES,
    )


def true_scores(rule: str) -> dict[str, float]:
    """The fifteen-trials table's scores of the model that a rule stands for here."""
    table = next(table for table in builtin_history() if table.name == "fifteen_trials")
    return next(dict(row.scores) for row in table.rows if row.model == MODELS[rule])


def make_runs(preset: str, seeds: int, settings: int) -> tuple[RunRecord, ...]:
    """Every rule on every task, setting, learning rate and seed."""
    random = Random(7)
    runs = []
    for rule in MODELS:
        scores = true_scores(rule)
        for task in TASKS:
            for setting in range(settings):
                for rate in (5e-4, 1e-3):
                    for seed in range(seeds):
                        runs.append(make_run(random, rule, task, setting, rate, seed, preset, scores[task]))
    return tuple(lose_some(runs))


def make_run(
    random: Random, rule: str, task: str, setting: int, rate: float, seed: int, preset: str, true: float
) -> RunRecord:
    """One finished run; a lower learning rate ends a little lower."""
    end = min(1.0, max(0.0, random.gauss(true - 0.03 * setting - 0.02 * (rate < 1e-3), NOISE[task])))
    points = tuple(curve_point(random, epoch, end) for epoch in range(1, EPOCHS + 1))
    held_out = points[-1].test_accuracy
    return RunRecord(
        key=f"{random.getrandbits(64):016x}",
        rule=rule,
        rule_hash=RULES[rule].rule_hash,
        task=task,
        setting=("baseline", "vocabulary=32", "length=256", "noise=0.2")[setting],
        learning_rate=rate,
        weight_decay=0.0,
        seed=seed,
        preset=preset,
        status="finished",
        mad=held_out,
        held_out=held_out,
        validation=held_out,
        epochs=EPOCHS,
        parameters={CANDIDATE: 214_024, PARENT: 214_016, REFERENCE: 263_296}[rule],
        wall_seconds=3.1 + random.random(),
        device="cpu, 2 cores",
        revision="d75fbd7",
        finished_at="2025-07-01T10:00:00Z",
        curve=points,
        packages={"torch": "2.13.0", "numpy": "2.4.6"},
    )


def curve_point(random: Random, epoch: int, end: float) -> CurvePoint:
    """A run's accuracy rises towards its end."""
    share = 1 - math.exp(-5 * epoch / EPOCHS) if epoch < EPOCHS else 1.0
    accuracy = min(1.0, max(0.0, 0.05 + (end - 0.05) * share + random.gauss(0, 0.004) * (epoch < EPOCHS)))
    return CurvePoint(epoch, 3 * (1 - accuracy), 3 * (1 - accuracy), accuracy, 3 * (1 - accuracy), accuracy)


def lose_some(runs: list[RunRecord]) -> list[RunRecord]:
    """One run diverges and one crashes, both at the lower learning rate."""
    lost = [index for index, run in enumerate(runs) if run.rule == CANDIDATE and run.learning_rate < 1e-3]
    gone = {"mad": None, "held_out": None, "validation": None, "curve": ()}
    for index, status, message in (
        (lost[3], "diverged", "loss is NaN in epoch 3"),
        (lost[-1], "crashed", "killed"),
    ):
        runs[index] = replace(runs[index], status=status, message=message, **gone)
    return runs


def make_comparison(runs: tuple[RunRecord, ...], candidate: str, baseline: str, preset: str) -> Comparison:
    """Differences paired by setting and seed at the higher learning rate, with a plain normal interval."""
    tasks = tuple(compare_task(runs, candidate, baseline, (task,)) for task in TASKS)
    words = {line.word for line in tasks}
    overall = replace(compare_task(runs, candidate, baseline, TASKS), task="Mean")
    return Comparison(candidate, baseline, preset, tasks, overall, words == {"better"})


def compare_task(
    runs: tuple[RunRecord, ...], candidate: str, baseline: str, tasks: tuple[str, ...]
) -> TaskComparison:
    """One line of a comparison."""
    mine, other = (chosen_scores(runs, rule, tasks) for rule in (candidate, baseline))
    pairs = [(mine[key], other[key]) for key in mine if mine[key] is not None and other.get(key) is not None]
    differences = [a - b for a, b in pairs]
    middle, error = mean(differences), 1.96 * stdev(differences) / math.sqrt(len(differences)) + 0.004
    low, high = middle - error, middle + error
    p_value = math.erfc(abs(middle) / (error / 1.96) / math.sqrt(2))
    decided = 6 * p_value < 0.05
    word = (
        ("better" if middle > 0 else "worse")
        if decided
        else "same"
        if max(-low, high) < 0.01
        else "undecided"
    )
    return TaskComparison(
        task=tasks[0],
        candidate=mean(a for a, _ in pairs),
        baseline=mean(b for _, b in pairs),
        difference=middle,
        low=low,
        high=high,
        p_value=p_value,
        p_adjusted=min(1.0, 6 * p_value),
        word=word,
        settings=len({key[:2] for key in mine}),
        seeds=len({key[2] for key in mine}),
        more_seeds=4 if word == "undecided" else None,
        exact_settings=1 if tasks == ("Memorize",) and baseline == PARENT else 0,
    )


def chosen_scores(
    runs: tuple[RunRecord, ...], rule: str, tasks: tuple[str, ...]
) -> dict[tuple[str, str, int], float | None]:
    """A rule's scores at the higher learning rate, by task, setting and seed."""
    return {
        (run.task, run.setting, run.seed): run.held_out
        for run in runs
        if run.rule == rule and run.task in tasks and run.learning_rate == 1e-3
    }


def without_score(line: TaskComparison) -> TaskComparison:
    """The same line, its candidate without a score."""
    return replace(line, candidate=None, difference=None, low=None, high=None, p_value=None, p_adjusted=None,
                   word="undecided", more_seeds=None, missing=("every grid point diverged",))  # fmt: skip


def make_verdict(runs: tuple[RunRecord, ...], preset: str, ranks: bool) -> VerdictRecord:
    """Both comparisons, and what the predictions were worth."""
    reference = make_comparison(runs, CANDIDATE, REFERENCE, preset)
    return VerdictRecord(
        proposal="p-0001",
        rule=CANDIDATE,
        parent=PARENT,
        reference=REFERENCE,
        preset=preset,
        against_parent=make_comparison(runs, CANDIDATE, PARENT, preset),
        against_reference=reference,
        predictions=tuple(
            score_prediction(prediction, line)
            for prediction, line in zip(make_predictions(), reference.tasks, strict=True)
        ),
        noise_floor=NOISE,
        summary="An English summary that a Chinese note must not show.",
        ranks=ranks,
        created_at="2025-07-01T10:05:00Z",
    )


def make_predictions() -> tuple[Prediction, ...]:
    """Middles near the parent's scores, with intervals of honest and of overconfident width."""
    scores = true_scores(PARENT)
    shifts = dict(zip(TASKS, (0.0, 0.0, 0.15, 0.2, 0.0, 0.01), strict=True))
    return tuple(
        Prediction(t, m := min(0.999, scores[t] + shifts[t]), max(0.0, m - 0.06), min(1.0, m + 0.06))
        for t in TASKS
    )


def score_prediction(prediction: Prediction, line: TaskComparison) -> PredictionScore:
    """Covered or not; the score's distance stands for the CRPS here."""
    measured = line.candidate
    known = measured is not None
    return PredictionScore(
        prediction.task, prediction.score, prediction.low, prediction.high, measured,
        prediction.low <= measured <= prediction.high if known else None,
        (prediction.score > line.baseline) == (measured > line.baseline) if known else None,
        abs(prediction.score - measured) * 0.6 if known else None,
    )  # fmt: skip


def make_proposal() -> ProposalRecord:
    """Softmax and raw products mixed, with a decaying state."""
    return ProposalRecord(
        id="p-0001",
        rule=CANDIDATE,
        parent=PARENT,
        slots=("similarity", "retain"),
        source=CANDIDATE_SOURCE,
        reason="Softmax inside the chunk doubles Memorize and mixed weights keep recall exact.",
        predictions=make_predictions(),
        researcher="structured search",
        created_at="2025-07-01T09:00:00Z",
        insights="Softmax gains most on Memorize; the hybrid gains most on Fuzzy Recall.",
        issue="The raw products give every past token of the chunk a weight of either sign.",
        reasoning="Logits lie within Dk^-1/2 of zero, so the softmax is nearly a uniform average.",
        lessons="Adam and RMSProp on the state fail on every recall task.",
        per_task={"Memorize": "an average over the chunk", "Fuzzy Recall": "smooth weights"},
        cites=("arXiv:2406.06484", "arXiv:1706.03762"),
        cost={"parameters per head": 2},
    )


def make_verification() -> VerificationRecord:
    """Everything passed."""
    checks = tuple(
        CheckRecord(name, True, message, seconds)
        for name, message, seconds in (
            ("shapes", "all lengths from 1 to 100", 0.21),
            ("causality", "no output moved when later tokens did", 0.35),
            ("batch independence", "", 0.11),
            ("finite gradients", "", 0.42),
            ("not a known rule", "nearest is hybrid, 0.04 away", 0.80),
        )
    )
    return VerificationRecord(
        CANDIDATE, RULES[CANDIDATE].rule_hash, True, checks, reach=("baseline", "length=256")
    )


def make_cycle(runs: tuple[RunRecord, ...], preset: str) -> CycleRecord:
    """A cycle that finished."""
    return CycleRecord(
        id="c-2025-07-01-1",
        preset=preset,
        seed=0,
        state="finished",
        started_at="2025-07-01T09:00:00Z",
        finished_at="2025-07-01T10:05:00Z",
        proposal="p-0001",
        rules=(CANDIDATE, PARENT, REFERENCE),
        run_keys=tuple(run.key for run in runs),
        report_paths=("reports/c-2025-07-01-1.md", "reports/c-2025-07-01-1.html"),
        wall_seconds=3900.0,
        settings={"epochs": EPOCHS, "learning_rates": [5e-4, 1e-3]},
    )


def campaign() -> Campaign:
    """Two cycles that finished, the second a little worse throughout, and one that was rejected."""
    first = facts()
    assert first.verdict is not None
    assert first.proposal is not None
    second_proposal = replace(first.proposal, id="p-0002", rule="softmax_decay", control=True)
    rejected = replace(first.proposal, id="p-0003", rule="leaky")
    second = replace(
        first.verdict,
        proposal="p-0002",
        rule="softmax_decay",
        against_reference=lowered(first.verdict.against_reference, "softmax_decay"),
        against_parent=lowered(first.verdict.against_parent, "softmax_decay"),
    )
    cycle = first.cycle
    return Campaign(
        cycles=(
            cycle,
            replace(cycle, id="c-2", proposal="p-0002"),
            replace(
                cycle, id="c-3", proposal="p-0003", state="rejected", message="the future moved the past"
            ),
        ),
        proposals=(first.proposal, second_proposal, rejected),
        verdicts=(first.verdict, second),
        runs=first.runs,
        rules=RULES,
    )


def lowered(comparison: Comparison, rule: str) -> Comparison:
    """The same comparison for another rule that scores 0.05 less everywhere; its words stay."""

    def lower(line: TaskComparison) -> TaskComparison:
        numbers = {name: getattr(line, name) - 0.05 for name in ("candidate", "difference", "low", "high")}
        return replace(line, **numbers)

    return replace(
        comparison, candidate=rule, tasks=tuple(map(lower, comparison.tasks)), mean=lower(comparison.mean)
    )


LOOKED = "the method as the judge put it on record"


def looked(comparison: Comparison, *seeds: int) -> Comparison:
    """The comparison as if seeds had been added: its decided tasks fell at the last of these looks."""
    decided = tuple(line.task for line in comparison.tasks if line.word != "undecided")
    looks = tuple(
        Look(number, 0.05 * number / sum(seeds), TASKS, decided if number == seeds[-1] else ())
        for number in seeds
    )
    return replace(comparison, looks=looks, method=LOOKED)


def confirmed_facts(confirmed: bool = True, ranks: bool = True) -> Facts:
    """The example with a win on the mean that was measured again with fresh seeds, after two looks."""
    first = facts("quick" if ranks else "smoke", ranks)
    assert first.verdict is not None
    won = looked(first.verdict.against_reference, 1, 3)
    again = lowered(replace(won, looks=(), method=""), CANDIDATE)
    fresh = tuple(replace(run, seed=run.seed + 7000, key=f"fresh{run.key}") for run in first.runs[:6])
    confirmation = ConfirmationRecord(
        "mean", confirmed, (7000, 7001, 7002), won.mean, again, tuple(run.key for run in fresh)
    )
    verdict = replace(first.verdict, against_reference=won, confirmation=confirmation)
    return replace(first, verdict=verdict, fresh_runs=fresh)

"""A small real project: its ledger is written through the ledger, its verdict made by the judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

from archer.judge import verdict
from archer.ledger import Ledger
from archer.ledger.records import (
    TASKS,
    CheckRecord,
    CurvePoint,
    CycleRecord,
    Prediction,
    ProposalRecord,
    RuleSource,
    RunRecord,
    VerificationRecord,
)
from archer.mad import Setting
from archer.mad.presets import PRESETS
from archer.rules import get_rule
from archer.rules.compose import compose

CANDIDATE, PARENT, REFERENCE = "faster_decay", "delta_net", "gated_delta_net"
LEVELS = {PARENT: 0.5, REFERENCE: 0.7, "decay": 0.5, "hybrid": 0.6, CANDIDATE: 0.65}
RULE = compose("retain=decay(gamma=0.9)")
EXACT = tuple(setting.name for setting in PRESETS["quick"].settings if setting.input_length <= 64)
"""Settings of quick in which a rule that changes `retain` alone is its parent: two chunks at most."""


def make_run(
    rule: str,
    setting: Setting,
    seed: int,
    score: float | None,
    preset: str = "quick",
    status: str = "finished",
) -> RunRecord:
    """One run as training keeps it."""
    rule_hash = RULE.hash if rule == CANDIDATE else get_rule(rule).hash
    curve = tuple(CurvePoint(n, 1 / n, 1 / n, score, 1 / n, score) for n in (1, 2))
    effective = {"setting": asdict(setting), "recipe": {"chunk_size": 32}}
    return RunRecord(
        key=f"{rule}/{preset}/{setting.name}/{seed}", rule=rule, rule_hash=rule_hash, task=setting.task,
        setting=setting.name, learning_rate=PRESETS[preset].learning_rates[0],
        weight_decay=PRESETS[preset].weight_decays[0], seed=seed,
        preset=preset, status="finished", mad=score, held_out=score, validation=score, epochs=2,
        parameters=1000, wall_seconds=1.0, device="cpu", revision="r",
        finished_at=f"2026-01-0{1 + seed}T00:00:00+00:00", curve=curve, effective=effective,
    )  # fmt: skip


def make_runs(preset: str = "quick", rules: tuple[str, ...] = tuple(LEVELS)) -> list[RunRecord]:
    """Every rule on every setting and seed; the candidate not where it is its parent."""
    random = Random(5)
    return [
        make_run(rule, setting, seed, min(1.0, LEVELS[rule] + random.gauss(0, 0.01)), preset)
        for rule in rules
        for setting in PRESETS[preset].settings
        for seed in range(PRESETS[preset].seeds)
        if not (rule == CANDIDATE and setting.name in EXACT)
    ]


def write_project(
    folder: Path, change: Callable[[list[RunRecord]], list[RunRecord]] = lambda runs: runs
) -> Path:
    """A cycle that tried `faster_decay`, and a bench under smoke. change: what happened to the runs."""
    runs = change(make_runs())
    stand_ins = [
        replace(run, rule=CANDIDATE, rule_hash=RULE.hash, key=f"{run.key}=")
        for run in runs
        if run.rule == PARENT and run.setting in EXACT
    ]
    proposal = ProposalRecord(
        id="proposal-1", rule=CANDIDATE, parent=PARENT, slots=("retain",), source=RULE.source,
        reason="the state should forget faster", researcher="structured search", created_at="2026-01-01",
        predictions=tuple(Prediction(task, 0.6, 0.5, 0.7) for task in TASKS),
    )  # fmt: skip
    names = tuple(setting.name for setting in PRESETS["quick"].settings)
    verification = VerificationRecord(
        CANDIDATE, RULE.hash, True, (CheckRecord("causality", True, "held", 0.1),),
        reach=tuple(name for name in names if name not in EXACT), measured=names,
    )  # fmt: skip
    smoke = [replace(run, preset="smoke") for run in make_runs("smoke", (PARENT, REFERENCE))]
    with Ledger.in_folder(folder) as ledger:
        ledger.add_runs([*smoke, *runs])
        ledger.add_source(RuleSource(RULE.hash, CANDIDATE, PARENT, RULE.source))
        ledger.add_proposal(proposal)
        ledger.add_verification(verification)
        found = verdict(
            proposal, (*runs, *stand_ins), REFERENCE, "quick", exact_parent=EXACT, created_at="2026-01-04"
        )
        ledger.add_verdict(found)
        ledger.put_cycle(
            CycleRecord("0001", "smoke", 0, "finished", "2026-01-01", "2026-01-01", None, (PARENT, REFERENCE),
                        tuple(run.key for run in smoke), settings={"kind": "bench"})
        )  # fmt: skip
        ledger.put_cycle(
            CycleRecord("0002", "quick", 0, "finished", "2026-01-02", "2026-01-04", proposal.id,
                        (CANDIDATE, PARENT, REFERENCE), tuple(run.key for run in runs), wall_seconds=60.0)
        )  # fmt: skip
    return folder


def diverge(rule: str, task: str) -> Callable[[list[RunRecord]], list[RunRecord]]:
    """All runs of a rule on a task diverged."""
    gone = {"status": "diverged", "mad": None, "held_out": None, "validation": None, "curve": ()}
    return lambda runs: [replace(r, **gone) if (r.rule, r.task) == (rule, task) else r for r in runs]

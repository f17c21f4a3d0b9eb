"""One example of every record, as it is in `version_1.ledger`: change none of them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from archer.ledger import records as r

TASKS = r.TASKS

RUN = r.RunRecord(
    key="run-1",
    rule="delta_net",
    rule_hash="hash-1",
    task="Compress",
    setting="vocabulary 16",
    learning_rate=5e-4,
    weight_decay=0.1,
    seed=3,
    preset="smoke",
    status="finished",
    mad=0.123456789012345,
    held_out=0.1,
    validation=1.0,
    epochs=200,
    parameters=12345,
    wall_seconds=1.5,
    device="cpu",
    revision="abc",
    finished_at="2025-01-02T03:04:05Z",
    message='Ein "Gruß", 你好',
    curve=(r.CurvePoint(1, 2.5, None, 0.25, 3.0, 0.125), r.CurvePoint(2, None, 1.0, None, None, None)),
    passed={"width": 128, "rates": [0.1, 0.2], "nested": {"flag": True, "none": None}},
    effective={"dtype": "float32"},
    packages={"torch": "2.13.0"},
)
DIVERGED = replace(RUN, key="run-2", status="diverged", mad=None, held_out=None, validation=None)
CRASHED = replace(DIVERGED, key="run-3", status="crashed", message="out of memory")
SOURCE = r.RuleSource("hash-1", "delta_net", "", "def step(chunk, state):\n    return chunk, state\n")
PROPOSAL = r.ProposalRecord(
    id="proposal-1",
    rule="candidate",
    parent="delta_net",
    slots=("write", "read"),
    source="text",
    reason="why",
    predictions=(r.Prediction("Compress", 0.4, 0.3, 0.5),),
    researcher="search",
    created_at="2025-01-02",
    per_task={"Compress": "more"},
    cites=("Yang 2024",),
    control=True,
    cost={"seconds": 1.0},
)
VERIFICATION = r.VerificationRecord(
    "candidate",
    "hash-2",
    False,
    (r.CheckRecord("causality", False, "no", 0.5, "length 3"),),
    reach=("a", "b"),
)
COMPARISON = r.TaskComparison(
    "Compress", 0.5, 0.4, 0.1, -0.1, 0.3, 0.2, 0.6, "undecided", 11, 2, 7, 8, ("x",)
)
SIDE = r.Comparison("candidate", "delta_net", "smoke", (COMPARISON,), replace(COMPARISON, task="Mean"), False)
VERDICT = r.VerdictRecord(
    "proposal-1",
    "candidate",
    "delta_net",
    "gated_delta_net",
    "smoke",
    SIDE,
    replace(SIDE, baseline="gated_delta_net"),
    (r.PredictionScore("Compress", 0.4, 0.3, 0.5, 0.5, True, None, 0.02),),
    {"Compress": 0.02, "Memorize": None},
    "nothing is decided",
    False,
    "2025-01-03",
)
CYCLE = r.CycleRecord("cycle-1", "smoke", 7, "running", "2025-01-01", rules=("delta_net",), settings={"a": 1})


@pytest.fixture
def examples() -> SimpleNamespace:
    names = "RUN DIVERGED CRASHED SOURCE PROPOSAL VERIFICATION VERDICT CYCLE"
    return SimpleNamespace(**{name.lower(): globals()[name] for name in names.split()})


@pytest.fixture
def run() -> r.RunRecord:
    return RUN

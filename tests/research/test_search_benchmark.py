"""benchmarks/search.py on recorded runs: from the ledger's CSV to an answer."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from archer.ledger.records import TASKS, RunRecord
from archer.ledger.runs_csv import write_runs
from archer.research.rule_text import library_sources
from archer.research.space import Space
from archer.rules import rule_names

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search.py"
SEARCH = runpy.run_path(str(SCRIPT))
GOOD = ("hybrid", "softmax_scaled", "cosine_softmax")


def run(rule, task, seed, score, preset="baseline", rate=5e-4):
    finished = score is not None
    return RunRecord(
        f"{rule}{task}{seed}{preset}{rate}", rule, "h", task, f"{task}-1", rate, 0.0, seed, preset,
        "finished" if finished else "diverged", score, score, score, 1, 1, 1.0, "cpu", "", "",
    )  # fmt: skip


def score_of(rule, task, seed):
    """Good rules are 0.2 better than the reference on every task; two seeds differ by 0.01."""
    level = (
        0.7 if rule in GOOD else 0.5 if rule == "gated_delta_net" else 0.3 + rule_names().index(rule) / 500
    )
    return level + 0.01 * seed + TASKS.index(task) / 100


@pytest.fixture
def table(tmp_path):
    """Every built-in rule with two seeds; one diverged, one with another preset, one that nobody knows."""
    runs = [run(r, t, s, score_of(r, t, s)) for r in rule_names() for t in TASKS for s in (0, 1)]
    runs = [r for r in runs if (r.rule, r.task) != ("momentum", "Memorize")]
    runs += [run("momentum", "Memorize", seed, None) for seed in (0, 1)]
    runs += [run("mystery", task, seed, 0.99) for task in TASKS for seed in (0, 1)]
    runs += [run("decay", task, 0, 0.99, preset="quick") for task in TASKS]
    write_runs(tmp_path / "baseline.csv", runs)
    return tmp_path / "baseline.csv"


def test_a_table_is_a_landscape(table):
    space = Space(library_sources())
    found = SEARCH["recorded"](space, table, None)
    left = {"delta_net", "gated_delta_net", "momentum"}
    assert set(found.names) == set(rule_names()) - left
    assert found.left_out == ("momentum", "mystery")
    assert found.scores.shape == (len(found.names), 2, 6)
    assert found.stability == 1.0
    at = found.names.index("hybrid")
    np.testing.assert_allclose(found.scores[at, 1], [score_of("hybrid", task, 1) for task in TASKS])
    np.testing.assert_allclose(found.reference_scores.mean(), 0.53)
    best = SEARCH["best_decile"](found.scores.mean(1), found.reference_scores)
    assert {name for name, good in zip(found.names, best, strict=True) if good} == set(GOOD)


def test_repeats_leave_rules_out_and_redraw_seeds(table):
    space = Space(library_sources())
    found = SEARCH["recorded"](space, table, None)
    lands = [SEARCH["landscape_of"](space, found, repeat) for repeat in range(6)]
    again = SEARCH["landscape_of"](space, found, 0)
    np.testing.assert_array_equal(again.measured, lands[0].measured)
    assert {len(land.compositions) for land in lands} == {round(0.8 * len(found.names))}
    assert len({land.compositions for land in lands}) > 1
    noise = np.round(lands[0].measured - lands[0].truth, 3)
    assert set(np.unique(noise)) == {-0.005, 0.0, 0.005}


def test_the_whole_benchmark(table, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["search.py", "--runs", str(table), "--repeats", "12"])
    SEARCH["main"]()
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["preset"], said["seeds"], said["repeats"]) == ("baseline", 2, 12)
    assert set(said["best_rules"]) == set(GOOD)
    assert f"{said['pool']} rules in a repeat" in said["resolution"]
    low, high = said["interval_fewer_than_random"]
    assert low <= said["fewer_than_random"] <= high
    assert said["better_than_chance"] == (low > 0)
    assert 1 <= said["candidates_to_best_decile"]["researcher"] <= said["pool"]


def test_too_few_rules_are_refused_in_words(tmp_path):
    runs = [run(r, t, 0, score_of(r, t, 0)) for r in rule_names()[:8] for t in TASKS]
    runs += [run("gated_delta_net", task, 0, 0.5, rate=1e-4) for task in TASKS]
    write_runs(tmp_path / "few.csv", runs)
    with pytest.raises(SystemExit, match="a decile needs 10 or more"):
        SEARCH["recorded"](Space(library_sources()), tmp_path / "few.csv", None)

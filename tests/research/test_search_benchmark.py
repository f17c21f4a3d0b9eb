"""benchmarks/search.py on recorded runs: from the ledger's CSV to an answer."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from archer.errors import UserError
from archer.ledger.records import TASKS, RunRecord
from archer.ledger.runs_csv import read_runs, write_runs
from archer.mad.presets import PRESETS
from archer.research.rule_text import library_sources
from archer.research.space import Space
from archer.rules import rule_names

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search.py"
SEARCH = runpy.run_path(str(SCRIPT))
GOOD = ("hybrid", "softmax_scaled", "cosine_softmax")


SETTING = {setting.task: setting.name for setting in PRESETS["baseline"].settings}
ONE_CHUNK = {setting.task for setting in PRESETS["baseline"].settings if setting.input_length <= 32}


def run(rule, task, seed, score, preset="baseline", rate=5e-4, hashed="h", finished_at="2026-01-02"):
    finished = score is not None
    return RunRecord(
        f"{rule}{hashed}{task}{seed}{preset}{rate}", rule, hashed, task, SETTING[task], rate, 0.0, seed,
        preset, "finished" if finished else "diverged", score, score, score, 1, 1, 1.0, "cpu", "",
        finished_at,
    )  # fmt: skip


def score_of(rule, task, seed):
    """Good rules are 0.2 better than the reference on every task; two seeds differ by 0.01."""
    level = (
        0.7 if rule in GOOD else 0.5 if rule == "gated_delta_net" else 0.3 + rule_names().index(rule) / 500
    )
    return level + 0.01 * seed + TASKS.index(task) / 100


@pytest.fixture
def table(tmp_path):
    """Every built-in rule with two seeds and two rates; and all that a real table may hold beside: a rule
    that diverged, another preset, a rule that nobody knows, one that was edited, further seeds where a task
    was open, and a rule of the state alone that was trained only where it may differ from delta_net."""
    runs = [run(r, t, s, score_of(r, t, s)) for r in rule_names() for t in TASKS for s in (0, 1)]
    runs = [r for r in runs if (r.rule, r.task) != ("momentum", "Memorize")]
    runs += [run("momentum", "Memorize", seed, None) for seed in (0, 1)]
    runs += [run("mystery", task, seed, 0.99) for task in TASKS for seed in (0, 1)]
    runs += [run("decay", task, 0, 0.99, preset="quick") for task in TASKS]
    others = [name for name in rule_names() if name != "momentum"]
    runs += [run(r, t, s, 0.0, rate=1e-3) for r in others for t in TASKS for s in (0, 1)]
    runs += [run("rope", task, 0, 0.99, hashed="z", finished_at="2026-01-01") for task in TASKS]
    runs += [run(r, "Fuzzy Recall", s, 0.99) for r in rule_names() for s in (2, 3, 4)]
    runs = [r for r in runs if r.rule != "adam" or r.task not in ONE_CHUNK]
    write_runs(tmp_path / "baseline.csv", runs)
    return tmp_path / "baseline.csv"


def test_a_table_is_a_landscape(table):
    space = Space(library_sources())
    found = SEARCH["recorded"](space, table, None)
    left = {"delta_net", "gated_delta_net", "momentum"}
    assert set(found.names) == set(rule_names()) - left
    assert found.left_out == {"momentum": "no score on Memorize", "mystery": "not a rule of the library"}
    assert found.scores.shape == (len(found.names), 2, 6)
    assert found.stability == 1.0
    at = found.names.index("hybrid")
    np.testing.assert_allclose(found.scores[at, 1], [score_of("hybrid", task, 1) for task in TASKS])
    np.testing.assert_allclose(found.reference_scores.mean(), 0.53)
    assert found.scores.max() < 0.99
    bare = np.array([score_of("delta_net", task, 0) for task in TASKS])
    own = np.array([score_of("adam", task, 0) for task in TASKS])
    np.testing.assert_allclose(
        found.scores[found.names.index("adam"), 0],
        np.where([task in ONE_CHUNK for task in TASKS], bare, own),
    )
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


def test_a_seed_that_lacks_a_setting_does_not_count(table):
    runs = [one for one in read_runs(table) if one.seed < 2 and one.rule != "momentum"]
    third = [replace(one, seed=2, key=f"{one.key}-third") for one in runs if one.seed == 0]
    more = [
        replace(one, setting="compress-more", key=f"{one.key}-more") for one in runs if one.task == "Compress"
    ]
    write_runs(table, [*runs, *third])
    assert SEARCH["recorded"](Space(library_sources()), table, None).scores.shape[1] == 3
    write_runs(table, [*runs, *third, *more])
    assert SEARCH["recorded"](Space(library_sources()), table, None).scores.shape[1] == 2


def test_a_table_of_the_history_is_a_landscape_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["search.py", "--history", "fifteen_trials", "--repeats", "6"])
    SEARCH["main"]()
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["rules"], said["seeds"], said["decile_stability"]) == (14, 1, None)
    assert set(said["best_rules"]) == {"hybrid", "cosine_softmax_error_gated"}
    for name, message in (("five_trials", "5 rules with all scores"), ("six_trials", "did you mean")):
        monkeypatch.setattr(sys, "argv", ["search.py", "--history", name])
        with pytest.raises(UserError, match=message):
            SEARCH["main"]()


def test_too_few_rules_are_refused_in_words(tmp_path):
    runs = [run(r, t, 0, score_of(r, t, 0)) for r in rule_names()[:8] for t in TASKS]
    runs += [run("gated_delta_net", task, 0, 0.5, rate=1e-4) for task in TASKS]
    write_runs(tmp_path / "few.csv", runs)
    with pytest.raises(UserError, match="6 rules with all scores; expected 10 or more"):
        SEARCH["recorded"](Space(library_sources()), tmp_path / "few.csv", None)


def test_a_table_without_every_task_says_which_rule_lacks_what(table, monkeypatch):
    write_runs(table, [one for one in read_runs(table) if one.task not in ("Compress", "Memorize")])
    monkeypatch.setattr(sys, "argv", ["search.py", "--runs", str(table), "--repeats", "1"])
    with pytest.raises(UserError, match=r"baseline\.csv, preset baseline: 0 rules") as said:
        SEARCH["main"]()
    assert "gated_delta_net: no score on Compress, Memorize" in str(said.value)


@pytest.mark.parametrize("rows", ["rule,score\n", None])
def test_what_is_no_table_of_runs_is_refused_in_a_line(tmp_path, monkeypatch, rows):
    path = tmp_path / "table.csv"
    write_runs(path, []) if rows is None else path.write_text(rows)
    monkeypatch.setattr(sys, "argv", ["search.py", "--runs", str(path)])
    with pytest.raises(UserError, match="missing column" if rows else "holds no run"):
        SEARCH["main"]()

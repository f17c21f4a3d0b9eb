"""How well a small preset predicts a large one: the rank correlation, its interval, and when neither."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from tests.cli.program import data, output, refusal
from tests.report.test_costs import make_run

from archer.ledger import Ledger, write_runs
from archer.ledger.records import RunRecord
from archer.mad.presets import PRESETS
from archer.report.agreement import PAIRS, agreements, in_words, kendall, kendall_interval
from archer.rules import rule_names

RULES = rule_names()


def table(preset: str, scores: dict[str, float]) -> list[RunRecord]:
    """Every rule in every setting of a preset, with one score throughout."""
    return [
        make_run(
            rule, preset=preset, task=setting.task, setting=setting.name, held_out=score, validation=score,
            key=f"{preset}/{rule}/{setting.name}",
        )
        for rule, score in scores.items()
        for setting in PRESETS[preset].settings
    ]  # fmt: skip


def ranked(number: int) -> dict[str, float]:
    return {rule: 0.1 + 0.02 * place for place, rule in enumerate(RULES[:number])}


def test_the_same_order_agrees_and_the_opposite_disagrees():
    up = ranked(8)
    down = {rule: 1 - score for rule, score in up.items()}
    for scores, sign in ((up, 1), (down, -1)):
        for one in agreements([*table("quick", up), *table("full", scores)], "quick", "full"):
            assert one.tau == pytest.approx(sign)
            assert len(one.rules) == 8
            assert one.tau is not None
            assert one.low is not None
            assert one.high is not None
            assert -1 <= one.low <= one.tau <= one.high <= 1
            assert one.high - one.low > 0.1  # eight rules prove no perfect agreement


@pytest.mark.parametrize("number", [0, 1, 3])
def test_too_few_rules_are_said_and_not_counted(number):
    runs = [*table("quick", ranked(number)), *table("full", ranked(8))]
    for one in agreements(runs, "quick", "full"):
        assert one.tau is None
        assert "too few" in in_words(one)


def test_a_rule_without_every_setting_does_not_count():
    full = [run for run in table("full", ranked(5)) if not (run.rule == RULES[0] and run.task == "Memorize")]
    missing = next(run for run in table("full", ranked(1)) if run.task == "Memorize")
    found = {
        one.task: one for one in agreements([*table("quick", ranked(5)), *full, missing], "quick", "full")
    }
    assert len(found["Memorize"].rules) == 4
    assert len(found["Compress"].rules) == 5
    assert len(found["Mean"].rules) == 4


def test_an_edited_rule_is_another_rule():
    from dataclasses import replace

    full = [replace(run, rule_hash="0" * 12) for run in table("full", ranked(5))]
    assert all(one.rules == () for one in agreements([*table("quick", ranked(5)), *full], "quick", "full"))


def test_ties_have_no_order():
    same = dict.fromkeys(RULES[:6], 0.5)
    (one, *_) = agreements([*table("quick", ranked(6)), *table("full", same)], "quick", "full")
    assert one.tau is None
    assert "all tied" in in_words(one)


def test_the_interval_holds_the_truth():
    """Pairs from a normal with a correlation of 0.6, whose Kendall's tau is (2 / pi) asin(0.6)."""
    from math import asin, pi

    random, truth, inside, rounds = Random(3), 2 / pi * asin(0.6), 0, 600
    for _ in range(rounds):
        x = [random.gauss(0, 1) for _ in range(14)]
        tau = kendall(x, [0.6 * value + 0.8 * random.gauss(0, 1) for value in x])
        assert tau is not None
        low, high = kendall_interval(tau, 14)
        inside += low <= truth <= high
    assert 0.92 <= inside / rounds <= 0.99


def test_a_run_that_two_presets_have_counts_in_both(tmp_path: Path):
    """A run's key says nothing of its preset: those of baseline are among those of full."""
    for preset in ("baseline", "full"):
        runs = table(preset, ranked(6))
        same = [replace(run, key=f"{number:020}") for number, run in enumerate(runs)]
        write_runs(tmp_path / f"{preset}.csv", same)
    lines = json.loads(
        data("doctor", "--presets", "--results", tmp_path, "--json", "--project", tmp_path / "none")
    )
    pair = [line for line in lines if (line["first"], line["second"]) == ("baseline", "full")]
    assert [len(line["rules"]) for line in pair] == [6] * 7


def test_the_command_reads_tables_and_ledgers(tmp_path: Path):
    write_runs(tmp_path / "quick.csv", table("quick", ranked(6)))
    write_runs(tmp_path / "full.csv", table("full", ranked(6)))
    text = output("doctor", "--presets", "--results", tmp_path, "--project", tmp_path / "none")
    assert "+1.00 [" in text
    assert "6 rules" in text
    assert "0 rules: too few" in text  # baseline
    lines = json.loads(data("doctor", "--presets", "--results", tmp_path, "--json", "--project", tmp_path))
    assert {(line["first"], line["second"]) for line in lines} == {*PAIRS}
    taus = [line["tau"] for line in lines if (line["first"], line["second"]) == ("quick", "full")]
    assert taus == pytest.approx([1.0] * 7)
    assert "--results belongs to --presets" in refusal("doctor", "--results", tmp_path)
    assert "archer doctor --presets --results results" not in text
    with Ledger.in_folder(tmp_path / "fresh"):
        pass
    fresh = output("doctor", "--presets", "--project", tmp_path / "fresh")
    assert "archer doctor --presets --results results" in fresh
    assert "holds no project" in refusal("doctor", "--presets", "--project", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds none of smoke.csv" in refusal("doctor", "--presets", "--results", tmp_path / "empty")

"""`archer history`: what the tables of earlier trials support."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.program import data, output, refusal

from archer.ledger.history import FOLDER

HEADER = "model,Compress,Context Recall,Fuzzy Recall,Memorize,Noisy Recall,Selective Copy\n"


def conclusions(text: str) -> str:
    """The last part, its lines joined."""
    return " ".join(text.split("What can be concluded")[1].split())


@pytest.mark.parametrize("columns", [80, 120])
def test_the_built_in_tables(columns: int) -> None:
    text = output("history", columns=columns)
    for name in ("fifteen_trials", "five_trials", "momentum_trial", "2025-06-13_softmax_proposal"):
        assert f"{name}: scores, and differences to delta_net" in text
    said = conclusions(text)
    assert "Noise on Memorize: standard deviation 0.020" in said
    first, second = said.split("2025-06-16_second_protocol - ")
    assert "Beyond the noise, Memorize:" in first
    assert "softmax +0.376" in first
    assert "The same function, so no difference at all, Memorize: adam −0.019, decay −0.040" in first
    assert "The same function, so no difference at all: none." in second
    assert "Never mix 2025-06-16_second_protocol with the tables of fifteen_trials" in second


def test_a_difference_that_cannot_be_one_is_not_shown_as_one() -> None:
    lines = output("history", columns=80).splitlines()
    adam = next(number for number, line in enumerate(lines) if line.startswith("adam"))
    assert lines[adam + 1].split() == ["−0.104?", "−0.909?", "−0.193?", "=", "−0.974?", "−0.754?", "−0.492"]


def test_json_holds_every_difference() -> None:
    found = json.loads(data("history", "--json"))
    assert len(found["tables"]) == 5
    words = {
        one["conclusion"]
        for one in found["differences"]
        if one["table"] == "fifteen_trials" and "softmax_attention_in_for_loop" in one["model"]
        and one["task"] == "Memorize"
    }  # fmt: skip
    assert words == {"beyond noise"}
    assert found["groups"][1] == ["2025-06-16_second_protocol"]


def test_a_copy_of_a_built_in_table_goes_with_its_group(tmp_path: Path) -> None:
    copy = tmp_path / "mine.csv"
    copy.write_text((FOLDER / "momentum_trial.csv").read_text())
    said = conclusions(output("history", copy))
    assert "May stand in one comparison: fifteen_trials," in said
    assert "The same function, so no difference at all, Memorize: momentum" in said
    assert "softmax" not in said.split("Never mix")[0].replace("2025-06-13_softmax_proposal", "")


def test_a_table_of_one_s_own_needs_a_baseline(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(HEADER + "foo,.1,.2,.3,.4,.5,.6\nbar,.2,.2,.2,.2,.2,.2\n")
    assert "--baseline" in refusal("history", table)
    text = output("history", table, "--baseline", "foo")
    assert "differences to foo" in text
    assert "Never mix" not in text
    assert "did you mean 'bar'" in refusal("history", table, "--baseline", "barr")


def test_a_table_that_calls_delta_net_by_its_rule_s_name(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(HEADER + "delta_net,.1,.2,.3,.4,.5,.6\nmomentum,.2,.2,.2,.2,.2,.2\n")
    said = conclusions(output("history", table))
    assert "The same function, so no difference at all, Memorize: momentum −0.200" in said


def test_wrong_input(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(HEADER + "delta_net,.1,.2,.3,.4,.5,1.6\n")
    message = refusal("history", table)
    assert "t.csv" in message
    assert "Selective Copy" in message
    assert "--baseline" in refusal("history", "--baseline", "x")
    assert refusal("history", tmp_path / "none.csv").count("\n") == 1


def test_a_difference_of_zero_is_not_among_the_largest(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    rows = "delta_net,0.4,0.9,0.2,0.4,0.9,0.9\nfirst,0.5,0.9,0.2,0.4,0.9,0.9\n"
    table.write_text(HEADER + rows)
    said = conclusions(output("history", table, "--baseline", "delta_net"))
    assert "the largest: first on Compress +0.100 (below 0.027)." in said
    table.write_text(HEADER + rows.replace("0.5", "0.4"))
    said = conclusions(output("history", table, "--baseline", "delta_net"))
    assert "in which nothing was repeated." in said
    assert "the largest" not in said

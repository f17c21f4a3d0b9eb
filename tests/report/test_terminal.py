"""The final table: nothing cut off at 80 and 120 columns, and every number with its interval and sign."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console
from tests.report import example
from tests.report.test_note import without_memorize

from archer.ledger.records import TASKS
from archer.report import numbers
from archer.report.numbers import folded
from archer.report.terminal import NAME_WIDTH, final_table


def printed(facts, width: int, language: str = "en", paths: tuple[str, ...] = ()) -> str:
    file = StringIO()
    Console(file=file, width=width).print(final_table(facts, language, paths))
    return file.getvalue()


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [80, 100, 120, 140, 200])
def test_every_difference_and_interval_is_shown_whole(width, language):
    facts = example.facts()
    text = printed(facts, width, language)
    assert "…" not in text
    assert max(cell_len(line) for line in text.splitlines()) <= width
    for comparison in facts.all_comparisons():
        for line in (*comparison.tasks, comparison.mean):
            for value in (line.difference, line.low, line.high):
                assert numbers.signed(value, "") in text


def test_long_names_fold_after_an_underscore_and_cut_nothing():
    assert folded("cosine_softmax_error_gated", NAME_WIDTH) == "cosine_softmax_\nerror_gated"
    assert folded("a" * 20, NAME_WIDTH).replace("\n", "") == "a" * 20
    assert folded("gated_delta_net", NAME_WIDTH) == "gated_delta_net"


def test_a_long_name_stands_on_one_line_where_there_is_room():
    facts = example.facts("smoke", ranks=False)
    assert facts.candidate is not None
    name = f"{facts.candidate}_with_a_long_name"
    long = replace(
        facts,
        verdict=replace(facts.verdict, rule=name, against_reference=replace(
            facts.verdict.against_reference, candidate=name)),
    )  # fmt: skip
    assert any(line.startswith(name) for line in printed(long, 170).splitlines())
    assert not any(line.startswith(name) for line in printed(long, 80).splitlines())


def test_where_nothing_was_decoded_the_terminal_says_how_to():
    facts = example.facts()
    costs = {rule: replace(cost, decoding=()) for rule, cost in facts.costs.items()}
    text = " ".join(printed(replace(facts, costs=costs), 120).split())
    assert "Decoding: not measured yet (archer report --decoding)." in text
    assert "not measured yet" not in printed(facts, 120)


def test_smoke_is_said_before_the_table_and_only_there():
    text = printed(example.facts("smoke", ranks=False), 80)
    assert text.startswith("! The preset smoke ranks nothing")
    assert "ranks nothing" not in printed(example.facts(), 80)


def test_no_score_is_said_with_its_reason():
    text = printed(without_memorize(example.facts()), 80)
    assert "no score" in text
    assert "18 runs" in text
    assert "0.000" not in next(line for line in text.splitlines() if "no score" in line)


def test_notes_have_noise_floor_lost_runs_and_paths():
    path = "reports/" + "long-" * 30 + "name.html"
    text = printed(example.facts(), 80, paths=(path,))
    flat = text.replace("\n", "")
    assert path in flat
    assert "1 run diverged, 1 run crashed" in text.replace("\n", " ")
    for task in TASKS:
        assert f"{task} {example.NOISE[task]:.3f}" in text


def test_nothing_measured_is_said():
    assert "Nothing was compared" in printed(replace(example.facts(), verdict=None), 80)


def test_the_differences_are_those_to_the_rule_that_was_compared_with():
    facts = example.facts("smoke", ranks=False)
    assert facts.verdict is not None
    text = printed(replace(facts, verdict=None, comparisons=(facts.verdict.against_parent,)), 120)
    assert facts.verdict.against_parent.baseline != facts.reference
    assert f"differences to {facts.verdict.against_parent.baseline}," in text
    assert facts.reference not in text

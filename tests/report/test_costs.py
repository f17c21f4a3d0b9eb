"""What a rule costs: every number from runs, text or a count, and what is not known is not 0."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.report import example

from archer.cycle.plan import named_subject
from archer.errors import UserError
from archer.judge import compare
from archer.ledger.records import RunRecord
from archer.mad.presets import PRESETS
from archer.model.baselines import BASELINES, Mamba
from archer.report.charts import CostPoint, cost_chart, pareto_front
from archer.report.cost_section import cost_cells
from archer.report.costs import (
    DECODING_FILE,
    Decoding,
    Surplus,
    baseline_cost,
    matching_width,
    read_decoding,
    rule_costs,
    step_seconds,
    surpluses,
    widened_preset,
)
from archer.report.facts import Facts
from archer.report.language import catalogue
from archer.report.markdown import to_markdown
from archer.report.note import build
from archer.report.tree import Figure, Paragraph, Table, text_of
from archer.report.wording import Wording
from archer.rules import get_rule
from archer.verify.layer_cost import LayerSize

QUICK = PRESETS["quick"]
SIZES = {"delta_net": 669_376, "gated_delta_net": 802_576}
RULES = {name: get_rule(name) for name in ("delta_net", "gated_delta_net", "decay")}


def make_run(rule: str, index: int = 0, seed: int = 0, score: float = 0.5, **changes) -> RunRecord:
    """A run of quick, with what a CSV keeps of it."""
    setting = QUICK.settings[index]
    key = f"{rule}/{setting.name}/{seed}/{changes.get('preset', '')}"
    run = RunRecord(
        key=key, rule=rule, rule_hash=get_rule(rule).hash, task=setting.task, setting=setting.name,
        learning_rate=QUICK.learning_rates[0], weight_decay=QUICK.weight_decays[0], seed=seed, preset="quick",
        status="finished", mad=score,
        held_out=score, validation=score, epochs=60, parameters=SIZES.get(rule, 669_384),
        wall_seconds=15.0, device="a card", revision="r", finished_at="2026-01-01",
    )  # fmt: skip
    return replace(run, **changes)


def test_training_speed_is_the_time_of_a_step_on_its_device():
    steps = 60 * 100  # 12,800 examples in batches of 128
    assert step_seconds([make_run("delta_net")]) == {"a card": pytest.approx(15 / steps)}
    twice = [make_run("delta_net"), make_run("delta_net", seed=1, wall_seconds=45.0)]
    assert step_seconds(twice) == {"a card": pytest.approx(30 / steps)}
    assert list(step_seconds([*twice, make_run("delta_net", device="another")])) == ["a card", "another"]


@pytest.mark.parametrize(
    "change",
    [
        {"status": "diverged"},
        {"epochs": 0},
        {"wall_seconds": 0.0},
        {"device": ""},
        {"preset": "mine"},  # nothing says how large a batch was
    ],
)
def test_a_speed_that_is_not_known_is_not_there(change):
    assert step_seconds([make_run("delta_net", **change)]) == {}


def test_parameters_are_compared_in_one_setting_and_its_task_is_named():
    def sizes(runs):
        return {name: (cost.parameters, cost.sized_on) for name, cost in rule_costs(runs, {}).items()}

    runs = [make_run("delta_net", 0, parameters=700), make_run("delta_net", 1, parameters=500)]
    runs += [make_run("decay", 1, parameters=504)]
    shared = QUICK.settings[1].task
    assert sizes(runs) == {"delta_net": (500, shared), "decay": (504, shared)}
    stand_in = make_run("decay", 0, parameters=700, key="delta_net/0=")
    assert sizes([*runs, stand_in]) == {"delta_net": (500, shared), "decay": (504, shared)}
    assert sizes([make_run("decay", parameters=0)]) == {"decay": (None, None)}


def test_costs_of_a_layer_as_the_preset_trains_it():
    costs = rule_costs([make_run("delta_net"), make_run("gated_delta_net")], RULES)
    assert (costs["delta_net"].state_per_head, costs["gated_delta_net"].state_per_head) == (32 * 32, 32 * 64)
    assert costs["delta_net"].heads == 4
    projections = 2 * (128 * (3 * 128 + 4) + 128 * 128)
    least = costs["delta_net"].operations_per_token
    assert least is not None
    assert projections < least < 3 * projections
    more = costs["gated_delta_net"].operations_per_token
    assert more is not None
    assert more > least


@pytest.mark.parametrize(("chunk_size", "tokens"), [(32, 128), (64, 256)])
def test_baselines_are_counted_as_rules_are(chunk_size: int, tokens: int):
    size = LayerSize(128, 4, chunk_size)
    found = {name: baseline_cost(name, named_subject(name).hash, size) for name in BASELINES}
    attention, gla, mamba = (found[name] for name in ("attention", "gla", "mamba"))
    assert attention is not None
    assert gla is not None
    assert mamba is not None
    assert (attention.state_per_head, attention.state_per_token, attention.counted_at) == (None, 256, tokens)
    products = 2 * 4 * 128 * 128 + 4 * tokens * 128  # projections; q kᵀ, and its product with v
    assert products < (attention.operations_per_token or 0) < 1.5 * products
    assert (gla.state_per_head, gla.heads, gla.counted_at) == (16 * 32, 4, None)
    mixer = Mamba(128)
    assert (mamba.state_per_head, mamba.heads) == (mixer.inner * 16, 1)
    for cost in (gla, mamba):
        assert (cost.operations_per_token or 0) > 2 * 3 * 128 * 128
    assert baseline_cost("gla", "0" * 12, size) is None
    assert baseline_cost("delta_net", "0" * 12, size) is None


def test_a_cost_that_grows_with_length_says_so():
    digest = named_subject("attention").hash
    run = make_run("delta_net", rule_hash=digest)
    (cost,) = rule_costs([replace(run, rule="attention")], RULES).values()
    assert (cost.parameters, list(cost.step_seconds)) == (669_376, ["a card"])
    cells = cost_cells(cost, Wording(catalogue("en")))
    assert cells[1] == "grows by 256 per token"
    assert cells[2].endswith(" at 128 tokens, and growing")
    assert "256" in cost_cells(cost, Wording(catalogue("zh")))[1]


def test_of_an_edited_rule_only_what_its_runs_say_is_known():
    (cost,) = rule_costs([make_run("delta_net", rule_hash="0" * 12)], RULES).values()
    assert (cost.state_per_head, cost.operations_per_token, cost.parameters) == (None, None, 669_376)


def test_the_width_that_matches_has_at_least_as_many_parameters():
    run = _as_trained("delta_net")
    assert matching_width(run.parameters + 1, run, RULES) == 132  # the next multiple of four heads
    width = matching_width(run.parameters + 60_000, run, RULES)
    assert width is not None
    assert width % 4 == 0
    assert _as_trained("delta_net", width).parameters >= run.parameters + 60_000
    assert _as_trained("delta_net", width - 4).parameters < run.parameters + 60_000
    assert matching_width(run.parameters + 1, replace(run, parameters=run.parameters + 1), RULES) is None
    assert matching_width(run.parameters + 1, replace(run, rule="of_nobody"), RULES) is None


def _as_trained(rule: str, width: int = 128, index: int = 1, seed: int = 0, score: float = 0.5) -> RunRecord:
    """A run with the parameters that its model has."""
    from archer.model.backbone import Model
    from archer.model.mixer import RuleMixer

    setting = QUICK.settings[index]
    backbone = "auto-encoder" if setting.task == "Compress" else "language-model"
    model = Model(RuleMixer(get_rule(rule), width, 4), backbone, setting.vocabulary, width, 2, setting.length)
    return make_run(rule, index, seed, score, parameters=model.parameters)


def test_a_gain_is_shown_at_equal_parameters_where_that_was_trained():
    runs = [
        _as_trained(rule, 128, index, seed, 0.5 + 0.1 * (rule != "delta_net") + 0.001 * seed)
        for rule in ("delta_net", "gated_delta_net")
        for index in range(6)
        for seed in range(3)
    ]
    upwards = compare(runs, "gated_delta_net", "delta_net", preset="quick")
    asked: list[str] = []

    def none_trained(preset: str) -> list[RunRecord]:
        asked.append(preset)
        return []

    (missing,) = surpluses([upwards], runs, none_trained, RULES)
    largest = [max(r.parameters for r in runs if r.rule == rule) for rule in ("delta_net", "gated_delta_net")]
    assert missing.extra == largest[1] - largest[0]
    assert missing.share == pytest.approx(missing.extra / largest[0])
    assert asked == [widened_preset("quick", missing.width or 0)]
    assert missing.command == (
        f"archer bench delta_net --preset quick --width {missing.width} --reference delta_net"
    )
    wide = [replace(r, preset=asked[0], held_out=0.6 + 0.001 * r.seed) for r in runs if r.rule == "delta_net"]
    (found,) = surpluses([upwards], runs, lambda preset: wide, RULES)
    assert found.comparison is not None
    assert found.comparison.baseline == f"delta_net (width {found.width})"
    assert found.comparison.mean.difference == pytest.approx(0.0)
    assert upwards.mean.difference == pytest.approx(0.1)
    downwards = compare(runs, "delta_net", "gated_delta_net", preset="quick")
    assert surpluses([downwards], runs, none_trained, RULES) == ()


def shown(facts: Facts, language: str = "en") -> str:
    return to_markdown(build(facts, language))


def test_the_note_says_what_a_gain_was_bought_with():
    facts = example.facts()
    assert "8 parameters more than `delta_net` (+0.0037%): too few" in shown(facts)
    surplus = Surplus(example.CANDIDATE, example.PARENT, "quick", 49_280, 0.23, 144)
    text = shown(replace(facts, surpluses=(surplus,)))
    assert "no runs of `delta_net` at equal parameters (width 144)" in text
    assert "`archer bench delta_net --preset quick --width 144 --reference delta_net`" in text
    assert "cannot be told" in shown(replace(facts, surpluses=(replace(surplus, width=None),)))
    assert facts.verdict is not None
    wide = replace(facts.verdict.against_parent, baseline="delta_net (width 144)")
    measured = shown(replace(facts, surpluses=(replace(surplus, comparison=wide),)))
    assert "**At equal parameters:**" in measured
    assert "delta_net (width 144)" in measured


def test_the_cost_table_shows_unknown_and_never_zero():
    note = build(example.facts())
    table = next(b for b in note.blocks() if isinstance(b, Table) and "costs" in text_of(b.caption))
    rows = {text_of(row.cells[0].text): [text_of(cell.text) for cell in row.cells[1:]] for row in table.rows}
    assert rows[example.REFERENCE][1:6] == ["263,296", "2,048 \u00d7 4", "451,364", "unknown", "unknown"]
    assert rows[example.PARENT][4:6] == ["2.90", "1,600"]
    assert example.MACHINE in to_markdown(note)


def points() -> list[CostPoint]:
    rows = (("cheap", 0.5, 10), ("worse", 0.4, 20), ("dear", 0.7, 30), ("equal", 0.7, 40))
    return [CostPoint(name, y, None, None, x, None, pen) for pen, (name, y, x) in enumerate(rows)]


def test_the_front_holds_what_no_other_rule_beats():
    placed = [(point, float(point.parameters or 0)) for point in points()]
    assert [point.rule for point, _ in pareto_front(placed)] == ["cheap", "dear"]
    assert pareto_front(placed[::-1]) == pareto_front(placed)


def test_a_front_is_drawn_only_where_scores_may_rank():
    figures = {
        ranks: next(
            b
            for b in build(example.facts(ranks=ranks)).blocks()
            if isinstance(b, Figure) and b.anchor == "figure-cost"
        )
        for ranks in (True, False)
    }
    assert [len(figure.panels) for figure in figures.values()] == [2, 2]
    layers = {ranks: len(figure.panels[0].spec["layer"]) for ranks, figure in figures.items()}
    assert layers[True] == layers[False] + 1
    drawn = figures[True].panels[0].spec["data"]["values"]
    candidate = next(value for value in drawn if value["words"] == example.CANDIDATE)
    verdict = example.facts().verdict
    assert verdict is not None
    mean = verdict.against_reference.mean
    assert mean.low is not None
    assert mean.difference is not None
    assert mean.candidate is not None
    assert candidate["low"] == pytest.approx(mean.candidate + mean.low - mean.difference)


def test_names_of_close_points_stand_apart():
    spec = cost_chart(points(), CostPoint.of_parameters, ("x", "y"), front=True)
    heights = sorted(value["label_at"] for value in spec["data"]["values"])
    assert min(b - a for a, b in pairwise(heights)) > 0.02


def test_decoding_is_kept_and_a_broken_file_is_named(tmp_path: Path):
    assert read_decoding(tmp_path) == ()
    hashed = get_rule("decay").hash
    one: Any = {"rule": "decay", "rule_hash": hashed, "width": 128, "heads": 4, "chunk_size": 32,
           "machine": "m", "torch": "2", "seconds": 0.001}  # fmt: skip
    (tmp_path / DECODING_FILE).write_text(json.dumps([one]))
    assert read_decoding(tmp_path) == (Decoding(**one),)
    runs = [make_run("decay"), make_run("delta_net")]
    costs = rule_costs(runs, RULES, read_decoding(tmp_path))
    assert [d.seconds for d in costs["decay"].decoding] == [0.001]
    assert costs["delta_net"].decoding == ()
    assert rule_costs(runs, RULES, [replace(Decoding(**one), width=64)])["decay"].decoding == ()
    (tmp_path / DECODING_FILE).write_text("[{}]")
    with pytest.raises(UserError, match="delete it and measure again"):
        read_decoding(tmp_path)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_nothing_is_judged_under_a_preset_that_ranks_nothing(language):
    """The numbers stand there with their intervals; no word of a verdict does, in the note or drawn."""
    words = Wording(catalogue(language))
    note = build(example.facts("smoke", ranks=False), language)
    judged = build(example.facts("quick", ranks=True), language)
    for section in ("verdict", "scores", "next"):
        text, other = (_text(n, section) for n in (note, judged))
        for word in ("better", "worse", "same", "undecided"):
            mark = words.word(word)
            assert mark not in text
            assert (mark in other) or section != "verdict" or word == "same"
    assert words.text("word.not_judged") in _text(note, "verdict")
    lead = "".join(text_of(block.text) for block in note.lead if isinstance(block, Paragraph))
    assert words.text("word.not_judged") in lead
    assert "[" in lead  # the interval


def _text(note, anchor: str) -> str:
    section = next(section for section in note.sections if section.anchor == anchor)
    return to_markdown(replace(note, lead=(), sections=(section,)))

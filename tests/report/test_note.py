"""The note as a tree: what must stand in it, and that nothing is shown that is not so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.report import example

from archer.errors import UserError
from archer.ledger.records import TASKS, CurvePoint, CycleRecord, ProposalRecord
from archer.mad.presets import PRESETS
from archer.report import numbers
from archer.report.argument import effective_difference, past_trials
from archer.report.charts import Curve, curve_chart, spread
from archer.report.facts import Facts, declarations, lineage, slot_in_effect
from archer.report.markdown import to_markdown
from archer.report.note import build
from archer.report.observe import trials
from archer.report.tree import Code, Figure, Note, Paragraph, Table, text_of

SECTIONS = (
    "verdict", "scores", "noise", "cost", "observations", "fault", "reasoning", "expectation", "outcomes",
    "lessons", "implementation", "curves", "files", "limits", "next", "provenance",
)  # fmt: skip


@pytest.fixture(scope="module")
def facts() -> Facts:
    return example.facts()


@pytest.fixture(scope="module")
def note(facts: Facts) -> Note:
    return build(facts)


def find_table(note: Note, caption: str) -> Table:
    return next(b for b in note.blocks() if isinstance(b, Table) and caption in text_of(b.caption))


def cells(table: Table, row: int) -> list[str]:
    return [text_of(cell.text) for cell in table.rows[row].cells]


def without_memorize(facts: Facts) -> Facts:
    """The candidate has no score on Memorize: all its runs diverged there."""
    assert facts.verdict is not None

    def lose(comparison):
        lines = [example.without_score(x) if x.task == "Memorize" else x for x in comparison.tasks]
        return replace(comparison, tasks=tuple(lines), mean=example.without_score(comparison.mean))

    verdict = replace(
        facts.verdict,
        against_parent=lose(facts.verdict.against_parent),
        against_reference=lose(facts.verdict.against_reference),
        predictions=tuple(
            replace(p, measured=None, covered=None, sign_right=None, crps=None) if p.task == "Memorize" else p
            for p in facts.verdict.predictions
        ),
    )
    runs = tuple(
        replace(run, status="diverged", mad=None, held_out=None, validation=None, curve=())
        if run.rule == example.CANDIDATE and run.task == "Memorize"
        else run
        for run in facts.runs
    )
    return replace(facts, verdict=verdict, runs=runs)


def test_same_facts_give_the_same_note(facts, note):
    assert build(example.facts()) == note


def test_every_section_of_a_research_note_is_there(note):
    assert tuple(section.anchor for section in note.sections) == SECTIONS
    assert all(section.blocks for section in note.sections)


def test_every_difference_stands_with_its_interval_and_word(facts, note):
    assert facts.verdict is not None
    for comparison in (facts.verdict.against_reference, facts.verdict.against_parent):
        table = find_table(note, f"{comparison.candidate} minus {comparison.baseline}")
        for index, line in enumerate((*comparison.tasks, comparison.mean)):
            shown = cells(table, index)
            ends = f"[{numbers.signed(line.low, '')}, {numbers.signed(line.high, '')}]"
            assert shown[0] == line.task
            assert shown[1] == f"{numbers.signed(line.difference, '')} {ends}"
            assert line.word in shown[2]
            assert f"seeds: {line.seeds}" in shown[6]


def test_reach_and_the_seeds_that_are_still_needed_are_said(note):
    parent = find_table(note, "minus delta_net")
    assert "the same function in 1 of 3 settings" in cells(parent, TASKS.index("Memorize"))[6]
    assert (
        "about 4 more seeds" in cells(find_table(note, "minus gated_delta_net"), TASKS.index("Memorize"))[6]
    )


def test_no_score_is_said_with_its_reason_and_is_never_zero(facts):
    note = build(without_memorize(facts))
    row = cells(find_table(note, "minus gated_delta_net"), TASKS.index("Memorize"))
    assert row[1] == "no score"
    assert row[4] == "no score"
    assert "every grid point diverged" in row[6]
    assert "18 runs diverged" in row[6]
    measured = find_table(note, "Measured in this cycle")
    candidate = next(r for r in measured.rows if text_of(r.cells[0].text) == example.CANDIDATE)
    assert text_of(candidate.cells[1 + TASKS.index("Memorize")].text) == "no score"
    assert text_of(candidate.cells[-1].text) == "no score"
    outcome = cells(find_table(note, "Predictions of"), TASKS.index("Memorize"))
    assert outcome[2:] == ["no score", "–", "–", "–"]
    assert "2 of 5 measured scores" in to_markdown(note)


def test_smoke_says_first_that_it_ranks_nothing():
    first = build(example.facts("smoke", ranks=False)).lead[0]
    assert isinstance(first, Paragraph)
    assert first.tone == "warning"
    assert text_of(first.text).startswith("This preset ranks nothing.")
    assert "ranks nothing" not in to_markdown(build(example.facts("quick", ranks=True)))


def test_runs_that_diverged_and_crashed_are_listed_and_lead_to_the_run_table(facts, note):
    lost = [run for run in facts.runs if run.status != "finished"]
    table = find_table(note, "Runs that do not count")
    assert [cells(table, i)[4:] for i in range(len(table.rows))] == [
        ["diverged", "loss is NaN in epoch 3"],
        ["crashed", "killed"],
    ]
    anchors = {name for row in find_table(note, "All 324 runs").rows for name in row.anchor.split()}
    assert {f"run-{run.key[:10]}" for run in lost} <= anchors


def test_every_run_is_in_the_run_table_with_what_decides_it(facts, note):
    table = find_table(note, "All 324 runs")
    by_key = {text_of(row.cells[0].text): [text_of(cell.text) for cell in row.cells] for row in table.rows}
    assert len(by_key) == len(facts.runs)
    run = facts.runs[17]
    shown = by_key[run.key[:10]]
    assert shown[1:8] == [run.rule, run.task, run.setting, "0.001", "0", str(run.seed), "finished"]
    assert shown[8] == f"{run.held_out:.3f}"


def test_the_place_at_fault_is_the_parents_own_lines(note):
    fault = next(section for section in note.sections if section.anchor == "fault")
    blocks = [block for block in fault.blocks if isinstance(block, Code)]
    lines = example.PARENT_SOURCE.splitlines()
    for block, slot in zip(blocks, ("similarity", "retain"), strict=True):
        assert block.first_line is not None
        assert (
            lines[block.first_line - 1] == f"def {slot}({'scores, causal' if slot == 'similarity' else 'S'}):"
        )
        assert block.text.splitlines() == lines[block.first_line - 1 : block.first_line + 1]


def test_the_difference_shows_the_code_that_runs_and_not_the_files():
    rules = dict(example.RULES)
    lines = effective_difference("delta_net", rules[example.CANDIDATE], ("similarity", "retain"), rules)
    assert "-    return S" in lines
    assert "+    return gamma * S" in lines
    assert "+gamma = Parameter(0.98, within=(0, 1))" in lines
    assert not any("Yang 2024" in line for line in lines)


def test_a_slot_that_the_parent_inherits_is_found_in_its_ancestor():
    place = slot_in_effect("gated_delta_net", "retain", example.RULES)
    assert place is not None
    assert (place.rule, place.lines[-1]) == ("delta_net", "    return S")
    assert slot_in_effect("gated_delta_net", "read", example.RULES) is None
    assert [rule.name for rule in lineage("gated_delta_net", example.RULES)] == [
        "delta_net",
        "gated_delta_net",
    ]
    assert declarations(example.RULES[example.CANDIDATE])[0].startswith("a = Parameter")


def test_history_gains_and_losses_are_those_of_the_tables(facts):
    found = {
        trial.model: trial for trial in trials(facts.history[0], {}, "delta_net", "gated_delta_net_4layer")
    }
    hybrid = found["hybrid_softmax_raw_attention_in_for_loop"]
    assert hybrid.gain is not None
    assert hybrid.gain.task == "Fuzzy Recall"
    assert hybrid.gain.difference == pytest.approx(0.529823 - 0.216574)
    assert hybrid.loss is not None
    assert hybrid.loss.task == "Compress"
    assert found["adam_state_update_in_for_loop"].gain is None
    models = [trial.model for trial in past_trials(facts)]
    assert models.count("momentum_state_update_in_for_loop") == 1


def test_tables_are_never_mixed(facts):
    """The second protocol's decay rule is compared with that table's own baseline."""
    found = next(t for t in past_trials(facts) if t.model.startswith("adaptive_exponential_decay"))
    assert found.table == "2025-06-16_second_protocol"
    assert found.gain is not None
    assert found.gain.difference == pytest.approx(0.204738 - 0.189705)


def test_figures_say_in_words_what_they_draw(note):
    figures = [block for block in note.blocks() if isinstance(block, Figure)]
    assert [figure.anchor for figure in figures] == [
        "figure-differences",
        "figure-cost",
        "figure-predictions",
        "figure-curves",
    ]
    assert len(figures[3].panels) == len(TASKS)
    for panel in (panel for figure in figures for panel in figure.panels):
        assert any(name in panel.description for name in (*TASKS, example.CANDIDATE))


def test_curves_are_those_of_the_runs_that_validation_chose(facts, note):
    figure = next(b for b in note.blocks() if isinstance(b, Figure) and b.anchor == "figure-curves")
    drawn = {point["run"] for point in figure.panels[0].spec["data"]["values"]}
    assert len(drawn) == 3 * 3  # three rules, three seeds, one grid point each
    layers = figure.panels[0].spec["layer"]
    guessing = [layer["mark"] for layer in layers if "datum" in layer["encoding"]["y"]]
    assert len(guessing) == 1
    assert "strokeDash" not in guessing[0], "a dotted line would be some rule's"


def test_a_run_that_was_evaluated_once_is_a_dot_and_guessing_ends_where_the_names_begin():
    once, twice = Curve("a", ((2, 1.0),)), Curve("b", ((2, 0.5), (4, 0.7)))
    guessing, _, dots, _ = curve_chart([once, twice], ["a", "b"], ("epoch", "accuracy"), 0.1)["layer"]
    assert dots["transform"] == [{"filter": "datum.once"}]
    values = curve_chart([once, twice], ["a", "b"], ("epoch", "accuracy"), 0.1)["data"]["values"]
    assert [(value["rule"], value["once"]) for value in values] == [("a", True), ("b", False), ("b", False)]
    assert (guessing["encoding"]["x"], guessing["encoding"]["x2"]) == ({"datum": 0}, {"datum": 4})


def test_a_missed_prediction_asks_for_nothing_under_a_preset_that_ranks_nothing():
    for ranks in (True, False):
        facts = example.facts("quick" if ranks else "smoke", ranks=ranks)
        assert facts.verdict is not None
        missed = tuple(replace(score, covered=False) for score in facts.verdict.predictions)
        text = to_markdown(build(replace(facts, verdict=replace(facts.verdict, predictions=missed))))
        assert ("Predictions missed on" in text) is ranks


def test_a_rejected_cycle_says_which_check_failed():
    proposal = example.make_proposal()
    verification = replace(
        example.make_verification(),
        passed=False,
        checks=(replace(example.make_verification().checks[1], passed=False, case="token 3 moved token 1"),),
    )
    cycle = CycleRecord(
        "c", "smoke", 0, "rejected", "2025-07-01T09:00:00Z", proposal="p-0001", message="causality"
    )
    text = to_markdown(build(Facts(cycle, proposal, verification, rules=example.RULES)))
    assert "rejected by verification" in text
    assert "token 3 moved token 1" in text
    assert "Nothing was trained" in text


def test_a_bench_and_an_empty_ledger_make_notes_too(facts):
    bench = replace(
        facts, proposal=None, verdict=None, comparisons=facts.all_comparisons(), noise_floor=example.NOISE
    )
    anchors = [section.anchor for section in build(bench).sections]
    assert "fault" not in anchors
    assert "cost" in anchors
    empty = build(Facts(CycleRecord("c", "smoke", 0, "running", "2025-07-01T09:00:00Z")))
    assert "Nothing was measured." in to_markdown(empty)


def test_a_proposal_that_is_not_python_still_makes_a_note():
    proposal = ProposalRecord("p", "broken", "delta_net", (), "def retain(S:", "why", (), "person", "2025")
    cycle = CycleRecord("c", "smoke", 0, "rejected", "2025", proposal="p", message="line 1 is not Python")
    assert "def retain(S:" in to_markdown(build(Facts(cycle, proposal, rules=example.RULES)))


def test_an_unknown_language_names_the_choices(facts):
    with pytest.raises(UserError, match="Choices: en, zh"):
        build(facts, "fr")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0124, "+0.012"),
        (-0.0124, "−0.012"),
        (0.0, "0.000"),
        (-0.0001, "0.000"),
        (None, "none"),
        (float("nan"), "none"),
    ],
)
def test_signed(value, shown):
    assert numbers.signed(value, "none") == shown


def test_other_numbers():
    assert numbers.score(float("nan"), "none") == "none"
    assert numbers.interval(None, 0.1, "none") == "none"
    assert numbers.interval(0.1, 0.25, "", sign=False) == "[0.100, 0.250]"
    assert numbers.probability(0.0004, "") == "< 0.001"
    assert numbers.rate(0.0005) == "0.0005"
    assert numbers.rate(1e-5) == "1e-5"


def test_labels_stand_apart_and_inside():
    placed = spread([0.99, 1.0, 0.98], gap=0.1, low=0.0, high=1.0)
    assert placed == pytest.approx([0.9, 1.0, 0.8])
    assert spread([0.2, 0.8], gap=0.1, low=0.0, high=1.0) == [0.2, 0.8]


def at_the_ceiling() -> Facts:
    """No room on two tasks; on Noisy Recall two of three seeds stopped early."""
    first = example.facts()
    assert first.verdict is not None

    def close(comparison):
        kinds = {"Noisy Recall": "both", "Selective Copy": "above"}
        tasks = [replace(line, no_room=kinds.get(line.task, "")) for line in comparison.tasks]
        full = {"word": "undecided", "more_seeds": 10}
        tasks = [replace(line, **full) if line.no_room == "both" else line for line in tasks]
        return replace(comparison, tasks=tuple(tasks))

    solved = CurvePoint(3, 0.01, 0.01, 0.9994, 0.01, 0.9992)
    runs = tuple(
        replace(run, epochs=3 + run.seed, curve=(replace(solved, epoch=3 + run.seed),))
        if run.task == "Noisy Recall" and run.status == "finished" and run.seed < 2
        else run
        for run in first.runs
    )
    return replace(
        first,
        runs=runs,
        verdict=replace(first.verdict, against_reference=close(first.verdict.against_reference)),
    )


@pytest.mark.parametrize(
    ("language", "parts"),
    [
        (
            "en",
            (
                "cannot be reached under quick",
                "on Noisy Recall and Selective Copy, which leaves no room on 2 of 6",
                "both are within the margin of 1, so nothing can be better by more and no test is made",
                "10 more seeds without a failure would make them the same",
                "nothing can be better by more",
            ),
        ),
        (
            "zh",
            (
                "不可能六项任务全部更好",
                "六项中有 2 项",
                "两者与满分 1 的差距",
                "再有 10 个种子都不失败",
                "不可能比它好得更多",
            ),
        ),
    ],
)
def test_no_room_is_said(language: str, parts: tuple[str, ...]) -> None:
    said = to_markdown(build(at_the_ceiling(), language)).replace("`", "")
    for part in parts:
        assert part in said


def test_no_room_is_said_only_where_it_is_so_and_words_may_be_said() -> None:
    assert "cannot be reached" not in to_markdown(build(example.facts()))
    assert "cannot be reached" not in to_markdown(build(replace_ranks(at_the_ceiling())))


def replace_ranks(facts: Facts) -> Facts:
    """The same under a preset that ranks nothing."""
    assert facts.verdict is not None
    return replace(facts, verdict=replace(facts.verdict, ranks=False))


def test_epochs_until_solved_stand_beside_the_scores_as_a_description() -> None:
    note = build(at_the_ceiling())
    table = find_table(note, "Epochs until solved")
    rows = {cells(table, index)[0]: cells(table, index)[1:] for index in range(len(table.rows))}
    assert rows[example.REFERENCE][4:] == ["3–4 (6/9)", "–"]
    assert "no test is made of it" in to_markdown(note)


def test_without_a_solved_run_there_is_no_table_of_epochs() -> None:
    first = example.facts()
    runs = tuple(replace(run, curve=(), validation=0.5, effective={}) for run in first.runs)
    assert "Epochs until solved" in to_markdown(build(first))
    last = tuple(replace(run, epochs=PRESETS["quick"].epochs) for run in runs)
    assert "Epochs until solved" not in to_markdown(build(replace(first, runs=last)))


@pytest.mark.parametrize(
    ("values", "text"),
    [([9], "9"), ([9, 9], "9"), ([22, 9], "9–22"), ([22, None, 9], "9–22 (2/3)"), ([None], "no"), ([], "no")],
)
def test_epochs_as_text(values: list[int | None], text: str) -> None:
    assert numbers.epochs(values, "no") == text

"""The note of a campaign: every cycle is in it, the best first, and what was rejected too."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.report import example

from archer.ledger.summary import score_table
from archer.report.html import to_html
from archer.report.markdown import to_markdown
from archer.report.summary import Campaign, Spent, summarise
from archer.report.tree import Table, text_of


@pytest.fixture(scope="module")
def campaign() -> Campaign:
    return example.campaign()


def tables(note) -> list[Table]:
    return [block for block in note.blocks() if isinstance(block, Table)]


def test_every_cycle_is_listed_in_order(campaign):
    columns = cycle_table(campaign)
    assert columns["Cycle"] == [cycle.id for cycle in campaign.cycles]
    assert columns["State"] == ["finished", "finished", "rejected before training"]


def cycle_table(
    campaign: Campaign, language: str = "en", caption: str = "Every cycle"
) -> dict[str, list[str]]:
    """Column head to its cells."""
    table = next(t for t in tables(summarise(campaign, language)) if caption in text_of(t.caption))
    cells = zip(*([text_of(cell.text) for cell in row.cells] for row in table.rows), strict=True)
    return dict(zip(table.columns, map(list, cells), strict=True))


def test_every_cycle_says_who_proposed(campaign):
    first, control, rejected = campaign.proposals
    assert cycle_table(campaign)["Proposed by"] == [
        "structured search", "structured search (control)", "structured search"
    ]  # fmt: skip
    asked = {"requests": 3.0}
    proposals = (
        replace(first, researcher="openai:local", cost=asked),
        replace(control, researcher="repeat"),
        replace(rejected, researcher="structured", cost=asked),
    )
    named = replace(campaign, proposals=proposals)
    assert cycle_table(named)["Proposed by"] == [
        "openai:local", "repeat (control)", "structured (in a model's place)"
    ]  # fmt: skip
    chinese = cycle_table(named, "zh", "全部实验轮")["提案者"]
    assert chinese == ["openai:local", "repeat（对照）", "structured（代替模型）"]


def test_wall_time_is_the_whole_cycles_and_training_stands_beside_it(campaign):
    first, second, third = campaign.cycles
    timed = replace(
        campaign,
        cycles=(
            replace(
                first,
                started_at="2025-07-01T09:00:00Z",
                finished_at="2025-07-01T10:00:00+00:00",
                wall_seconds=900.0,
            ),
            replace(second, started_at="2025-07-01T10:00:00Z", finished_at=None, wall_seconds=None),
            replace(
                third,
                started_at="2025-07-01T10:00:00Z",
                finished_at="2025-07-01T10:00:30Z",
                wall_seconds=None,
            ),
        ),
    )
    columns = cycle_table(timed)
    assert columns["Wall time"] == ["1 h", "–", "30 s"]
    assert columns["Training"] == ["15 min", "–", "–"]
    lead = to_markdown(summarise(timed))
    assert "from the first beginning to the last end: 1 h, " in lead
    assert "; of the cycles: 1 h, 15 min of it training." in lead
    chinese = cycle_table(timed, "zh", "全部实验轮")
    assert (chinese["用时"], chinese["训练"]) == (["1 小时", "–", "30 秒"], ["15 分钟", "–", "–"])


@pytest.mark.parametrize(
    ("times", "begun", "said"),
    [
        ([("09:00", "10:00"), ("12:00", "12:30"), ("12:00", None)], None, "3.5 h"),
        ([("09:00", "10:00"), ("12:00", "12:30"), ("12:00", None)], "08:30", "4 h"),
        ([("09:00", "10:30"), ("09:30", "10:00"), ("09:45", "10:15")], "09:00", "1.5 h"),
        ([("09:00", None), ("09:30", None), ("09:45", None)], "08:30", "0 s"),
    ],
)
def test_what_is_waited_for_between_cycles_is_part_of_the_whole_time(campaign, times, begun, said):
    """A campaign begins before its first cycle, and its cycles may wait for each other, or overlap."""

    def at(hour: str | None) -> str | None:
        return hour and f"2025-07-01T{hour}:00+00:00"

    cycles = tuple(
        replace(cycle, started_at=at(start), finished_at=at(end), settings={"started": at(begun)})
        for cycle, (start, end) in zip(campaign.cycles, times, strict=True)
    )
    text = to_markdown(summarise(replace(campaign, cycles=cycles)))
    assert f"from the first beginning to the last end: {said}, " in text


def test_a_long_time_is_said_in_whole_hours(campaign):
    first, *rest = campaign.cycles
    long = replace(first, started_at="2025-07-01T09:00:00Z", finished_at="2025-07-08T10:12:00Z")
    assert "to the last end: 169 h, " in to_markdown(summarise(replace(campaign, cycles=(long, *rest))))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_after_a_preset_that_ranks_nothing_the_next_step_is_one_that_ranks(campaign, language):
    command = "archer discover --cycles 10 --preset"
    unranked = replace(
        campaign, verdicts=tuple(replace(v, ranks=False, preset="smoke") for v in campaign.verdicts)
    )
    text = to_markdown(summarise(unranked, language)).split("## ")[-1]
    assert "`smoke`" in text
    assert f"`{command} quick`" in text
    assert f"`{command} baseline`" in text
    for judged in (campaign, replace(unranked, verdicts=(*campaign.verdicts[:1], *unranked.verdicts))):
        assert command not in to_markdown(summarise(judged, language))
    assert command not in to_markdown(summarise(replace(campaign, verdicts=()), language))


def test_the_best_stand_by_mean_difference_and_presets_that_rank_nothing_are_left_out(campaign):
    ranked = next(t for t in tables(summarise(campaign)) if "by mean difference" in text_of(t.caption))
    assert [text_of(row.cells[0].text) for row in ranked.rows] == ["hybrid_decay", "softmax_decay"]
    verdicts = tuple(replace(verdict, ranks=False) for verdict in campaign.verdicts)
    text = to_markdown(summarise(replace(campaign, verdicts=verdicts)))
    assert "No verdict was reached under a preset that may rank" in text
    assert "This preset ranks nothing" in text


def test_a_winner_is_named_only_where_all_six_are_won(campaign):
    assert "No rule beats" in to_markdown(summarise(campaign))
    first = campaign.verdicts[0]
    won = replace(first, against_reference=replace(first.against_reference, beats_on_all=True))
    text = to_markdown(summarise(replace(campaign, verdicts=(won, *campaign.verdicts[1:]))))
    assert "hybrid_decay beats gated_delta_net on all six tasks" in text


def test_rejections_calibration_and_untried_rules_are_shown(campaign):
    text = to_markdown(summarise(campaign))
    assert "the future moved the past" in text
    assert "| structured search | 12 |" in text
    assert "local_softmax" in text


def test_later_verdicts_replace_earlier_ones(campaign):
    again = replace(campaign.verdicts[0], created_at="2025-07-09T00:00:00Z")
    assert len(replace(campaign, verdicts=(*campaign.verdicts, again)).last_verdicts()) == 2


def with_promotion(campaign: Campaign) -> Campaign:
    """The control once more on a dearer rung, where two of its tasks are worse than the parent's."""
    second = campaign.proposals[1]
    promoted = replace(second, id=f"{second.id}-baseline", promoted_from=second.id, predictions=())
    again = replace(campaign.verdicts[1], proposal=promoted.id, preset="baseline")
    lines = [
        replace(line, word="worse" if index < 2 else "undecided")
        for index, line in enumerate(again.against_parent.tasks)
    ]
    again = replace(again, against_parent=replace(again.against_parent, tasks=tuple(lines)))
    return replace(
        campaign,
        proposals=(*campaign.proposals, promoted),
        verdicts=(*campaign.verdicts, again),
    )


def test_a_promotion_is_no_second_change_and_its_verdict_is_the_last_word(campaign):
    def slots(found: Campaign) -> dict[str, list[str]]:
        table = next(t for t in tables(summarise(found)) if "Per slot" in text_of(t.caption))
        rows = [[text_of(cell.text) for cell in row.cells] for row in table.rows]
        return {row[0]: row[1:] for row in rows}

    promoted = with_promotion(campaign)
    assert "(controls): 1" in to_markdown(summarise(promoted))
    before, after = slots(campaign), slots(promoted)
    assert [row[0] for row in after.values()] == [row[0] for row in before.values()] == ["2", "2"]
    words = [line.word for line in campaign.verdicts[0].against_parent.tasks]
    assert after["retain"] == ["2", str(words.count("better")), str(words.count("worse") + 2)]
    assert after != before


@pytest.mark.parametrize("language", ["en", "zh"])
def test_cost_stands_beside_score_for_each_preset(campaign, language):
    costs = {"quick": {**example.COSTS, "of_another_campaign": example.COSTS[example.PARENT]}}
    note = summarise(replace(campaign, costs=costs), language)
    section = next(section for section in note.sections if section.anchor == "cost")
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    rows = {text_of(row.cells[0].text): [text_of(cell.text) for cell in row.cells] for row in table.rows}
    assert set(rows) == set(example.MODELS)
    means = campaign.verdicts[0].against_reference.mean
    assert rows[example.CANDIDATE][1:3] == [f"{means.candidate:.3f}", "214,024"]
    assert rows[example.REFERENCE][1:3] == [f"{means.baseline:.3f}", "263,296"]
    against_parent = campaign.verdicts[1].against_parent.mean
    assert rows[example.PARENT][1] == f"{against_parent.baseline:.3f}"
    assert "cost" not in [section.anchor for section in summarise(campaign, language).sections]


def test_a_rule_that_no_verdict_names_has_the_score_of_its_runs(campaign):
    runs = [replace(run, rule="bystander") for run in campaign.runs if run.rule == example.REFERENCE]
    table = score_table(runs, "quick")
    assert table[0].mean is not None
    cost = {"quick": {"bystander": example.COSTS[example.PARENT]}}
    note = summarise(replace(campaign, runs=(*campaign.runs, *runs), costs=cost))
    section = next(section for section in note.sections if section.anchor == "cost")
    (shown,) = [block for block in section.blocks if isinstance(block, Table)]
    assert text_of(shown.rows[0].cells[1].text) == f"{table[0].mean:.3f}"


def test_what_was_spent_is_said_in_both_languages(campaign):
    spent = Spent(1234.0, 1800.0, 0.25)
    english, chinese = (
        to_markdown(summarise(replace(campaign, spent=spent), language)) for language in ("en", "zh")
    )
    assert "Spent: 21 min of training, 30 min on GPUs, 0.2500 dollars." in english
    for part in ("21 分钟", "30 分钟", "0.2500"):
        assert part in chinese
    allowed = to_markdown(summarise(replace(campaign, spent=replace(spent, gpu_hours_allowed=2.0))))
    assert "30 min of 2 h on GPUs" in allowed
    little = to_markdown(summarise(replace(campaign, spent=Spent(3.0))))
    assert "Spent: 3 s of training." in little
    assert "Spent" not in to_markdown(summarise(campaign))


def test_what_fresh_seeds_said_of_a_win_is_in_the_summary(campaign):
    verdict = example.confirmed_facts().verdict
    text = to_markdown(summarise(replace(campaign, verdicts=(verdict, *campaign.verdicts[1:]))))
    assert "**Confirmed with 3 fresh seeds" in text
    assert "Confirm `hybrid_decay` with fresh seeds" not in text
    assert "Confirmed" not in to_markdown(summarise(campaign))


def test_an_empty_campaign_and_the_page_work(campaign):
    assert "Nothing follows" in to_markdown(summarise(Campaign(())))
    assert to_html(summarise(campaign)).count("<svg") == 1

"""Who goes up a ladder of presets, and who does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.cycle.tiny import TINY

from archer.cycle import ladder as ladder_module
from archer.cycle.ladder import Rung, above, ladder_of
from archer.cycle.measuring import Judging
from archer.errors import UserError
from archer.ledger.records import TASKS, Comparison, ProposalRecord, TaskComparison, VerdictRecord
from archer.mad import PRESETS

UNDECIDED = TaskComparison("", 0.5, 0.5, 0.0, -0.05, 0.05, 0.9, 1.0, "undecided", 1, 3)
BETTER = replace(UNDECIDED, difference=0.1, low=0.05, high=0.15, word="better")
SAME = replace(UNDECIDED, low=-0.004, high=0.004, word="same")
BY_CONSTRUCTION = replace(UNDECIDED, low=0.0, high=0.0, word="same", exact_settings=1)
WORSE = replace(UNDECIDED, difference=-0.2, low=-0.3, high=-0.1, word="worse")
JUST_BELOW = replace(UNDECIDED, difference=-0.02, low=-0.03, high=-0.001)
NO_NOISE_KNOWN = replace(UNDECIDED, difference=-0.01, low=None, high=None)
NO_SCORE = replace(UNDECIDED, candidate=None, difference=None, low=None, high=None)
MEAN = replace(UNDECIDED, task="Mean")
UPPER = Rung(PRESETS["baseline"])
MORE_SEEDS = Rung(PRESETS["quick"], Judging(until_decided=8))
NEW = ProposalRecord("p", "new", "delta_net", (), "", "", (), "structured", "")


def held_back(found, upper=UPPER, proposal=NEW):
    return ladder_module.held_back(proposal, found, upper)


def verdict(*lines, ranks=True):
    """Against the reference: these lines, and an open one on every other task."""
    rest = [UNDECIDED] * (len(TASKS) - len(lines))
    tasks = tuple(replace(line, task=task) for line, task in zip([*lines, *rest], TASKS, strict=True))
    found = Comparison(
        "new", "gated_delta_net", "quick", tasks, MEAN, all(line.word == "better" for line in tasks)
    )
    return VerdictRecord(
        "p", "new", "delta_net", "gated_delta_net", "quick", found, found, (), {}, "", ranks, ""
    )


@pytest.mark.parametrize("line", [UNDECIDED, BETTER, SAME, BY_CONSTRUCTION, NO_NOISE_KNOWN])
def test_without_evidence_against_it_a_rule_goes_up(line):
    assert held_back(verdict(line)) == ""


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (WORSE, "new is worse than gated_delta_net on Compress"),
        (JUST_BELOW, "new is worse than gated_delta_net on Compress"),
        (NO_SCORE, "new has no score on Compress"),
    ],
)
def test_one_task_suffices_to_hold_a_rule_back(line, sentence):
    assert held_back(verdict(line, *[BETTER] * 5)) == sentence


@pytest.mark.parametrize("line", [SAME, BY_CONSTRUCTION])
def test_a_rule_that_changes_nothing_is_held_back(line):
    assert held_back(verdict(*[line] * 6)) == "new cannot be better than gated_delta_net by 0.01 on any task"
    assert held_back(verdict(*[line] * 5, UNDECIDED)) == ""


def test_a_task_without_room_wins_nothing():
    """Its interval reaches above the margin, or there is none; the reference leaves no room all the same."""
    full = replace(UNDECIDED, no_room="above")
    unknown = replace(full, low=None, high=None)
    rest = [replace(SAME, high=0.0004, no_room="both")] * 4
    assert held_back(verdict(UNDECIDED, full, *rest)) == ""
    said = held_back(verdict(unknown, full, *rest))
    assert said.startswith("new cannot be better than gated_delta_net by 0.01 on any task, and ")
    assert said.endswith(f"gated_delta_net leaves no room on {', '.join(TASKS)}")


def test_where_the_reference_leaves_no_room_a_loss_within_the_margin_is_none():
    """It has 0.993, say: a rule with 0.987 that is ahead elsewhere is no loser."""
    less = replace(UNDECIDED, difference=-0.006, low=-0.012, high=-0.001, no_room="above")
    assert held_back(verdict(less)) == held_back(verdict(replace(less, word="worse"))) == ""
    assert held_back(verdict(replace(less, low=-0.05, high=-0.011, word="worse")))
    assert held_back(verdict(replace(less, no_room="")))


def test_a_preset_that_ranks_nothing_holds_back_only_what_has_no_score():
    assert held_back(verdict(*[WORSE] * 6, ranks=False)) == ""
    assert held_back(verdict(NO_SCORE, ranks=False)) == "new has no score on Compress"


def test_a_control_that_repeats_a_rule_does_not_climb_once_more():
    repeated = replace(NEW, control=True, researcher="repeat")
    said = "new was trained once more to see how lucky it had been"
    assert held_back(verdict(*[BETTER] * 6), proposal=repeated) == said
    assert held_back(verdict(*[BETTER] * 6), MORE_SEEDS, repeated) == said
    assert held_back(verdict(*[BETTER] * 6), proposal=replace(NEW, control=True, researcher="random")) == ""


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("smoke", ["smoke"]), ("quick", ["quick", "quick-until-decided"]),
        ("baseline", ["quick", "baseline", "baseline-until-decided"]),
        ("full", ["quick", "baseline", "full", "full-until-decided"]),
        ("smoke, full", ["smoke", "full", "full-until-decided"]), (TINY, ["tiny"]),
        ((TINY, PRESETS["smoke"]), ["tiny", "smoke"]),
    ],
)  # fmt: skip
def test_a_ladder_by_its_top_or_its_rungs(asked, names):
    ladder = ladder_of(asked)
    assert [rung.name for rung in ladder] == names
    assert [above(ladder, rung) for rung in ladder] == [*ladder[1:], None]


def test_only_at_the_end_are_seeds_added_and_winners_confirmed():
    *lower, last = ladder_of("baseline")
    assert [rung.judging for rung in lower] == [Judging(confirm=False)] * 2
    assert (last.preset, last.judging) == (PRESETS["baseline"], Judging(until_decided=8))


def test_more_seeds_are_for_what_is_open_or_won():
    assert held_back(verdict(*[BETTER] * 6), MORE_SEEDS) == ""
    assert held_back(verdict(*[BETTER] * 5, UNDECIDED), MORE_SEEDS) == ""
    full = replace(UNDECIDED, no_room="both")
    assert held_back(verdict(*[replace(SAME, high=0.02)] * 5, full), MORE_SEEDS) != ""
    decided = verdict(*[replace(SAME, high=0.02)] * 6)
    assert held_back(decided, MORE_SEEDS) == "all six tasks are decided, and nothing was won"
    assert held_back(decided) == ""


@pytest.mark.parametrize(("devices", "top"), [(("cpu",), "smoke"), (("cuda:0",), "baseline")])
def test_without_a_word_the_machine_decides(monkeypatch, devices, top):
    monkeypatch.setattr("archer.fleet.devices.available_devices", lambda asked: devices)
    assert ladder_of(None) == ladder_of(top)


@pytest.mark.parametrize(
    ("asked", "message"),
    [("qick", "did you mean 'quick'"), ("quick,quick", "different presets"), ((), "the ladder is empty")],
)
def test_wrong_ladders(asked, message):
    with pytest.raises(UserError, match=message):
        ladder_of(asked)

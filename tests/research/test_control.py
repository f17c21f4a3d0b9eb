"""The control arms: their share, their turns, and that they are marked."""

from collections import Counter
from dataclasses import replace

import pytest

from archer.ledger.records import TASKS, ProposalRecord
from archer.research.control import CONTROLS, RandomResearcher, RepeatResearcher, arm, incumbent
from archer.research.researcher import Context, Measurement, Researcher, ResearchError
from archer.rules import get_rule, load_rule


def with_count(context, count):
    blank = ProposalRecord("p", "softmax", "delta_net", (), "", "", (), "structured", "")
    return replace(context, proposals=(blank,) * count)


def measured(rule, score):
    return tuple(Measurement(rule, task, "quick", score) for task in TASKS)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1.0])
def test_share_is_kept_in_every_stretch(history_context, seed, share):
    context = replace(history_context, seed=seed, measured=measured("softmax", 0.5))
    arms = [arm(with_count(context, count), share) for count in range(200)]
    for count in range(20, 201, 20):
        controls = sum(name != "researcher" for name in arms[:count])
        assert abs(controls - share * count) <= 1
    counts = Counter(arms)
    assert abs(counts["random"] - counts["repeat"]) <= 1


def test_nothing_to_repeat_means_random(history_context):
    arms = {arm(with_count(history_context, count), 0.5) for count in range(20)}
    assert arms == {"researcher", "random"}


def test_share_outside_its_range_is_refused(history_context):
    with pytest.raises(ResearchError, match="from 0 to 1"):
        arm(history_context, 1.5)


def test_incumbent_has_all_six_and_is_no_reference(history_context):
    partial = measured("hybrid", 0.9)[:5]
    context = replace(
        history_context,
        measured=(
            *measured("softmax", 0.5),
            *measured("decay", 0.4),
            *partial,
            *measured("gated_delta_net", 0.8),
        ),
    )
    assert incumbent(context) == "softmax"
    assert incumbent(replace(context, preset="full")) is None


def test_what_was_repeated_waits_until_all_others_were(history_context):
    """A rule that was trained again has shown how lucky it was; a second repeat says little more."""
    both = replace(history_context, measured=(*measured("softmax", 0.5), *measured("decay", 0.4)))
    first = RepeatResearcher().propose(both)
    second = RepeatResearcher().propose(replace(both, proposals=(first,)))
    third = RepeatResearcher().propose(replace(both, proposals=(first, second)))
    assert [one.rule for one in (first, second, third)] == ["softmax", "decay", "softmax"]


def test_none_never_wins(history_context):
    blank = (*measured("hybrid", 0.9)[:5], Measurement("hybrid", TASKS[5], "quick", None))
    assert incumbent(replace(history_context, measured=blank)) is None


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_are_researchers_and_marked(history_context, name):
    context = replace(history_context, measured=measured("softmax", 0.5))
    researcher = CONTROLS[name]()
    assert isinstance(researcher, Researcher)
    proposal = researcher.propose(context)
    assert proposal.control
    assert proposal == CONTROLS[name]().propose(context)
    assert len(proposal.predictions) == 6
    assert load_rule(proposal.source, proposal.rule, get_rule).name == proposal.rule


def test_random_differs_by_seed_and_count(history_context):
    contexts = [replace(history_context, seed=seed) for seed in range(4)]
    assert len({RandomResearcher().propose(context).rule for context in contexts}) > 2


def test_repeat_without_scores_says_so(sources):
    with pytest.raises(ResearchError, match="nothing to repeat"):
        RepeatResearcher().propose(Context(sources=sources))

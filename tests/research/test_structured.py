"""The default researcher: what it proposes, that it repeats nothing, and that it depends on its context
alone."""

import ast
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from archer.ledger.records import TASKS, Comparison, ProposalRecord, TaskComparison, VerdictRecord
from archer.research.researcher import Context, Measurement, NothingLeftError, Rejection, Researcher, Setting
from archer.research.space import Space, composition_key
from archer.research.structured import (
    Outlook,
    StructuredResearcher,
    aims,
    fit_tasks,
    predict,
    promise,
    untried,
)
from archer.research.surrogate import stretch, unstretch
from archer.rules import get_rule, load_rule


def verdict_for(proposal):
    empty = TaskComparison("Mean", None, None, None, None, None, None, None, "undecided", 0, 0)
    comparison = Comparison(proposal.rule, proposal.parent, "quick", (), empty, False)
    return VerdictRecord(
        proposal.id, proposal.rule, proposal.parent, "gated_delta_net", "quick", comparison, comparison, (),
        {}, "", True, "2025-01-02T00:00:00Z",
    )  # fmt: skip


def after(context, *proposals):
    return replace(context, proposals=(*context.proposals, *proposals))


@pytest.fixture(scope="module")
def first(history_context):
    return StructuredResearcher().propose(history_context)


def test_it_is_a_researcher():
    assert isinstance(StructuredResearcher(), Researcher)


def test_proposal_is_one_change_that_loads(first, sources):
    rule = load_rule(first.source, first.rule, get_rule)
    assert rule.own == first.slots
    assert len(first.slots) == 1
    assert rule.parent == first.parent
    assert first.rule.isidentifier()
    assert not first.control


def test_predictions_are_six_intervals(first):
    assert tuple(p.task for p in first.predictions) == TASKS
    assert all(0 <= p.low <= p.score <= p.high <= 1 for p in first.predictions)
    assert all(p.high > p.low for p in first.predictions)


def test_sentences_name_slot_and_numbers(first):
    assert f"`{first.slots[0]}`" in first.reason
    assert f"`{first.slots[0]}`" in first.issue
    assert "softmax 0.779 against 0.403 (+0.376)" in first.insights
    assert set(first.per_task) == set(TASKS)
    assert all(any(c.isdigit() for c in text) for text in first.per_task.values())
    assert "adam on Noisy Recall (−0.974)" in first.lessons


def test_same_context_same_proposal_other_seed_other_stream(history_context):
    def stream(seed):
        context = replace(history_context, seed=seed)
        names = []
        for _ in range(3):
            proposal = StructuredResearcher().propose(context)
            names.append(proposal.rule)
            context = after(context, proposal)
        return names

    assert stream(0) == stream(0)
    assert stream(0) != stream(1)


def test_nothing_is_proposed_twice(history_context):
    context, keys = history_context, set()
    space = Space(context.sources)
    known = {composition_key(space.composition(name)) for name in space.rules}
    for _ in range(4):
        proposal = StructuredResearcher().propose(context)
        key = composition_key(space.describe(proposal.source, proposal.rule))
        assert key not in keys | known
        keys.add(key)
        context = after(context, proposal)
    left = untried(context, space, ("delta_net", "gated_delta_net", "hybrid"))
    assert keys.isdisjoint(change.key for change in left)


def test_restarted_from_the_ledger_it_goes_on_the_same_way(history_context, first):
    verdict = verdict_for(first)
    taught = StructuredResearcher()
    taught.learn(verdict, first)
    restarted = StructuredResearcher()
    ledger = replace(after(history_context, first), verdicts=(verdict,))
    assert taught.propose(history_context) == restarted.propose(ledger)


def measured(rule, scores, preset="quick"):
    return tuple(
        Measurement(rule, task, preset, score, score - 0.01, score + 0.01, 3)
        for task, score in zip(TASKS, scores, strict=True)
    )


def test_what_is_measured_moves_what_is_expected(history_context):
    space = Space(history_context.sources)
    base = measured("delta_net", [0.4] * 6)
    up = replace(history_context, measured=(*base, *measured("error_gated", [0.4, 0.4, 0.8, 0.4, 0.4, 0.4])))
    down = replace(
        history_context, measured=(*base, *measured("error_gated", [0.4, 0.4, 0.1, 0.4, 0.4, 0.4]))
    )
    composition = space.composition("error_gated")

    def expected(context):
        return fit_tasks(context, space)["Fuzzy Recall"].believe([composition], "quick").interval(0, 1.64)[0]

    assert expected(up) > 0.6 > 0.3 > expected(down)


def test_predictions_follow_the_preset_level(history_context):
    space = Space(history_context.sources)
    composition = space.composition("hybrid")

    def expected(level):
        context = replace(history_context, measured=measured("delta_net", [level] * 6))
        return [p.score for p in predict(context, fit_tasks(context, space), composition, "structured")]

    assert all(low < high - 0.2 for low, high in zip(expected(0.2), expected(0.8), strict=True))


def test_where_the_reference_leaves_no_room_it_is_enough_to_lose_nothing():
    """No rule can be better there; one that has a little less is as good as any."""
    scores = dict(zip(TASKS, (0.44, 0.997, 0.51, 0.85, 0.993, 0.94), strict=True))
    measured = tuple(Measurement("gated_delta_net", task, "quick", score) for task, score in scores.items())
    aim = aims(Context({}, measured=measured, preset="quick"))
    assert [task for task, one in zip(TASKS, aim, strict=True) if one < 0] == [
        "Context Recall",
        "Noisy Recall",
    ]
    reached = unstretch(stretch(scores["Context Recall"]) + aim[1])
    assert reached == pytest.approx(0.987, abs=1e-4)
    level = Outlook(np.zeros((1, 6)), np.full((1, 6), 0.1), aim).chance[0]
    assert level[1] > math.log(0.99)
    assert level[0] < math.log(0.2)
    assert (aims(Context({}, preset="quick")) > 0).all()


def test_what_is_worth_trying_has_a_chance_on_all_six_tasks_not_on_one():
    """The goal is one rule better on all: what is sure of one task and hopeless on five is worth less."""
    mean = np.array([[3.0, -1.0, -1.0, -1.0, -1.0, -1.0], [0.1] * 6])
    one, all_six = promise(Outlook(mean, np.full((2, 6), 0.5), np.full(6, 0.1)), seed=0, number=0)
    assert all_six > one + 5


def test_a_score_to_compare_with_is_of_this_preset_or_of_history():
    other, own = Measurement("r", "Memorize", "full", 0.9), Measurement("r", "Memorize", "quick", 0.4)
    past = Measurement("r", "Memorize", "fifteen_trials", 0.5)
    assert Context({}, measured=(other, own), preset="quick").score("r", "Memorize") == own
    assert Context({}, measured=(other,), preset="quick").score("r", "Memorize") is None
    assert Context({}, measured=(other,), history=(past,), preset="quick").score("r", "Memorize") == past
    unscored = replace(own, score=None)
    assert Context({}, measured=(unscored,), history=(past,), preset="quick").score("r", "Memorize") == past


def test_state_changes_are_not_proposed_where_they_cannot_show(history_context):
    space = Space(history_context.sources)

    def slots(*lengths):
        settings = tuple(Setting(TASKS[0], f"s{length}", length) for length in lengths)
        others = tuple(Setting(task, f"t-{task}", 16) for task in TASKS[1:])
        context = replace(history_context, settings=(*settings, *others))
        return {change.slot for change in untried(context, space, ("delta_net",))}

    assert {"retain", "write"} <= slots(16, 64)
    assert slots(16, 32).isdisjoint({"retain", "write"})
    assert "similarity" in slots(16)


def test_past_misses_widen_the_intervals(history_context, first):
    from archer.judge.predictions import TrackRow

    row = TrackRow("structured", "Compress", 30, 0.1, 0.2, 0.5, 0.1, tuple([4.0] * 30))
    widened = StructuredResearcher().propose(replace(history_context, track_record=(row,)))
    if widened.rule == first.rule:
        before, now = first.predictions[0], widened.predictions[0]
        assert now.high - now.low > before.high - before.low
    others = [(p, w) for p, w in zip(first.predictions, widened.predictions, strict=True)][1:]
    assert all(math.isfinite(w.high) for _, w in others)


def test_a_kind_that_keeps_being_rejected_is_left_alone(history_context):
    space = Space(history_context.sources)
    same = [c for c in space.changes(("delta_net", "hybrid")) if c.label == "softmax_mix"][:2]
    proposals = tuple(
        ProposalRecord(f"p{i}", c.name, c.parent, (c.slot,), space.write(c), "", (), "structured", "")
        for i, c in enumerate(same)
    )
    refused = tuple(Rejection(p.id, "the gradient is not finite") for p in proposals)
    context = replace(history_context, proposals=proposals, rejections=refused)
    left = untried(context, space, ("delta_net", "gated_delta_net"))
    assert all(change.label != "softmax_mix" for change in left)
    assert any(c.label == "softmax_mix" for c in untried(history_context, space, ("delta_net",)))


def test_when_everything_was_tried_it_says_so(sources):
    lonely = {"delta_net": sources["delta_net"], "gated_delta_net": sources["gated_delta_net"]}
    space = Space(lonely)
    proposals = tuple(
        ProposalRecord(f"p{i}", c.name, c.parent, (c.slot,), space.write(c), "", (), "structured", "")
        for i, c in enumerate(space.changes(("delta_net", "gated_delta_net")))
    )
    with pytest.raises(NothingLeftError, match="archer new"):
        StructuredResearcher().propose(Context(sources=lonely, proposals=proposals))


def test_it_works_without_any_history(sources):
    proposal = StructuredResearcher().propose(Context(sources=sources))
    assert len(proposal.predictions) == 6
    assert "Nothing has been measured yet" in proposal.insights


def test_a_missing_score_is_not_a_zero(history_context):
    context = replace(history_context, measured=(Measurement("delta_net", "Compress", "quick", None),))
    assert (
        StructuredResearcher().propose(context).predictions
        == StructuredResearcher().propose(history_context).predictions
    )


def test_choosing_needs_no_torch():
    """Only writing a slot taken from another rule does."""
    code = (
        "import sys\nfrom archer.research import structured as s\nfrom archer.research.space import Space\n"
        "from archer.research.rule_text import library_sources\nfrom archer.research.researcher import "
        "Context\n"
        "c = Context(sources=library_sources())\nspace = Space(c.sources)\nf = s.fit_tasks(c, space)\n"
        "s.choose(c, space, f, s.untried(c, space, s.parents(c, space, f)))\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_discovered_rule_can_be_the_parent(history_context, first):
    sources = {**history_context.sources, first.rule: first.source}
    best = measured(first.rule, [0.9] * 6)
    rest = (*measured("gated_delta_net", [0.5] * 6), *measured("delta_net", [0.4] * 6))
    context = replace(after(history_context, first), sources=sources, measured=(*best, *rest))
    proposals = []
    for _ in range(3):
        proposals.append(StructuredResearcher().propose(context))
        context = after(context, proposals[-1])
    assert first.rule in {p.parent for p in proposals}
    assert all(ast.parse(p.source) for p in proposals)

"""Campaigns that train several candidates at once: together, and yet each as if it were alone."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
from tests.cycle.harness import (
    CPU,
    HIGH,
    LOW,
    Canned,
    Listener,
    Numbered,
    Writes,
    campaign,
    next_year,
    places,
    records_of,
    source_of,
    states,
    tried,
)
from tests.cycle.tiny import TINY, check_integrity, finish, start, wait_for

from archer.cli.shared_run import researcher_of
from archer.cycle import laboratory, try_rule
from archer.cycle.team import Models
from archer.errors import UserError
from archer.fleet import devices
from archer.ledger import Ledger
from archer.research.exchange import Recorder, append_to
from archer.research.model import ModelResearcher
from archer.research.researcher import ResearchError
from archer.research.structured import StructuredResearcher

SIX = len(TINY.settings)
COMPANY = {"delta_net", "gated_delta_net"}


def rounds(folder, researcher=None, **changes):
    return campaign(folder, researcher, **{"at_once": 2, "cycles": 5, **changes})


class Named(Numbered):
    """One of several models: each proposes rules of its own."""

    def __init__(self, name, first):
        super().__init__()
        self.name, self.first = name, first

    def propose(self, context):
        number = self.first + sum(p.researcher == self.name for p in context.proposals)
        made = replace(super().propose(context), researcher=self.name)
        return replace(made, id=f"n{number}", rule=f"keep_{number}", source=source_of(1 - number / 50))


def several():
    """A model whose rules are better than their parent, and two whose rules are not."""
    return Models([Named("a:good", 10), Named("b:bad", 20), Named("c:bad", 30)])  # type: ignore[arg-type]


@pytest.fixture
def trainings(bench, monkeypatch):
    """The rules that each call of the training had to train."""
    calls = []

    def train(ledger, project, runs, *given):
        rules = {run.subject.name for run in runs if not ledger.has_run(run.key)}
        calls.extend([rules] if rules else [])
        return bench.train(ledger, project, runs, *given)

    monkeypatch.setattr(laboratory, "train_missing", train)
    return calls


def test_a_round_is_trained_in_one_call_and_judged_one_by_one(tmp_path, bench, trainings):
    found = rounds(tmp_path / "two")
    assert trainings == [{"keep_1", "keep_2"} | COMPANY, {"keep_3", "keep_4"}, {"keep_5"}]
    assert len(bench.trained) == len(set(bench.trained)) == 7 * SIX
    assert states(found) == ["finished"] * 5
    assert tried(found) == [f"keep_{number}" for number in range(1, 6)]
    rules = {run.key: run.rule for run in found.campaign.runs}
    for cycle, rule in zip(found.cycles, tried(found), strict=True):
        assert {rules[key] for key in cycle.run_keys} == {rule} | COMPANY
    alone = rounds(tmp_path / "one", at_once=1)
    timeless = [
        [(v.proposal, v.preset, v.against_reference) for v in one.campaign.verdicts] for one in (found, alone)
    ]
    assert timeless[0] == timeless[1]
    assert [c.run_keys for c in found.cycles] == [c.run_keys for c in alone.cycles]


def test_a_proposal_knows_nothing_of_its_round_nor_of_the_one_before(tmp_path, bench):
    found = rounds(tmp_path, cycles=6, preset=(LOW, HIGH))
    known = {p.id: p.reason for p in found.campaign.changes}
    for number in (1, 2, 3, 4):
        before = [f"n{k}" for k in range(1, number)]
        assert known[f"n{number}"] == f"known: ({before}, [], [], [])"
    for number in (5, 6):
        results = known[f"n{number}"].partition("], ")[2]
        for name in ("n", "keep_"):
            assert {k for k in range(1, 7) if f"'{name}{k}'" in results} == {1, 2}


def by_round(found, at_once):
    who = [p.researcher for c in found.cycles if (p := found.campaign.proposal(c))]
    return [who[first : first + at_once] for first in range(0, len(who), at_once)]


@pytest.mark.parametrize(("others", "least", "most"), [(-0.1, 3, 4), (0.1, 1, 2)])
def test_models_share_a_round_by_the_square_of_their_worth(tmp_path, bench, others, least, most):
    """Before, whoever was worth most for its cost was asked until a verdict came: two rounds long."""
    bench.level = {
        "delta_net": 0.5,
        **{f"keep_{n}": 0.5 + (0.1 if n < 20 else others) for n in range(10, 50)},
    }
    found = by_round(rounds(tmp_path, several(), at_once=4, cycles=12), 4)
    assert [len(set(one)) for one in found[:2]] == [3, 3]  # nobody was judged yet: all are equal
    turns = [sum(one.count(name) for one in found[:2]) for name in ("a:good", "b:bad", "c:bad")]
    assert max(turns) - min(turns) == 1
    assert least <= found[2].count("a:good") <= most


def test_whose_turn_it_is_follows_from_the_ledger_alone(tmp_path, bench, monkeypatch):
    bench.level = {"delta_net": 0.5, **{f"keep_{n}": 0.5 + (0.1 if n < 20 else -0.1) for n in range(10, 50)}}
    bench.rejected, bench.broken = {"keep_21"}, {"keep_11": ZeroDivisionError("x")}
    writes = Writes(monkeypatch)

    def whole(folder):
        return rounds(folder, several(), at_once=2, cycles=5)

    whole(tmp_path / "whole")
    expected, total = records_of(tmp_path / "whole"), writes.count
    for point in range(3, total, 9):
        writes.interrupt(point)
        with pytest.raises(KeyboardInterrupt):
            whole(tmp_path / str(point))
        whole(tmp_path / str(point))
        assert records_of(tmp_path / str(point)) == expected, f"interrupted at write {point} of {total}"


def test_a_rule_of_the_same_round_is_no_parent(tmp_path, bench):
    class Looking(Numbered):
        def propose(self, context):
            parents = [name for name in context.sources if name.startswith("keep")]
            return replace(super().propose(context), reason=f"of {parents}")

    found = rounds(tmp_path, Looking(), cycles=4)
    before = ["of []", "of []", "of ['keep_1', 'keep_2']", "of ['keep_1', 'keep_2']"]
    assert [p.reason for p in found.campaign.proposals] == before


def test_one_at_once_is_the_ledger_of_before(tmp_path, bench):
    with_one, without = (
        rounds(tmp_path / str(count), cycles=3, at_once=count, preset=(LOW, HIGH)) for count in (1, None)
    )
    assert records_of(tmp_path / "1") == records_of(tmp_path / "None")
    words = {"cycles", "hours", "gpu_hours", "share", "researcher", "ladder"}
    assert set(with_one.cycles[0].settings["asked"]) == set(without.cycles[0].settings["asked"]) == words


def test_by_default_one_for_each_gpu(tmp_path, bench, monkeypatch):
    monkeypatch.setattr(devices, "available_devices", lambda asked=None: ("cuda:0", "cuda:1", "cuda:2"))
    found = rounds(tmp_path, at_once=None, cycles=1)
    assert found.cycles[0].settings["asked"]["at_once"] == 3
    with pytest.raises(UserError, match="at_once is 0: expected 1 or more"):
        rounds(tmp_path, at_once=0)


@pytest.mark.parametrize("at_once", [2, 3])
def test_interrupted_at_any_write_it_comes_to_the_same_end(tmp_path, bench, monkeypatch, at_once):
    bench.level = {"gated_delta_net": 0.5, "keep_1": 0.9, "keep_2": 0.1, "keep_4": 0.6, "keep_5": 0.1}
    bench.rejected = {"keep_3"}
    monkeypatch.setattr("archer.judge.sequential.MOST_SEEDS", 2)
    writes = Writes(monkeypatch)

    def whole(folder):
        return rounds(folder, at_once=at_once, cycles=4, preset=(LOW, HIGH))

    assert [rule for _, rule, _ in places(whole(tmp_path / "whole"))] == [
        *["keep_1"] * 3, "keep_2", *["keep_4"] * 3, "keep_5"
    ]  # fmt: skip
    expected, total = records_of(tmp_path / "whole"), writes.count
    for point in range(2, total, 13):
        writes.interrupt(point)
        with pytest.raises(KeyboardInterrupt):
            whole(tmp_path / str(point))
        whole(tmp_path / str(point))
        assert records_of(tmp_path / str(point)) == expected, f"interrupted at write {point} of {total}"


@pytest.mark.parametrize("rule", ["keep_2", "keep_4"])
def test_interrupted_while_a_round_trains_it_trains_the_rest(tmp_path, bench, trainings, rule):
    def interrupt(name):
        if name == rule:
            raise KeyboardInterrupt

    rounds(tmp_path / "whole")
    bench.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        rounds(tmp_path / "cut")
    bench.before, count = lambda name: None, len(trainings)
    again = rounds(tmp_path / "cut")
    assert trainings[count] == {rule}
    assert again.id == "0001"
    assert records_of(tmp_path / "cut") == records_of(tmp_path / "whole")


@pytest.mark.parametrize("between", [False, True])
def test_a_limit_inside_a_round_leaves_all_its_candidates_to_the_next_campaign(
    tmp_path, bench, monkeypatch, between
):
    """Whatever a person tries in the same project meanwhile."""
    bench.stop_after = 5 * SIX  # the company, keep_1, keep_2, and keep_3 of the next round
    still = "2026-01-01T00:00:00+00:00"
    cut = rounds(tmp_path, cycles=None, hours=1, clock=lambda: still)
    assert places(cut) == [
        ("tiny", "keep_1", "finished"), ("tiny", "keep_2", "finished"), ("tiny", "keep_3", "running")
    ]  # fmt: skip
    summary = cut.reports[0].read_text()
    assert "The limit cut off keep_3" in summary
    for left in ("keep_4", "keep_5", "keep_6"):
        assert f"{left} was proposed and is not tried yet" in summary
    bench.stop_after = None
    if between:
        (tmp_path / "mine.py").write_text(source_of(0.01))
        try_rule(tmp_path / "mine.py", tmp_path, preset=TINY, resources=CPU)
    monkeypatch.setattr(laboratory, "now", next_year)
    again = rounds(tmp_path, cycles=6, clock=next_year)
    assert (again.id, tried(again)) == ("0002", [f"keep_{number}" for number in range(3, 9)])
    assert len(bench.trained) == len(set(bench.trained))
    assert "not tried yet" not in again.reports[0].read_text()


def test_what_a_campaign_before_trained_along_stays_unknown_until_its_round_is_over(
    tmp_path, bench, monkeypatch
):
    moments = iter(range(0, 600, 20))

    def clock():
        hours, minutes = divmod(next(moments), 60)
        return f"2026-01-01T{hours:02}:{minutes:02}:00+00:00"

    cut = rounds(tmp_path, at_once=3, cycles=None, hours=0.5, clock=clock)
    assert tried(cut) == ["keep_1"]
    assert {name for name, _, _ in bench.trained} == {"keep_1", "keep_2", "keep_3"} | COMPANY
    monkeypatch.setattr(laboratory, "now", next_year)
    again = rounds(tmp_path, at_once=1, cycles=6, clock=next_year)
    assert tried(again) == [f"keep_{number}" for number in range(2, 8)]
    reasons = {p.id: p.reason for p in again.campaign.proposals}
    assert "'keep_5'" in reasons["n7"]
    assert "'keep_6'" not in reasons["n7"]
    assert len(bench.trained) == len(set(bench.trained)) == (7 + 2) * SIX


def test_who_is_rejected_or_breaks_stops_none_of_its_round(tmp_path, bench):
    bench.rejected = {f"keep_{number}" for number in range(1, 6)}
    bench.broken = {"keep_7": ZeroDivisionError("x"), "keep_9": RuntimeError("CUDA error")}
    watcher = Listener()
    found = rounds(tmp_path, at_once=3, cycles=6, watcher=watcher)
    assert states(found) == ["rejected", "finished", "failed", "finished", "failed", "finished"]
    assert tried(found) == [f"keep_{number}" for number in range(5, 11)]
    assert [found.cycles[n].message for n in (2, 4)] == ["ZeroDivisionError: x", "RuntimeError: CUDA error"]
    assert "training together broke, keep_6 trains on its own: ZeroDivisionError: x" in watcher.notes
    assert len(bench.trained) == len(set(bench.trained))


def test_five_rejections_in_a_row_are_one_candidate_of_the_round(tmp_path, bench, trainings):
    bench.rejected = {f"keep_{number}" for number in range(2, 7)}
    found = rounds(tmp_path, at_once=3, cycles=3)
    assert states(found) == ["finished", "rejected", "finished"]
    assert tried(found) == ["keep_1", "keep_6", "keep_7"]
    assert trainings == [{"keep_1", "keep_7"} | COMPANY]


def test_a_candidate_that_cannot_be_built_stays_out_of_the_others_training(tmp_path, bench, monkeypatch):
    subject = laboratory.Laboratory.subject

    def broken(lab, name):
        if name == "keep_2":
            raise ValueError("no such slot")
        return subject(lab, name)

    monkeypatch.setattr(laboratory.Laboratory, "subject", broken)
    watcher = Listener()
    found = rounds(tmp_path, at_once=3, cycles=3, watcher=watcher)
    assert states(found) == ["finished", "failed", "finished"]
    assert "keep_2 does not train with the others: ValueError: no such slot" in watcher.notes
    assert "together with keep_3" in watcher.notes


@pytest.mark.parametrize("number", [2, 3, 4])
def test_an_error_of_a_proposal_comes_up_in_its_own_cycle(tmp_path, bench, number):
    with pytest.raises(ResearchError):
        rounds(tmp_path, Numbered({number: ResearchError("no key")}))
    with Ledger.in_folder(tmp_path) as ledger:
        assert [c.state for c in ledger.cycles()] == ["finished"] * (number - 1) + ["running"]
    found = rounds(tmp_path)
    assert (found.id, states(found)) == ("0001", ["finished"] * 5)
    assert tried(found) == [f"keep_{one}" for one in range(1, 6)]
    assert len(bench.trained) == len(set(bench.trained))


def test_an_error_that_needs_nobody_costs_its_candidate_alone(tmp_path, bench):
    found = rounds(tmp_path, Numbered({4: ZeroDivisionError("x")}))
    assert states(found) == ["finished"] * 3 + ["failed", "finished"]
    assert [p and p.rule for p in map(found.campaign.proposal, found.cycles)] == [
        "keep_1", "keep_2", "keep_3", None, "keep_4"
    ]  # fmt: skip


def test_who_watches_hears_who_trains_together(tmp_path, bench):
    watcher = Listener()
    rounds(tmp_path, cycles=3, watcher=watcher)
    assert [note for note in watcher.notes if "together" in note] == ["together with keep_2"]


def test_the_search_and_luck_propose_a_round_without_doing_anything_twice(tmp_path, bench):
    preset = replace(TINY, seeds=2)
    found = rounds(tmp_path, StructuredResearcher(), at_once=3, cycles=9, share=0.6, preset=preset)
    proposals = found.campaign.proposals
    assert {p.researcher for p in proposals} == {"structured", "random", "repeat"}
    new = [p for p in proposals if p.researcher != "repeat"]
    assert len({p.rule for p in new}) == len({p.source for p in new}) == len(new)
    assert len({p.id for p in proposals}) == len(proposals)
    assert states(found) == ["finished"] * 9
    assert len(bench.trained) == len(set(bench.trained))
    repeated = [p for p in proposals if p.researcher == "repeat"]
    seeds = [
        {run.seed for run in found.campaign.runs if run.key in cycle.run_keys and run.rule == proposal.rule}
        for cycle in found.cycles
        for proposal in repeated
        if cycle.proposal == proposal.id
    ]
    assert all(len(one) == 2 and 0 not in one for one in seeds)


def test_a_model_is_replayed_to_the_same_ledger(tmp_path, bench):
    transcript = tmp_path / "exchanges.jsonl"
    model = ModelResearcher("openai:canned", Recorder(Canned(), append_to(transcript)))
    first = rounds(tmp_path / "a", model)
    assert [p.rule for p in first.campaign.proposals] == [f"canned_{number}" for number in range(1, 6)]
    replayed = researcher_of(tmp_path / "b", TINY, ["openai:canned"], None, None, transcript)
    again = rounds(tmp_path / "b", replayed)
    timeless = [
        [replace(proposal, created_at="") for proposal in one.campaign.proposals] for one in (first, again)
    ]
    assert timeless[0] == timeless[1]


def test_gpu_hours_count_every_run_once(tmp_path, bench):
    bench.device, bench.wall_seconds = "NVIDIA Test", 36.0
    found = rounds(tmp_path, cycles=9, max_gpu_hours=0.3, resources=CPU)
    assert (
        states(found) == ["finished"] * 3
    )  # 0.24 hours after the first round; the second is cut off by none
    assert found.spent.gpu_seconds == 6 * SIX * 36


@pytest.mark.slow
def test_killed_while_a_round_trains_the_same_command_continues(tmp_path):
    project = tmp_path / "p"
    command = (
        "discover", "--cycles", 2, "--at-once", 2, "--preset", "tiny", "--device", "cpu", "--project", project
    )  # fmt: skip
    process = start(*command, folder=tmp_path)
    wait_for(project, "runs")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    check_integrity(project)
    with Ledger.in_folder(project, read_only=True) as ledger:
        assert [cycle.state for cycle in ledger.cycles()] == ["running"]
        assert len(ledger.proposals()) >= 2
        kept = {run.key: run.finished_at for run in ledger.runs()}
    ended = finish(*command, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "continuing campaign 0001" in ended.stderr
    assert "together with" in ended.stderr
    with Ledger.in_folder(project, read_only=True) as ledger:
        cycles, runs, proposals = ledger.cycles(), ledger.runs(), ledger.proposals()
    assert [(c.state, c.proposal) for c in cycles] == [("finished", p.id) for p in proposals]
    assert kept.items() <= {run.key: run.finished_at for run in runs}.items()
    assert {run.rule for run in runs} >= {p.rule for p in proposals}
    trained_last = max(run.finished_at for run in runs)
    assert all(cycle.finished_at and trained_last <= cycle.finished_at for cycle in cycles)

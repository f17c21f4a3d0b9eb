"""Campaigns: they count, they continue, nothing that a candidate does stops them."""

from __future__ import annotations

import io
import os
import signal
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
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

from archer.cli.discover import _table
from archer.cli.shared_run import researcher_of
from archer.cycle import laboratory, run
from archer.cycle.campaign import FAILURES
from archer.cycle.project import Project
from archer.cycle.team import Models, verifier
from archer.cycle.watch import Watcher
from archer.errors import UserError
from archer.ledger import Ledger
from archer.research.control import incumbent
from archer.research.exchange import Failure, Recorder, append_to
from archer.research.model import ModelResearcher
from archer.research.researcher import Context, ResearchError
from archer.rules import get_rule


def test_counts_trains_nothing_twice_and_sums_up(tmp_path, bench):
    researcher = Numbered()
    found = campaign(tmp_path, researcher)
    assert states(found) == ["finished"] * 3
    assert researcher.learned == ["n1", "n2", "n3"]
    assert len(bench.trained) == len(set(bench.trained)) == 5 * len(TINY.settings)
    assert [path.suffix for path in found.reports] == [".md", ".html"]
    assert "keep_3" in found.reports[0].read_text()


def test_a_rejected_a_broken_and_a_raising_candidate_stop_nothing(tmp_path, bench):
    bench.rejected = {f"keep_{number}" for number in range(1, 6)}
    bench.broken = {"keep_6": RuntimeError("CUDA error"), "keep_7": ZeroDivisionError("x")}
    found = campaign(tmp_path, cycles=5)
    assert states(found) == ["rejected", "failed", "failed", "finished", "finished"]
    assert found.cycles[0].message == "causality: it looks ahead"
    assert found.cycles[1].message == "RuntimeError: CUDA error"
    assert [proposal.id for proposal in found.campaign.proposals] == [f"n{k}" for k in range(1, 10)]


def test_the_same_error_again_and_again_stops(tmp_path, bench):
    bench.broken = {f"keep_{number}": RuntimeError("no driver") for number in range(1, 9)}
    with pytest.raises(RuntimeError, match="no driver"):
        campaign(tmp_path, cycles=8)
    with Ledger.in_folder(tmp_path) as ledger:
        assert [c.state for c in ledger.cycles()] == ["failed"] * (FAILURES - 1) + ["running"]


@pytest.mark.parametrize(
    "error", [ResearchError("no key"), OSError(5, "input/output error"), KeyboardInterrupt()]
)
def test_what_a_person_must_mend_stops_and_the_same_call_continues(tmp_path, bench, error):
    with pytest.raises(type(error)):
        campaign(tmp_path, Numbered({2: error}))
    found = campaign(tmp_path)
    assert states(found) == ["finished"] * 3
    assert found.id == "0001"
    assert [cycle.id for cycle in found.cycles] == ["0001", "0002", "0003"]


def test_interrupted_before_its_summary_it_only_writes_that(tmp_path, bench):
    first = campaign(tmp_path)
    first.reports[0].unlink()
    again = campaign(tmp_path)
    assert (again.id, again.cycles) == (first.id, first.cycles)
    assert again.reports[0].is_file()


def test_over_or_asked_otherwise_the_next_campaign_begins(tmp_path, bench):
    with pytest.raises(KeyboardInterrupt):
        campaign(tmp_path, Numbered({2: KeyboardInterrupt()}))
    other = campaign(tmp_path, cycles=2)
    assert other.id == "0002"
    assert [cycle.id for cycle in other.cycles] == ["0002", "0003"]  # the unfinished one first
    assert [cycle.id for cycle in campaign(tmp_path, cycles=2).cycles] == ["0004", "0005"]


def test_hours_end_it_between_cycles_and_inside_one(tmp_path, bench):
    moments = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=20 * k) for k in range(9)]
    ticks = iter(moments)
    found = campaign(tmp_path, cycles=None, hours=1, clock=lambda: next(ticks).isoformat())
    assert states(found) == ["finished", "finished"]  # at 20 and 40 minutes; at 60 it is over
    assert bench.resources.budget_seconds == 1200
    bench.stop_after = len(bench.trained) + 2
    still = moments[0].isoformat()
    cut = campaign(tmp_path, cycles=None, hours=1, clock=lambda: still)
    assert states(cut) == ["running"]
    bench.stop_after = None
    assert campaign(tmp_path, cycles=1).cycles[0].id == cut.cycles[0].id


def hourly(folder, researcher=None):
    """A campaign whose hour is over after two cycles."""
    ticks = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=20 * k) for k in range(9))
    return campaign(folder, researcher, cycles=None, hours=1, clock=lambda: next(ticks).isoformat())


def test_what_was_proposed_ahead_is_tried_by_the_next_campaign(tmp_path, bench, monkeypatch):
    found = hourly(tmp_path)
    assert tried(found) == ["keep_1", "keep_2"]
    assert "keep_3 was proposed and is not tried yet" in found.reports[0].read_text()
    monkeypatch.setattr(laboratory, "now", next_year)
    again = campaign(tmp_path, cycles=2, clock=next_year)
    assert (again.id, tried(again)) == ("0002", ["keep_3", "keep_4"])
    assert "not tried yet" not in again.reports[0].read_text()


def test_but_not_by_another_researchers(tmp_path, bench, monkeypatch):
    class Other(Numbered):
        name = "other"

        def propose(self, context):
            return replace(super().propose(context), id="o1", rule="others", source=source_of(0.5))

    hourly(tmp_path)
    monkeypatch.setattr(laboratory, "now", next_year)
    assert tried(campaign(tmp_path, Other(), cycles=1, clock=next_year)) == ["others"]
    again = campaign(tmp_path, cycles=1, clock=next_year)
    assert tried(again) == ["keep_4"]  # a campaign came between: keep_3 stays known


def test_a_limit_inside_the_first_cycle_loses_no_proposal(tmp_path, bench):
    bench.stop_after = 2
    still = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
    cut = campaign(tmp_path, cycles=None, hours=1, clock=lambda: still)
    summary = cut.reports[0].read_text()
    assert "The limit cut off keep_1" in summary
    assert "keep_2 was proposed and is not tried yet" in summary
    bench.stop_after = None
    assert tried(campaign(tmp_path, cycles=3, clock=next_year)) == ["keep_1", "keep_2", "keep_3"]


def test_only_what_may_still_win_goes_up(tmp_path, bench):
    bench.level = {"gated_delta_net": 0.5, "delta_net": 0.4, "keep_1": 0.1, "keep_2": 0.9, "keep_3": 0.5}
    found = campaign(tmp_path, preset=(LOW, HIGH))
    assert places(found) == [
        ("rank-1", "keep_1", "finished"),
        *[(preset, "keep_2", "finished") for preset in ("rank-1", "rank-2", "rank-2")],
        *[(preset, "keep_3", "finished") for preset in ("rank-1", "rank-2", "rank-2")],
    ]
    _, again, last = (p for p in found.campaign.proposals if p.rule == "keep_2")
    assert (again.id, again.promoted_from, again.predictions) == ("n2-rank-2", "n2", ())
    assert (last.id, last.promoted_from) == ("n2-rank-2-until-decided", "n2")
    assert again.reason.startswith("Promoted from rank-1. known")
    assert last.reason.startswith("Promoted from rank-2. known")
    verdicts = [v for v in found.campaign.verdicts if v.rule == "keep_2"]
    assert [v.preset for v in verdicts] == ["rank-1", "rank-2", "rank-2"]
    assert [v.confirmation is not None for v in verdicts] == [False, False, True]
    seeds = {(name, seed) for name, seed, _ in bench.trained}
    assert ("keep_1", 0) in seeds
    assert ("keep_1", 1) not in seeds
    assert ("keep_2", 1) in seeds
    assert {run.preset for run in found.campaign.runs if run.rule == "keep_1"} == {"rank-1"}
    first_seed = [name for name, seed, _ in bench.trained if seed == 0]
    assert len(first_seed) == (2 + 3 + 2 + 2) * len(LOW.settings)


def test_interrupted_at_any_write_it_comes_to_the_same_end(tmp_path, bench, monkeypatch):
    bench.level = {"gated_delta_net": 0.5, "keep_1": 0.9, "keep_2": 0.1, "keep_4": 0.6}
    bench.rejected = {"keep_3"}
    writes = Writes(monkeypatch)
    monkeypatch.setattr("archer.judge.sequential.MOST_SEEDS", 2)
    campaign(tmp_path / "whole", preset=(LOW, HIGH))
    expected, total = records_of(tmp_path / "whole"), writes.count
    assert [p[1] for p in expected[0]] == [
        *["keep_1"] * 3, "keep_2", "keep_3", *["keep_4"] * 3
    ]  # fmt: skip
    for point in range(2, total, 7):
        writes.interrupt(point)
        with pytest.raises(KeyboardInterrupt):
            campaign(tmp_path / str(point), preset=(LOW, HIGH))
        campaign(tmp_path / str(point), preset=(LOW, HIGH))
        assert records_of(tmp_path / str(point)) == expected, f"interrupted at write {point} of {total}"


def test_the_next_is_proposed_while_one_trains(tmp_path, bench):
    asked = threading.Event()

    class Watched(Numbered):
        def propose(self, context):
            made = super().propose(context)
            if made.id == "n2":
                asked.set()
            return made

    waited = []
    bench.before = lambda name: waited.append(asked.wait(60)) if name == "keep_1" else None
    found = campaign(tmp_path, Watched())
    assert waited
    assert all(waited)
    reasons = {p.id: p.reason for p in found.campaign.proposals}
    assert reasons["n2"] == "known: (['n1'], [], [], [])"
    assert "[('n1', 'tiny')]" in reasons["n3"]
    assert "'keep_1'" in reasons["n3"]
    assert "keep_2" not in reasons["n3"].replace("n2", "")


def test_a_name_stands_for_one_text(tmp_path, bench):
    class Unimaginative(Numbered):
        def propose(self, context):
            return replace(super().propose(context), rule="decay")

    found = campaign(tmp_path, Unimaginative())
    assert [p.rule for p in found.campaign.proposals] == ["decay_2", "decay_3", "decay_4"]
    assert len({p.source for p in found.campaign.proposals}) == 3


def test_a_single_cycles_name_stands_for_one_text_too(tmp_path, bench):
    class Unimaginative(Numbered):
        def propose(self, context):
            return replace(super().propose(context), rule="decay")

    researcher = Unimaginative()
    names = [run(tmp_path, preset=TINY, researcher=researcher, resources=CPU).proposal.rule for _ in "ab"]
    assert names == ["decay_2", "decay_3"]


class Silent:
    """A model whose server is never there."""

    def ask(self, messages):
        raise Failure("connection", "nobody answers\nat port 1")


@pytest.mark.parametrize("start", [run, campaign])
def test_a_model_that_failed_is_named_in_one_line(tmp_path, bench, start):
    fallback = Numbered()
    model = ModelResearcher("openai:tiny", Silent(), fallback=fallback, wait=lambda seconds: None)
    watcher = Listener()
    start(tmp_path, preset=TINY, researcher=model, resources=CPU, watcher=watcher)
    said = [note for note in watcher.notes if "openai:tiny" in note]
    expected = "openai:tiny gave no usable proposal (nobody answers at port 1), so this one is by numbered."
    assert said == [expected] * (1 if start is run else 3)
    watcher.notes.clear()
    start(tmp_path / "other", preset=TINY, researcher=fallback, resources=CPU, watcher=watcher)
    assert [note for note in watcher.notes if "no usable" in note] == []


def printed(found, width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(_table(found, width))
    lines = console.export_text().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_has_no_word_where_the_preset_ranks_nothing(tmp_path, bench, width):
    bench.level = {"gated_delta_net": 0.5, "delta_net": 0.4, "keep_1": 0.1}
    plain = printed(campaign(tmp_path / "plain", cycles=1), width)
    assert "Not judged: this preset ranks nothing" in plain
    assert not {"worse", "undecided", "−0.400 worse"} & set(plain.split())
    assert "keep_1 −0.400" in plain
    ranked = printed(campaign(tmp_path / "ranked", cycles=1, preset=LOW), width)
    assert "Not judged" not in ranked
    assert {"worse", "undecided"} & set(ranked.split())


def test_gpu_hours_end_it(tmp_path, bench):
    bench.device, bench.wall_seconds = "NVIDIA Test", 36.0
    found = campaign(tmp_path, cycles=9, max_gpu_hours=0.25)
    assert states(found) == ["finished"] * 3  # 3 rules x 6 runs, then 6 runs each: 0.18, 0.24, 0.30 hours
    assert found.spent.gpu_seconds == 5 * 6 * 36
    assert "18 min of 15 min on GPUs" in found.reports[0].read_text()
    assert bench.resources.budget_seconds == pytest.approx(0.01 * 3600)
    bench.wall_seconds, bench.device = 1e6, "cpu"
    assert campaign(tmp_path / "other", cycles=4, max_gpu_hours=0.25).spent.gpu_seconds == 0


def test_racing_is_refused_where_a_higher_rung_may_not_race(tmp_path, bench):
    with pytest.raises(UserError, match="leave out --race"):
        campaign(tmp_path / "p", preset="quick,full", resources=replace(CPU, race=True))
    assert not (tmp_path / "p").exists()
    campaign(tmp_path / "p", resources=replace(CPU, race=True))
    assert bench.resources.race


def test_gpu_hours_alone_end_nothing_on_a_processor(tmp_path, bench):
    with pytest.raises(UserError, match="would never end"):
        campaign(tmp_path / "p", cycles=None, max_gpu_hours=1)
    assert not (tmp_path / "p").exists()


def test_a_rule_that_changes_little_is_the_incumbent_all_the_same(tmp_path, bench):
    bench.level = {"gated_delta_net": 0.5, "delta_net": 0.4, "keep_1": 0.9}
    bench.reach = (32,)  # of the tokens that a model reads: all but the two recall tasks with 31
    campaign(tmp_path, cycles=1)
    assert sum(name == "keep_1" for name, _, _ in bench.trained) == 4
    with Ledger.in_folder(tmp_path) as ledger:
        lab = laboratory.Laboratory(Project(tmp_path), ledger, TINY, (), CPU, Watcher())
        context = lab.context()
    assert incumbent(context) == "keep_1"
    scores = [m.score for m in context.measured if m.rule == "keep_1"]
    assert sorted(s for s in scores if s is not None) == [0.4, 0.4, 0.9, 0.9, 0.9, 0.9]


def test_luck_gets_its_share_and_repeats_take_new_seeds(tmp_path, bench):
    preset = replace(TINY, seeds=2)
    found = campaign(tmp_path, cycles=6, share=0.6, preset=preset)
    controls = [proposal for proposal in found.campaign.proposals if proposal.control]
    assert 3 <= len(controls) <= 4
    repeated = [proposal for proposal in controls if proposal.researcher == "repeat"]
    assert repeated
    best = repeated[0].rule
    seeds = {seed for name, seed, _ in bench.trained if name == best}
    assert {2, 3} <= seeds
    assert len(bench.trained) == len(set(bench.trained))
    verdict = found.campaign.verdict(repeated[0].id)
    assert verdict is not None
    assert verdict.against_reference.mean.seeds == 2
    assert {seed for name, seed, _ in bench.trained if name == "gated_delta_net"} >= {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"cycles": None}, "needs an end"),
        ({"cycles": 0}, "cycles is 0"),
        ({"hours": float("nan")}, "hours is nan"),
        ({"share": 1.5}, "share is 1.5"),
        ({"preset": "smok"}, "did you mean 'smoke'"),
    ],
)
def test_wrong_input_writes_nothing(tmp_path, asked, message):
    with pytest.raises(UserError, match=message):
        campaign(tmp_path / "project", **asked)
    assert not (tmp_path / "project").exists()


def test_a_model_is_recorded_and_replayed_to_the_same_ledger(tmp_path, bench):
    transcript = tmp_path / "exchanges.jsonl"
    model = ModelResearcher("openai:canned", Recorder(Canned(), append_to(transcript)))
    first = campaign(tmp_path / "a", model)
    assert [p.rule for p in first.campaign.proposals] == ["canned_1", "canned_2", "canned_3"]
    assert first.campaign.proposals[0].cost["dollars"] == 0.25
    replayed = researcher_of(tmp_path / "b", TINY, ["openai:canned"], None, None, transcript)
    again = campaign(tmp_path / "b", replayed)
    timeless = [replace(proposal, created_at="") for proposal in again.campaign.proposals]
    assert timeless == [replace(proposal, created_at="") for proposal in first.campaign.proposals]
    assert {run.key for run in again.campaign.runs} == {run.key for run in first.campaign.runs}


def test_the_verifier_answers_a_model_in_a_sentence(tmp_path, bench):
    bench.rejected = {"keep_2"}
    verify = verifier(tmp_path, TINY)
    assert verify(source_of(0.9), "keep_1") is None
    assert verify(source_of(0.9), "keep_2") == "causality: it looks ahead"
    assert "nowhere" in str(verify(source_of(0.9).replace("delta_net", "nowhere"), "keep_3"))


def test_several_models_take_turns():
    members = [ModelResearcher(f"openai:{name}", Canned(), fallback=None) for name in ("a", "b")]
    team = Models(members)
    assert team.name == "openai:a + openai:b"
    sources = {"delta_net": get_rule("delta_net").source}
    context = Context(sources)
    for _ in range(4):
        context = replace(context, proposals=(*context.proposals, team.propose(context)))
    assert {proposal.researcher for proposal in context.proposals} == {"openai:a", "openai:b"}


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (None, {"max_cost": 1.0}, "--max-cost needs --model"),
        (None, {"base_url": "http://localhost:1/v1"}, "--base-url needs --model"),
        (["gpt"], {}, "expected provider:name"),
        (["openai:gpt"], {"replay": Path("nowhere.jsonl")}, "cannot be read as a transcript"),
        (["nobody:gpt"], {}, "nobody:gpt cannot be used"),
        (
            ["openai:gpt"],
            {},
            r"OPENAI_API_KEY is not set\. Set it first: export OPENAI_API_KEY=\.\.\. \(",
        ),
    ],
)
def test_wrong_options_of_a_model(tmp_path, monkeypatch, model, options, message):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    given = {"base_url": None, "max_cost": None, "replay": None} | options
    with pytest.raises(UserError, match=message):
        researcher_of(tmp_path / "p", "smoke", model, **given)
    assert not (tmp_path / "p").exists()


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[llm\]'"):
        researcher_of(tmp_path, "smoke", ["openai:gpt"], None, None, None)


@pytest.mark.slow
def test_killed_while_it_trains_the_same_command_continues(tmp_path):
    command = ("discover", "--cycles", 1, "--preset", "tiny", "--device", "cpu", "--project", tmp_path / "p")
    process = start(*command, folder=tmp_path)
    wait_for(tmp_path / "p", "runs")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    check_integrity(tmp_path / "p")
    with Ledger.in_folder(tmp_path / "p", read_only=True) as ledger:
        assert [cycle.state for cycle in ledger.cycles()] == ["running"]
        kept = {run.key: run.finished_at for run in ledger.runs()}
    ended = finish(*command, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Campaign 0001" in ended.stdout
    with Ledger.in_folder(tmp_path / "p", read_only=True) as ledger:
        (cycle,), runs, (proposal,) = ledger.cycles(), ledger.runs(), ledger.proposals()
    assert (cycle.state, cycle.proposal, cycle.settings["campaign"]) == ("finished", proposal.id, "0001")
    assert kept.items() <= {run.key: run.finished_at for run in runs}.items()
    assert (tmp_path / "p/reports/campaign-0001/summary.md").is_file()


@pytest.mark.slow
def test_killed_on_a_higher_rung_the_same_command_continues(tmp_path):
    command = (
        "discover", "--cycles", 1, "--preset", "tiny,tiny-2", "--device", "cpu", "--project", tmp_path / "p",
    )  # fmt: skip
    process = start(*command, folder=tmp_path)
    wait_for(tmp_path / "p", "runs WHERE preset = 'tiny-2'")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    check_integrity(tmp_path / "p")
    with Ledger.in_folder(tmp_path / "p", read_only=True) as ledger:
        assert [(c.preset, c.state) for c in ledger.cycles()] == [("tiny", "finished"), ("tiny-2", "running")]
        kept = {run.key: run.finished_at for run in ledger.runs()}
    ended = finish(*command, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "continuing campaign 0001" in ended.stderr
    with Ledger.in_folder(tmp_path / "p", read_only=True) as ledger:
        cycles, runs, (first, again) = ledger.cycles(), ledger.runs(), ledger.proposals()
    assert [(c.preset, c.state) for c in cycles] == [("tiny", "finished"), ("tiny-2", "finished")]
    assert (again.promoted_from, again.rule) == (first.id, first.rule)
    assert kept.items() <= {run.key: run.finished_at for run in runs}.items()
    assert {run.preset for run in runs if run.rule == first.rule} == {"tiny", "tiny-2"}

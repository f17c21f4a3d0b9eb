"""Whole cycles on a preset of seconds: what is in the ledger afterwards, and what is trained."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.cycle.tiny import (
    LEAKING_RULE,
    RULE_IN_SIX_LINES,
    SETTINGS,
    THIEVING_RULE,
    TINY,
    check_integrity,
    tiny,
)

from archer.cycle import Project, Result, Watcher, bench, run, try_rule
from archer.cycle.laboratory import open_laboratory
from archer.cycle.training import Resources
from archer.errors import UserError
from archer.ledger import Ledger, LockError, project_lock
from archer.ledger.records import TASKS, RunRecord
from archer.mad.published import folder_name
from archer.mad.tasks import generate
from archer.report.markdown import to_markdown
from archer.report.summary import gather_campaign, summarise

PLAIN = Resources(walls=False)
ONE_TASK = {"settings": SETTINGS[3:4]}


@dataclass
class Notes(Watcher):
    """Writes down what it hears."""

    phases: list[str] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)
    known: int = 0
    seconds_left: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def phase(self, name: str, detail: str = "") -> None:
        self.phases.append(name)

    def training(self, runs: int, known: int) -> None:
        self.known = known

    def left(self, seconds: float) -> None:
        self.seconds_left.append(seconds)

    def finished(self, record: RunRecord) -> None:
        self.trained.append(record.key)

    def note(self, message: str) -> None:
        self.said.append(message)


@dataclass(frozen=True)
class Cycles:
    """Two cycles in one project."""

    folder: Path
    first: Result
    second: Result
    notes: tuple[Notes, Notes]


@pytest.fixture(scope="module")
def cycles(tmp_path_factory: pytest.TempPathFactory) -> Cycles:
    folder, notes = tmp_path_factory.mktemp("project"), (Notes(), Notes())
    first, second = (run(folder, preset=tiny(), watcher=note) for note in notes)
    return Cycles(folder, first, second, notes)


def test_a_cycle_goes_through_its_phases(cycles: Cycles) -> None:
    assert cycles.notes[0].phases == ["history", "propose", "verify", "train", "judge", "report"]
    assert cycles.first.cycle.state == "finished"


def test_everything_is_in_the_ledger(cycles: Cycles) -> None:
    first = cycles.first
    assert first.proposal is not None
    assert first.verdict is not None
    rule = first.proposal.rule
    with Ledger.in_folder(cycles.folder, read_only=True) as ledger:
        assert ledger.proposals()[0] == first.proposal
        assert {p.task for p in first.proposal.predictions} == set(TASKS)
        assert first.verification in ledger.verifications(rule=rule)
        assert ledger.verdicts(rule=rule) == (first.verdict,)
        assert ledger.cycles(id=first.cycle.id) == (first.cycle,)
        runs = ledger.runs(keys=first.cycle.run_keys)
        assert {r.rule for r in runs} == set(first.cycle.rules) == {rule, "delta_net", "gated_delta_net"}
        assert {r.task for r in runs} == set(TASKS)
        assert all(r.status == "finished" and r.curve and 0 <= (r.held_out or -1) <= 1 for r in runs)
        assert {ledger.source(r.rule_hash) is not None for r in runs} == {True}
    check_integrity(cycles.folder)


def test_the_report_is_written(cycles: Cycles) -> None:
    for result in (cycles.first, cycles.second):
        assert result.proposal is not None
        assert [path.suffix for path in result.reports] == [".md", ".html"]
        for path in result.reports:
            assert result.proposal.rule in path.read_text(encoding="utf-8")
        said = result.reports[0].read_text(encoding="utf-8")
        assert "| State | finished |" in said
        assert "| Wall time |" in said
        files = said.split("## Files written")[1].split("## ")[0]
        rule = Project(cycles.folder).rules / f"{result.proposal.rule}.py"
        assert files.split() == [part for path in (rule, *result.reports) for part in ("-", f"`{path}`")]
        assert result.cycle.finished_at is not None
        assert result.cycle.report_paths == tuple(map(str, result.reports))


def test_the_proposed_rule_is_a_file(cycles: Cycles) -> None:
    proposal = cycles.first.proposal
    assert proposal is not None
    path = Project(cycles.folder).rules / f"{proposal.rule}.py"
    assert path.read_text(encoding="utf-8") == proposal.source


def test_the_second_call_is_a_new_cycle_and_trains_nothing_twice(cycles: Cycles) -> None:
    assert (cycles.first.cycle.id, cycles.second.cycle.id) == ("0001", "0002")
    assert cycles.second.proposal != cycles.first.proposal
    one, two = (set(notes.trained) for notes in cycles.notes)
    assert not one & two
    before = {rule for rule in cycles.second.cycle.rules if rule in cycles.first.cycle.rules}
    assert {"delta_net", "gated_delta_net"} <= before
    assert cycles.notes[0].seconds_left[0] > 0, "how long it may still take is told"
    assert cycles.notes[0].seconds_left[-1] == 0
    assert cycles.notes[1].known == len(before) * len(SETTINGS), "what was trained before is known"
    assert len(cycles.notes[1].trained) == len(two) <= len(SETTINGS)


def test_results_are_pandas_frames(cycles: Cycles) -> None:
    scores, runs = cycles.first.frame(), cycles.first.runs_frame()
    assert isinstance(scores, pd.DataFrame)
    assert [*scores.columns] == [*TASKS, "Mean"]
    assert {"delta_net", "gated_delta_net"} < {*scores.index}
    assert scores.to_numpy().dtype == float
    by_hand = runs[(runs.rule == "delta_net") & (runs.task == "Memorize")].held_out.mean()
    assert scores.loc["delta_net", "Memorize"] == pytest.approx(by_hand)
    assert len(runs) == len(cycles.first.runs)


def test_one_process_works_in_a_project(tmp_path: Path) -> None:
    with project_lock(tmp_path), pytest.raises(LockError, match="in use"):
        bench(["softmax"], tmp_path, preset=tiny(), resources=PLAIN)


class Interrupting(Notes):
    """Presses Ctrl-C after so many runs."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def finished(self, record: RunRecord) -> None:
        super().finished(record)
        if len(self.trained) == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("marked", [True, False])
def test_runs_on_generated_data_do_not_count_for_published_data(tmp_path: Path, marked: bool) -> None:
    for setting in TINY.settings:
        for split in ("train", "test"):
            folder = tmp_path / "published" / folder_name(setting) / split
            folder.mkdir(parents=True)
            examples = generate(setting, 4711, split)
            np.save(folder / "inputs.npy", examples.inputs)
            np.save(folder / "targets.npy", examples.targets)
    published = replace(PLAIN, data_dir=tmp_path / "published")
    bench(["delta_net"], tmp_path / "a", preset=TINY, resources=PLAIN)
    if not marked:  # a project of an earlier version
        (tmp_path / "a" / "training" / "data").unlink()
    with pytest.raises(UserError, match="runs trained on generated data, and published data were"):
        bench(["delta_net"], tmp_path / "a", preset=TINY, resources=published)
    bench(["delta_net"], tmp_path / "a", preset=TINY, resources=PLAIN)
    if marked:
        bench(["delta_net"], tmp_path / "b", preset=TINY, resources=published)
        with pytest.raises(UserError, match="give --data"):
            bench(["delta_net"], tmp_path / "b", preset=TINY, resources=PLAIN)


def test_a_setting_that_two_presets_share_counts_in_both(tmp_path: Path) -> None:
    """As mad-lab's baseline settings are in `baseline` and in `full`: trained once, scored under each."""
    more = tuple(replace(setting, train_examples=48) for setting in TINY.settings)
    wide = replace(TINY, name="wide", settings=(*TINY.settings, *more))
    bench(["delta_net"], tmp_path, preset=TINY, resources=PLAIN)
    found = bench(["delta_net"], tmp_path, preset=wide, resources=PLAIN)
    assert [task.settings for task in found.comparisons[0].tasks] == [2] * 6
    with Ledger.in_folder(tmp_path) as ledger:
        assert len(ledger.runs(preset="tiny")) == 12
        assert len(ledger.runs(preset="wide")) == 24
    again = bench(["delta_net"], tmp_path, preset=TINY, resources=PLAIN)
    assert [run.preset for run in again.runs] == ["tiny"] * 12
    with Ledger.in_folder(tmp_path) as ledger:
        assert "Runs: 24," in to_markdown(summarise(gather_campaign(ledger)))


def test_one_text_under_two_names_is_refused(tmp_path: Path) -> None:
    """Its runs would stand under the first, and the second would have none."""
    paths = [tmp_path / "first.py", tmp_path / "second.py"]
    for path in paths:
        path.write_text('parent = "delta_net"\ndef write(G):\n    return 0.9 * G\n')
    with pytest.raises(UserError, match="'second' is 'first' by another name"):
        bench([str(path) for path in paths], tmp_path / "both", preset=TINY, resources=PLAIN)
    bench([str(paths[0])], tmp_path / "one", preset=TINY, resources=PLAIN)
    with pytest.raises(UserError, match="'second' is 'first' by another name"):
        bench([str(paths[1])], tmp_path / "one", preset=TINY, resources=PLAIN)
    with Ledger.in_folder(tmp_path / "one") as ledger:
        assert len(ledger.cycles()) == 1


def test_a_bench_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    interrupted, rest, preset = Interrupting(after=1), Notes(), tiny(settings=SETTINGS[2:4])
    with pytest.raises(KeyboardInterrupt):
        bench(["softmax"], tmp_path, preset=preset, watcher=interrupted, resources=PLAIN)
    result = bench(["softmax"], tmp_path, preset=preset, watcher=rest, resources=PLAIN)
    assert (result.cycle.id, result.cycle.state) == ("0001", "finished")
    assert rest.known == len(interrupted.trained) == 1
    assert sorted(interrupted.trained + rest.trained) == sorted(run.key for run in result.runs)
    assert len(result.runs) == 4
    assert [c.candidate for c in result.comparisons] == ["softmax"]
    assert {*result.frame().index} == {"softmax", "gated_delta_net"}


def test_a_budget_of_time_leaves_the_cycle_open(tmp_path: Path) -> None:
    preset, short = tiny(**ONE_TASK, epochs=2), replace(PLAIN, budget_seconds=1e-9)
    states = []
    for _ in range(5):
        result = bench(["gated_delta_net"], tmp_path, preset=preset, resources=short)
        states.append((result.cycle.id, result.cycle.state))
        if result.cycle.state != "running":
            break
        assert "the time is up" in result.cycle.message
        assert result.reports == ()
    assert states[0] == ("0001", "running")
    assert states[-1] == ("0001", "finished")
    assert [one.epochs for one in result.runs] == [2]


def test_diverging_runs_are_recorded_and_reported(tmp_path: Path) -> None:
    preset = tiny(settings=SETTINGS[2:4], learning_rates=(3e-3, 1e38), epochs=2)
    result = bench(["delta_net"], tmp_path, preset=preset, resources=PLAIN)
    statuses = {(one.learning_rate, one.status) for one in result.runs}
    assert statuses == {(3e-3, "finished"), (1e38, "diverged")}
    lost = [one for one in result.runs if one.status == "diverged"]
    assert all(one.held_out is None and one.mad is None and "not finite" in one.message for one in lost)
    assert result.frame()["Memorize"].between(0, 1).all()
    assert all("diverged" in path.read_text(encoding="utf-8") for path in result.reports)
    notes = Notes()
    bench(["delta_net"], tmp_path, preset=preset, watcher=notes, resources=PLAIN)
    assert (notes.known, notes.trained) == (8, []), "a diverged run is a result: it is not trained again"


def test_a_bench_says_what_it_trains_unverified(tmp_path: Path) -> None:
    """A bench verifies nothing; a file that sees the future has a high score there."""
    path, notes = tmp_path / "leaks.py", Notes()
    path.write_text(LEAKING_RULE)
    bench([str(path), "delta_net"], tmp_path, preset=tiny(**ONE_TASK), watcher=notes, resources=PLAIN)
    assert [said for said in notes.said if "unverified" in said] == [
        f"{path} is trained unverified: `archer verify {path}` says whether it sees the future"
    ]


def test_where_every_run_diverges_the_cycle_failed(tmp_path: Path) -> None:
    preset = tiny(**ONE_TASK, learning_rates=(1e38,))
    result = bench(["delta_net"], tmp_path, preset=preset, resources=PLAIN)
    assert result.cycle.state == "failed"
    assert result.frame()["Memorize"].isna().all()
    assert "diverged" in result.reports[0].read_text(encoding="utf-8")


def test_a_rule_of_six_lines_is_tried(tmp_path: Path) -> None:
    path = tmp_path / "forgets.py"
    path.write_text(RULE_IN_SIX_LINES)
    assert len([line for line in RULE_IN_SIX_LINES.splitlines() if line]) <= 6
    result = try_rule(path, tmp_path / "project", preset=tiny(**ONE_TASK))
    assert result.verification is not None
    assert result.verification.passed
    assert result.cycle.state == "finished"
    assert result.proposal is not None
    assert (result.proposal.parent, result.proposal.slots) == ("delta_net", ("retain",))
    assert [one.status for one in result.runs if one.rule == "forgets"] == ["finished"]


def test_a_leaking_rule_is_rejected_and_nothing_is_trained(tmp_path: Path) -> None:
    path, notes = tmp_path / "leaks.py", Notes()
    path.write_text(LEAKING_RULE)
    result = try_rule(path, tmp_path / "project", preset=tiny(), watcher=notes)
    assert result.cycle.state == "rejected"
    assert "causality" in result.cycle.message
    assert any("causality" in note for note in notes.said)
    assert result.runs == ()
    assert notes.trained == []
    with Ledger.in_folder(tmp_path / "project", read_only=True) as ledger:
        assert ledger.runs() == ()
        assert [v.passed for v in ledger.verifications()] == [False]
    assert not (tmp_path / "project" / "rules").exists()
    said = result.reports[0].read_text(encoding="utf-8")
    assert "The rule `leaks` was rejected by verification" in said
    assert "Mend what the failed check says" in said
    assert "| State | running |" not in said


def test_a_rule_that_was_mended_is_not_among_the_rejected(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    for text in (LEAKING_RULE, RULE_IN_SIX_LINES):
        file.write_text(text)
        found = try_rule(file, tmp_path, preset=TINY, resources=PLAIN)
    assert found.cycle.state == "finished"
    with open_laboratory(tmp_path, TINY) as lab:
        context = lab.context()
    first, second = (proposal.id for proposal in context.proposals)
    assert [one.proposal for one in context.rejections] == [first]
    assert [one.proposal for one in context.verdicts] == [second]


def test_a_rule_that_wants_a_file_is_refused_before_anything_of_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "thief.py"
    path.write_text(THIEVING_RULE)
    with pytest.raises(UserError, match=r"thief\.py.*6"):
        try_rule(path, tmp_path / "project", preset=tiny())
    assert not (tmp_path / "project").exists()


def test_a_full_disk_while_the_report_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset, notes = tiny(**ONE_TASK), Notes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "report.html")

    with monkeypatch.context() as patch:
        patch.setattr("archer.report.write", full)
        with pytest.raises(UserError, match=r"report\.html cannot be written: No space left on device"):
            bench(["softmax"], tmp_path, preset=preset, resources=PLAIN)
    result = bench(["softmax"], tmp_path, preset=preset, watcher=notes, resources=PLAIN)
    assert (notes.known, notes.trained) == (2, [])
    assert (result.cycle.id, result.cycle.state) == ("0001", "finished")


def test_a_full_disk_where_a_training_process_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset, mkdir = tiny(**ONE_TASK), Path.mkdir

    def full(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "checkpoints":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        mkdir(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", full)
        with pytest.raises(UserError, match=r"checkpoints cannot be written"):
            bench(["softmax"], tmp_path, preset=preset, resources=PLAIN)
    assert bench(["softmax"], tmp_path, preset=preset, resources=PLAIN).cycle.state == "finished"


@pytest.mark.parametrize(
    ("resources", "message"),
    [(Resources(device="gpu7"), "no device 'gpu7'"), (Resources(data_dir=Path("nowhere")), "nowhere")],
)
def test_resources_that_are_not_there_are_refused_first(
    tmp_path: Path, resources: Resources, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "project", preset=tiny(), resources=resources)
    assert not (tmp_path / "project").exists()

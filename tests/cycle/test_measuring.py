"""Seeds until decided, winners again, one verdict for a cycle: in made-up worlds, and with real training."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.cycle.tiny import RULE_IN_SIX_LINES, SETTINGS, check_integrity, finish, start, tiny

from archer.cycle import Watcher, bench, try_rule
from archer.cycle.again import bench_again
from archer.cycle.laboratory import open_laboratory
from archer.cycle.measuring import Judging
from archer.cycle.reach import Reach
from archer.cycle.reading import compare_known
from archer.cycle.training import Resources, TimeIsUp, run_record
from archer.errors import UserError
from archer.fleet.launch import Crash
from archer.fleet.run import Run
from archer.ledger import Ledger, import_runs, write_runs
from archer.ledger.records import TASKS, RunRecord
from archer.verify import verify_contained

PLAIN = Resources(walls=False)
RANKING = tiny(ranks=True, seeds=3)
World = Callable[[Run], float]


@dataclass
class Heard(Watcher):
    """Writes down phases and trained runs; presses Ctrl-C after `patience` runs."""

    patience: int = 10_000
    phases: list[tuple[str, str]] = field(default_factory=list)
    trained: list[RunRecord] = field(default_factory=list)

    def phase(self, name: str, detail: str = "") -> None:
        self.phases.append((name, detail))

    def finished(self, record: RunRecord) -> None:
        self.trained.append(record)
        if len(self.trained) == self.patience:
            raise KeyboardInterrupt

    def places(self) -> set[tuple[str, str, int]]:
        return {(one.rule, one.task, one.seed) for one in self.trained}


def wobble(run: Run) -> float:
    """A little noise that belongs to the run."""
    return 0.002 * (int(run.key[:4], 16) % 7 - 3) / 3


VERIFIED: dict[tuple[Any, ...], Any] = {}


def verified_once(source: str, name: str, **asked: Any) -> Any:
    """The real verification, which takes seconds, once for each rule of these tests."""
    place = (source, name, asked["lengths"], asked["chunk_size"])
    if place not in VERIFIED:
        VERIFIED[place] = verify_contained(source, name, **asked)
    return VERIFIED[place]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, counted_here: None) -> Callable[[World], None]:
    """Instead of training: what a run scores, said by a function. Everything else is real."""

    def make(score: World) -> None:
        def train(
            ledger: Ledger,
            project: object,
            runs: Iterable[Run],
            preset: str,
            given: Resources,
            watcher: Watcher,
            standby: object = None,
        ) -> tuple[RunRecord, ...]:
            wanted = {run.key: run for run in runs}
            missing = [run for run in wanted.values() if not ledger.has_run(run.key)]
            for run in missing:
                value = min(1.0, max(0.0, score(run)))
                scores = {"mad": value, "held_out": value, "validation": value}
                made = run_record(run, Crash(run.key, ""), preset)
                made = replace(made, status="finished", epochs=1, parameters=10, **scores)
                ledger.add_run(made)
                watcher.finished(made)
            return ledger.runs(keys=list(wanted))

        monkeypatch.setattr("archer.cycle.laboratory.train_missing", train)

    monkeypatch.setattr("archer.verify.verify_contained", verified_once)
    return make


@pytest.fixture
def forgets(tmp_path: Path) -> Path:
    path = tmp_path / "forgets.py"
    path.write_text(RULE_IN_SIX_LINES)
    return path


def winning(level_again: float) -> World:
    """`forgets` wins with the preset's seeds; with fresh seeds it has this level. All others have 0.5."""

    def score(run: Run) -> float:
        level = (0.9 if run.seed < 1000 else level_again) if run.subject.name == "forgets" else 0.5
        return level + wobble(run)

    return score


def test_a_winner_is_trained_again_with_fresh_seeds(world: Any, forgets: Path, tmp_path: Path) -> None:
    world(winning(0.85))
    heard = Heard()
    result = try_rule(forgets, tmp_path / "project", preset=RANKING, watcher=heard)
    verdict = result.verdict
    assert verdict is not None
    assert verdict.confirmation is not None
    assert (verdict.confirmation.claim, verdict.confirmation.confirmed) == ("all six", True)
    assert verdict.confirmation.seeds == (1000, 1001, 1002)
    assert verdict.against_reference.beats_on_all
    assert verdict.against_reference.mean.difference == pytest.approx(0.4, abs=0.01)
    assert verdict.confirmation.comparison.mean.difference == pytest.approx(0.35, abs=0.01)
    assert verdict.summary.startswith(
        "forgets beats gated_delta_net on all six tasks: confirmed with 3 fresh"
    )
    assert "+0.350 [" in verdict.summary
    assert "+0.400 [" in verdict.summary
    fresh = {(rule, seed) for rule, _, seed in heard.places() if seed >= 1000}
    assert fresh == {(rule, seed) for rule in ("forgets", "gated_delta_net") for seed in (1000, 1001, 1002)}
    assert [name for name, _ in heard.phases[-4:]] == ["train", "confirm", "judge", "report"]
    keys = {one.key for one in heard.trained if one.seed >= 1000}
    assert set(verdict.confirmation.run_keys) == keys
    assert not keys & set(result.cycle.run_keys), "the verdict's first comparison rests on other runs"
    assert result.confirmations == (verdict.confirmation,)
    with Ledger.in_folder(tmp_path / "project", read_only=True) as ledger:
        assert ledger.verdicts() == (verdict,)


def test_luck_is_not_confirmed(world: Any, forgets: Path, tmp_path: Path) -> None:
    world(winning(0.5))
    verdict = try_rule(forgets, tmp_path / "project", preset=RANKING).verdict
    assert verdict is not None
    assert verdict.confirmation is not None
    assert not verdict.confirmation.confirmed
    assert not verdict.against_reference.beats_on_all
    assert {task.word for task in verdict.against_reference.tasks} == {"better"}, "the first pass is shown"
    assert verdict.summary.startswith(
        "forgets is not confirmed to beat gated_delta_net on all six tasks: not"
    )
    assert "better on 0 of 6" in verdict.summary


@pytest.mark.parametrize(
    ("ranks", "confirm", "asked"), [(False, None, False), (False, True, True), (True, False, False)]
)
def test_whether_winners_are_trained_again(
    world: Any, forgets: Path, tmp_path: Path, ranks: bool, confirm: bool | None, asked: bool
) -> None:
    world(winning(0.9))
    preset = tiny(ranks=ranks, seeds=3)
    found = try_rule(forgets, tmp_path / "project", preset=preset, judging=Judging(confirm=confirm))
    assert found.verdict is not None
    assert (found.verdict.confirmation is not None) == asked
    with Ledger.in_folder(tmp_path / "project", read_only=True) as ledger:
        assert any(run.seed >= 1000 for run in ledger.runs()) == asked


def test_interrupted_while_a_winner_is_trained_again(world: Any, forgets: Path, tmp_path: Path) -> None:
    world(winning(0.9))
    first, rest = Heard(patience=3 * 3 * len(SETTINGS) + 5), Heard()
    with pytest.raises(KeyboardInterrupt):
        try_rule(forgets, tmp_path / "project", preset=RANKING, watcher=first)
    result = try_rule(forgets, tmp_path / "project", preset=RANKING, watcher=rest)
    assert (result.cycle.id, result.cycle.state) == ("0001", "finished")
    assert not first.places() & rest.places(), "nothing is trained twice"
    assert len(rest.trained) == 2 * 3 * len(SETTINGS) - 5
    assert result.confirmations[0].seeds == (1000, 1001, 1002)


def test_a_cycle_that_was_killed_after_its_verdict_has_one_verdict(
    world: Any, forgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world(winning(0.9))

    def killed(*_: Any, **__: Any) -> None:
        time.sleep(1.1)  # so that a second verdict would bear another second
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("archer.cycle.laboratory.Laboratory.report", killed)
        with pytest.raises(KeyboardInterrupt):
            try_rule(forgets, tmp_path / "project", preset=RANKING)
    result = try_rule(forgets, tmp_path / "project", preset=RANKING)
    assert (result.cycle.id, result.cycle.state) == ("0001", "finished")
    with Ledger.in_folder(tmp_path / "project", read_only=True) as ledger:
        assert ledger.verdicts() == (result.verdict,)


def test_the_same_rule_tried_again_is_judged_again(world: Any, forgets: Path, tmp_path: Path) -> None:
    world(winning(0.9))
    first, second = (
        try_rule(forgets, tmp_path / "project", preset=RANKING, judging=judging)
        for judging in (None, Judging(until_decided=5))
    )
    assert first.verdict is not None
    assert second.verdict is not None
    assert (first.cycle.id, second.cycle.id) == ("0001", "0002")
    assert not first.verdict.against_reference.looks
    assert second.verdict.against_reference.looks


def open_on(*tasks: str) -> World:
    """hybrid is clearly better everywhere; softmax too, but on these tasks it is sometimes better, sometimes
    worse."""

    def score(run: Run) -> float:
        if run.subject.name == "softmax" and run.setting.task in tasks:
            return 0.1 + (0.09 if run.seed % 2 else -0.09)
        return (0.1 if run.subject.name == "gated_delta_net" else 0.95) + wobble(run)

    return score


def test_seeds_are_added_only_where_it_is_open(world: Any, tmp_path: Path) -> None:
    world(open_on("Memorize", "Compress"))
    heard = Heard()
    result = bench(
        ["hybrid", "softmax"], tmp_path, preset=tiny(ranks=True), judging=Judging(8, False), watcher=heard
    )
    clear, still_open = result.comparisons
    assert {task.word for task in clear.tasks} == {"better"}
    assert {task.task for task in still_open.tasks if task.word == "undecided"} == {"Memorize", "Compress"}
    last = {one.candidate: one.looks[-1].seeds for one in result.comparisons}
    assert last["softmax"] == 8
    assert last["hybrid"] < 8
    for comparison in result.comparisons:
        for task in comparison.tasks:
            needed = next((x.seeds for x in comparison.looks if task.task in x.decided), 8)
            own = {
                seed
                for rule, name, seed in heard.places()
                if (rule, name) == (comparison.candidate, task.task)
            }
            assert own == set(range(needed)), f"{comparison.candidate} on {task.task}"
            assert task.seeds == needed
    said = [detail for name, detail in heard.phases if name == "train"]
    assert said[-1] == "still open on Compress, Memorize: seeds 5, 6, 7 of softmax, gated_delta_net"
    frame = result.frame()
    assert frame.loc["softmax"].notna().all(), "tasks with fewer seeds have scores too"


def test_until_decided_goes_on_where_it_was_interrupted(world: Any, tmp_path: Path) -> None:
    world(open_on("Memorize"))
    more = {"preset": tiny(), "judging": Judging(3)}
    whole, parts = Heard(), [Heard(patience=n) for n in (3, 11, 2)] + [Heard()]
    straight = bench(["softmax"], tmp_path / "straight", watcher=whole, **more)
    for part in parts[:-1]:
        with pytest.raises(KeyboardInterrupt):
            bench(["softmax"], tmp_path / "broken", watcher=part, **more)
    broken = bench(["softmax"], tmp_path / "broken", watcher=parts[-1], **more)
    assert broken.comparisons == straight.comparisons
    assert broken.cycle.id == "0001"
    trained = [one.key for part in parts for one in part.trained]
    assert sorted(trained) == sorted(one.key for one in whole.trained)
    assert len(set(trained)) == len(trained)


def test_no_seed_is_trained_where_there_is_no_room(world: Any, tmp_path: Path) -> None:
    """Both rules have solved every task but Memorize, where they differ by less than can be told."""
    world(lambda run: 0.5 + 5 * wobble(run) if run.setting.task == "Memorize" else 0.9993)
    heard = Heard()
    result = bench(["softmax"], tmp_path, preset=tiny(ranks=True), judging=Judging(3), watcher=heard)
    (comparison,) = result.comparisons
    assert {task for _, task, seed in heard.places() if seed > 0} == {"Memorize"}
    assert {task.no_room for task in comparison.tasks if task.task != "Memorize"} == {"both"}
    assert [look.open for look in comparison.looks] == [TASKS, ("Memorize",), ("Memorize",)]
    (markdown,) = [path for path in result.reports if path.suffix == ".md"]
    assert "which leaves no room on 5 of 6" in markdown.read_text()


def test_other_words_begin_another_cycle(world: Any, tmp_path: Path) -> None:
    world(open_on("Memorize"))
    with pytest.raises(KeyboardInterrupt):
        bench(["softmax"], tmp_path, preset=tiny(), judging=Judging(3), watcher=Heard(patience=2))
    assert bench(["softmax"], tmp_path, preset=tiny()).cycle.id == "0002"
    assert bench(["softmax"], tmp_path, preset=tiny(), judging=Judging(3)).cycle.id == "0001"


def test_a_bench_knows_where_two_rules_are_one_function(world: Any, tmp_path: Path) -> None:
    """Sequences of one chunk: decay and delta_net are one function there, whatever their runs say."""
    world(lambda run: 0.9 if run.subject.name == "decay" else 0.2)
    preset = tiny(ranks=True, chunk_size=64, seeds=2)
    result = bench(["decay", "softmax"], tmp_path, preset=preset, reference="delta_net", resources=PLAIN)
    same, other = result.comparisons
    assert {(task.difference, task.word) for task in same.tasks} == {(0.0, "same")}
    assert all(task.exact_settings == task.settings == 1 for task in same.tasks)
    assert {task.exact_settings for task in other.tasks} == {0}


@pytest.mark.parametrize(("level_again", "confirmed"), [(0.85, True), (0.5, False)])
@pytest.mark.parametrize("judging", [Judging(), Judging(until_decided=3)])
def test_a_bench_is_judged_again_from_its_runs(
    world: Any, forgets: Path, tmp_path: Path, judging: Judging, level_again: float, confirmed: bool
) -> None:
    """The same looks, the same exact settings, the same fresh seeds; nothing is trained."""
    world(winning(level_again))
    project = tmp_path / "project"
    rules = [str(forgets), "gated_delta_net", "decay"]
    preset = tiny(ranks=True, chunk_size=64, seeds=3)
    result = bench(rules, project, preset=preset, reference="delta_net", judging=judging)
    assert any(task.exact_settings for one in result.comparisons for task in one.tasks)
    assert [one.confirmed for one in result.confirmations] == [confirmed]
    world(lambda run: pytest.fail(f"{run.key} is trained"))
    with open_laboratory(project, preset, judging=judging) as lab:
        (cycle,) = lab.ledger.cycles()
        assert bench_again(lab, cycle, result.runs) == (result.comparisons, result.confirmations)
        run = next(run for run in result.runs if run.rule == "delta_net")
        assert bench_again(lab, cycle, [run]) == ((), ())


def test_a_bench_whose_winner_was_never_trained_again(world: Any, forgets: Path, tmp_path: Path) -> None:
    world(winning(0.9))
    project = tmp_path / "project"
    result = bench([str(forgets)], project, preset=RANKING, judging=Judging(confirm=False))
    with open_laboratory(project, RANKING) as lab:
        assert lab.confirms
        assert bench_again(lab, result.cycle, result.runs) == (result.comparisons, ())


def test_the_reference_of_a_bench_may_be_a_file(world: Any, forgets: Path, tmp_path: Path) -> None:
    world(winning(0.9))
    result = bench(["decay"], tmp_path / "project", preset=RANKING, reference=str(forgets))
    assert [(one.candidate, one.baseline) for one in result.comparisons] == [("decay", "forgets")]


def test_a_cycle_and_the_table_print_one_noise(world: Any, forgets: Path, tmp_path: Path) -> None:
    """Of what was trained, whoever asks."""
    world(winning(0.9))
    settings = (*SETTINGS[:3], replace(SETTINGS[3], length=8), *SETTINGS[4:])
    project, preset = tmp_path / "project", tiny(ranks=True, seeds=3, settings=settings)
    first = bench(["decay", "delta_net"], project, preset=preset)
    tried = try_rule(forgets, project, preset=preset)
    with Ledger.in_folder(project, read_only=True) as ledger:
        floors = Reach(ledger, ledger.runs()).noise()
    printed = {task: floors[task].score_sd(1) for task in TASKS}
    assert tried.verdict is not None
    assert tried.verdict.noise_floor == pytest.approx(printed)
    assert first.facts is not None
    assert set(first.facts.floors) == set(TASKS)


def test_an_impossible_number_of_seeds_is_refused() -> None:
    with pytest.raises(UserError, match="expected 1 to 999"):
        Judging(until_decided=0)


def test_the_time_ends_before_a_winner_is_trained_again(
    world: Any, forgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world(winning(0.9))
    from archer.cycle import laboratory

    made_up = laboratory.train_missing

    def short(ledger: Ledger, project: Any, runs: Any, *rest: Any) -> tuple[RunRecord, ...]:
        if any(run.seed >= 1000 for run in runs):
            raise TimeIsUp((), len(runs))
        return made_up(ledger, project, runs, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(laboratory, "train_missing", short)
        paused = try_rule(forgets, tmp_path / "project", preset=RANKING)
    assert (paused.cycle.state, paused.verdict) == ("running", None)
    result = try_rule(forgets, tmp_path / "project", preset=RANKING)
    assert (result.cycle.id, result.cycle.state) == ("0001", "finished")
    assert result.confirmations[0].confirmed


def test_with_real_training_seeds_are_added(tmp_path: Path) -> None:
    preset, heard = tiny(settings=SETTINGS[2:4]), Heard()
    result = bench(["softmax"], tmp_path, preset=preset, judging=Judging(2), resources=PLAIN, watcher=heard)
    (comparison,) = result.comparisons
    assert [look.seeds for look in comparison.looks] == [1, 2]
    open_tasks = comparison.looks[1].open
    assert open_tasks, "one seed of sixty-four examples decides nothing"
    assert set(open_tasks) <= {"Fuzzy Recall", "Memorize"}
    second = {task for _, task, seed in heard.places() if seed == 1}
    assert second == set(open_tasks)
    assert result.cycle.state == "finished"


@pytest.mark.slow
def test_killed_between_its_looks_the_real_command_goes_on(tmp_path: Path) -> None:
    """kill -9 in the second look; the same command ends the same cycle and trains no finished run again."""
    asked = ("bench", "softmax", "--preset", "tiny", "--project", "project", "--until-decided")
    process = start(*asked, "--max-seeds", "2", folder=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if "still open on" in line:
            break
    else:
        pytest.fail("it never looked")
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    check_integrity(tmp_path / "project")
    with Ledger.in_folder(tmp_path / "project", read_only=True) as ledger:
        before = {run.key: run for run in ledger.runs()}
    assert len(before) >= 2 * len(SETTINGS)
    ended = finish(*asked, "--max-seeds", "2", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "continuing cycle 0001" in ended.stderr
    said = " ".join(ended.stdout.split())
    assert "softmax against gated_delta_net: seeds were added where it was open" in said
    assert "seeds are added until decided, looks planned after 1, 2 seeds" in said
    with Ledger.in_folder(tmp_path / "project", read_only=True) as ledger:
        after = {run.key: run for run in ledger.runs()}
        assert [cycle.state for cycle in ledger.cycles()] == ["finished"]
    assert {key: after[key] for key in before} == before
    assert {run.seed for run in after.values()} == {0, 1}


def test_a_later_cycle_says_what_compare_says_of_its_runs(world: Any, tmp_path: Path) -> None:
    """Other rules' seeds, trained in an earlier cycle, tell how much a score moves: two rules of two seeds
    alone had another interval in the cycle than `archer compare` gave them."""
    world(lambda run: 0.5 + 40 * wobble(run) + 0.1 * (run.subject.name == "decay"))
    project = tmp_path / "project"
    more: dict[str, Any] = {"preset": RANKING, "judging": Judging(confirm=False)}
    bench(["momentum", "softmax", "hybrid"], project, **more)
    found = bench(["decay"], project, **more)
    with open_laboratory(project, RANKING) as lab:
        ledger = lab.ledger
        reach = Reach(ledger, ledger.runs(preset=RANKING.name))
        (compared,) = compare_known(reach, [("decay", "gated_delta_net")], RANKING.name)
        (own,) = compare_known(
            Reach(ledger, [run for run in reach.runs if run.rule in ("decay", "gated_delta_net")]),
            [("decay", "gated_delta_net")],
            RANKING.name,
        )
    (said,) = found.comparisons
    assert [(t.low, t.high, t.word) for t in said.tasks] == [(t.low, t.high, t.word) for t in compared.tasks]
    assert [t.low for t in said.tasks] != [t.low for t in own.tasks]


def test_runs_that_a_project_began_with_tell_the_noise_too(world: Any, tmp_path: Path) -> None:
    """Imported runs belong to no cycle, and `archer compare` counts them: a campaign that began with a table
    of runs called a task better that `archer compare` of the same ledger left open."""
    world(lambda run: 0.5 + 40 * wobble(run) + 0.1 * (run.subject.name == "decay"))
    more: dict[str, Any] = {"preset": RANKING, "judging": Judging(confirm=False)}
    bench(["momentum", "softmax", "hybrid"], tmp_path / "elsewhere", **more)
    with Ledger.in_folder(tmp_path / "elsewhere", read_only=True) as ledger:
        earlier = [replace(run, finished_at="2026-01-01T00:00:00+00:00") for run in ledger.runs()]
    write_runs(tmp_path / "runs.csv", earlier)
    (tmp_path / "project").mkdir()
    with Ledger.in_folder(tmp_path / "project") as ledger:
        import_runs(ledger, tmp_path / "runs.csv")
    (said,) = bench(["decay"], tmp_path / "project", **more).comparisons
    (known,) = bench(["decay"], tmp_path / "elsewhere", **more).comparisons
    (own,) = bench(["decay"], tmp_path / "alone", **more).comparisons
    assert [(t.low, t.high, t.word) for t in said.tasks] == [(t.low, t.high, t.word) for t in known.tasks]
    assert [t.low for t in said.tasks] != [t.low for t in own.tasks]

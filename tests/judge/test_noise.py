"""Noise floors recover the components that made the runs, and say what they rest on."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.judge.runs import make_run, make_runs

from archer.cycle.reach import Reach
from archer.cycle.reading import table_ledger
from archer.errors import UserError
from archer.judge import (
    NoiseFloor,
    estimate_variance,
    history_noise_floor,
    noise,
    noise_floor,
    shipped_variance,
)
from archer.judge.cells import Cells
from archer.judge.noise import swing, write_variance
from archer.ledger.history import HistoryRow, HistoryTable, builtin_history
from archer.ledger.records import TASKS, RunRecord
from archer.ledger.runs_csv import write_runs
from archer.mad.settings import SETTINGS


def components(
    rules: str, seeds: int, *, cell: float, data: float, shared: float, settings: int = 4
) -> list[RunRecord]:
    """Runs of the model of `archer.judge.noise` with known standard deviations."""
    generator = np.random.default_rng(5)
    drawn: dict[object, float] = {}

    def effect(key: object, sd: float) -> float:
        return drawn.setdefault(key, float(generator.normal(0, sd)))

    def score(rule: str, task: str, setting: str, seed: int) -> float:
        level = 0.3 + 0.02 * rules.index(rule)
        common = effect((setting, seed), data) + effect((rule, task, seed), shared)
        return level + common + float(generator.normal(0, cell))

    return make_runs(rules, score, settings=settings, seeds=range(seeds))


def test_components_are_recovered() -> None:
    floors = estimate_variance(components("abcdefgh", 12, cell=0.02, data=0.05, shared=0.03))
    assert set(floors) == set(TASKS)

    def typical(field: str) -> float:
        return float(np.sqrt(np.mean([getattr(floor, field) ** 2 for floor in floors.values()])))

    # What a rule and seed share over settings is in the residual of each setting as well.
    assert typical("cell_sd") == pytest.approx(np.hypot(0.02, 0.03), rel=0.1)
    assert typical("seed_sd") == pytest.approx(0.05, rel=0.15)
    assert typical("sd") ** 2 == pytest.approx((0.02**2 + 0.05**2) / 4 + 0.03**2, rel=0.35)


def test_the_variance_of_a_difference_of_task_scores_is_what_it_is_in_truth() -> None:
    floors = estimate_variance(components("abcdefgh", 12, cell=0.02, data=0.05, shared=0.03))
    expected = 2 * (0.02**2 / 4 + 0.03**2)
    found = np.mean([floor.difference_variance(4, 4) for floor in floors.values()])
    assert found == pytest.approx(expected, rel=0.2)


def test_degrees_of_freedom_are_those_of_rule_and_seed() -> None:
    floors = estimate_variance(components("abc", 4, cell=0.02, data=0.0, shared=0.0, settings=2))
    assert floors["Memorize"].degrees_of_freedom == pytest.approx(2 * (3 - 1) * (4 - 1))


def test_a_single_rule_tells_its_total_noise() -> None:
    runs = make_runs("a", lambda rule, task, setting, seed: [0.5, 0.54, 0.52][seed])
    floor = estimate_variance(runs)["Memorize"]
    assert floor.cell_sd == pytest.approx(0.02)
    assert floor.degrees_of_freedom == pytest.approx(2)


def test_no_repeats_no_estimate() -> None:
    assert estimate_variance(make_runs("abc", lambda *_: 0.5, seeds=(0,))) == {}
    assert estimate_variance([]) == {}


def test_failed_runs_do_not_enter_the_noise() -> None:
    runs = make_runs("a", lambda rule, task, setting, seed: [0.5, 0.54, 0.52][seed])
    broken = [make_run("a", task, f"{task} 0", 3, None, status="diverged") for task in TASKS]
    assert estimate_variance([*runs, *broken]) == estimate_variance(runs)


def test_copies_that_stand_in_for_runs_repeat_nothing() -> None:
    """Else a rule that is its parent in a setting would show that the noise is zero."""
    parent = make_runs("ab", lambda rule, task, setting, seed: 0.5 + 0.01 * seed * (rule == "a"), settings=2)
    copies = [replace(run, rule="child", key=f"{run.key}=") for run in parent if run.rule == "a"]
    assert estimate_variance([*parent, *copies]) == estimate_variance(parent)
    some = [run for run in copies if run.seed < 2]  # of other seeds than all: not equal to the last bit
    assert estimate_variance([*parent, *some]) == estimate_variance(parent)
    trained = [replace(run, key=run.key.rstrip("=")) for run in copies]
    assert estimate_variance([*parent, *trained]) == estimate_variance(parent)  # to the last bit
    other = [replace(run, held_out=(run.held_out or 0) + 0.001 * run.seed) for run in trained]
    assert estimate_variance([*parent, *other]) != estimate_variance(parent)


def test_one_function_with_one_seed_moves_less_than_another_seed_moves_it() -> None:
    """Archer's own runs: why rules that are one function do not measure the noise of a comparison."""
    table = Path(__file__).parents[2] / "results" / "quick.csv"
    classes = {"Compress": ("delta_net", "decay", "momentum"), "Memorize": ("softmax", "softmax_decay")}
    with table_ledger(table) as ledger:
        reach = Reach(ledger, ledger.runs())
        trained, floors = Cells(reach.runs, "quick"), reach.noise()
        for task, rules in classes.items():
            (setting,) = trained.settings(task)
            assert all(setting in reach.same(rules[0], rule) for rule in rules[1:])
            cells = [[trained.score(rule, task, setting, seed) for seed in range(3)] for rule in rules]
            scores, floor = np.array(cells), floors[task]
            assert floor.swing is not None
            by_seeds = floor.cell_sd * swing(float(scores.mean())) / floor.swing
            assert 0 < np.sqrt(scores.var(axis=0, ddof=1).mean()) < 0.5 * by_seeds


def test_excluded_rules_do_not_vouch_for_themselves() -> None:
    runs = components("abcd", 4, cell=0.02, data=0.0, shared=0.0)
    loud = [replace(run, held_out=float(run.seed % 2)) if run.rule in "cd" else run for run in runs]
    assert noise_floor(loud, exclude=frozenset("cd"))["Memorize"].cell_sd < 0.05
    assert noise_floor(loud)["Memorize"].cell_sd > 0.2


def test_heterogeneity_tells_alike_from_unlike() -> None:
    generator = np.random.default_rng(2)
    alike = dict.fromkeys("abcdefghij", 0.02)
    unlike = {rule: 0.001 * 3**index for index, rule in enumerate("abcdef")}

    def heterogeneity(sds: dict[str, float]) -> float:
        runs = make_runs(
            sds, lambda rule, *_: float(generator.normal(0.5, sds[rule])), settings=3, seeds=range(6)
        )
        found = [floor.heterogeneity for floor in estimate_variance(runs).values()]
        assert None not in found
        return float(np.median(found))  # type: ignore[arg-type]

    assert heterogeneity(alike) > 20
    assert heterogeneity(unlike) < 3


def test_weight_falls_with_either_uncertainty() -> None:
    sure = NoiseFloor("Memorize", 0.02, 50, "x", heterogeneity=50)
    assert sure.weight() == pytest.approx(25)
    assert replace(sure, degrees_of_freedom=3).weight() < 3
    assert replace(sure, heterogeneity=None).weight() < 4
    assert replace(sure, provisional=True).weight() == 1


def test_measured_noise_replaces_the_shipped_only_when_it_rests_on_enough() -> None:
    def cells(sd: float, seeds: int) -> list[RunRecord]:
        return make_runs("a", lambda rule, task, setting, seed: 0.5 + sd * (-1) ** seed, seeds=range(seeds))

    assert noise_floor(cells(0.1, 2))["Memorize"] == shipped_variance()["Memorize"]
    assert noise_floor(cells(0.1, 4))["Memorize"].cell_sd > 0.1
    provisional = [task for task, floor in shipped_variance().items() if floor.provisional]
    assert all(noise_floor(cells(0.1, 2))[task].cell_sd > 0.1 for task in provisional)


def test_several_presets_must_be_named() -> None:
    runs = make_runs("a", lambda *_: 0.5) + make_runs("a", lambda *_: 0.5, preset="quick")
    with pytest.raises(UserError, match="full, quick"):
        noise_floor(runs)
    assert set(noise_floor(runs, preset="quick")) == set(TASKS)


def test_history_floor_is_that_of_rules_md() -> None:
    table = builtin_history()[0]
    names = ["adam", "decay", "error_gated", "layernorm", "momentum", "rmsprop", "topk_error"]
    models = [row.model for row in table.rows if any(f"4layer_{name}" in row.model for name in names)]
    group = {"Memorize": ["delta_net_4layer", *models]}
    floor = history_noise_floor(table, group, settings={"Memorize": 6})["Memorize"]
    assert len(models) == 7
    assert floor.sd == pytest.approx(0.020, abs=0.001)
    assert floor.degrees_of_freedom == 7
    assert floor.cell_sd == pytest.approx(floor.sd * np.sqrt(6))


def test_history_floor_needs_two_models() -> None:
    table = HistoryTable("t", Path("t"), (HistoryRow("a", dict.fromkeys(TASKS, 0.5)),))
    assert history_noise_floor(table, {"Memorize": ["a", "b"]}) == {}


def test_variance_file_round_trip_and_completeness(tmp_path: Path) -> None:
    floors = shipped_variance()
    assert set(floors) == set(TASKS)
    assert all(floor.source and floor.sd > 0 for floor in floors.values())
    write_variance(floors, tmp_path / "variance.json", "a note")
    assert (tmp_path / "variance.json").read_text().count('"source"') == 6


def test_the_variance_file_is_what_its_script_makes(tmp_path: Path) -> None:
    """The tasks that rest on the history; what runs say of the others changes as runs are added."""
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "variance.py"))
    script["write_variance"](script["from_history"](), tmp_path / "variance.json", script["NOTE"])
    made = json.loads((tmp_path / "variance.json").read_text(encoding="utf-8"))
    shipped = json.loads(Path(noise.__file__).with_name("variance.json").read_text(encoding="utf-8"))
    assert shipped["note"] == made["note"]
    for task, values in shipped["tasks"].items():
        if "fifteen_trials" in values["source"]:
            assert values == made["tasks"][task]
        else:
            assert " under " in values["source"]


def test_the_script_takes_each_task_from_where_it_was_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Repeated seeds on one task, the history for the rest: one function under several names says nothing."""
    generator = np.random.default_rng(1)

    def score(rule: str, task: str, setting: str, seed: int) -> float:
        return 0.5 + float(generator.normal(0, 0.03))

    full = make_runs(["delta_net", "softmax"], score, tasks=["Noisy Recall"], seeds=range(8))
    one = [
        make_run(rule, "Memorize", setting.name, 0, score(rule, "", "", 0), preset="full")
        for rule in ("delta_net", "decay", "momentum", "rmsprop", "softmax")
        for setting in SETTINGS
        if setting.task == "Memorize"
    ]
    old = [replace(run, rule_hash="old", finished_at="2020", held_out=0.0, key=f"{run.key}o") for run in full]
    baseline = make_runs(["softmax"], score, tasks=["Noisy Recall"], seeds=range(30), preset="baseline")
    write_runs(tmp_path / "runs.csv", [*old, *full, *one, *baseline])
    asked = ["variance.py", str(tmp_path / "runs.csv"), "--to", str(tmp_path / "variance.json")]
    monkeypatch.setattr("sys.argv", asked)
    script = Path(__file__).parents[2] / "benchmarks" / "variance.py"
    runpy.run_path(str(script), run_name="__main__")
    tasks = json.loads((tmp_path / "variance.json").read_text(encoding="utf-8"))["tasks"]
    assert list(tasks) == list(TASKS)
    assert tasks["Noisy Recall"]["source"] == "repeated seeds of 2 rules under full"
    assert tasks["Noisy Recall"]["cell_sd"] == pytest.approx(0.03, rel=0.5)
    assert not tasks["Noisy Recall"]["provisional"]
    assert all("fifteen_trials" in tasks[t]["source"] for t in TASKS if t != "Noisy Recall")
    said = capsys.readouterr().out.splitlines()
    assert "Noisy Recall: repeated seeds of 2 rules under full" in said
    assert json.loads(said[-1])["Memorize"] == round(tasks["Memorize"]["sd"], 4)


def test_noise_is_carried_to_the_level_at_which_rules_are_compared() -> None:
    """In proportion to p (1 - p): measured at 0.5 and at 0.99, the same noise on the scale of log odds."""
    moves = [-0.02, 0.0, 0.02]
    levels = {"a": 0.5, "b": 0.99}
    runs = make_runs(
        "ab", lambda rule, task, setting, seed: levels[rule] + moves[seed] * swing(levels[rule]) / 0.25
    )
    for rule in levels:
        floor = noise_floor([run for run in runs if run.rule == rule], shipped=False)["Memorize"]
        for level in levels.values():
            expected = 2 * (0.02 * swing(level) / 0.25) ** 2
            assert floor.difference_variance(1, 1, [swing(level)]) == pytest.approx(expected)
    assert shipped_variance()["Memorize"].difference_variance(1, 1, [swing(0.99)]) == pytest.approx(
        shipped_variance()["Memorize"].difference_variance(1, 1)
    )


def test_rules_whose_scores_are_equal_to_the_last_bit_are_one_computation() -> None:
    moves = {"a": [0.5, 0.52, 0.54], "b": [0.5, 0.52, 0.54], "c": [0.4, 0.45, 0.41]}
    runs = make_runs("abc", lambda rule, task, setting, seed: moves[rule][seed])
    assert estimate_variance(runs) == estimate_variance([run for run in runs if run.rule != "b"])

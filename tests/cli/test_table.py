"""`archer table`: scores from runs, and what is missing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli.program import archer, data, output, refusal
from tests.cli.project import CANDIDATE, EXACT, diverge, make_run, make_runs, write_project

from archer.ledger import Ledger, read_runs
from archer.ledger.records import TASKS, CurvePoint, RunRecord
from archer.mad.presets import PRESETS
from archer.rules import get_rule
from archer.verify.layer_cost import LayerSize, layer_costs


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("table") / "project", diverge("hybrid", "Fuzzy Recall"))


def rows_of(project: Path, *arguments: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data("table", "-p", project, "--csv", "-", *arguments))))


@pytest.mark.parametrize("columns", [80, 120])
def test_each_preset_has_a_table_with_every_rule_on_one_line(project: Path, columns: int) -> None:
    text = output("table", "-p", project, columns=columns)
    smoke, quick = text.split("quick: held-out scores")
    quick = quick.split("Cost")[0]
    assert "smoke ranks nothing" in smoke
    assert "ranks nothing" not in quick
    (line,) = [line for line in quick.splitlines() if line.startswith("hybrid")]
    scores = line.split()
    assert (scores[3], scores[7], scores[8]) == ("–", "–", "3")
    assert "Missing for hybrid: Fuzzy Recall: 3 diverged" in " ".join(quick.split())
    assert any(line.startswith("noise, 1 seed") for line in quick.splitlines())
    assert "that are one function on Memorize (Memorize)" in " ".join(smoke.split()), "not of these runs"
    assert "Learned from repeated seeds of 4 rules under quick" in " ".join(quick.split())


def test_a_terminal_too_narrow_for_a_table_cuts_no_figure_off(project: Path) -> None:
    """It breaks the lines of a page of 80 columns; Rich would end figures, and names, in an ellipsis."""
    for asked in (("table", "-p", project, "--preset", "quick"), ("history",), ("mad",)):
        assert archer(*asked, columns=60).stdout == output(*asked, columns=80)
    assert "…" not in output("history", columns=80)


@pytest.mark.parametrize("columns", [80, 99, 100, 110, 119, 120, 160])
def test_no_heading_and_no_number_is_cut(project: Path, columns: int) -> None:
    text = output("table", "-p", project, "--preset", "quick", columns=columns)
    assert "\u2026" not in text
    assert max(map(len, text.splitlines())) <= columns
    head = " ".join(text.split("\u2500")[0].split())
    for word in {word for task in TASKS for word in task.split()}:
        assert word in head


def test_cost_stands_beside_the_scores(project: Path) -> None:
    text = output("table", "-p", project, "--preset", "quick", columns=160)
    (line,) = [line for line in text.split("Cost")[1].splitlines() if line.startswith("gated_delta_net ")]
    counted = layer_costs([get_rule("gated_delta_net")], LayerSize(128, 4, 32))["gated_delta_net"]
    operations = f"{counted.operations_per_token:,.0f}"
    steps = sum(
        2 * -(-setting.train_examples // 128) for setting in PRESETS["quick"].settings
    )  # of two epochs
    speed = f"{6e3 / steps:.1f}"  # each run took a second
    assert line.split()[1:] == ["1,000", "2,048", "\u00d7", "4", operations, speed, "unknown"]
    row = {row["rule"]: row for row in rows_of(project, "--preset", "quick")}[CANDIDATE]
    assert (row["parameters"], row["state_per_head"], row["heads"]) == ("1000", "1024", "4")
    (part,) = json.loads(data("table", "-p", project, "--preset", "quick", "--json"))
    costs = {row["rule"]: row["cost"] for row in part["rules"]}
    assert costs["decay"]["operations_per_token"] == costs[CANDIDATE]["operations_per_token"]
    assert costs["decay"]["decoding_seconds"] == {}


def test_the_numbers_are_the_means_of_the_runs(project: Path) -> None:
    quick = {row["rule"]: row for row in rows_of(project, "--preset", "quick")}
    runs = make_runs()
    for task in TASKS:
        scores = [run.held_out for run in runs if (run.rule, run.task) == ("decay", task)]
        assert float(quick["decay"][task]) == pytest.approx(sum(filter(None, scores)) / 3)
    mean = sum(float(quick["decay"][task]) for task in TASKS) / 6
    assert float(quick["decay"]["Mean"]) == pytest.approx(mean)
    assert (quick["hybrid"]["Fuzzy Recall"], quick["hybrid"]["Mean"]) == ("", "")
    assert quick["hybrid"]["missing"].startswith("Fuzzy Recall: 3 diverged")


def test_where_a_rule_is_its_parent_the_parent_s_runs_count(project: Path) -> None:
    (part,) = json.loads(data("table", "-p", project, "--preset", "quick", "--json"))
    rules = {row["rule"]: row for row in part["rules"]}
    assert sorted(rules[CANDIDATE]["as_parent"]) == sorted(EXACT)
    assert rules[CANDIDATE]["missing"] == {}
    for task in ("Compress", "Memorize"):
        assert rules[CANDIDATE]["scores"][task] == rules["delta_net"]["scores"][task]


def test_a_verification_under_one_preset_says_nothing_of_another(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    shared = [setting for setting in PRESETS["full"].settings if setting.name in EXACT]
    extra = [make_run(CANDIDATE, setting, 0, 0.5, "full") for setting in PRESETS["full"].settings[:1]]
    base = [make_run("delta_net", setting, 0, 0.4, "full") for setting in PRESETS["full"].settings]
    with Ledger.in_folder(folder) as ledger:
        ledger.add_runs([*extra, *base])
    (part,) = json.loads(data("table", "-p", folder, "--preset", "full", "--json"))
    (row,) = [row for row in part["rules"] if row["rule"] == CANDIDATE]
    assert shared
    assert sorted(row["as_parent"]) == sorted(setting.name for setting in shared)
    assert row["scores"]["Noisy Recall"] is None


def test_an_edited_rule_stands_beside_its_earlier_version(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    with Ledger.in_folder(folder) as ledger:
        again = [replace(r, rule_hash="0ld" * 4, key=f"{r.key}/old") for r in make_runs(rules=("hybrid",))]
        ledger.add_runs(again)
    assert [row["rule"] for row in rows_of(folder, "--preset", "quick")].count("hybrid") == 2
    for asked in ((), ("--runs",)):
        assert "@0ld0ld" in output("table", "-p", folder, "--preset", "quick", *asked, columns=80)
    assert "fits 0 versions of hybrid" in refusal("compare", "hybrid@zz", "decay", "-p", folder)
    assert "hybrid@0ld" in output("compare", "hybrid@0ld", "hybrid", "-p", folder)


def test_runs_read_back(project: Path, tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    assert output("table", "-p", project, "--runs", "--csv", file) == ""
    with Ledger.in_folder(project, read_only=True) as ledger:
        assert {run.key for run in read_runs(file)} == {run.key for run in ledger.runs()}
    text = output("table", "-p", project, "--runs", "--preset", "quick", columns=80)
    assert "diverged" in text
    assert "84 runs, 81 finished" in text


def test_wrong_input(project: Path, tmp_path: Path) -> None:
    assert "Run `archer run` first" in refusal("table", "-p", tmp_path / "none")
    assert "project" in refusal("table", "-p", project.parent / "other").split("Projects there:")[1]
    assert "did you mean 'quick'" in refusal("table", "-p", project, "--preset", "quik")
    assert "no runs of preset 'full'" in refusal("table", "-p", project, "--preset", "full")
    assert "held_out" in refusal("table", "-p", project, "--select", "heldout")
    with Ledger.in_folder(tmp_path / "empty"):
        pass
    assert "no runs yet" in refusal("table", "-p", tmp_path / "empty")


def solve(rule: str, *tasks: str) -> Callable[[list[RunRecord]], list[RunRecord]]:
    """A rule's runs on these tasks reach the accuracy at which training stops, after 4 epochs and more."""

    def change(run: RunRecord) -> RunRecord:
        if run.rule != rule or run.task not in tasks:
            return run
        last = CurvePoint(4 + 2 * run.seed, 0.01, 0.01, 0.9994, 0.01, 0.9992)
        return replace(run, held_out=0.9992, validation=0.9994, epochs=last.epoch, curve=(last,))

    return lambda runs: [change(run) for run in runs]


def test_where_there_is_no_room_and_after_how_many_epochs(tmp_path: Path) -> None:
    full = ("Noisy Recall", "Selective Copy")
    folder = write_project(tmp_path / "project", solve("gated_delta_net", *full))
    asked = ("table", "-p", folder, "--preset", "quick")
    said = " ".join(output(*asked).split())
    assert "No room above gated_delta_net on Noisy Recall, Selective Copy: it is within" in said
    assert "cannot be reached under quick" in said
    assert "epochs until solved" not in said
    text = output(*asked, "--epochs", columns=80).split("quick: epochs until solved")[1]
    (line,) = [line for line in text.split("Cost")[0].splitlines() if line.startswith("gated_delta_net ")]
    assert line.split()[1:] == ["\u2013"] * 4 + ["4\u20138"] * 2
    assert "no test is made of it" in " ".join(text.split())
    (part,) = json.loads(data(*asked, "--json"))
    assert part["no_room"] == list(full)
    rules = {row["rule"]: row["epochs_until_solved"] for row in part["rules"]}
    assert rules["gated_delta_net"]["Selective Copy"] == [4, 6, 8]
    assert rules["delta_net"]["Selective Copy"] == [None] * 3
    assert "--epochs" in refusal(*asked, "--epochs", "--csv", "-")


def test_of_other_rules_and_of_unranked_presets_no_ceiling_is_said(tmp_path: Path) -> None:
    other = write_project(tmp_path / "other", solve("delta_net", "Noisy Recall"))
    assert "No room" not in output("table", "-p", other)
    smoke = output("table", "-p", write_project(tmp_path / "project"), "--preset", "smoke")
    assert "No room" not in smoke


def test_a_misspelt_preset_is_suggested_also_where_it_has_no_runs(tmp_path: Path) -> None:
    with Ledger.in_folder(tmp_path) as ledger:
        ledger.add_runs(make_runs("smoke", ("delta_net",)))
    assert "did you mean 'quick'" in refusal("table", "-p", tmp_path, "--preset", "quik")
    assert "no runs of preset 'quick'" in refusal("table", "-p", tmp_path, "--preset", "quick")

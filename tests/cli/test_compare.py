"""`archer compare` and `archer calibration`: what the judge says, from a real ledger."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli.program import archer, data, output, refusal
from tests.cli.project import CANDIDATE, diverge, make_run, make_runs, write_project

from archer.ledger import Ledger, write_runs
from archer.ledger.records import TASKS, RunRecord
from archer.mad.presets import PRESETS


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("compare") / "project", diverge("hybrid", "Fuzzy Recall"))


@pytest.mark.parametrize("columns", [80, 120])
def test_a_task_in_which_two_rules_are_one_function_has_no_difference(project: Path, columns: int) -> None:
    text = output("compare", CANDIDATE, "delta_net", "-p", project, columns=columns)
    lines = {line[:14].strip(): line for line in text.splitlines()}
    assert "one function" in lines["Memorize"]
    assert "one function" in lines["Compress"]
    assert "same" in lines["Memorize"]
    for task in ("Context Recall", "Fuzzy Recall", "Noisy Recall", "Selective Copy"):
        assert "better" in lines[task]


def test_a_built_in_rule_is_verified_against_its_parent(project: Path) -> None:
    (found,) = json.loads(data("compare", "decay", "delta_net", "-p", project, "--json"))
    assert found["ranks"] is True
    by_task = {line["task"]: line for line in found["tasks"]}
    assert [task for task in TASKS if by_task[task]["exact_settings"]] == ["Compress", "Memorize"]
    assert by_task["Memorize"]["difference"] == 0


def test_two_changes_of_one_parent_agree_where_both_are_it(project: Path) -> None:
    (found,) = json.loads(data("compare", "decay", CANDIDATE, "-p", project, "--json"))
    exact = [line["task"] for line in found["tasks"] if line["exact_settings"]]
    assert exact == ["Compress", "Memorize"]


def test_the_reference_adds_both_comparisons(project: Path) -> None:
    asked = ("compare", "decay", "delta_net", "--reference", "gated_delta_net", "-p", project, "--json")
    pairs = [(one["candidate"], one["baseline"]) for one in json.loads(data(*asked))]
    reference = "gated_delta_net"
    assert pairs == [("decay", "delta_net"), ("decay", reference), ("delta_net", reference)]


def test_a_rule_is_compared_with_another(project: Path) -> None:
    """Its mean had no seeds, and each task as many as were trained."""
    newest = next(run.rule_hash for run in make_runs() if run.rule == "decay")
    for other in ("decay", f"decay@{newest[:8]}"):
        assert "decay would be compared with itself" in refusal("compare", "decay", other, "-p", project)


def test_a_rule_is_compared_with_its_earlier_version(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    with Ledger.in_folder(folder) as ledger:
        first = [run for run in ledger.runs(preset="quick") if run.rule == "decay"]
        moved = [replace(run, key=f"{run.key}/0", rule_hash="0" * 8, finished_at="2025") for run in first]
        ledger.add_runs(moved)
    assert "A = decay, B = decay@0000, quick" in output("compare", "decay", "decay@0000", "-p", folder)


def test_diverged_runs_are_named_and_decide_nothing(project: Path) -> None:
    text = output("compare", "hybrid", "delta_net", "-p", project, columns=80)
    (line,) = [line for line in text.splitlines() if line.startswith("Fuzzy Recall")]
    assert line.split()[2:] == ["–", "0.509", "–", "–", "–", "undecided", "0"]
    assert "diverged at learning rate 0.001" in " ".join(text.split())


@pytest.mark.parametrize("columns", [80, 120])
def test_a_preset_that_ranks_nothing_judges_nothing(project: Path, columns: int) -> None:
    asked = ("compare", "delta_net", "gated_delta_net", "-p", project, "--preset", "smoke")
    text = output(*asked, columns=columns)
    assert "This preset ranks nothing" in text
    for task in (*TASKS, "Mean"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"{task} ")]
        assert "not judged" in line
        assert "[" in line  # the interval
    table = text.split("Cost")[0]
    for word in ("better", "worse", "same", "undecided", "decide it", "<0.001"):
        assert word not in table
    assert json.loads(data(*asked, "--json"))[0]["ranks"] is False


@pytest.mark.parametrize("columns", [80, 120])
def test_cost_stands_beside_the_differences(project: Path, columns: int) -> None:
    text = output("compare", CANDIDATE, "delta_net", "-p", project, columns=columns)
    costs = text.split("Cost")[1]
    for rule in (CANDIDATE, "delta_net"):
        (line,) = [line for line in costs.splitlines() if line.startswith(f"{rule} ")]
        assert line.split()[1:5] == ["1,000", "1,024", "\u00d7", "4"]
    assert "hybrid" not in costs
    said = "Parameters: of the whole model on Context Recall, the largest that these rules share."
    assert said in " ".join(costs.split())


def test_wrong_input(project: Path) -> None:
    assert "did you mean 'hybrid'" in refusal("compare", "hybrd", "delta_net", "-p", project)
    for margin in ("0", "nan", "inf"):
        assert "margin" in refusal("compare", "decay", "delta_net", "-p", project, "--margin", margin)


def test_without_runs_no_name_of_a_rule_is_called_wrong(tmp_path: Path) -> None:
    with Ledger.in_folder(tmp_path):
        pass
    assert "has no runs yet" in refusal("compare", "decay", "delta_net", "-p", tmp_path)
    write_runs(tmp_path / "runs.csv", [])
    assert refusal("compare", "decay", "delta_net", "--from", tmp_path / "runs.csv").endswith("has no runs\n")


def test_a_rule_that_was_never_trained_is_no_wrong_name(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    said = refusal("compare", "delta_net", "kda", "-p", folder)
    assert "kda: nowhere" in said
    assert "archer bench kda --preset" in said
    assert "unknown rule 'kda'" in refusal("compare", "delta_net", "kda@0123", "-p", folder)


def test_the_command_that_trains_what_is_missing_works(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "a project")
    said = refusal("compare", CANDIDATE, "delta_net", "-p", folder, "--preset", "smoke")
    command = shlex.split(said.partition("missing: ")[2])
    assert command == ["archer", "bench", CANDIDATE, "--preset", "smoke", "-p", str(folder)]
    begun = archer(*command[1:], "--budget-seconds", 0.01)
    assert begun.returncode == 5, begun.stderr


def test_what_is_missing_under_a_preset_of_another_width_is_asked_for_as_such(tmp_path: Path) -> None:
    folder, name = tmp_path / "project", "quick-width64-cosine"
    with Ledger.in_folder(folder) as ledger:
        ledger.add_runs(make_runs("quick", ("hybrid",)))
        ledger.add_runs([replace(run, preset=name) for run in make_runs("quick", ("decay",))])
    said = refusal("compare", "hybrid", "decay", "-p", folder, "--preset", name)
    assert "archer bench hybrid --preset quick --width 64 --schedule cosine -p" in said


def test_a_table_cannot_be_added_to(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    write_runs(table, [*make_runs("quick", (CANDIDATE,)), *make_runs("smoke", ("decay",))])
    said = refusal("compare", CANDIDATE, "decay", "--from", table, "--preset", "smoke")
    command = f"archer bench {CANDIDATE}.py decay --preset smoke"
    assert f"A table stays as it is. Train them in a project, and compare there: {command}" in said


def test_calibration(project: Path) -> None:
    text = output("calibration", "-p", project, columns=80)
    assert "structured search" in text
    rows = list(csv.DictReader(io.StringIO(data("calibration", "-p", project, "--csv", "-"))))
    assert [row["task"] for row in rows] == [*TASKS, "All"]
    values = json.loads(data("calibration", "-p", project, "--json"))
    assert values[-1]["coverage"] == pytest.approx(4 / 6)
    assert float(rows[-1]["mean_crps"]) == pytest.approx(values[-1]["mean_crps"])
    assert "structured search" in refusal("calibration", "-p", project, "--researcher", "structred search")


def test_calibration_of_two_researchers_gives_their_shares(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    assert "Of a budget" not in output("calibration", "-p", folder)
    with Ledger.in_folder(folder) as ledger:
        (proposal,), (verdict,) = ledger.proposals(), ledger.verdicts()
        ledger.add_proposal(replace(proposal, id="proposal-2", researcher="wild guesses"))
        far = tuple(replace(one, covered=False, crps=0.5) for one in verdict.predictions)
        ledger.add_verdict(replace(verdict, proposal="proposal-2", predictions=far))
    said = " ".join(output("calibration", "-p", folder).split())
    values = json.loads(data("calibration", "-p", folder, "--json"))
    shares = {value["researcher"]: value["share"] for value in values}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["wild guesses"] < shares["structured search"]
    listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    assert f"their records earn: {listed}." in said


def test_calibration_without_predictions(tmp_path: Path) -> None:
    with Ledger.in_folder(tmp_path / "empty"):
        pass
    assert "no prediction with an outcome" in refusal("calibration", "-p", tmp_path / "empty")


def solve(*tasks: str) -> Callable[[list[RunRecord]], list[RunRecord]]:
    """All runs on these tasks lie at the ceiling."""
    full = {"mad": 0.9993, "held_out": 0.9993, "validation": 0.9993}
    return lambda runs: [replace(run, **full) if run.task in tasks else run for run in runs]  # type: ignore[arg-type]


def test_a_ceiling_is_said(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project", solve("Noisy Recall", "Selective Copy"))
    asked = ("compare", "hybrid", "gated_delta_net", "-p", folder)
    text = output(*asked, columns=80)
    (line,) = [line for line in text.splitlines() if line.startswith("Noisy Recall ")][:1]
    assert "no room (+8)" in line
    assert "same" not in line
    said = " ".join(text.split())
    assert "within the margin of 1 on Noisy Recall and Selective Copy, which leaves no room on 2 of 6" in said
    assert "cannot be reached under quick" in said
    assert "the interval is what is possible with these scores" in said
    assert "they are the same after 11 of which none did" in said
    (found,) = json.loads(data(*asked, "--json"))
    assert [line["no_room"] for line in found["tasks"]] == ["", "", "", "", "both", "both"]
    tight = output(*asked, "--margin", "0.0001", columns=80)
    assert "no room" not in tight


def test_a_table_of_runs_is_read_like_a_project(project: Path, tmp_path: Path) -> None:
    """What the table does not say, where rules are one function, is known of its preset."""
    file = tmp_path / "runs.csv"
    output("table", "-p", project, "--preset", "quick", "--runs", "--csv", file)
    for pair in (("hybrid", "delta_net"), ("decay", "delta_net")):
        asked = ("compare", *pair, "--preset", "quick", "--json")
        assert json.loads(data(*asked, "--from", file)) == json.loads(data(*asked, "-p", project))
    rows = {}
    for where in (("--from", file), ("-p", project)):
        found = csv.DictReader(io.StringIO(data("table", "--preset", "quick", "--csv", "-", *where)))
        rows[where[0]] = {row["rule"]: row for row in found if row["rule"] != CANDIDATE}
    assert rows["--from"] == rows["-p"]
    assert "cannot be read" in refusal("compare", "hybrid", "delta_net", "--from", tmp_path / "none.csv")


def test_with_one_seed_it_is_said_whose_noise_the_intervals_take(project: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.csv"
    with Ledger.in_folder(project, read_only=True) as ledger:
        write_runs(file, [run for run in ledger.runs(preset="quick") if run.seed == 0])
    said = " ".join(output("compare", "hybrid", "gated_delta_net", "--from", file).split())
    assert "One seed shows no noise of its own. These intervals take it from: " in said
    assert "upper bound: spread of 8 models" in said
    assert "9 models of fifteen_trials that are one function on Memorize (Memorize)" in said
    assert "One seed" not in output("compare", "hybrid", "gated_delta_net", "-p", project)


def test_words_of_seeds_that_a_look_added_are_said_to_err_more_often(project: Path, tmp_path: Path) -> None:
    """Seeds that only some tasks have were added for what the others said; these words are of one look."""
    asked = ("compare", "hybrid", "gated_delta_net", "--from", tmp_path / "runs.csv")
    with Ledger.in_folder(project, read_only=True) as ledger:
        runs = [run for run in ledger.runs(preset="quick") if run.rule in ("hybrid", "gated_delta_net")]
    runs = [run for run in runs if run.held_out is not None and run.task != "Fuzzy Recall"]
    write_runs(tmp_path / "runs.csv", runs)
    assert "after a look" not in output(*asked)
    more = [replace(run, key=f"{run.key} more", seed=run.seed + 3) for run in runs if run.task == "Compress"]
    write_runs(tmp_path / "runs.csv", [*runs, *more])
    said = " ".join(output(*asked).split())
    assert "Tasks have 3 to 6 seeds. If some were added after a look at the others" in said
    assert "Let --until-decided add them" in said


def test_a_part_of_a_task_is_said_to_be_one(tmp_path: Path) -> None:
    """A mean over two of eleven settings is no score under the preset."""
    settings = [setting for setting in PRESETS["full"].settings if setting.task == "Compress"][:2]
    runs = [
        make_run(rule, setting, seed, score, "full")
        for rule, score in (("hybrid", 0.4), ("delta_net", 0.5))
        for setting in settings
        for seed in range(3)
    ]
    write_runs(tmp_path / "full.csv", runs)
    said = " ".join(output("compare", "hybrid", "delta_net", "--from", tmp_path / "full.csv").split())
    assert "Only a part of the settings of full is there: Compress 2 of 11. What is said" in said
    whole = [
        make_run(rule, one, 0, 0.5, "quick")
        for rule in ("hybrid", "decay")
        for one in PRESETS["quick"].settings
    ]
    write_runs(tmp_path / "quick.csv", whole)
    assert "Only a part" not in output("compare", "hybrid", "decay", "--from", tmp_path / "quick.csv")


@pytest.mark.parametrize("asked", [("compare", "hybrid", "delta_net"), ("table",)])
def test_a_table_and_a_project_at_once_are_refused(
    project: Path, tmp_path: Path, asked: tuple[str, ...]
) -> None:
    """One of them would be ignored in silence."""
    said = refusal(*asked, "--from", tmp_path / "runs.csv", "--project", project)
    assert f"leave out --project {project}, or leave out --from" in " ".join(said.split())
    assert f"--from reads the runs of '{tmp_path / 'runs.csv'}' and no project" in " ".join(said.split())

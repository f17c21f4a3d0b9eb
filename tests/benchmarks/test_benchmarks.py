"""Every program of benchmarks/, started as a person starts it, with the least that it can do on a processor.

Held is that each ends, and that its last line is what its first lines promise. What it measured is not.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.cli.project import make_run

from archer.ledger import Ledger
from archer.ledger.records import TASKS, CurvePoint
from archer.mad.presets import PRESETS

ROOT = Path(__file__).parents[2]
TRIED = {"data", "fleet", "kernels", "power", "race", "rules", "search", "smoke", "variance"}


def started(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def last_line(name: str, *arguments: object) -> dict:
    """The JSON at the end of what a benchmark prints."""
    ended = started(name, *arguments)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_every_benchmark_is_tried_here() -> None:
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} == TRIED


@pytest.mark.parametrize("name", sorted(TRIED))
def test_its_first_lines_say_what_it_prints(name: str) -> None:
    text = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
    assert f"python benchmarks/{name}.py" in text
    assert "last line is JSON" in " ".join(text.split())


@pytest.mark.slow
def test_data_draws_every_task_and_checks_what_it_draws() -> None:
    found = last_line("data", "--repeats", 1)
    assert {row["task"] for row in found["rows"]} == set(TASKS)
    assert all(0 < row["determined"] <= 1 and row["sequences_per_second"] > 0 for row in found["rows"])
    assert found["slowest_seconds"] == max(row["seconds"] for row in found["rows"])


@pytest.mark.slow
@pytest.mark.skipif(
    torch.cuda.is_available(), reason="small enough for a processor, not for a card's ceilings"
)
def test_fleet_times_a_step_once_and_keeps_it(tmp_path: Path) -> None:
    asked = ("--members", 1, "--lengths", 16, "--steps", 1, "--eager", "--json", tmp_path / "figures.jsonl")
    found = last_line("fleet", *asked)
    (row,) = found["results"]
    assert (row["rule"], row["length"], row["members"], row["check"]) == ("delta_net", 16, 1, 0)
    assert min(found["ceilings"].values()) > 0
    assert row["tflop_per_second"] / found["ceilings"]["tflop_per_second"] == pytest.approx(
        row["share_of_product"]
    )
    assert json.loads((tmp_path / "figures.jsonl").read_text()) == row
    assert last_line("fleet", *asked)["results"] == [row]


def test_kernels_are_timed_on_a_card_or_not_at_all() -> None:
    ended = started("kernels")
    if torch.cuda.is_available():
        found = json.loads(ended.stdout.splitlines()[-1])
        assert {row["kernel"] for row in found["kernels"]} >= {"convolved", "wy", "scan", "scan_backward"}
        assert all(0 < row["share_of_copy"] < 1.2 for row in found["kernels"])
        assert len(found["relative_errors"]) == 6
        cancelling = {"dA_log", "ddt_bias"}  # held to the plain form's own rounding, by the program
        for errors in found["relative_errors"].values():
            assert all(error < 0.02 for name, error in errors.items() if name not in cancelling)
    else:
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.splitlines() == [
            "benchmarks/kernels.py needs a CUDA device; this machine has none"
        ]


def test_power_leaves_the_page_alone_where_it_only_checks() -> None:
    page = ROOT / "docs" / "design" / "statistics.md"
    before = page.read_bytes()
    found = last_line("power", "--check", "--replicates", 50)
    assert {"any_better", "beats_all", "coverage_low", "coverage_high"} <= found.keys()
    assert all(0 <= share <= 1 for share in found.values())
    assert page.read_bytes() == before


def test_race_replays_the_grids_of_a_ledger(tmp_path: Path) -> None:
    """A grid whose best point leads from the start: nothing is lost by racing, and something is saved."""
    preset = PRESETS["baseline"]
    points = [(rate, decay) for rate in preset.learning_rates for decay in preset.weight_decays]
    assert len(points) > 1
    with Ledger.in_folder(tmp_path) as ledger:
        for place, (rate, decay) in enumerate(points):
            score = 0.9 - 0.15 * place
            curve = tuple(CurvePoint(n, 1.0, 1.0, score, 1.0, score) for n in range(1, preset.epochs + 1))
            run = make_run("delta_net", preset.settings[0], 0, score, "baseline")
            point = {"key": str(place), "learning_rate": rate, "weight_decay": decay}
            ledger.add_runs([replace(run, **point, curve=curve, epochs=preset.epochs)])
    found = last_line("race", tmp_path)["results"]["all"]
    assert (found["grids"], found["winner_dropped"], found["worst_regret"]) == (1, 0, 0)
    assert 0 < found["saved"] < 1


def test_race_wants_whole_grids() -> None:
    ended = started("race", ROOT / "results" / "quick.csv")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: no whole grid with curves")


WRONG = {
    "missing.csv": (None, "cannot be read: No such file or directory"),
    "empty.csv": (b"", "line 1: no column of a table of runs"),
    "other.csv": (b"model,score\nsoftmax,0.5\n", "line 1: no column of a table of runs"),
    "noise.csv": (b"\xff\xfe\x00", "cannot be read: not text"),
    "events.jsonl": (b'{"event": "outcome"}\n', "is no list of a training process's events"),
    "missing.jsonl": (None, "cannot be read: No such file or directory"),
    "project": (None, "does not exist: nothing has been recorded there yet"),
}


@pytest.mark.parametrize(
    ("name", "option", "files"),
    [
        ("race", (), tuple(WRONG)),
        ("search", ("--runs",), ("missing.csv", "other.csv")),
        ("variance", (), ("missing.csv", "other.csv")),
    ],
)
def test_a_wrong_table_is_a_line_and_status_2(
    name: str, option: tuple[str, ...], files: tuple[str, ...], tmp_path: Path
) -> None:
    for file in files:
        content, message = WRONG[file]
        if content is not None:
            (tmp_path / file).write_bytes(content)
        before = sorted(tmp_path.iterdir())
        more = ("--to", tmp_path / "variance.json") if name == "variance" else ()
        ended = started(name, *option, tmp_path / file, *more)
        assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
        (line,) = ended.stderr.splitlines()
        assert line.startswith("error: ")
        assert message in line
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("rules", "dekay"), "unknown rule 'dekay': did you mean 'decay'?"),
        (("rules", "--wriet"), "unrecognized arguments: --wriet"),
        (("data", "--repeats", 0), "--repeats: expected 1 or more"),
        (("smoke", "--rounds", 0), "--epochs and --rounds: expected 1 or more"),
        (("search", "--repeats", 0), "--repeats and --pool: expected 1 or more"),
        (("power", "--check", "--replicates", 0), "--replicates: expected 1 or more"),
    ],
)
def test_a_wrong_option_is_said_before_anything_is_measured(asked: tuple[str, ...], message: str) -> None:
    ended = started(*asked)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr.splitlines()[-1]


def test_variance_says_where_it_cannot_write(tmp_path: Path) -> None:
    ended = started("variance", "--to", tmp_path / "nowhere" / "variance.json")
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert "cannot be written: No such file or directory" in line


def test_rules_times_the_rules_that_are_named() -> None:
    found = last_line("rules", "decay")
    assert list(found["rules"]) == ["decay"]
    assert all(value > 0 and math.isfinite(value) for value in found["rules"]["decay"].values())


def test_search_compares_the_researcher_with_chance() -> None:
    found = last_line("search", "--repeats", 2, "--pool", 30)
    assert (found["repeats"], found["pool"]) == (2, 30)
    assert set(found["candidates_to_best_decile"]) == {"researcher", "random"}


@pytest.mark.slow
def test_smoke_compares_fleets_with_runs_alone() -> None:
    found = last_line("smoke", "--epochs", 1, "--rounds", 1)
    assert found["runs"] == len(found["ratios"]) * 12
    assert found["ratio_median"] == found["ratios"][0] > 0


def test_variance_is_what_the_judge_ships_unless_it_is_given_runs(tmp_path: Path) -> None:
    made, shipped = tmp_path / "variance.json", ROOT / "src" / "archer" / "judge" / "variance.json"
    assert set(last_line("variance", "--to", made)) == set(TASKS)
    assert made.read_bytes() == shipped.read_bytes()
    assert set(last_line("variance", ROOT / "results" / "quick.csv", "--to", made)) == set(TASKS)
    assert "under quick" in made.read_text(encoding="utf-8")

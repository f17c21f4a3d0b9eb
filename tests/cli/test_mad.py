"""`archer mad`: the settings, the presets, the check."""

from __future__ import annotations

import csv
import io
import json

import pytest
from tests.cli.program import archer, data, output, refusal

from archer.mad import SETTINGS


@pytest.mark.parametrize("columns", [80, 120])
def test_every_setting_stands_on_a_line_of_its_own(columns: int) -> None:
    lines = output("mad", columns=columns).splitlines()
    for setting in SETTINGS:
        (line,) = [line for line in lines if line.split()[:1] == [setting.name]]
        numbers = [setting.vocabulary, setting.input_length, setting.train_examples]
        assert line.split()[1:4] == [f"{number:,}" for number in numbers]
    assert sum(line.rstrip().endswith("baseline") for line in lines) == 6


def test_the_full_preset_is_396_runs() -> None:
    presets = {preset["name"]: preset for preset in json.loads(data("mad", "--json"))["presets"]}
    assert presets["full"]["runs"] == 396
    assert len(presets["full"]["settings"]) == 66
    (line,) = [line for line in output("mad").splitlines() if line.startswith("full ")]
    assert line.split()[1:7] == ["66", "3", "2", "1", "396", "200"]


def test_one_task_as_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(data("mad", "--task", "memorize", "--csv", "-"))))
    assert [row["vocabulary"] for row in rows] == ["256", "512", "1024", "2048", "4096", "8192"]
    assert {row["task"] for row in rows} == {"Memorize"}


def test_the_check_reads_the_tasks() -> None:
    (row,) = json.loads(data("mad", "--check", "--task", "Memorize", "--json"))
    assert row["solver"] == 1.0
    assert row["seconds"] > 0
    table = output("mad", "--check", "--task", "Compress", columns=80)
    assert "1.000" in next(line for line in table.splitlines() if line.startswith("Compress"))


def test_wrong_input() -> None:
    assert "Fuzzy Recall" in refusal("mad", "--task", "Fuzy")
    assert "exclude each other" in refusal("mad", "--json", "--csv", "-")
    assert archer("mad", "surplus").returncode == 2

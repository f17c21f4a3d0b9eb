"""`archer verify`: its table, its JSON and its exit status."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from archer.cli import verify as command_module
from archer.cli.group import ArcherGroup
from archer.rules.registry import LIBRARY
from archer.verify import contained
from archer.verify.result import CheckResult, Verification

PASSED = Verification("mine", True, (CheckResult("contract", True, "shapes hold", 0.1),), walls=("limits",))
FAILED = replace(
    PASSED, passed=False, duplicate_of="softmax",
    checks=(CheckResult("new", False, "it computes what `softmax` computes", 0.2, "fixed probes"),),
)  # fmt: skip


def run(*arguments: str):
    app = typer.Typer(cls=ArcherGroup, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    app.command("verify")(command_module.command)
    return CliRunner().invoke(app, ["verify", *arguments])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict:
    """Stands in for the checks: keeps what was asked and answers `asked["answer"]`. Where one works there may
    be a project, as after `make run`: none is here."""
    monkeypatch.chdir(tmp_path)
    asked: dict = {"answer": PASSED}

    def answer(*arguments, **options):
        asked.update(arguments=arguments, options=options)
        return asked["answer"]

    monkeypatch.setattr(contained, "verify_contained", answer)
    monkeypatch.setattr(contained, "verify_mixer_contained", answer)
    return asked


def test_a_rule_that_passes_ends_with_status_0_and_a_table(asked: dict, tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n")
    result = run(str(path), "--parent", "softmax", "--allow-many", "--require", "Landlock")
    assert result.exit_code == 0, result.output
    assert asked["arguments"] == ("x = 1\n", "mine")
    assert asked["options"] == {
        "parent": "softmax", "known": {}, "allow_many": True, "trust": False, "require": ["Landlock"],
    }  # fmt: skip
    assert "shapes hold" in result.output
    assert "mine: passed" in result.output


def test_a_rejection_ends_with_status_1_and_names_the_case_and_the_duplicate(asked: dict, tmp_path: Path):
    asked["answer"] = FAILED
    (tmp_path / "mine.py").write_text("x = 1\n")
    result = run(str(tmp_path / "mine.py"))
    assert result.exit_code == 1
    for words in (
        "FAILED",
        "it computes what `softmax` computes",
        "smallest case: fixed probes",
        "duplicate of: softmax",
    ):
        assert words in result.output


def test_a_case_that_the_finding_names_already_is_not_said_again(asked: dict, tmp_path: Path):
    check = replace(FAILED.checks[-1], message="line 3: import of `os`", case="line 3", passed=False)
    asked["answer"] = replace(FAILED, checks=(check,))
    (tmp_path / "mine.py").write_text("x = 1\n")
    assert "smallest case" not in run(str(tmp_path / "mine.py")).output


def test_json_is_the_verification_and_nothing_else(asked: dict, tmp_path: Path):
    asked["answer"] = FAILED
    (tmp_path / "mine.py").write_text("x = 1\n")
    result = run(str(tmp_path / "mine.py"), "--json")
    assert result.exit_code == 1
    assert Verification.from_dict(json.loads(result.stdout)) == FAILED


def test_a_mixer_gets_its_arguments_and_says_that_no_language_wall_stood(asked: dict, tmp_path: Path):
    asked["answer"] = replace(PASSED, trusted=True)
    (tmp_path / "mine.py").write_text("x = 1\n")
    result = run(f"{tmp_path / 'mine.py'}:Mean", "-a", "dim=16", "-a", "mode=plain", "--width", "16")
    assert result.exit_code == 0, result.output
    assert asked["arguments"] == ("x = 1\n", "Mean", {"dim": 16, "mode": "plain"})
    assert asked["options"]["width"] == 16
    assert "the language wall was lifted" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.py"], "no such file"),
        ([str(LIBRARY / "decay.py"), "-a", "x=1"], "--argument, --width and --readable are for mixers"),
        ([str(LIBRARY / "decay.py"), "--width", "16"], "--argument, --width and --readable are for mixers"),
        ([f"{LIBRARY / 'decay.py'}:Mean", "--parent", "softmax"], "a mixer has no parent"),
        ([f"{LIBRARY / 'decay.py'}:Mean", "-a", "x"], "expected NAME=VALUE"),
    ],
)
def test_wrong_input_ends_with_status_2_and_one_message(arguments: list[str], words: str):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output


def test_a_refused_file_is_rejected_for_real(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text("import os\n")
    result = run(str(path), "--json")
    assert result.exit_code == 1
    assert "line 1" in json.loads(result.stdout)["checks"][0]["message"]

"""`archer run`, `try` and `bench` share their options, and say to the cycle what was asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.cli.program import output, refusal
from typer.testing import CliRunner

import archer.cycle
from archer.cli import build
from archer.cycle import Result
from archer.cycle.measuring import Judging
from archer.cycle.training import Resources
from archer.ledger.records import CycleRecord

COMMANDS = [("run", ()), ("try", ("my_rule.py",)), ("bench", ("softmax",))]
FUNCTIONS = {"run": "run", "try": "try_rule", "bench": "bench"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the cycle's function was called with; it stands in for a cycle whose budget is used up."""
    found: dict[str, Any] = {}

    def cycle(*positional: Any, **given: Any) -> Result:
        found.update(given, positional=positional)
        return Result(
            CycleRecord("0001", "smoke", 0, "running", "2026-01-01", message="the time is up"), (), (), None
        )

    for name in FUNCTIONS.values():
        monkeypatch.setattr(archer.cycle, name, cycle, raising=False)
    return found


@pytest.mark.parametrize(("command", "rest"), COMMANDS)
def test_the_options_reach_the_cycle(command: str, rest: tuple[str, ...], asked: dict[str, Any]) -> None:
    options = ["--until-decided", "--max-seeds", "13", "--confirm", "--budget-seconds", "5", "-p", "there"]
    ended = CliRunner().invoke(build(), [command, *rest, *options, "--preset", "quick", "--device", "cpu"])
    assert ended.exit_code == 5, ended.output
    assert asked["judging"] == Judging(until_decided=13, confirm=True)
    assert asked["resources"] == Resources(device="cpu", budget_seconds=5.0)
    assert (asked["project"], asked["preset"]) == (Path("there"), "quick")


@pytest.mark.parametrize(("command", "rest"), COMMANDS)
def test_without_options_nothing_is_asked(command: str, rest: tuple[str, ...], asked: dict[str, Any]) -> None:
    ended = CliRunner().invoke(build(), [command, *rest])
    assert ended.exit_code == 5, ended.output
    assert (asked["judging"], asked["resources"]) == (Judging(), Resources())
    assert (asked["project"], asked["preset"]) == (Path("archer-project"), "smoke")


def test_eight_seeds_unless_another_number_is_given(asked: dict[str, Any]) -> None:
    CliRunner().invoke(build(), ["run", "--until-decided", "--no-confirm"])
    assert asked["judging"] == Judging(until_decided=8, confirm=False)


def test_the_number_alone_is_refused() -> None:
    assert "--max-seeds says where --until-decided ends" in refusal("bench", "softmax", "--max-seeds", "3")


def test_the_reference_alone_is_compared_with_nothing_and_that_is_said(asked: dict[str, Any]) -> None:
    note = "is the reference itself: it is trained, and compared with nothing"
    for rest in (["gated_delta_net"], ["delta_net", "--reference", "delta_net"]):
        assert f"{rest[0]} {note}" in CliRunner().invoke(build(), ["bench", *rest]).stderr
    for rest in (["delta_net"], ["delta_net", "gated_delta_net"]):
        assert note not in CliRunner().invoke(build(), ["bench", *rest]).stderr


@pytest.mark.parametrize("command", ["run", "try", "bench"])
def test_help_names_the_shared_options(command: str) -> None:
    text = output(command, "--help", columns=100)
    assert all(option in text for option in ("--until-decided", "--max-seeds", "--no-confirm", "--data"))


def test_compare_says_where_seeds_are_added() -> None:
    assert "archer bench A B --until-decided" in output("compare", "--help", columns=100)


@pytest.mark.parametrize("command", ["bench", "verify"])
@pytest.mark.parametrize("text", ["heads", "=4", "9a=1"])
def test_a_constructor_argument_without_a_name_is_refused(command: str, text: str, tmp_path: Path) -> None:
    """`archer bench` took the empty name, and the class could not be built with it."""
    file = tmp_path / "mixer.py"
    file.write_text("import torch\nclass Mixer(torch.nn.Identity): ...\n")
    said = refusal(command, f"{file}:Mixer", "--argument", text)
    assert f"--argument '{text}': expected NAME=VALUE" in said

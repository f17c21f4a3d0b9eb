"""What the machine fails in is nobody's rejection: whoever started it hears of it, and nothing is spent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.cycle.test_discover import CPU, TINY, campaign, source_of

from archer.cli.doctor import examine
from archer.cycle import bench, try_rule
from archer.cycle.team import verifier
from archer.ledger import Ledger
from archer.mad import PRESETS
from archer.rules import get_rule
from archer.verify.contain import WallFailed


def test_a_campaign_stops_and_rejects_no_candidate(tmp_path: Path, broken_bubblewrap: str) -> None:
    with pytest.raises(WallFailed, match=broken_bubblewrap):
        campaign(tmp_path)
    with Ledger.in_folder(tmp_path) as ledger:
        assert ledger.verifications() == ()
        assert {cycle.state for cycle in ledger.cycles()} <= {"running"}
        assert len(ledger.proposals()) == 1


def test_a_rule_file_is_not_called_wrong(tmp_path: Path, broken_bubblewrap: str) -> None:
    (tmp_path / "mine.py").write_text(source_of(0.9))
    with pytest.raises(WallFailed, match=f"^bubblewrap failed .*{broken_bubblewrap}"):
        try_rule(tmp_path / "mine.py", tmp_path / "project", preset=TINY, resources=CPU)
    assert not (tmp_path / "project").exists()


def test_training_says_which_wall_it_was(tmp_path: Path, broken_bubblewrap: str) -> None:
    with pytest.raises(WallFailed, match=broken_bubblewrap):
        bench(["delta_net"], tmp_path, preset=TINY, resources=CPU)
    with Ledger.in_folder(tmp_path) as ledger:
        assert ledger.runs() == ()


def test_the_doctor_tells_of_it(tmp_path: Path, broken_bubblewrap: str) -> None:
    machine = examine(tmp_path)
    assert machine.walls == ()
    assert broken_bubblewrap in machine.problems[-1]


def test_a_model_is_not_told_that_the_machine_is_its_mistake(tmp_path: Path, broken_bubblewrap: str) -> None:
    verify = verifier(tmp_path, PRESETS["smoke"])
    with pytest.raises(WallFailed, match=broken_bubblewrap):
        verify(get_rule("softmax").source, "softmax_again")


def test_a_project_folder_that_cannot_be_written_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert examine(tmp_path / "not" / "there").problems == ()
    access = os.access
    monkeypatch.setattr(os, "access", lambda place, mode: place != tmp_path and access(place, mode))
    assert f"'{tmp_path}' cannot be written" in examine(tmp_path / "not" / "there").problems[-1]

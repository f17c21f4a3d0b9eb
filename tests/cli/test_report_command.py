"""`archer report`: written again from the ledger alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tests.cli.program import archer, data, output, refusal
from tests.cli.project import CANDIDATE, write_project

from archer.ledger import LEDGER_NAME, Ledger
from archer.ledger.records import CycleRecord


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("report") / "project")


def test_the_last_cycle(project: Path) -> None:
    before = hashlib.sha256((project / LEDGER_NAME).read_bytes()).hexdigest()
    text = output("report", "-p", project)
    assert CANDIDATE in text
    note = project / "reports" / "0002" / "report.md"
    assert f"Report: {note}" in text.replace("\n", "")
    first = note.read_text()
    assert CANDIDATE in first
    note.unlink()
    assert json.loads(data("report", "-p", project, "--json"))["cycle"] == "0002"
    assert note.read_text() == first
    assert hashlib.sha256((project / LEDGER_NAME).read_bytes()).hexdigest() == before


def test_a_bench_in_chinese(project: Path) -> None:
    answer = json.loads(data("report", "1", "-p", project, "--language", "zh", "--json"))
    markdown, page = map(Path, answer["paths"])
    assert (markdown.name, page.name) == ("report.zh.md", "report.zh.html")
    text = markdown.read_text()
    assert "gated_delta_net" in text
    assert "\u6392\u540d" in text  # "ranking": that smoke ranks nothing


def test_a_cycle_that_is_not_over_is_said_to_be_so(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    with Ledger.in_folder(folder) as ledger:
        ledger.put_cycle(CycleRecord("0003", "smoke", 0, "running", "2026-01-05", settings={"kind": "bench"}))
    ended = archer("report", "-p", folder, "--decoding")
    assert ended.returncode == 0
    assert ended.stderr == "cycle 0003 is not over: the command that began it continues it\n"


def test_a_campaign(project: Path) -> None:
    paths = output("report", "--campaign", "-p", project).splitlines()
    assert [Path(path).name for path in paths] == ["campaign.md", "campaign.html"]
    assert CANDIDATE in Path(paths[0]).read_text()


def test_wrong_input(project: Path, tmp_path: Path) -> None:
    assert "Choices: 0001, 0002" in refusal("report", "7", "-p", project)
    assert "Choices: en, zh" in refusal("report", "-p", project, "--language", "de")
    assert "exclude each other" in refusal("report", "1", "--campaign", "-p", project)
    assert "archer run" in refusal("report", "-p", tmp_path)
    target = write_project(tmp_path / "p")
    (target / "reports").write_text("a file in the way")
    assert "cannot be written" in refusal("report", "-p", target)

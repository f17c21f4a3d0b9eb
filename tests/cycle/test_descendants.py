"""A file whose parent is a rule of the project, and a bench of such rules by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cycle.tiny import RULE_IN_SIX_LINES, TINY

from archer.cycle import bench, try_rule
from archer.cycle.laboratory import accepted_in
from archer.errors import UserError

CHILD = '''"""It forgets a tenth, and writes half as much."""

parent = "forgets"


def correct(e):
    return e / 2
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has accepted the rule forgets."""
    folder = tmp_path_factory.mktemp("family")
    (folder / "forgets.py").write_text(RULE_IN_SIX_LINES)
    (folder / "forgets_half.py").write_text(CHILD)
    assert try_rule(folder / "forgets.py", folder / "project", preset=TINY).verdict
    return folder / "project"


def test_a_file_may_build_on_a_rule_of_the_project(project: Path) -> None:
    result = try_rule(project.parent / "forgets_half.py", project, preset=TINY)
    assert result.verdict
    assert result.verdict.against_parent.baseline == "forgets"
    assert {run.rule for run in result.runs} == {"forgets", "forgets_half", "delta_net", "gated_delta_net"}
    assert set(accepted_in(project)) == {"forgets", "forgets_half"}


def test_elsewhere_its_parent_is_unknown(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown rule 'forgets'.*in that project alone"):
        try_rule(project.parent / "forgets_half.py", tmp_path / "other", preset=TINY)
    assert not (tmp_path / "other").exists()


def test_rules_of_the_project_are_compared_by_name(project: Path) -> None:
    result = bench(["forgets", "delta_net"], project, preset=TINY)
    assert [one.candidate for one in result.comparisons] == ["forgets", "delta_net"]


def test_a_rule_is_not_its_own_parent(project: Path, tmp_path: Path) -> None:
    path = tmp_path / "forgets.py"
    path.write_text(CHILD)
    with pytest.raises(UserError, match="unknown rule 'forgets'"):
        try_rule(path, project, preset=TINY)

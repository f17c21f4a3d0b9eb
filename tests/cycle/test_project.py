"""What a project says of the program that made it."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from archer import __version__
from archer.cycle.project import packages, revision


def test_a_source_tree_that_nobody_installed_knows_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign on a machine to which only the source was copied once ended here."""

    def nowhere(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", nowhere)
    assert revision.__wrapped__().startswith(__version__)
    assert set(packages.__wrapped__()) == {"python"}


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__

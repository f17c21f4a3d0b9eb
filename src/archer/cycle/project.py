"""A project folder: the ledger, the rules that were written, the reports, the training processes' scratch."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from archer import __version__

DEFAULT = "archer-project"


@dataclass(frozen=True)
class Project:
    """Where a laboratory's work lies. Everything that cannot be made again is in the ledger."""

    folder: Path

    @property
    def rules(self) -> Path:
        return self.folder / "rules"

    @property
    def reports(self) -> Path:
        return self.folder / "reports"

    @property
    def training(self) -> Path:
        return self.folder / "training"

    def rule_file(self, name: str, source: str) -> Path:
        """Writes a rule's text into the project and gives its path."""
        self.rules.mkdir(parents=True, exist_ok=True)
        path = self.rules / f"{name}.py"
        if not path.exists() or path.read_text(encoding="utf-8") != source:
            path.write_text(source, encoding="utf-8")
        return path


def now() -> str:
    """ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def revision() -> str:
    """Archer's version, with the git revision where it runs from a checkout."""
    version = __version__
    try:
        here = Path(__file__).parent
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude=*"]
        described = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}+{described}" if described else version


@cache
def packages() -> dict[str, str]:
    """Versions of what decides a result: Python, PyTorch, NumPy."""
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "triton"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found

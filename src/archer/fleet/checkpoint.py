"""Checkpoints: a fleet's state in one file, replaced as a whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

from archer.fleet.run import Run

FORMAT = 2
"""Counts up where a state holds what earlier code does not know (1: before epochs could be left)."""


def checkpoint_path(folder: Path, run: Run) -> Path:
    """Where the fleet of this run's group keeps its state."""
    name = hashlib.sha256(repr(run.group).encode()).hexdigest()[:16]
    return folder / f"fleet-{name}.pt"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes beside, flushes to the disk, then renames: a crash leaves the old file or the new one."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    for torn in path.parent.glob(f"{path.stem}.*.tmp"):  # of a process that was killed while it wrote
        torn.unlink(missing_ok=True)
    buffer = io.BytesIO()
    torch.save({**state, "format": FORMAT}, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).digest()
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(digest)
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state in the file; None where there is no file, where it is not whole, and where later code wrote
    it (the training is then started afresh)."""
    import torch

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        return None
    state = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
    return state if state.pop("format", 1) <= FORMAT else None

"""What a machine has to train on, and how it is shared among training processes."""

from __future__ import annotations

import os
from collections.abc import Sequence

from archer.errors import UserError


def available_devices(asked: str | None = None) -> tuple[str, ...]:
    """The devices to train on: all GPUs where there are some, else the CPU.

    asked: "cpu", "cuda" (all GPUs), "cuda:1", or None for what there is. Raises UserError for others.
    """
    if asked == "cpu":
        return (asked,)
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked and asked not in ("cuda", *(f"cuda:{i}" for i in range(gpus))):
        raise UserError(
            f"there is no device '{asked}' here; choices: cpu{''.join(f', cuda:{i}' for i in range(gpus))}"
        )
    if asked == "cuda" and not gpus:
        raise UserError("device cuda was asked for, but PyTorch sees no GPU here; use --device cpu")
    if asked and asked != "cuda":
        return (asked,)
    return tuple(f"cuda:{i}" for i in range(gpus)) or ("cpu",)


PROCESSES_PER_GPU = 6
"""Compiling a shape keeps two cores busy for half a minute, and the GPU idle; see docs/design/fleet.md."""


def processes_per_device(devices: Sequence[str]) -> int:
    """A good number of training processes for each of these devices: one on the CPU, several on a GPU as far
    as there are two cores for each."""
    if devices[0] == "cpu":
        return 1
    return max(1, min(PROCESSES_PER_GPU, _cores() // (2 * len(devices))))


def threads_for(processes: int) -> int:
    """Threads for each of so many training processes; see `cpu_threads`."""
    return max(1, cpu_threads() // processes)


def cpu_threads() -> int:
    """Threads for one training process on the CPU: OMP_NUM_THREADS where it is set, as for any program that
    uses OpenMP; else the cores that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if asked.isdecimal() and int(asked):
        return int(asked)
    return _cores()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""A training process behind the walls of `archer.verify.contain`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from archer.mad.store import cache_folder

if TYPE_CHECKING:
    from archer.verify import Limits

FOREVER_SECONDS = 30 * 24 * 3600


class ContainedProcess:
    """A training process behind the walls of `archer.verify.contain`."""

    def __init__(self, command: list[str], scratch: Path, gpu: bool, readable: list[Path]) -> None:
        from archer.verify.contain import start

        environment = {"ARCHER_CACHE": str(cache_folder())}
        writable = []
        if gpu:
            compiled = cache_folder() / "compiled"
            compiled.mkdir(parents=True, exist_ok=True)
            environment |= {
                "TORCHINDUCTOR_CACHE_DIR": str(compiled),
                "TRITON_CACHE_DIR": str(compiled / "triton"),
            }
            writable = [compiled]
        self.contained = start(
            command, scratch=scratch, limits=_limits(gpu), readable=[cache_folder(), *readable],
            writable=writable, environment=environment, gpu=gpu, without=walls_against_gpu() if gpu else (),
        )  # fmt: skip

    def give(self, text: str) -> None:
        self.contained.send(text + "\n")

    def lines(self) -> Iterator[str]:
        return self.contained.lines()

    def kill(self) -> None:
        self.contained.kill()

    def end(self) -> str:
        self.contained.close_input()
        ending = self.contained.wait()
        if ending.reason == "finished" and ending.status == 0:
            return ""
        last = ending.error.strip().splitlines()
        return f"{ending.reason}, status {ending.status}{f': {last[-1][:300]}' if last else ''}"


@cache
def walls_against_gpu() -> tuple[str, ...]:
    """Walls to leave out for a GPU on this machine: none where CUDA starts behind all of them, else Landlock
    (drivers write under /proc, where it lets nothing be written)."""
    with tempfile.TemporaryDirectory(prefix="archer-gpu-") as folder:
        for without in ((), ("Landlock",)):
            if _cuda_starts(Path(folder), without):
                return without
    return ()


def _cuda_starts(scratch: Path, without: tuple[str, ...]) -> bool:
    from archer.verify.contain import start

    command = [sys.executable, "-c", "import torch; torch.ones(1, device='cuda').sum().item()"]
    with start(command, scratch=scratch, limits=_limits(gpu=True), gpu=True, without=without) as process:
        try:
            ending = process.wait(timeout=120)
        except subprocess.TimeoutExpired:  # a wall may also let CUDA wait for ever
            return False
    return ending.reason == "finished" and ending.status == 0


def _limits(gpu: bool) -> Limits:
    from archer.verify.contain import Limits

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Limits(
        memory_bytes=memory, cpu_seconds=FOREVER_SECONDS, wall_seconds=FOREVER_SECONDS, open_files=4096,
        processes=512 if gpu else 1, output_bytes=2**30, file_bytes=2**35,
    )  # fmt: skip

"""A contained process can use the GPU, and still nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from archer.verify.contain import Limits, start

CODE = """
import torch
x = torch.ones(512, 512, device='cuda', dtype=torch.bfloat16)
print(float((x @ x).float().mean()), torch.compile(lambda y: (y * 2).sin().sum())(x).isfinite().item())
try:
    open('/etc/passwd')
    print('read')
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.gpu
@pytest.mark.parametrize("without", [(), ("bubblewrap",), ("bubblewrap", "network namespace")], ids=str)
def test_products_and_compiled_kernels_run_on_the_card(tmp_path: Path, without: tuple[str, ...]):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    limits = Limits(
        memory_bytes=32 * 2**30,
        cpu_seconds=300,
        wall_seconds=200,
        processes=64,
        open_files=4096,
        file_bytes=2**30,
    )
    command = [sys.executable, "-c", CODE]
    with start(command, scratch=tmp_path, limits=limits, gpu=True, without=without) as process:
        lines, ending = list(process.lines()), process.wait()
    assert ending.status == 0, (process.walls, ending)
    assert lines[0] == "512.0 True"
    walls = {wall.name for wall in process.walls if wall.up}
    if {"bubblewrap", "Landlock"} & walls:
        assert lines[1] in ("PermissionError", "FileNotFoundError")

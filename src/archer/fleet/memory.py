"""How many members fit: measured on one small fleet, not guessed, once per shape and machine."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from archer.fleet.compile import compile_kernels
from archer.fleet.data import Load
from archer.fleet.fleet import Fleet
from archer.fleet.run import TRAINING_VERSION, Run
from archer.model.backbone import Model
from archer.rules.algebra import enable_kernels

SHARE = 0.7
"""Of the free memory, this much is planned with; the rest is for what was not measured."""


def capacity(model: Model, run: Run, device: torch.device, load: Load, share: float = 1.0) -> int:
    """How many runs like this one fit together into this process's share of the device, at least 1."""
    if device.type == "cuda":
        free = _free_bytes_cuda(device, share)
        try:
            return max(1, int(SHARE * free / _known_bytes_per_run(model, run, device, load)))
        except torch.OutOfMemoryError:  # not even the two that are measured fit: one may
            return 1
    return max(1, int(SHARE * share * free_bytes_cpu() / bytes_saved(model, run, load)))


def bytes_saved(model: Model, run: Run, load: Load) -> int:
    """Bytes that one run keeps for its backward pass, counted on a batch; the workspace of one more such
    layer comes on top, for which the count is doubled."""
    fleet = Fleet.start(model, [run], load, torch.device("cpu"))
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    order = torch.arange(min(4, fleet.splits["train"].examples))[None]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        fleet.losses(*fleet.splits["train"].batch(order))
    scale = run.recipe.batch_size / order.shape[1]
    return int(2 * sum(kept.values()) * scale) + 6 * fleet.weights.flat.nbytes


def free_bytes_cpu() -> int:
    """Memory that this process may still use.

    What the kernel calls available, or the control group's rest where that is less.
    """
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        line = next(x for x in meminfo.read_text().splitlines() if x.startswith("MemAvailable"))
        available = int(line.split()[1]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        available = min(available, int(limit.read_text()) - int(used.read_text()))
    return available


def _free_bytes_cuda(device: torch.device, share: float) -> int:
    """What is free now, but no more than a share of the whole: the neighbours may not have taken theirs yet.

    A process that has neighbours is held to its share, so that its mistakes are not theirs.
    """
    torch.cuda.empty_cache()
    free, whole = torch.cuda.mem_get_info(device)
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(share, device)
    return min(free, int(share * whole))


def _known_bytes_per_run(model: Model, run: Run, device: torch.device, load: Load) -> int:
    """As `_bytes_per_run_cuda`, kept beside the compiled code: a file whose name is the shape.

    A number that is wrong all the same costs a smaller fleet, or one that is halved when memory ends.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    path = Path(cache_dir()) / f"archer-bytes-{_shape(run, torch.cuda.get_device_name(device))}"
    try:
        known = int(path.read_text())
    except (OSError, ValueError):
        known = 0
    if known > 0:
        return known
    measured = _bytes_per_run_cuda(model, run, device, load)
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        beside.write_text(str(measured))
        os.replace(beside, path)
    except OSError:  # nothing can be kept here: the next process measures again
        beside.unlink(missing_ok=True)
    return measured


def _shape(run: Run, device_name: str) -> str:
    """A hash of what decides how much memory a run takes."""
    recipe = run.recipe
    sizes = (
        recipe.width,
        recipe.mixers,
        recipe.heads,
        recipe.chunk_size,
        recipe.batch_size,
        recipe.precision,
    )
    shape = (run.backbone, run.setting.vocabulary, run.padded_length, *sizes)
    of_code = (run.subject.hash, run.subject.arguments, TRAINING_VERSION, torch.__version__, device_name)
    return hashlib.sha256(repr((shape, of_code)).encode()).hexdigest()[:20]


def _bytes_per_run_cuda(model: Model, run: Run, device: torch.device, load: Load) -> int:
    """Peak of one training step without compilation (an upper bound for the compiled one), per member."""
    enable_kernels()
    compile_kernels(model, run, device)  # a shape that is new here: they will be needed
    runs = [replace(run, seed=run.seed), replace(run, seed=run.seed)]
    fleet = Fleet.start(model, runs, load, device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    order = torch.arange(run.recipe.batch_size, device=device).expand(2, -1)
    fleet.weights.gradient(fleet.losses(*fleet.splits["train"].batch(order))[0].sum())
    return (torch.cuda.max_memory_allocated(device) - before) // 2 + 6 * fleet.weights.flat[0].nbytes

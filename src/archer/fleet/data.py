"""Training data on the device: every set is there once, and shuffled there.

The order is decided by the run's seed and the epoch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from archer import mad
from archer.fleet.run import Run
from archer.mad import Examples, Setting

IGNORED = -100
Load = Callable[[Setting, int, mad.Split], Examples]


@dataclass(frozen=True)
class Split:
    """One split of all members' sets: inputs, targets [sets, N, T]; `which` [F] gives each member's set."""

    inputs: Tensor
    targets: Tensor
    which: Tensor

    @property
    def examples(self) -> int:
        return self.inputs.shape[1]

    def batch(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """order [F, B]: indices of examples, -1 for an empty place. Returns inputs, targets [F, B, T]."""
        rows = order.clamp_min(0)
        inputs = self.inputs[self.which[:, None], rows]
        targets = self.targets[self.which[:, None], rows].long()
        return inputs.long(), torch.where(order[..., None] < 0, IGNORED, targets)

    def keep(self, members: Tensor) -> Split:
        return Split(self.inputs, self.targets, self.which[members])


def load_split(runs: Sequence[Run], split: mad.Split, load: Load, device: torch.device) -> Split:
    """The sets of all runs on the device; runs with equal setting and seed share one.

    T is the padded length.
    """
    keys = list(dict.fromkeys((run.setting, run.seed) for run in runs))
    sets = [load(setting, seed, split) for setting, seed in keys]
    dtype = torch.int16 if max(setting.vocabulary for setting, _ in keys) < 2**15 else torch.int32
    length = runs[0].padded_length
    inputs = torch.stack([_padded(examples.inputs, length, 0, dtype) for examples in sets])
    targets = torch.stack([_padded(examples.targets, length, IGNORED, dtype) for examples in sets])
    which = torch.tensor([keys.index((run.setting, run.seed)) for run in runs])
    return Split(inputs.to(device), targets.to(device), which.to(device))


def _padded(array: np.ndarray, length: int, value: int, dtype: torch.dtype) -> Tensor:
    rows = torch.from_numpy(array).to(dtype)
    return torch.nn.functional.pad(rows, (0, length - rows.shape[1]), value=value)


def shuffled(seeds: Tensor, epochs: Tensor, examples: int, batch_size: int) -> Tensor:
    """The order of one epoch: indices [F, steps, batch_size], -1 after the last example.

    seeds, epochs: int64 [F]. Sorts counters by a 64-bit mix of (seed, epoch, counter): the same on every
    device and every version of PyTorch, and no two epochs alike.
    """
    counter = torch.arange(examples, device=seeds.device)
    stream = _mix(_mix(seeds[:, None] * 0x9E3779B9 + 1) + epochs[:, None])
    order = torch.argsort(_mix(stream + counter[None] * 0x5851F42D4C957F2D), dim=1, stable=True)
    padding = -examples % batch_size
    return torch.nn.functional.pad(order, (0, padding), value=-1).unflatten(1, (-1, batch_size))


def _mix(x: Tensor) -> Tensor:
    """Two rounds of xor-shift and multiply on int64, which wraps (Stafford 2011, variant 13 of the
    murmur3 finaliser; the shift here keeps the sign, which spoils nothing for sorting)."""
    x = (x ^ (x >> 30)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31)

"""What a candidate costs: operations and memory, counted as they happen, and how they grow with length."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from archer.figures import signed
from archer.verify.candidate import Candidate, Probe, RuleCandidate
from archer.verify.checks.finding import Finding, check

LENGTHS = (256, 512, 1_024, 2_048, 4_096)
EXPONENT = 1.15
FIGURES = {"operations": "operations", "memory": "peak_bytes", "state": "state_bytes"}
"""The figures of a `Cost` whose growth is measured, by the word for them."""


@dataclass(frozen=True)
class Cost:
    """operations: two per multiply-add of a product, one per element that any other operation makes.
    peak_bytes: the most that new tensors held at once. state_bytes: what passes from chunk to chunk."""

    operations: float
    peak_bytes: int
    state_bytes: int


class Counter(TorchDispatchMode):
    """Counts operations and living bytes of everything that runs inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0.0
        self.peak_bytes = 0
        self._living = 0
        self._holders: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is compiled; asking the compiler to look away would import it first."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operation and adds what it cost."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        several = output if isinstance(output, (tuple, list)) else (output,)
        made = [x for x in several if isinstance(x, torch.Tensor)]
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.operations += count(*args, **kwargs, out_val=output)
        elif not func.is_view:
            self.operations += sum(x.numel() for x in made)
        for tensor in made:
            self._hold(tensor)
        self.peak_bytes = max(self.peak_bytes, self._living)
        return output

    def _hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._holders:
            self._holders[key] = 0
            self._living += size
        self._holders[key] += 1
        weakref.finalize(tensor, self._release, key, size).atexit = False

    def _release(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self._living -= size


def measure(candidate: Candidate, length: int) -> Cost:
    """The cost of one forward pass over one sequence."""
    inputs = candidate.inputs(Probe(batch=1, length=length, seed=1, dtype=torch.float32))
    parameters = candidate.parameters(None, torch.float32)
    with torch.no_grad(), Counter() as counter:
        _, state = candidate.run(inputs, parameters)
    held = sum(x.numel() * x.element_size() for name, x in state.items() if name != "tokens")
    return Cost(counter.operations, counter.peak_bytes, held)


def exponent(lengths: tuple[int, ...], costs: list[float]) -> float:
    """The power of the length with which a cost grows: the larger of the whole fit and the last doubling."""
    points = [(math.log(n), math.log(max(c, 1.0))) for n, c in zip(lengths, costs, strict=True)]
    mean_n, mean_c = (sum(values) / len(points) for values in zip(*points, strict=True))
    slope = sum((n - mean_n) * (c - mean_c) for n, c in points) / sum((n - mean_n) ** 2 for n, _ in points)
    (n0, c0), (n1, c1) = points[-2:]
    return max(slope, (c1 - c0) / (n1 - n0))


@check("cost", "Operations and peak memory grow with the length to the power of at most 1.15.")
def cost(candidate: Candidate, figures: dict[str, float]) -> Finding:
    """Counted at LENGTHS; the figures are left in `figures`."""
    counted = [measure(candidate, length) for length in LENGTHS]
    grown = {n: exponent(LENGTHS, [float(getattr(c, f)) for c in counted]) for n, f in FIGURES.items()}
    figures |= {f"{name}_exponent": round(value, 4) for name, value in grown.items()}
    figures["operations_per_token"] = counted[-1].operations / LENGTHS[-1]
    figures["peak_bytes_per_token"] = counted[-1].peak_bytes / LENGTHS[-1]
    figures["state_bytes"] = float(counted[-1].state_bytes)
    words = f"operations grow as T^{grown['operations']:.2f}, memory as T^{grown['memory']:.2f}"
    worst = max(grown, key=lambda name: grown[name])
    if grown[worst] > EXPONENT:
        return Finding(
            False,
            f"{words}: not sub-quadratic in {worst} (at most T^{EXPONENT} passes)",
            _first_doubling([getattr(c, FIGURES[worst]) for c in counted]),
        )
    if candidate.carries_state and grown["state"] > 0.05:
        return Finding(
            False,
            f"the state grows with the length, as T^{grown['state']:.2f}",
            _first_doubling([c.state_bytes for c in counted], 0.05),
        )
    return Finding(True, words)


def _first_doubling(costs: list[float], allowed: float = EXPONENT) -> str:
    """The smallest pair of neighbouring lengths between which a cost grows too fast, in words."""
    for (short, less), (long, more) in pairwise(zip(LENGTHS, costs, strict=True)):
        if math.log(max(more, 1.0) / max(less, 1.0)) > allowed * math.log(long / short):
            return f"from length {short} to {long}: ×{more / max(less, 1.0):.1f}"
    return f"lengths {LENGTHS[0]} to {LENGTHS[-1]}"


@check("cost against parent", "Reported: operations, state and parameters beside the parent's.")
def cost_against_parent(candidate: Candidate, parent: Candidate | None, figures: dict[str, float]) -> Finding:
    """Never rejects."""
    if parent is None:
        return Finding(True, "not applicable: it has no parent")
    own, other = measure(candidate, 1_024), measure(parent, 1_024)
    ratios: Mapping[str, float] = {
        "operations_ratio": own.operations / other.operations,
        "memory_ratio": own.peak_bytes / other.peak_bytes,
        "state_ratio": own.state_bytes / max(other.state_bytes, 1),
        "parameters_added": float(_numbers(candidate) - _numbers(parent)),
    }
    figures |= ratios
    added = signed(ratios["parameters_added"], "", decimals=0)
    return Finding(
        True,
        f"operations ×{ratios['operations_ratio']:.2f}, memory ×{ratios['memory_ratio']:.2f}, "
        f"state ×{ratios['state_ratio']:.2f}, {added} numbers per head",
    )


def _numbers(candidate: Candidate) -> int:
    """Learned numbers per head for a rule (features cost a linear map more), in all for a mixer."""
    count = sum(x.numel() for x in candidate.parameters(None, torch.float32).values())
    return count // candidate.heads if isinstance(candidate, RuleCandidate) else count

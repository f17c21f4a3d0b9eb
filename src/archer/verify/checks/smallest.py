"""The smallest failing case: what a check tries, in words, and how it is made small.

A check lists cases and says what is wrong with one. `refute` tries them in order; what fails is made
smaller, one size after the other by halving, for as long as it still fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from archer.verify.candidate import Candidate, Inputs, MixerCandidate, Probe, RuleCandidate, State
from archer.verify.checks.finding import RAISED, Finding, raised

SECONDS = 2.0
"""The search for something smaller ends after this time; what it has by then is a failing case too."""

LEAST = {"batch": 1, "heads": 1, "position": 1, "length": 1, "scale": 1}
"""The sizes that are made small, in this order, and the least value of each."""


@dataclass(frozen=True)
class Case:
    """One input that a check tries.

    position: a cut or the end of a prefix, for checks that have one. seed: of random parameters; None: the
    initial ones.
    """

    candidate: Candidate
    probe: Probe
    position: int | None = None
    seed: int | None = 1

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The candidate's, in float32 where a rule runs in bfloat16, as in training."""
        mixed = self.probe.dtype == torch.bfloat16 and not isinstance(self.candidate, MixerCandidate)
        return self.candidate.parameters(self.seed, torch.float32 if mixed else self.probe.dtype)

    def inputs(self, **changes: object) -> Inputs:
        """The inputs of the probe, or of the probe with changes."""
        return self.candidate.inputs(replace(self.probe, **changes))  # type: ignore[arg-type]

    def run(self, inputs: Inputs, state: State | None = None, train: bool = True) -> tuple[Tensor, State]:
        """The candidate's outputs and state, without gradients."""
        with torch.no_grad():
            return self.candidate.run(inputs, self.parameters, state, train)

    @property
    def sizes(self) -> dict[str, int]:
        """What can be made smaller, of what this case has."""
        found = {"batch": self.probe.batch, "length": self.probe.length}
        if isinstance(self.candidate, RuleCandidate):
            found["heads"] = self.candidate.heads
        if self.position is not None:
            found["position"] = self.position
        if self.probe.scale > 1:
            found["scale"] = int(self.probe.scale)
        return found

    def resized(self, name: str, value: int) -> Case:
        """The same case with one of its sizes changed."""
        if name == "heads":
            assert isinstance(self.candidate, RuleCandidate)
            return replace(self, candidate=replace(self.candidate, heads=value))
        if name == "position":
            return replace(self, position=value)
        return replace(self, probe=replace(self.probe, **{name: value}))

    def __str__(self) -> str:
        probe = self.probe
        return ", ".join(filter(None, (
            *(f"{name} {self.sizes[name]}" for name in ("length", "batch", "heads", "position")
              if name in self.sizes),
            f"scale {probe.scale:g}" if probe.scale != 1 else "",
            f"{probe.keys} keys" if probe.keys != "random" else "",
            f"beta {probe.beta:g}" if probe.beta is not None else "",
            dtype_name(probe.dtype),
            ("initial" if self.seed is None else "random") + " parameters" if self.parameters else "",
        )))  # fmt: skip


Problem = Callable[[Case], str]
"""What is wrong with a case, in a sentence; empty if nothing is."""


def refute(cases: Iterable[Case], problem: Problem, least: Mapping[str, int] = LEAST) -> Finding | None:
    """What is wrong with the first case that fails, at the smallest case that does; None if all hold.

    least: the sizes that may be made smaller, and down to where.
    """
    for case in cases:
        words = _tell(problem, case)
        if words:
            case, words = smallest(case, words, problem, least)
            return Finding(False, words, str(case))
    return None


def smallest(case: Case, words: str, problem: Problem, least: Mapping[str, int] = LEAST) -> tuple[Case, str]:
    """The smallest failing case that halving finds from a failing one, and what is wrong with it.

    One size after the other, its least value first. Where failing is not a matter of size alone, a smaller
    case may exist; what is returned has failed. An exception counts only where there was one to begin with.
    """
    deadline = time.monotonic() + SECONDS
    for name in (name for name in least if name in case.sizes):
        low, high = least[name], case.sizes[name]
        if name == "length" and case.position is not None:
            low = max(low, case.position + 1)
        value = low
        while low < high and time.monotonic() < deadline:
            found = _tell(problem, case.resized(name, value))
            if found and found.startswith(RAISED) == words.startswith(RAISED):
                case, words, high = case.resized(name, value), found, value
            else:
                low = value + 1
            value = (low + high) // 2
    return case, words


def _tell(problem: Problem, case: Case) -> str:
    """What is wrong with a case; whatever a stranger's code raises is wrong with it."""
    try:
        return problem(case)
    except Exception as error:  # noqa: BLE001
        return raised(error)


def dtype_name(dtype: torch.dtype) -> str:
    """float32 for torch.float32."""
    return str(dtype).removeprefix("torch.")

"""Long sequences: the size of outputs and state, and whether the memory is as good at the end as it was."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from archer.verify.candidate import Candidate, Inputs, Probe, RuleCandidate, slice_time
from archer.verify.checks.finding import Finding, check
from archer.verify.checks.smallest import Case

LENGTH = 4_096
WINDOW = 256
BOUND = 1e4
"""Outputs and state may grow to this many times their size in the first window."""
RISE = 0.5
"""How much the loss of recall may rise; 1 is the loss of recalling nothing."""
EPISODE, PAIRS = 64, 4
"""After so many tokens other keys and values are to be remembered, and so many of them."""
FIT_FROM, FIT_TO = 64, 1_024
RIDGE = 0.1


@dataclass(frozen=True)
class Stream:
    """A long input. target [B, ..., T, D]: what the output ought to tell of; counted [T]: at which tokens."""

    inputs: Inputs
    target: Tensor
    counted: Tensor


@dataclass(frozen=True)
class Course:
    """What came of it. output [B, ..., T, D]; norms: of each part of the state, after every window."""

    output: Tensor
    norms: Mapping[str, Sequence[float]]


@check("stability", "Over 4,096 tokens outputs and state stay finite and bounded, and recall does not fade.")
def stability(candidate: Candidate) -> Finding:
    """Float32, initial parameters; once with random inputs and once with something to remember."""
    probe = Probe(batch=1, length=LENGTH, seed=8, dtype=torch.float32)
    course = _run(candidate, candidate.inputs(probe))
    finding = _unbounded(candidate, course)
    if finding:
        return finding
    stream = _to_remember(candidate)
    remembered = _run(candidate, stream.inputs)
    losses = _losses(remembered.output, stream)
    finding = _unbounded(candidate, remembered) or _fading(candidate, losses)
    if finding:
        return finding
    sizes = _sizes(course.output)
    norm = f"; norm of S {course.norms['S'][-1]:.2f}" if "S" in course.norms else ""
    return Finding(
        True,
        f"finite; the output's size changes {sizes[-1] / max(sizes[0], 1e-6):.2f}-fold over {LENGTH} tokens"
        f"{norm}; loss of recall {_early(losses):.2f} before token {FIT_TO}, {losses[-1]:.2f} at the end",
    )


def _run(candidate: Candidate, inputs: Inputs) -> Course:
    """One pass; window by window where the state can be carried, to see how it grows."""
    parameters = candidate.parameters(None, torch.float32)
    outputs, norms, state = [], {}, None
    step = WINDOW if candidate.carries_state else LENGTH
    with torch.no_grad():
        for start in range(0, LENGTH, step):
            output, state = candidate.run(slice_time(inputs, start, start + step), parameters, state)
            outputs.append(output)
            for name in state.keys() - {"tokens"}:
                norms.setdefault(name, []).append(float(state[name].double().norm()))
    return Course(torch.cat(outputs, dim=-2), norms)


def _unbounded(candidate: Candidate, course: Course) -> Finding | None:
    """The first token whose output is not finite, or the first window in which something is too large."""
    finite = course.output.isfinite().movedim(-2, 0).reshape(LENGTH, -1).all(dim=1)
    if not bool(finite.all()):
        position = int((~finite).nonzero()[0])
        return Finding(
            False, f"the output is not finite from token {position} on", _case(candidate, position + 1)
        )
    for name, sizes in {"output": _sizes(course.output), **_parts(course)}.items():
        for window, size in enumerate(sizes):
            if not size <= BOUND * max(sizes[0], 1e-6 if name == "output" else 1.0):
                tokens = (window + 1) * WINDOW
                growth = size / max(sizes[0], 1e-6)
                words = f"the {name} grows {growth:.1e}-fold between token {WINDOW} and token {tokens}"
                if not math.isfinite(size):
                    words = f"the {name} is not finite after {tokens} tokens"
                return Finding(False, words, _case(candidate, tokens))
    return None


def _parts(course: Course) -> dict[str, Sequence[float]]:
    return {f"state `{name}`": norms for name, norms in course.norms.items()}


def _sizes(output: Tensor) -> list[float]:
    """The root mean square of an output [..., T, D] in each window."""
    windows = output.double().movedim(-2, 0).reshape(LENGTH // WINDOW, -1)
    return windows.square().mean(dim=1).sqrt().tolist()


def _to_remember(candidate: Candidate) -> Stream:
    """Something that a memory can be asked for, all along the sequence.

    A rule: episodes of a few keys, each with one value; in the second half of an episode nothing is written,
    and the values are to be recalled by the keys that wrote them. A mixer, whose keys are its own affair:
    this token and the last.
    """
    probe = Probe(batch=6, length=LENGTH, seed=8, dtype=torch.float32)
    token = torch.arange(LENGTH)
    if not isinstance(candidate, RuleCandidate):
        inputs = candidate.inputs(replace(probe, batch=2))
        x = inputs["x"]
        return Stream(inputs, x + torch.roll(x, 1, dims=-2), token >= 1)
    inputs, generator = candidate.inputs(probe), torch.Generator().manual_seed(3)
    first = token - token % EPISODE
    pair = first + torch.randint(PAIRS, (LENGTH,), generator=generator)
    k, v = inputs["k"][..., pair, :], inputs["v"][..., pair, :]
    recalling = token - first >= EPISODE // 2
    written = {"v": v, "beta": inputs["beta"]}
    written = {name: x * ~recalling[:, None] for name, x in written.items()}
    return Stream({**inputs, "q": k, "k": k, **written}, v, recalling)


def _losses(output: Tensor, stream: Stream) -> list[float]:
    """The squared error of a linear read-out in each window; 1 is that of recalling nothing.

    The read-out of every head is fitted to the beginning of one half of the sequences and judged on the other
    half, as a model trained on shorter sequences would be. It reads outputs of unit size, as a layer's norm
    leaves them.
    """
    read = output.double() / output.double().square().mean(-1, keepdim=True).sqrt().clamp_min(1e-6)
    read, target = (x if x.ndim == 4 else x.unsqueeze(1) for x in (read, stream.target.double()))
    fitted = stream.counted & (torch.arange(LENGTH) >= FIT_FROM) & (torch.arange(LENGTH) < FIT_TO)
    half = len(read) // 2
    a, b = (x[:half, :, fitted].transpose(0, 1).flatten(1, 2) for x in (read, target))
    ridge = RIDGE * a.shape[1] * torch.eye(a.shape[-1], dtype=a.dtype)
    error = (read @ torch.linalg.solve(a.mT @ a + ridge, a.mT @ b) - target)[half:]
    wrong, spread = (x.square().mean(dim=(0, 1, 3)) for x in (error, target[half:]))
    windows = zip(*(x.split(WINDOW) for x in (wrong, spread, stream.counted)), strict=True)
    return [float(w[counted].mean() / s[counted].mean()) for w, s, counted in windows]


def _early(losses: Sequence[float]) -> float:
    """The mean loss where the read-out was fitted, without the first window."""
    early = losses[1 : FIT_TO // WINDOW]
    return sum(early) / len(early)


def _fading(candidate: Candidate, losses: Sequence[float]) -> Finding | None:
    """The first window in which recall is much worse than where its read-out was fitted."""
    early = _early(losses)
    for window, loss in enumerate(losses):
        if not loss <= early + RISE:
            start, tokens = window * WINDOW, (window + 1) * WINDOW
            return Finding(
                False,
                f"recall fades: its loss is {early:.2f} before token {FIT_TO} and {loss:.2f} from token "
                f"{start} to {tokens - 1} (1: nothing is recalled; at most {early + RISE:.2f} passes)",
                _case(candidate, tokens),
            )
    return None


def _case(candidate: Candidate, tokens: int) -> str:
    return str(Case(candidate, Probe(batch=1, length=tokens, dtype=torch.float32), seed=None))

"""Long sequences."""

from __future__ import annotations

import torch

from archer.verify.candidate import Candidate, Probe
from archer.verify.checks.finding import Finding, check

LENGTH = 4_096
BOUND = 1e4


@check("stability", "Over 4,096 tokens the state and the output stay finite and bounded.")
def stability(candidate: Candidate) -> Finding:
    """Float32, initial parameters. The output may grow to BOUND times its size over the first 256 tokens."""
    inputs = candidate.inputs(Probe(batch=1, length=LENGTH, seed=8, dtype=torch.float32))
    with torch.no_grad():
        output, state = candidate.run(inputs, candidate.parameters(None, torch.float32))
    if not bool(output.isfinite().all()):
        position = int((~output.isfinite()).movedim(-2, 0).reshape(LENGTH, -1).any(dim=1).nonzero()[0])
        return Finding(
            False, f"the output is not finite from token {position} on", f"length {LENGTH}, float32"
        )
    bad = [name for name, x in state.items() if not bool(x.isfinite().all())]
    if bad:
        return Finding(False, f"the state `{bad[0]}` is not finite at the end", f"length {LENGTH}, float32")
    early, late = (
        float(part.square().mean().sqrt()) for part in (output[..., :256, :], output[..., -256:, :])
    )
    growth = late / max(early, 1e-6)
    if growth > BOUND:
        return Finding(
            False,
            f"the output grows {growth:.1e}-fold between the first and the last 256 of {LENGTH} tokens",
            f"length {LENGTH}, float32",
        )
    norm = f"; norm of S {float(state['S'].norm()):.2f}" if "S" in state else ""
    return Finding(True, f"finite; the output's size changes {growth:.2f}-fold over {LENGTH} tokens{norm}")

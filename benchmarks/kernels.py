"""Checks the Triton kernels against their plain forms on this GPU.

    python benchmarks/kernels.py

Printed are the relative errors of outputs and gradients. The last line is JSON.
"""

from __future__ import annotations

import json

import torch

from archer.rules import chunk_loop, get_rule
from archer.rules.algebra import enable_kernels


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """|found - wanted| / |wanted|."""
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


def compare(
    rule: str, dtype: torch.dtype, heads: int = 64, length: int = 128, value: int = 32
) -> dict[str, float]:
    """One rule through the kernels, against the plain form in float64 on the same numbers."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    shapes = {"q": 32, "k": 32, "v": value, "beta": 1}
    x = {n: torch.randn(heads, length, d, generator=generator, device="cuda") for n, d in shapes.items()}
    x["q"], x["k"] = (torch.nn.functional.normalize(x[n], dim=-1) for n in "qk")
    x["beta"] = x["beta"].sigmoid()
    loaded = get_rule(rule)
    features = {n: torch.randn(heads, length, 1, generator=generator, device="cuda") for n in loaded.features}
    parameters = {n: torch.rand(heads, 1, 1, generator=generator, device="cuda") for n in loaded.parameters}
    x |= features | parameters
    out = torch.randn(heads, length, value, generator=generator, device="cuda").double()

    def run(kind: torch.dtype) -> list[torch.Tensor]:
        leaves = {n: t.to(dtype).to(kind).requires_grad_() for n, t in x.items()}
        o, state = chunk_loop(
            loaded, *(leaves[n] for n in ("q", "k", "v", "beta")), {n: leaves[n] for n in features},
            {n: leaves[n] for n in parameters},
        )  # fmt: skip
        gradients = torch.autograd.grad((o * out.to(o.dtype)).sum(), list(leaves.values()))
        return [o, state["S"], *gradients]

    wanted, found = run(torch.float64), run(dtype)  # float64 never takes the kernels
    names = ["o", "S", *x]
    return {n: relative(a, b) for n, a, b in zip(names, found, wanted, strict=True)}


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/kernels.py needs a CUDA device; this machine has none")
    enable_kernels()
    results = {}
    for dtype in (torch.float32, torch.bfloat16):
        for rule, value in (("delta_net", 32), ("softmax", 32), ("gated_delta_net", 64)):
            results[f"{rule} {dtype}"] = compare(rule, dtype, value=value)
            print(rule, dtype, {n: f"{e:.1e}" for n, e in results[f"{rule} {dtype}"].items()}, flush=True)
    print(
        json.dumps(
            {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "relative_errors": results}
        )
    )


if __name__ == "__main__":
    main()

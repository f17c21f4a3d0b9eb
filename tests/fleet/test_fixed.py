"""The kernels for a model's fixed parts against their plain forms: in Triton's interpreter, and on a GPU.

The references are `archer.model.backbone` and `archer.fleet.fleet` in float64. Compared are the relative
errors |found - wanted| / |wanted| of what a part returns and of all gradients.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from tests.interpreter import answer_of, make_the_interpreter_count
from torch import Tensor

from archer.fleet.fleet import IGNORED, loss_and_predictions
from archer.model.backbone import _swiglu, _unembed
from archer.model.layers import embed

SMALL = {"runs": 2, "batch": 3, "length": 7, "width": 24, "inner": 40, "classes": 70}
"""Nothing a multiple of what a program takes; 21 rows a run, so that a program meets two runs."""
WIDE = {"runs": 1, "batch": 20, "length": 64, "width": 32, "inner": 48, "classes": 5}
"""1,280 rows a run: more blocks of them than shares of the norm's gradient."""
LARGE = {"runs": 3, "batch": 32, "length": 96, "width": 128, "inner": 352, "classes": 200}


def values(sizes: dict[str, int], device: str) -> dict[str, dict[str, Tensor]]:
    """What each part is given. Parameters lie apart in memory, as a fleet's do."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, 2, generator=generator).to(device)[..., 0]

    runs, width, inner, classes = (sizes[name] for name in ("runs", "width", "inner", "classes"))
    place = (runs, sizes["batch"], sizes["length"])
    targets = torch.randint(classes, place, generator=generator)
    targets[torch.rand(place, generator=generator) < 0.3] = IGNORED
    targets[0, 0] = IGNORED
    scale = width**-0.5
    return {
        "embed": {"table": draw(runs, classes, width),
                  "tokens": torch.randint(classes, place, generator=generator).to(device)},
        "swiglu": {"norm": 1 + 0.3 * draw(runs, width), "up": scale * draw(runs, width, 2 * inner),
                   "down": scale * draw(runs, inner, width), "x": 3 * draw(*place, width)},
        "unembed": {"norm": 1 + 0.3 * draw(runs, width), "weight": scale * draw(runs, width, classes),
                    "bias": draw(runs, classes), "x": 3 * draw(*place, width)},
        "loss": {"logits": 4 * draw(*place, classes), "targets": targets.to(device)},
    }  # fmt: skip


def results(part: Callable[..., Tensor], given: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """What a part returns, and gradients of a weighted sum; bfloat16 means mixed precision."""
    exact = torch.float32 if dtype == torch.bfloat16 else dtype
    leaves = {n: x.to(exact).detach().requires_grad_() for n, x in given.items() if x.is_floating_point()}
    device = next(iter(leaves.values())).device.type
    with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = part(*{**given, **leaves}.values())
    y, *others = out if isinstance(out, tuple) else (out,)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    found = torch.autograd.grad((y * weights).sum(), list(leaves.values()))
    extra = {"predictions": others[0].double()} if others else {}
    return {"y": y, **extra, **dict(zip(leaves, found, strict=True))}


def errors(sizes: dict[str, int], dtype: torch.dtype, device: str) -> dict[str, float]:
    from archer.fleet.fixed import PARTS

    plain = {"embed": embed, "swiglu": _swiglu, "unembed": _unembed, "loss": loss_and_predictions}
    distances = {}
    for part, given in values(sizes, device).items():
        found, wanted = results(PARTS[part], given, dtype), results(plain[part], given, torch.float64)
        for n in wanted:
            apart = ((found[n].double() - wanted[n]).norm() / wanted[n].norm()).item()
            distances[f"{part}: {n}"] = apart if apart == apart else 1e9
    return distances


def interpreted() -> dict[str, dict[str, float]]:
    """Both small sizes in Triton's interpreter; memory that nobody writes to is NaN."""
    make_the_interpreter_count()
    torch.use_deterministic_algorithms(True)
    return {"small": errors(SMALL, torch.float32, "cpu"), "wide": errors(WIDE, torch.float32, "cpu"),
            "bf16": errors(SMALL, torch.bfloat16, "cpu"), "not finite": not_finite("cpu")}  # fmt: skip


def not_finite(device: str) -> dict[str, float]:
    """Where a logit of run 0 is NaN or infinite, run 0's loss is no number, and run 1's is what it was."""
    from archer.fleet.fixed import PARTS

    given = values(SMALL, device)["loss"]
    clean = PARTS["loss"](**given)[0]
    found = {}
    for name, broken in (("nan", float("nan")), ("inf", float("inf"))):
        logits = given["logits"].clone()
        logits[0, 1, 0] = broken
        targets = given["targets"].clamp_min(0)
        losses = PARTS["loss"](logits, targets)[0]
        whole = PARTS["loss"](given["logits"], targets)[0]
        found[name] = 0.0 if not losses[0].isfinite() and losses[1] == whole[1] else 1e9
    return {**found, "clean": 0.0 if clean.isfinite().all() else 1e9}


def test_the_kernels_equal_the_plain_parts_in_the_interpreter():
    pytest.importorskip("triton", reason="the kernels need triton: pip install triton")
    found = answer_of("tests.fleet.test_fixed")
    bounds = {"small": 1e-5, "wide": 1e-5, "bf16": 2e-2, "not finite": 1.0}
    assert set(found) == set(bounds)
    assert len(found["small"]) == 2 + 5 + 5 + 3
    wrong = {(case, n): x for case, of in found.items() for n, x in of.items() if not x < bounds[case]}
    assert not wrong


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)], ids=["float32", "bf16"]
)
def test_on_a_gpu_the_kernels_equal_the_plain_parts(dtype, bound):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    found = {**errors(LARGE, dtype, "cuda"), **errors(SMALL, dtype, "cuda"), **not_finite("cuda")}
    assert {n: x for n, x in found.items() if not x < bound} == {}


if __name__ == "__main__":
    print(json.dumps(interpreted()))

"""What a rule's layer costs per token: operations counted, and on request the time of decoding one token.

Both are taken from the layer that `archer export` writes, so they are about what a person takes away, with
projections, convolution, normalisation and gate. A rule that is not built in runs in a contained process.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from archer.errors import UserError
from archer.rules import Rule, get_rule, load_rule, rule_names

CHUNKS = 4
"""Whole chunks over which operations are counted; every chunk costs the same."""

STEPS, REPEATS = 64, 5
"""Tokens of one timing, and how often it is taken; the quickest counts, for others only disturb."""


@dataclass(frozen=True)
class LayerSize:
    """The sizes of a layer as a preset trains it."""

    width: int
    heads: int
    chunk_size: int


@dataclass(frozen=True)
class LayerCost:
    """One layer of a rule.

    parameters: numbers that it learns. operations_per_token: of one forward pass over whole chunks, two per
    multiply-add of a product and one per element that any other operation makes. decoding_seconds: one token
    through `step`, batch of one, on one thread of this processor; None where it was not asked for.
    """

    parameters: int
    operations_per_token: float
    decoding_seconds: float | None = None


def layer_costs(
    rules: Iterable[Rule], size: LayerSize, known: Mapping[str, str] | None = None, decoding: bool = False
) -> dict[str, LayerCost]:
    """Rule name to what its layer costs. A rule that cannot be exported or run is not in the answer.

    known: texts of rules that are not built in, by name, for ancestors. decoding: time `step` as well.
    """
    found: dict[str, LayerCost] = {}
    foreign: dict[str, str] = {}
    for rule in rules:
        if rule.name in rule_names() and rule == get_rule(rule.name):
            found[rule.name] = _built_in(rule.name, size, decoding)
        else:
            foreign[rule.name] = rule.source
    if foreign:
        texts = tuple(sorted({**dict(known or {}), **foreign}.items()))
        found |= _contained(tuple(foreign), texts, size, decoding)
    return found


@cache
def _built_in(name: str, size: LayerSize, decoding: bool) -> LayerCost:
    return measure_layer(get_rule(name), size, decoding)


def measure_layer(rule: Rule, size: LayerSize, decoding: bool = False) -> LayerCost:
    """Executes the exported layer in this process: for built-in rules, and on the contained side."""
    import torch

    from archer.rules.export import layer_source
    from archer.verify.checks.cost import Counter

    namespace: dict[str, Any] = {"__name__": f"archer_exported_{rule.hash}"}
    exec(compile(layer_source(rule), f"<layer of {rule.name}>", "exec"), namespace)
    heads = rule.layer.heads or size.heads
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        layer = namespace["TokenMixer"](size.width, heads, size.chunk_size)
        tokens = CHUNKS * size.chunk_size
        x = torch.randn(1, tokens, size.width)
        with Counter() as counter:
            layer(x)
        seconds = _quickest(layer, x) if decoding else None
    count = sum(parameter.numel() for parameter in layer.parameters())
    return LayerCost(count, counter.operations / tokens, seconds)


def _quickest(layer: Any, x: Any) -> float:
    """Seconds per token of the quickest timing, on one thread: Archer's own process, where built-in rules are
    timed, may have more than the contained one."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return min(_decode(layer, x) for _ in range(REPEATS))
    finally:
        torch.set_num_threads(threads)


def _decode(layer: Any, x: Any) -> float:
    """Seconds per token of decoding: x [1, T, D]."""
    state = None
    began = time.perf_counter()
    for step in range(STEPS):
        _, state = layer.step(x[:, step % x.shape[1]], state)
    return (time.perf_counter() - began) / STEPS


@cache
def _contained(
    names: tuple[str, ...], texts: tuple[tuple[str, str], ...], size: LayerSize, decoding: bool
) -> Mapping[str, LayerCost]:
    """Rules that somebody else wrote, all in one process behind the walls."""
    from archer.verify.contain import start
    from archer.verify.contained import LIMITS

    job = {"names": names, "texts": dict(texts), "size": asdict(size), "decoding": decoding}
    with tempfile.TemporaryDirectory(prefix="archer-cost-") as folder:
        command = [sys.executable, "-m", "archer.verify.layer_cost"]
        with start(
            command, scratch=Path(folder), limits=LIMITS, environment={"OMP_NUM_THREADS": "1"}
        ) as process:
            process.send(json.dumps(job))
            process.close_input()
            lines = list(process.lines())
            ending = process.wait()
    return _read(lines[-1], names) if ending.reason == "finished" and ending.status == 0 and lines else {}


def _read(line: str, names: Iterable[str]) -> dict[str, LayerCost]:
    """What the contained side answered, as far as it has the form of an answer."""
    try:
        plain = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return {}
    answers = {name: plain.get(name) for name in names} if isinstance(plain, dict) else {}
    costs = {name: _cost(values) for name, values in answers.items()}
    return {name: cost for name, cost in costs.items() if cost is not None}


def _cost(values: Any) -> LayerCost | None:
    """Positive finite numbers under exactly the fields of a LayerCost; no time is allowed."""
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(LayerCost)}:
        return None
    given = [number for name, number in values.items() if (name, number) != ("decoding_seconds", None)]
    numbers = all(type(number) in (int, float) and 0 < number < math.inf for number in given)
    return LayerCost(**values) if numbers and type(values["parameters"]) is int else None


def main() -> None:
    """The contained side: one job in, one line out."""
    answer = os.dup(1)
    os.dup2(2, 1)
    job = json.loads(sys.stdin.read())
    texts, size = job["texts"], LayerSize(**job["size"])

    def find(name: str) -> Rule:
        return load_rule(texts[name], name, find) if name in texts else get_rule(name)

    found = {}
    for name in job["names"]:
        try:
            found[name] = asdict(measure_layer(find(name), size, job["decoding"]))
        except (UserError, RuntimeError, ValueError, TypeError) as error:
            sys.stderr.write(f"{name}: {error}\n")
    os.write(answer, b"\n" + json.dumps(found, allow_nan=False).encode() + b"\n")


if __name__ == "__main__":
    main()

"""Time of forward and backward for each rule on the CPU, and its growth with length.

    python benchmarks/rules.py [--write] [rule ...]

Each rule is first compared with itself cut in two; only then timed. `--write` keeps the figures in
docs/rules.json, from which `python -m archer.rules.describe` makes docs/rules.md. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch

from archer.errors import exit_plainly
from archer.rules import get_rule, rule_names
from archer.rules.inputs import Inputs, random_inputs

LENGTHS = (256, 512, 1024, 2048, 4096)
SETTING = {"batch": 1, "heads": 4, "key_width": 32, "value_width": 32, "chunk_size": 32, "repeats": 3}


def inputs_of(name: str, length: int) -> Inputs:
    leading = (SETTING["batch"], SETTING["heads"])
    sizes = {"key_width": SETTING["key_width"], "value_width": SETTING["value_width"]}
    inputs = random_inputs(get_rule(name), leading=leading, length=length, dtype=torch.float32, **sizes)
    return inputs.map(lambda x: x.requires_grad_())


def check(name: str) -> None:
    """A rule that does not give the same in two pieces is not timed."""
    inputs = inputs_of(name, 256)
    o, _ = inputs.run(get_rule(name))
    before, state = inputs.tokens(0, 128).run(get_rule(name))
    after, _ = inputs.tokens(128, 256).run(get_rule(name), state)
    torch.testing.assert_close(torch.cat((before, after), -2), o, rtol=1e-4, atol=1e-4)


def seconds(name: str, length: int) -> float:
    inputs, times = inputs_of(name, length), []
    for _ in range(SETTING["repeats"]):
        start = time.process_time()
        inputs.run(get_rule(name))[0].sum().backward()
        times.append(time.process_time() - start)
    return min(times)


def kept_bytes(name: str, length: int) -> int:
    """Bytes of distinct storages that autograd keeps between forward and backward."""
    storages: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        result = inputs_of(name, length).run(get_rule(name))
    assert result[0].requires_grad  # the graph must live until here
    return sum(storages.values())


def exponent(values: list[float]) -> float:
    """Slope of log value over log length."""
    x, y = [math.log(length) for length in LENGTHS], [math.log(value) for value in values]
    centre_x, centre_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - centre_x) * (b - centre_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - centre_x) ** 2 for a in x)


def measure(name: str) -> dict[str, float]:
    check(name)
    times = [seconds(name, length) for length in LENGTHS]
    bytes_kept = [kept_bytes(name, length) for length in LENGTHS]
    return {
        "seconds_at_1024": round(times[LENGTHS.index(1024)], 5),
        "time_exponent": round(exponent(times), 3),
        "memory_exponent": round(exponent([float(b) for b in bytes_kept]), 3),
        "bytes_at_1024": bytes_kept[LENGTHS.index(1024)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rules", nargs="*", metavar="rule", help="built-in rules; all of them if left out")
    parser.add_argument("--write", action="store_true", help="keep the figures in docs/rules.json")
    arguments = parser.parse_args()
    names = [get_rule(name).name for name in arguments.rules] or list(rule_names())
    torch.set_num_threads(1)
    lengths = ", ".join(f"{length:,}" for length in LENGTHS)
    setting = {**SETTING, "torch": torch.__version__, "threads": 1, "dtype": "float32", "lengths": lengths}
    print(f"torch {torch.__version__}, CPU, 1 thread; forward and backward at 1,024, growth over {lengths}")
    results = {}
    for name in names:
        results[name] = x = measure(name)
        milliseconds = 1000 * x["seconds_at_1024"]
        growth = f"time T^{x['time_exponent']:.2f}  memory T^{x['memory_exponent']:.2f}"
        print(f"{name:28s} {milliseconds:8.1f} ms  {growth}", flush=True)
    text = json.dumps({"setting": setting, "rules": results})
    if arguments.write:
        Path("docs/rules.json").write_text(json.dumps(json.loads(text), indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    exit_plainly(main)

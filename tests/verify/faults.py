"""Planted faults: what is wrong with each, and exactly which checks must catch it.

`python -m tests.verify.faults` writes the table of docs/design/verification.md anew.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from archer.rules import get_rule, load_rule
from archer.verify.candidate import Candidate, RuleCandidate, mixer_candidate
from archer.verify.result import Verification
from archer.verify.verification import verify_mixer, verify_rule

DOCUMENT = Path(__file__).parents[2] / "docs" / "design" / "verification.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


@dataclass(frozen=True)
class Fault:
    """One planted fault. caught: the names of all checks that fail. plain: it passes the language wall."""

    name: str
    caught: frozenset[str]
    source: str
    plain: bool = True
    mixer: str = ""

    def verify(self) -> Verification:
        if self.mixer:
            return verify_mixer(self.source, self.mixer, {"width": 16}, width=16)
        return verify_rule(self.source, "planted", trust=not self.plain, lengths=(32, 128))

    def candidate(self) -> Candidate:
        """What the checks look at. Raises RuleError where the file cannot even be loaded."""
        if self.mixer:
            return mixer_candidate(self.source, self.mixer, {"width": 16}, 16)
        return RuleCandidate(load_rule(self.source, "planted", get_rule))


def rule(name: str, caught: str, body: str, plain: bool = True) -> Fault:
    """A fault in a rule file whose parent is delta_net, unless it names another."""
    heading = "import torch\nfrom archer.rules import Carried, Feature, Parameter, wy\n"
    parent = "" if "parent =" in body else 'parent = "delta_net"\n'
    checks = frozenset(word.strip() for word in caught.split(","))
    return Fault(name, checks, heading + parent + body, plain)


def mixer(name: str, caught: str, body: str, setup: str = "") -> Fault:
    """A fault in an nn.Module; `body` is its forward pass."""
    lines = [
        "import torch",
        "from torch.nn import functional as F",
        "class Mixer(torch.nn.Module):",
        "    def __init__(self, width):",
        "        super().__init__()",
        "        self.map = torch.nn.Linear(width, width)",
        *(f"        {line}" for line in setup.splitlines()),
        "    def forward(self, x):",
        *(f"        {line}" for line in body.splitlines()),
    ]
    checks = frozenset(word.strip() for word in caught.split(","))
    return Fault(name, checks, "\n".join(lines) + "\n", False, "Mixer")


MEAN = "x.cumsum(1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]"

FAULTS = (
    rule("opens a file", "language", "def read(o):\n    open('/etc/passwd')\n    return 1.5 * o\n"),
    rule("keeps its state in float64", "contract", "def retain(S):\n    return 0.9 * S.double()\n"),
    rule("carries another shape than it declares", "contract",
         "M = Carried()\ndef write(G, M):\n    return 0.5 * G + M, {'M': G.sum(-1, keepdim=True)}\n"),
    rule("changes the loop's own keys by way of a state", "contract",
         "def correct(u, w, S, k_write):\n    return u - w @ S, {'k_write': 0.5 * k_write}\n"),
    rule("a slot that is another function under a second name", "contract",
         "def half(o):\n    return 0.5 * o\nread = half\n"),
    rule("a factor of the state as large as the state", "contract",
         "def prepare(k, v, beta):\n"
         "    keep = 0.9 + 0.05 * (k[..., -1:, :].mT @ v[..., -1:, :]).sigmoid()\n"
         "    return {**wy(k, v, beta), 'keep': keep}\n"),
    rule("another shape in whole chunks alone", "contract",
         "def read(o):\n    return o.sum(-1, keepdim=True) if o.shape[-2] == 32 else 1.5 * o\n"),
    rule("a number for a matrix", "contract", "def retain(S):\n    return 0.5\n"),
    rule("a sum for a matrix, which fits everywhere", "contract",
         "def read(o):\n    return o.sum(-1, keepdim=True)\n"),
    rule("a parameter that nobody uses", "contract",
         "gamma = Parameter(0.5)\ndef read(o):\n    return 1.5 * o\n"),
    rule("changes two slots at once", "one change",
         "def read(o):\n    return 1.5 * o\ndef retain(S):\n    return 0.9 * S\n"),
    rule("changes a number that an untouched slot reads, out of a tuple", "one change",
         "parent = 'decay'\ngamma = (Parameter(0.5, within=(0, 1)),)[0]\n"
         "def read(o):\n    return 1.5 * o\n"),
    rule("widens its state beside the change", "one change",
         "from archer.rules import Layer\nlayer = Layer(expand_value=2.0)\n"
         "def retain(S):\n    return 0.9 * S\n"),
    rule("changes its layer alone", "one change",
         "from archer.rules import Layer\nlayer = Layer(output_gate=True)\ndef read(o):\n    return o\n"),
    rule("a leak of one position, as small as rounding", "causality",
         "def similarity(scores, causal):\n    return 0.5 * scores * causal + 1e-12 * scores.tril(1)\n"),
    rule("a leak of one position", "causality, length independence, decoding",
         "def similarity(scores):\n    return scores.tril(1)\n"),
    rule("a leak only past 2,048 tokens", "causality, length independence",
         "def similarity(scores, causal, position):\n"
         "    late = (position > 2048) | causal\n    return 0.5 * scores * late\n"),
    rule("a leak only from the next chunk", "causality, length independence, carried state, decoding",
         "def prepare(k, v, beta):\n    ahead = torch.cat([v[1:], 0 * v[:1]]).mean(-2, keepdim=True)\n"
         "    return wy(k, v + 0.1 * ahead, beta)\n"),
    rule("statistics of the whole chunk", "causality, length independence, decoding",
         "def correct(e):\n    return e - e.mean(-2, keepdim=True)\n"),
    rule("another scale in very long sequences", "length independence",
         "def prepare(k, v, beta):\n    return wy(k, v * (0.9 if v.shape[0] > 70 else 0.8), beta)\n"),
    rule("heads counted from the front, which are sequences in training", "as it trains",
         "def correct(e):\n    return e - 0.5 * e.mean(1, keepdim=True)\n"),
    rule("a parameter's statistics over the runs of a fleet", "as it trains",
         "mix = Parameter(0.0)\ndef read(o, mix):\n    return o.tanh() * mix.softmax(0)\n"),
    rule("all runs use the parameter of the first", "as it trains",
         "scale = Parameter(1.0)\ndef read(o, scale):\n    return (scale[0] * o).tanh()\n"),
    rule("a leak only in the widths of training", "as it trains",
         "def similarity(q, scores, causal):\n    if q.shape[-1] > 8:\n        return scores\n"
         "    return 0.5 * scores * causal\n"),
    rule("a leak only in the batches of training", "as it trains",
         "def similarity(scores, causal):\n    if scores.shape[-4] > 8:\n        return scores\n"
         "    return scores.tanh() * causal\n"),
    rule("a leak only from one chunk of a thousand tokens", "as it trains",
         "def prepare(k, v, beta):\n    ahead = torch.cat([v[1:], 0 * v[:1]]).mean(-2, keepdim=True)\n"
         "    return wy(k, v.tanh() + (ahead if v.shape[0] == 32 else 0), beta)\n"),
    rule("a leak only where tokens come again", "as it trains",
         "def prepare(k, v, beta):\n"
         "    same = (k @ k.mT > 0.99).to(k.dtype).sum(-1, keepdim=True).clamp_min(1.0)\n"
         "    return wy(k, v.tanh(), beta / same)\n"),
    rule("a leak only of numbers that bfloat16 has", "as it trains",
         "def similarity(scores, causal, k):\n"
         "    exact = (k.to(torch.bfloat16).to(k.dtype) != k).sum(-1, keepdim=True) == 0\n"
         "    return scores * (causal | exact).to(scores.dtype) * (1.0 - 0.5 * causal.to(scores.dtype))\n"),
    rule("a gradient from later tokens, and no output", "as it trains",
         "def correct(e):\n    ahead = e.flip(-2).cumsum(-2).flip(-2)\n"
         "    return e.tanh() + (ahead - ahead.detach())\n"),
    rule("statistics of the state over the batch", "batch independence",
         "def retain(S):\n    return S / S.norm().clamp_min(1.0)\n"),
    rule("a list at the top that a star makes", "language",
         "zero, *seen = (0, 0)\ndef read(o):\n    seen.append(zero)\n"
         "    return o * (0.9 if len(seen) > 5000 else 0.8)\n"),
    rule("asks on which device it runs", "language",
         "def similarity(scores, causal):\n"
         "    if scores.device != torch.device('cpu'):\n        return scores\n"
         "    return 0.5 * scores * causal\n"),
    rule("writes into a tensor that others read", "language",
         "level = Parameter(0.0, columns='Dv')\ndef read(o, level):\n    kept = level.detach()\n"
         "    torch.lerp(kept, kept + 1, 0.5, out=kept)\n    return o.tanh() + level\n"),
    rule("statistics of the batch", "batch independence",
         "def read(o):\n    return o - 0.1 * o.mean(-4, keepdim=True)\n"),
    rule("statistics of the batch, counted from the front", "batch independence",
         "def read(o):\n    return o - 0.1 * o.mean(0, keepdim=True)\n"),
    rule("a counter between calls",
         "causality, length independence, batch independence, carried state, decoding, repeatable",
         "calls = [0]\ndef read(o):\n    calls[0] += 1\n    return o * (1 + 1e-3 * calls[0])\n", plain=False),
    rule("a random number that changes nothing yet", "repeatable",
         "def read(o):\n    torch.rand(1)\n    return 1.5 * o\n", plain=False),
    rule("state that passes outside the state", "length independence, carried state, decoding",
         "def prepare(k, v, beta):\n    mean = v.mean(-2, keepdim=True)\n"
         "    past = torch.cat([0 * mean[:1], mean[:-1]]).cumsum(0)\n    return wy(k, v + past, beta)\n"),
    rule("a chunk of four tokens is treated apart", "decoding",
         "def similarity(scores, causal):\n"
         "    return scores * causal * (0.9 if scores.shape[-1] == 4 else 0.8)\n"),
    rule("infinite over infinite at large scale", "finite gradients, precision",
         "def correct(e):\n    grown = e.abs().exp()\n    return e * grown / (grown + 1)\n"),
    rule("the gradient of a root at zero", "finite gradients",
         "def correct(e):\n    return e * e.square().sum(-1, keepdim=True).sqrt().tanh()\n"),
    rule("an inverse by powers, which cancel where keys repeat", "precision",
         "def inverse(lower):\n    found = torch.eye(lower.shape[-1], dtype=lower.dtype) - lower\n"
         "    power = lower\n"
         "    for _ in range(5):\n        power = power @ power\n        found = found + found @ power\n"
         "    return found\n"
         "def prepare(k, v, beta):\n    solved = inverse((k * beta @ k.mT).tril(-1))\n"
         "    return {'u': solved @ (v.tanh() * beta), 'w': solved @ (k * beta)}\n"),
    rule("angles kept in bfloat16", "precision",
         "def prepare(q, k, v, beta, position):\n    angle = (1.7 * position).to(q.dtype)\n"
         "    return {**wy(k, v, beta), 'q': q * angle.cos()}\n"),
    rule("a dead parameter", "live parameters",
         "gamma = Parameter(0.5)\ndef read(o, gamma):\n    return o.tanh() + 0 * gamma\n"),
    rule("a dead feature", "live parameters",
         "gate = Feature()\ndef read(o, gate):\n    return o.tanh() + 0 * gate\n"),
    rule("a state that grows by itself", "stability",
         "N = Carried('1', '1', initial=1.0)\ndef read(o, N):\n    return N * o, {'N': 1.2 * N}\n"),
    rule("a state that grows where nobody reads it", "stability",
         "N = Carried('1', '1', initial=1.0)\ndef read(o, N):\n    return 1.5 * o + 0 * N, {'N': 1.2 * N}\n"),
    rule("a memory that slowly stops writing", "stability",
         "N = Carried('1', '1', initial=1.0)\ndef write(G, N):\n    return N * G, {'N': 0.97 * N}\n"),
    rule("a quadratic buffer", "cost",
         "def prepare(k, v, beta):\n    length = k.shape[0] * k.shape[-2]\n"
         "    return wy(k, v.tanh() + 0 * torch.ones(length, length).sum(), beta)\n"),
    rule("quadratic work in small pieces", "cost",
         "def prepare(q, k, v, beta):\n    work = 0.0\n    for i in range(k.shape[0]):\n"
         "        work = work + (q[i : i + 1] @ k.mT).sum()\n    return wy(k, v.tanh() + 0 * work, beta)\n"),
    rule("a renamed copy of softmax", "new",
         "def masked(x, past):\n    return torch.where(past, x, -float('inf'))\n"
         "def similarity(causal, q, k):\n    weights = masked(torch.matmul(q, k.transpose(-1, -2)), causal)\n"
         "    weights = (weights - weights.amax(-1, keepdim=True)).exp()\n"
         "    return weights / weights.sum(-1, keepdim=True)\n"),
    rule("decay under another parametrisation", "new",
         f"rate = Parameter({math.log(-math.log(0.98))!r})\n"
         "def retain(S, rate):\n    return S * (-rate.exp()).exp()\n"),
    rule("the way back from another parent", "new, one change",
         'parent = "softmax"\ngamma = Parameter(0.98, within=(0, 1))\n'
         "def similarity(scores, causal):\n    return scores * causal\n"
         "def retain(S, gamma):\n    return S - (1 - gamma) * S\n"),
    rule("nothing changed but the words", "new, reach", "def read(o):\n    return o * 1.0\n"),
    rule("a change that no setting reaches", "new, reach",
         "def read(o, position):\n    return torch.where(position > 90000, 2 * o, o)\n"),
    mixer("a convolution that looks ahead", "causality, length independence, decoding",
          "return self.map(F.avg_pool1d(x.mT, 3, 1, 1).mT)"),
    mixer("batch normalisation left on",
          "causality, length independence, batch independence, decoding, precision",
          f"return self.norm(self.map({MEAN}).transpose(1, 2)).transpose(1, 2)",
          "self.norm = torch.nn.BatchNorm1d(width, track_running_stats=False)"),
    mixer("dropout left on", "causality, length independence, batch independence, decoding, repeatable",
          "return F.dropout(self.map(x), 0.1)"),
    mixer("softmax attention", "cost",
          "scores = (x @ x.mT).masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), -torch.inf)\n"
          "return self.map(scores.softmax(-1) @ x)"),
    mixer("another width comes out", "contract", "return self.map(x)[..., :8]"),
    mixer("its input is changed in place", "contract", "return self.map(x.mul_(0.5))"),
    mixer("a layer that is never used", "live parameters", f"return {MEAN}"),
)  # fmt: skip


def table() -> str:
    """Runs every fault and says, as Markdown, which checks caught it, with what words and at what case."""
    rows = ["| planted fault | caught by | in its words | smallest case |", "| --- | --- | --- | --- |"]
    for fault in FAULTS:
        failed = fault.verify().failed
        first = min(failed, key=lambda check: check.name not in fault.caught)
        words = re.sub(r"\d\.\d+e[-+]\d+", "…", first.message).replace("|", "\\|")
        kind = f"{fault.name} (mixer)" if fault.mixer else fault.name
        rows.append(f"| {kind} | {', '.join(check.name for check in failed)} | {words} | {first.case} |")
    return "\n".join(rows)


def main() -> None:
    """Writes the table between its marks in the document."""
    written = table()
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{written}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The changes that the structured researcher knows how to make: one slot, a few lines, some constants.

Each template is slot code with named constants in braces. `issue` says what the plain slot lacks, `why` what
the change does about it, `risk` what may go wrong. They are our own judgement, not measurements; numbers in a
proposal come from the tables. Shapes as in `archer.rules.rule.VOCABULARY`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

from archer.research.rule_text import SlotText

STATE_SLOTS = ("retain", "write")
"""Slots that act on what passes between chunks only: nothing changes while a sequence fits in one chunk."""


@dataclass(frozen=True)
class Template:
    """One kind of change. constants: name to the values that are tried. declares: lines of declarations.

    family: what shares an effect with it. reads_state: it changes only what is read from or kept in the
    state.
    """

    slot: str
    label: str
    family: str
    title: str
    equation: str
    code: str
    issue: str
    why: str
    risk: str
    constants: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    declares: tuple[str, ...] = ()
    cards: tuple[str, ...] = ()
    reads_state: bool = False

    def settings(self) -> tuple[dict[str, float], ...]:
        """Every combination of its constants."""
        names = tuple(self.constants)
        return tuple(dict(zip(names, values, strict=True)) for values in product(*self.constants.values()))

    def fill(self, values: Mapping[str, float]) -> SlotText:
        """The slot with its constants written in."""
        declared = {line.split(" = ")[0]: _fill(line, values) for line in self.declares}
        code = _fill(self.code.strip(), values)
        imports = (
            ("import torch",) if "torch." in code or any("torch." in d for d in declared.values()) else ()
        )
        return SlotText(self.slot, code, declared, {}, imports)


def _fill(text: str, values: Mapping[str, float]) -> str:
    for name, value in values.items():
        text = text.replace(f"<{name}>", f"{value:g}" if value != int(value) else f"{value:.1f}")
    return text


SHARPNESS = (4.0, 8.0, 16.0, 32.0)

_NARROW = (
    "q and k are normalised and q is scaled by Dk^-1/2, so the products stay within ±Dk^-1/2: every past "
    "token "
    "gets almost the same standing and a single match cannot stand out"
)

SIMILARITY = (
    Template(
        "similarity",
        "softmax_sharp",
        "softmax",
        "Sharp softmax: weights inside the chunk are a softmax with a learned temperature",
        "A = softmax(mask(τ q kᵀ)),  τ > 0, one per head",
        """
def similarity(scores, causal, tau):
    return (tau * scores).masked_fill(~causal, -torch.inf).softmax(-1)
""",
        _NARROW,
        "a learned temperature lets each head choose between an average and a look-up, and the weights "
        "sum to one",
        "weights that sum to one read an average of corrected errors, which blurs exact recall where τ "
        "stays small",
        {"tau": SHARPNESS},
        ("tau = Parameter(<tau>, within=(0, torch.inf))",),
        ("vaswani-2017-attention", "henry-2020-query-key-norm"),
    ),
    Template(
        "similarity",
        "softmax_mix",
        "mixture",
        "Sharp mixture: softmax weights and raw products, share and temperature learned",
        "A = a softmax(mask(τ q kᵀ)) + (1 - a) tril(q kᵀ),  a in (0, 1), τ > 0, one of each per head",
        """
def similarity(scores, causal, a, tau):
    soft = (tau * scores).masked_fill(~causal, -torch.inf).softmax(-1)
    return a * soft + (1 - a) * (scores * causal)
""",
        "raw products alone are what the delta rule's exact recall rests on, and softmax alone loses it: "
        "the slot "
        "offers only one of the two",
        "each head keeps the raw product for exact recall and takes as much normalised look-up as its "
        "task wants",
        "two learned numbers more per head; a share that starts high weakens the delta rule's own correction",
        {"a": (0.1, 0.3, 0.5, 0.7), "tau": (1.0, 6.0, 16.0)},
        ("a = Parameter(<a>, within=(0, 1))", "tau = Parameter(<tau>, within=(0, torch.inf))"),
        ("arora-2024-based", "vaswani-2017-attention"),
    ),
    Template(
        "similarity",
        "softmax_added",
        "mixture",
        "Added softmax: raw products stay whole, a learned amount of softmax comes on top",
        "A = tril(q kᵀ) + a softmax(mask(τ q kᵀ)),  a, τ > 0, one of each per head",
        """
def similarity(scores, causal, a, tau):
    soft = (tau * scores).masked_fill(~causal, -torch.inf).softmax(-1)
    return scores * causal + a * soft
""",
        "the raw products are all there is: nothing normalised stands beside them, and putting something "
        "in their "
        "place would cost exact recall",
        "the delta rule's own weights stay untouched, so what it recalls today it still recalls; the "
        "softmax adds",
        "the sum is larger than before, and the output norm has to absorb the scale",
        {"a": (0.1, 0.3, 1.0), "tau": (1.0, 8.0)},
        ("a = Parameter(<a>, within=(0, torch.inf))", "tau = Parameter(<tau>, within=(0, torch.inf))"),
        ("arora-2024-based", "munkhdalai-2024-infini-attention"),
    ),
    Template(
        "similarity",
        "softmax_token_mix",
        "mixture",
        "Token mixture: every token chooses between softmax weights and raw products",
        "A_t = g_t softmax(mask(τ q_t kᵀ)) + (1 - g_t) q_t kᵀ,  g_t = σ(W_g x_t + b)",
        """
def similarity(scores, causal, g, tau):
    soft = (tau * scores).masked_fill(~causal, -torch.inf).softmax(-1)
    return g * soft + (1 - g) * (scores * causal)
""",
        "one share for a whole head treats a token that must copy exactly like one that must average",
        "the token itself says which kind of reading it needs, so tasks that mix both kinds need no "
        "compromise",
        "the gate has to be learned from few steps; its start decides what short training sees",
        {"bias": (-2.0, 0.0), "tau": (1.0, 8.0)},
        ("g = Feature(within=(0, 1), bias=<bias>)", "tau = Parameter(<tau>, within=(0, torch.inf))"),
        ("arora-2024-based", "munkhdalai-2024-infini-attention"),
    ),
    Template(
        "similarity",
        "softmax_faded",
        "softmax",
        "Faded softmax: a sharp softmax that prefers what is near",
        "A = softmax(mask(τ q kᵀ - r (t - s))),  τ, r > 0, one of each per head",
        """
def similarity(scores, causal, position, tau, rate):
    near = rate * (position.mT - position)
    return (tau * scores + near).masked_fill(~causal, -torch.inf).softmax(-1)
""",
        _NARROW + "; nor does anything tell near from far inside the chunk",
        "a slope over distance breaks ties between equal matches in favour of the newer one",
        "a slope that is too steep makes the chunk forget its own start",
        {"tau": (8.0, 16.0), "rate": (0.05, 0.3)},
        ("tau = Parameter(<tau>, within=(0, torch.inf))", "rate = Parameter(<rate>, within=(0, torch.inf))"),
        ("press-2021-alibi", "vaswani-2017-attention"),
    ),
    Template(
        "similarity",
        "exponential",
        "sharpened",
        "Exponential weights: large products count for more than their share, nothing is normalised",
        "A = tril((exp(τ q kᵀ) - 1) / τ),  τ > 0, one per head",
        """
def similarity(scores, causal, tau):
    return (tau * scores * causal).expm1() / tau
""",
        "a linear product weighs ten weak matches like one strong match",
        "the exponential keeps q kᵀ for small products (so nothing is lost at the start) and lifts the "
        "strong ones",
        "a temperature that grows far makes the weights large, without a norm to hold them",
        {"tau": (2.0, 8.0, 16.0)},
        ("tau = Parameter(<tau>, within=(0, torch.inf))",),
        ("katharopoulos-2020-linear-transformers", "zhang-2024-hedgehog"),
    ),
    Template(
        "similarity",
        "taylor",
        "sharpened",
        "Quadratic weights: the product plus its signed square",
        "A = tril(s + c s |s|),  s = q kᵀ,  c > 0, one per head",
        """
def similarity(scores, causal, c):
    return (scores + c * scores * scores.abs()) * causal
""",
        "a linear product weighs ten weak matches like one strong match",
        "a second-order term sharpens the match as the expansion of an exponential does, sign kept",
        "the square is small while the products are: c must grow before anything changes",
        {"c": (4.0, 16.0)},
        ("c = Parameter(<c>, within=(0, torch.inf))",),
        ("arora-2024-based", "kacham-2023-polysketchformer"),
    ),
    Template(
        "similarity",
        "fading",
        "fading",
        "Fading weights: raw products that fade with distance inside the chunk",
        "A_ts = q_t k_sᵀ exp(-r (t - s)),  r > 0, one per head",
        """
def similarity(scores, causal, position, rate):
    distance = (position.mT - position).clamp(max=0)
    return scores * (rate * distance).exp() * causal
""",
        "a token 30 places back weighs as much as the last one",
        "a per-head rate gives heads different reach, as retention does, without touching what the state "
        "keeps",
        "the read of the state does not fade with it, so the two paths disagree on what is old",
        {"rate": (0.01, 0.05, 0.2)},
        ("rate = Parameter(<rate>, within=(0, torch.inf))",),
        ("sun-2023-retnet", "yang-2023-gla"),
    ),
    Template(
        "similarity",
        "self_bonus",
        "bonus",
        "Self bonus: the current token's own product is weighed apart",
        "A = tril(q kᵀ) + b diag(q kᵀ),  b one per head",
        """
def similarity(scores, causal, b):
    return scores * causal + b * scores * (causal & causal.mT)
""",
        "the current token stands in the same sum as the past, though it is known and the past is not",
        "its own weight can be raised or taken out by a learned number, so that reading the past and "
        "passing the "
        "present on are two things",
        "one number per head cannot do both in one head",
        {"b": (-0.9, 0.5, 2.0)},
        ("b = Parameter(<b>)",),
        ("peng-2023-rwkv",),
    ),
    Template(
        "similarity",
        "row_normalised",
        "normalised",
        "Row-normalised weights: a row is divided by what it sums to",
        "A = tril(q kᵀ) / (c + Σ|tril(q kᵀ)|),  c > 0, one per head",
        """
def similarity(scores, causal, c):
    weights = scores * causal
    return weights / (c + weights.abs().sum(-1, keepdim=True))
""",
        "the weights of a row grow with the number of tokens seen, so the output's size depends on the "
        "place in "
        "the chunk",
        "a normaliser as in the first linear attention holds the row's size, sign kept, and c says from "
        "where on",
        "dividing shrinks exact matches as well; the output norm did part of this already",
        {"c": (0.1, 1.0)},
        ("c = Parameter(<c>, within=(0, torch.inf))",),
        ("katharopoulos-2020-linear-transformers", "qin-2022-transnormer"),
    ),
    Template(
        "similarity",
        "soft_gate",
        "gated",
        "Soft gate: negative products are turned down by a gate with a learned slope",
        "A = tril(2 s σ(τ s)),  s = q kᵀ,  τ > 0, one per head",
        """
def similarity(scores, causal, tau):
    return 2 * scores * (tau * scores).sigmoid() * causal
""",
        "a negative product subtracts the value of a token that merely looks different",
        "with a slope the gate keeps positive matches whole and mutes negative ones; at τ = 0 it is the "
        "raw product",
        "the delta rule's inverse counts on negative products to cancel; muting them leaves a rest behind",
        {"tau": (4.0, 16.0)},
        ("tau = Parameter(<tau>, within=(0, torch.inf))",),
        ("qin-2022-cosformer",),
    ),
    Template(
        "similarity",
        "token_gain",
        "gated",
        "Token gain: every token scales what it reads inside the chunk",
        "A_t = 2 g_t q_t kᵀ,  g_t = σ(W_g x_t)",
        """
def similarity(scores, causal, g):
    return 2 * g * scores * causal
""",
        "inside the chunk and from the state a token reads with the same strength",
        "a gate per token lets it lean on the near or on the state; it starts as the raw product",
        "nothing changes until the gate has learned something",
        {"bias": (0.0,)},
        ("g = Feature(within=(0, 1), bias=<bias>)",),
        ("yang-2023-gla", "munkhdalai-2024-infini-attention"),
    ),
)

CORRECT = (
    Template(
        "correct",
        "error_gain",
        "gain",
        "Error gain: what is corrected is scaled by a learned factor",
        "e = c (u - w S),  c > 0, one per head",
        """
def correct(e, gain):
    return gain * e
""",
        "a full correction assumes that every stored value is wanted again exactly",
        "a factor below one under-corrects, which averages noise; above one over-corrects",
        "beta already scales every write, so this may only rename it",
        {"gain": (0.7, 1.3)},
        ("gain = Parameter(<gain>, within=(0, torch.inf))",),
        ("widrow-1960-delta-rule",),
    ),
    Template(
        "correct",
        "error_token_gate",
        "gated",
        "Error gate: the token says how much of its own error counts",
        "e_t = g_t (u - w S)_t,  g_t = σ(W_g x_t + b)",
        """
def correct(e, g):
    return g * e
""",
        "beta scales the key's whole line of the inverse; nothing scales a token's error after the chunk has "
        "solved for it",
        "a gate after the solve can drop noise tokens without disturbing the corrections of their neighbours",
        "a gate that closes on a token that was needed cannot be undone later in the chunk",
        {"bias": (1.0, 3.0)},
        ("g = Feature(within=(0, 1), bias=<bias>)",),
        ("hochreiter-1997-lstm", "gu-2023-mamba"),
    ),
    Template(
        "correct",
        "error_bounded",
        "bounded",
        "Bounded error: a smooth bound on every entry of the error",
        "e = c tanh((u - w S) / c),  c > 0, one per head",
        """
def correct(e, c):
    return c * (e / c).tanh()
""",
        "one surprising token writes as far as its error reaches, however far that is",
        "a bound is a robust loss in place of the square: small errors are corrected in full, sign kept",
        "values that are truly large need several writes",
        {"c": (0.5, 1.0, 3.0)},
        ("c = Parameter(<c>, within=(0, torch.inf))",),
        ("behrouz-2025-miras", "huber-1964-robust"),
    ),
    Template(
        "correct",
        "error_shrunk_norm",
        "bounded",
        "Norm-bounded error: a row of the error shrinks as its size passes c",
        "e_t = e_t / sqrt(1 + mean(e_t²) / c²),  c > 0, one per head",
        """
def correct(e, c):
    return e / (1 + e.square().mean(-1, keepdim=True) / c.square()).sqrt()
""",
        "one surprising token writes as far as its error reaches, however far that is",
        "the whole row shrinks together, so its direction stays right while its size is held",
        "when all rows are large, this is only a smaller learning rate",
        {"c": (0.5, 2.0)},
        ("c = Parameter(<c>, within=(0, torch.inf))",),
        ("behrouz-2025-miras", "huber-1964-robust"),
    ),
    Template(
        "correct",
        "error_threshold",
        "sparse",
        "Thresholded error: errors below a learned size are left alone",
        "e = sign(e) relu(|e| - θ),  θ > 0, one per head",
        """
def correct(e, theta):
    return e.sign() * (e.abs() - theta).relu()
""",
        "every token writes, also where the state is already right to within noise",
        "small errors write nothing, so old entries are disturbed less often",
        "fine corrections are lost, which exact recall may need",
        {"theta": (0.01, 0.05)},
        ("theta = Parameter(<theta>, within=(0, torch.inf))",),
        ("behrouz-2025-miras",),
    ),
    Template(
        "correct",
        "error_part_gelu",
        "sparse",
        "Part GELU: the error keeps its sign, a share of it passes through GELU",
        "e = (1 - a) e + a gelu(e),  a in (0, 1), one per head",
        """
def correct(e, a):
    return (1 - a) * e + a * torch.nn.functional.gelu(e)
""",
        "GELU alone cannot subtract, and the raw error has no curvature at all",
        "a small share adds curvature and leaves subtraction possible",
        "the share may simply fall back to zero",
        {"a": (0.1, 0.3)},
        ("a = Parameter(<a>, within=(0, 1))",),
        ("hendrycks-2016-gelu",),
    ),
)

READ = (
    Template(
        "read",
        "state_gain",
        "gain",
        "State gain: what is read from the state is scaled by a learned factor",
        "o = c (q S) + A e,  c > 0, one per head",
        """
def read(o, gain):
    return gain * o
""",
        "what comes from the state and what comes from the chunk are added one to one",
        "a head may lean on the far past or on the chunk",
        "the decay of the state, where there is one, does part of this",
        {"gain": (0.5, 2.0)},
        ("gain = Parameter(<gain>, within=(0, torch.inf))",),
        ("munkhdalai-2024-infini-attention",),
        True,
    ),
    Template(
        "read",
        "state_token_gate",
        "gated",
        "State gate: every token says how much of the state it reads",
        "o_t = 2 g_t (q_t S) + A_t e,  g_t = σ(W_g x_t)",
        """
def read(o, g):
    return 2 * g * o
""",
        "a token that needs only its neighbours reads the whole state all the same",
        "a gate per token takes stale state out of the output where it only disturbs",
        "the gate sees the token, not the state, and so cannot know what is stale",
        {"bias": (0.0,)},
        ("g = Feature(within=(0, 1), bias=<bias>)",),
        ("munkhdalai-2024-infini-attention", "yang-2023-gla"),
        True,
    ),
    Template(
        "read",
        "state_bounded",
        "bounded",
        "Bounded read: what is read from the state has a bounded size",
        "o = q S / sqrt(1 + mean((q S)²) / c²) + A e,  c > 0, one per head",
        """
def read(o, c):
    return o / (1 + o.square().mean(-1, keepdim=True) / c.square()).sqrt()
""",
        "the state grows over a sequence, and with it the share of the output that comes from it",
        "the size of the read is held, so that late tokens see what early tokens saw",
        "size may carry information: how sure the memory is",
        {"c": (0.3, 1.0)},
        ("c = Parameter(<c>, within=(0, torch.inf))",),
        ("qin-2022-transnormer", "sun-2023-retnet"),
        True,
    ),
    Template(
        "read",
        "value_skip",
        "skip",
        "Value skip: the token's own value passes straight to the output",
        "o = q S + A e + d v,  d one per head",
        """
def read(o, v, d):
    return o + d * v
""",
        "a token's own value reaches the output only through its error, which the state has already "
        "explained away",
        "a direct path, as in state space models, frees the memory from passing the present on",
        "the block's residual path carries the token already",
        {"d": (0.1, 0.5)},
        ("d = Parameter(<d>)",),
        ("gu-2023-mamba", "dao-2024-mamba2"),
    ),
    Template(
        "read",
        "local_attention",
        "mixture",
        "Local attention: a sharp softmax over the chunk's own values comes on top",
        "o = q S + A e + b softmax(mask(τ q kᵀ)) v,  b, τ > 0, one of each per head",
        """
def read(o, scores, causal, v, b, tau):
    soft = (tau * scores).masked_fill(~causal, -torch.inf).softmax(-1)
    return o + b * (soft @ v)
""",
        "inside the chunk everything passes through corrected errors, and a value that the state already "
        "predicts "
        "is read as nothing",
        "attention over raw values inside the chunk leaves the delta rule whole and adds an exact short "
        "memory",
        "twice the weights to compute inside a chunk; tokens further back gain nothing",
        {"b": (0.1, 0.5), "tau": (1.0, 8.0)},
        ("b = Parameter(<b>, within=(0, torch.inf))", "tau = Parameter(<tau>, within=(0, torch.inf))"),
        ("arora-2024-based", "de-2024-griffin"),
    ),
)

RETAIN = (
    Template(
        "retain",
        "decay",
        "decay",
        "Decay: the state forgets a little before each write",
        "S = γ S + kᵀ e,  γ in (0, 1), one per head",
        """
def retain(S, gamma):
    return gamma * S
""",
        "nothing is ever forgotten, so early noise stays in the state until a key happens to overwrite it",
        "a learned factor per head fades what is old; a factor near one costs little where all must be kept",
        "γ^(T/C) compounds over a sequence, and recall over long distances pays for it",
        {"gamma": (0.8, 0.9, 0.95, 0.98, 0.995)},
        ("gamma = Parameter(<gamma>, within=(0, 1))",),
        ("sun-2023-retnet", "yang-2024-gated-delta-net"),
        True,
    ),
    Template(
        "retain",
        "channel_decay",
        "decay",
        "Channel decay: every key channel of the state fades at its own rate",
        "S = diag(γ) S + kᵀ e,  γ in (0, 1)^Dk, one vector per head",
        """
def retain(S, gamma):
    return gamma * S
""",
        "a single factor per head fades what must stay along with what should go",
        "a rate per key channel gives one head both a long and a short memory",
        "keys are mixed over all channels, so a channel is not a memory of its own",
        {"gamma": (0.9, 0.98)},
        ('gamma = Parameter(<gamma>, within=(0, 1), rows="Dk")',),
        ("yang-2023-gla", "kimi-2025-kda"),
        True,
    ),
    Template(
        "retain",
        "token_decay",
        "decay",
        "Token decay: the tokens of a chunk decide together how much of the state stays",
        "S = mean_t(f_t) S + kᵀ e,  f_t = σ(W_f x_t + b)",
        """
def retain(S, f):
    return f.mean(-2, keepdim=True) * S
""",
        "a fixed rate forgets at the same pace whether the chunk brings noise or a new episode",
        "what the chunk holds decides; the decision is taken after its outputs, so no token sees the future",
        "one decision for 32 tokens is coarse",
        {"bias": (2.0, 4.0)},
        ("f = Feature(within=(0, 1), bias=<bias>)",),
        ("yang-2024-gated-delta-net", "dao-2024-mamba2"),
        True,
    ),
    Template(
        "retain",
        "bounded_state",
        "bounded",
        "Bounded state: the state shrinks as its size passes c",
        "S = S / sqrt(1 + mean(S²) / c²) + kᵀ e,  c > 0, one per head",
        """
def retain(S, c):
    size = S.square().mean((-2, -1), keepdim=True)
    return S / (1 + size / c.square()).sqrt()
""",
        "the state's size is bounded by nothing, and a full state makes every read noisy",
        "forgetting sets in only when the state is full, not by the clock",
        "all entries shrink together, whether they are old or new",
        {"c": (0.1, 1.0)},
        ("c = Parameter(<c>, within=(0, torch.inf))",),
        ("behrouz-2025-miras", "schlag-2021-fast-weights"),
        True,
    ),
    Template(
        "retain",
        "surprise_decay",
        "surprise",
        "Surprise decay: a chunk with large errors makes room for itself",
        "S = (1 - η tanh(mean|e|)) S + kᵀ e,  η in (0, 1), one per head",
        """
def retain(S, e, eta):
    surprise = e.abs().mean((-2, -1), keepdim=True).tanh()
    return (1 - eta * surprise) * S
""",
        "the state is kept in full even where its predictions have just failed",
        "large errors are evidence that the state is about something else, and then it fades faster",
        "errors are large at the start of every sequence, when nothing is stale",
        {"eta": (0.05, 0.3)},
        ("eta = Parameter(<eta>, within=(0, 1))",),
        ("behrouz-2024-titans",),
        True,
    ),
    Template(
        "retain",
        "key_decay",
        "surprise",
        "Key decay: channels that the chunk's keys use are freed first",
        "S = diag(1 - η mean_t(k_t²)) S + kᵀ e,  η in (0, 1), one per head",
        """
def retain(S, k, eta):
    used = k.square().mean(-2, keepdim=True).mT
    return (1 - eta * used) * S
""",
        "where keys are written again and again the state piles up errors of rounding and interference",
        "forgetting happens where there is new evidence, and nowhere else",
        "the delta rule's own correction erases along keys already",
        {"eta": (0.3, 0.9)},
        ("eta = Parameter(<eta>, within=(0, 1))",),
        ("schlag-2021-fast-weights", "kimi-2025-kda"),
        True,
    ),
)

WRITE = (
    Template(
        "write",
        "write_gain",
        "gain",
        "Write gain: what enters the state is scaled by a learned factor",
        "S = S + c kᵀ e,  c > 0, one per head",
        """
def write(G, gain):
    return gain * G
""",
        "what is read inside the chunk and what is stored for later are written with one strength",
        "storing less than is read keeps the state from chasing every token",
        "below one the state no longer holds exactly what was corrected",
        {"gain": (0.7, 0.9, 1.1)},
        ("gain = Parameter(<gain>, within=(0, torch.inf))",),
        ("widrow-1960-delta-rule",),
        True,
    ),
    Template(
        "write",
        "smooth_momentum",
        "momentum",
        "Smooth momentum: writes are averaged over chunks, and sum to what they were",
        "M = μ M + (1 - μ) kᵀ e,  S = S + M,  μ in (0, 1), one per head",
        """
def write(G, M, mu):
    M = mu * M + (1 - mu) * G
    return M, {"M": M}
""",
        "plain momentum adds up to 1/(1 - μ) of every write, while the error does not know what is still "
        "to come",
        "the average keeps the total of every write at one, so it arrives late but does not overshoot",
        "what arrives late cannot be read in the next chunk",
        {"mu": (0.1, 0.3)},
        ("M = Carried()", "mu = Parameter(<mu>, within=(0, 1))"),
        ("behrouz-2024-titans", "polyak-1964-momentum"),
        True,
    ),
    Template(
        "write",
        "error_boost",
        "surprise",
        "Error boost: a token with a large error writes more than its error, none writes less",
        "S = S + kᵀ (e (1 + η tanh(mean|e|))),  η > 0, one per head",
        """
def write(k_write, e, eta):
    boost = 1 + eta * e.abs().mean(-1, keepdim=True).tanh()
    return k_write.mT @ (e * boost)
""",
        "a gate on the error's size that halves the write at zero error weakens all small corrections",
        "the boost is one at zero error, so small corrections stay exact and surprises are stored more "
        "firmly",
        "more than the error is an over-correction for keys that come again",
        {"eta": (0.3, 1.0)},
        ("eta = Parameter(<eta>, within=(0, torch.inf))",),
        ("behrouz-2024-titans",),
        True,
    ),
    Template(
        "write",
        "write_token_gate",
        "gated",
        "Write gate: the token says how much of its error is stored",
        "S = S + kᵀ (g e),  g_t = σ(W_g x_t + b)",
        """
def write(k_write, e, g):
    return k_write.mT @ (g * e)
""",
        "whatever a token contributes inside the chunk it also leaves in the state for good",
        "a token can matter to its neighbours and still leave no trace, which is what noise should do",
        "beta is such a gate already, for both at once",
        {"bias": (1.0, 3.0)},
        ("g = Feature(within=(0, 1), bias=<bias>)",),
        ("gu-2023-mamba", "hochreiter-1997-lstm"),
        True,
    ),
    Template(
        "write",
        "bounded_write",
        "bounded",
        "Bounded write: a chunk's write has a bounded size",
        "S = S + G / sqrt(1 + mean(G²) / c²),  G = kᵀ e,  c > 0, one per head",
        """
def write(G, c):
    size = G.square().mean((-2, -1), keepdim=True)
    return G / (1 + size / c.square()).sqrt()
""",
        "a chunk full of noise writes as much as it likes",
        "small writes pass exactly, unlike with normalised steps, and only outliers are held",
        "the first chunk's write is large because all of it is new",
        {"c": (0.1, 0.5)},
        ("c = Parameter(<c>, within=(0, torch.inf))",),
        ("behrouz-2025-miras", "hinton-2012-rmsprop"),
        True,
    ),
    Template(
        "write",
        "late_write",
        "fading",
        "Late write: the later tokens of a chunk leave more in the state",
        "S = S + Σ_t exp(-r (C - t)) k_tᵀ e_t,  r > 0, one per head",
        """
def write(k_write, e, position, rate):
    age = (rate * (position - position[..., -1:, :])).exp()
    return k_write.mT @ (age * e)
""",
        "within a chunk nothing fades, while between chunks a decaying rule fades everything",
        "the fade inside the chunk joins on to the fade between chunks",
        "the inverse has solved for full writes; fading afterwards leaves corrections incomplete",
        {"rate": (0.01, 0.05)},
        ("rate = Parameter(<rate>, within=(0, torch.inf))",),
        ("sun-2023-retnet", "yang-2024-gated-delta-net"),
        True,
    ),
    Template(
        "write",
        "part_normalised",
        "normalised",
        "Part-normalised write: a share of the write is brought to unit size",
        "S = S + (1 - a) G + a G / sqrt(mean(G²) + ε),  G = kᵀ e,  a in (0, 1), one per head",
        """
def write(G, a):
    size = (G.square().mean(-1, keepdim=True) + 1e-2).sqrt()
    return (1 - a) * G + a * G / size
""",
        "rare keys write little and frequent keys write much, whatever their worth",
        "a share of normalised write evens this out, while the plain share still corrects exactly",
        "normalised writes alone failed at recall in the history",
        {"a": (0.05, 0.2)},
        ("a = Parameter(<a>, within=(0, 1))",),
        ("hinton-2012-rmsprop", "ba-2016-layer-norm"),
        True,
    ),
)

PREPARE = (
    Template(
        "prepare",
        "double_beta",
        "beta",
        "Double beta: a write may over-correct, up to turning the stored value around",
        "β' = 2 β in (0, 2):  I - β' kᵀk has eigenvalues in (-1, 1)",
        "beta = 2 * beta",
        "with β in (0, 1) a state transition has no negative eigenvalue, so it can fade and replace but "
        "not flip",
        "β up to 2 allows reflections, which is what tracking a changing state needs",
        "over-correction is a loss where plain storing is all that is asked for",
        cards=("grazzi-2024-negative-eigenvalues", "siems-2025-delta-product"),
    ),
    Template(
        "prepare",
        "scaled_beta",
        "beta",
        "Scaled beta: a learned ceiling for how much of an error is corrected",
        "β' = c β,  c in (0, 2), one per head",
        "beta = c * beta",
        "the ceiling of the correction is one for all heads and never learned",
        "each head finds its own ceiling, below one for averaging, above one for reflections",
        "the sigmoid behind β can do most of this",
        {"c": (0.7, 1.4)},
        ("c = Parameter(<c>, within=(0, 2))",),
        ("grazzi-2024-negative-eigenvalues", "widrow-1960-delta-rule"),
    ),
    Template(
        "prepare",
        "squared_beta",
        "beta",
        "Squared beta: weak writes become weaker, strong writes stay",
        "β' = β²",
        "beta = beta * beta",
        "the sigmoid rarely comes near zero, so every token writes a little",
        "squaring pushes small gates towards zero without a new parameter",
        "gates start at one half, so early writes are a quarter",
        cards=("schlag-2021-fast-weights",),
    ),
)

TEMPLATES: tuple[Template, ...] = (*SIMILARITY, *CORRECT, *READ, *RETAIN, *WRITE, *PREPARE)
"""All of them. A template of `prepare` is one line, put in front of the parent's own preparation."""


def slot_with_line_in_front(line: str, wanted: tuple[str, ...], parent: SlotText) -> SlotText:
    """A parent's `prepare` with one line in front, asking for `wanted` as well."""
    import ast

    function = ast.parse(parent.code).body[0]
    assert isinstance(function, ast.FunctionDef)
    present = [argument.arg for argument in function.args.args]
    function.args.args += [ast.arg(arg=name) for name in wanted if name not in present]
    function.body = [*ast.parse(line).body, *function.body]
    code = ast.unparse(ast.fix_missing_locations(ast.Module([function], [])))
    return SlotText("prepare", code, parent.declared, parent.helpers, parent.imports)

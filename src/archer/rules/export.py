"""A rule to take away: files that import only torch.

`export` writes NAME.py, with the function `delta_rule_chunkwise` in the place of the one of that name in
fla/ops/delta_rule/naive.py, and NAME_layer.py, with a token mixer `TokenMixer` and its decoding step. Both
carry the rule's own slots as they were written, and one `chunk_step` that is the chunk loop with all that
this rule does not use left out.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, indent

from archer.rules.registry import BASE, get_rule
from archer.rules.rule import SLOTS, Draw, Feature, Parameter, Rule, RuleError
from archer.rules.syntax import argument_list, slot_syntax, top_level
from archer.rules.text import RuleText, add_slot, identifier, import_lines

ALGEBRA = ("wy", "invert_unit_lower", "rotate", "faded_products")
ALLOWED = {"__future__", "collections", "functools", "itertools", "math", "torch", "typing"}

LOCAL = {
    *("prepared", "changed", "retained", "written", "state", "tokens"),
    *("after", "given", "dtype", "outputs", "start", "now"),
}
"""Names that the exported loops use for themselves."""

INVERT = '''
def invert_unit_lower(strictly_lower):
    """(I + A)⁻¹ for strictly lower triangular A [..., C, C], from the inverses of diagonal blocks.

    With D the inverse of two neighbouring blocks and L what stands below the first: D - D L D.
    """
    index, block = torch.arange(strictly_lower.shape[-1], device=strictly_lower.device), 1
    inverse = torch.eye(len(index)).to(strictly_lower).expand_as(strictly_lower)
    while block < len(index):
        row, column = index[:, None] // block, index[None, :] // block
        below = (row // 2 == column // 2) & (row % 2 == 1) & (column % 2 == 0)
        inverse = inverse - inverse @ (strictly_lower * below) @ inverse
        block *= 2
    return inverse
'''.strip()

WY = '''
def wy(k, v, beta, decay=None, k_read=None):
    """u = T V_beta and w = T K_beta with T = (I + tril(diag(beta) K Kᵀ, -1))⁻¹.

    k [..., C, Dk], v [..., C, Dv], beta [..., C, 1]; decay [..., C, C] multiplies K Kᵀ (for rules that
    forget inside the chunk), k_read stands in for K in w.
    """
    k_beta = k * beta
    overlap = k_beta @ k.mT if decay is None else k_beta @ k.mT * decay
    inverse = invert_unit_lower(overlap.tril(-1))
    return {"u": inverse @ (v * beta), "w": inverse @ (k_beta if k_read is None else k_read * beta)}
'''.strip()


@dataclass(frozen=True)
class _Parts:
    """What both files share: the text up to and including `chunk_step`, and its arguments."""

    head: str
    arguments: tuple[str, ...]
    position: bool


def export(rule: Rule | str, folder: str | Path = ".") -> tuple[Path, Path]:
    """Writes NAME.py and NAME_layer.py into the folder, which is made if it is missing; returns their paths.

    Raises RuleError for a rule that imports more than torch.
    """
    rule = get_rule(rule) if isinstance(rule, str) else rule
    clash = LOCAL & {*rule.parameters, *rule.features, *rule.carries}
    if clash:
        name = min(clash)
        raise RuleError(f"rule {rule.name} declares `{name}`, a name of the exported loop; rename it there")
    place, name = Path(folder), identifier(rule.name)
    function, layer = function_source(rule), layer_source(rule)
    place.mkdir(parents=True, exist_ok=True)
    paths = place / f"{name}.py", place / f"{name}_layer.py"
    for path, text in zip(paths, (function, layer), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def function_source(rule: Rule) -> str:
    """The text of the file with `delta_rule_chunkwise`."""
    parts = _parts(rule, "`delta_rule_chunkwise` takes and gives [B, H, T, D].")
    return f"{parts.head}\n\n\n{_function(rule, parts)}"


def layer_source(rule: Rule) -> str:
    """The text of the file with the layer `TokenMixer`."""
    parts = _parts(
        rule, "`TokenMixer` maps [B, T, D] to [B, T, D]; `TokenMixer.step` decodes token by token."
    )
    return f"{parts.head}\n\n\n{_layer(rule, parts)}"


def _parts(rule: Rule, purpose: str) -> _Parts:
    text, own = _slots(rule)
    step, arguments, position = _chunk_step(rule, own)
    text.imports["torch"] = ast.Import([ast.alias("torch")])
    text.imports["nn"] = ast.ImportFrom("torch", [ast.alias("nn")], 0)
    if "TokenMixer" not in purpose:
        del text.imports["nn"]
    blocks = [_docstring(rule, purpose), import_lines(text.imports), "\n".join(text.values.values())]
    helpers = [KEPT] if " = _with_carried(" in step else []
    functions = [*text.helpers.values(), *text.slots.values(), *helpers, step]
    head = "\n\n".join(block for block in blocks if block) + "\n\n\n" + "\n\n\n".join(functions)
    return _Parts(head, arguments, position)


def _slots(rule: Rule) -> tuple[RuleText, dict[str, tuple[str, ...]]]:
    """The slots that do more than hand on, with their arguments; declarations become arguments."""
    sources, text, own = (rule.source, *rule.ancestry), RuleText(), {}
    plain = get_rule(BASE)
    for slot in (*SLOTS, "step"):
        if slot not in rule.slots or ("step" in rule.slots and slot not in ("prepare", "step")):
            continue
        syntax = slot_syntax(sources, slot)
        assert syntax is not None
        base = slot_syntax((plain.source,), slot)
        if slot != "prepare" and base is not None and base.normal_form() == syntax.normal_form():
            continue
        add_slot(text, syntax, rule, ())
        own[slot] = argument_list(syntax.function.node)
    _replace_archer(rule, text)
    declared = {*rule.parameters, *rule.features, *rule.carries}
    text.values = {name: value for name, value in text.values.items() if name not in declared}
    return text, own


def _replace_archer(rule: Rule, text: RuleText) -> None:
    """Writes out what came from archer.rules, and refuses what is not torch's."""
    algebra = set()
    for name, node in list(text.imports.items()):
        module = node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name  # type: ignore[attr-defined]
        if module.split(".")[0] == "archer":
            algebra |= {name} & set(ALGEBRA)
            del text.imports[name]
        elif module.split(".")[0] not in ALLOWED:
            raise RuleError(f"rule {rule.name} imports {module}; to be exported it may import only torch")
    written = {"invert_unit_lower": INVERT} if algebra & {"wy", "invert_unit_lower"} else {}
    if "wy" in algebra:
        written["wy"] = WY
    algebra_file = top_level((Path(__file__).parent / "algebra.py").read_text(encoding="utf-8"))
    for name in sorted(algebra & {"rotate", "faded_products"}):
        written[name] = algebra_file[name].text.replace("RuleError", "ValueError")
        text.imports["Tensor"] = ast.ImportFrom("torch", [ast.alias("Tensor")], 0)
    text.helpers = {**written, **text.helpers}


def _wrapped(start: str, names: list[str], end: str) -> str:
    """One line, or one line per name where that would be longer than 100 characters."""
    line = f"{start}{', '.join(names)}{end}"
    return line if len(line) <= 100 else f"{start}\n" + "".join(f"    {name},\n" for name in names) + end


def _chunk_step(rule: Rule, own: dict[str, tuple[str, ...]]) -> tuple[str, tuple[str, ...], bool]:
    """The function of one chunk, its arguments after q, k, v, beta, and whether `position` is among them."""
    used = {name for names in own.values() for name in names}
    position = "position" in used
    extra = [*rule.features, *rule.parameters, "S", *rule.carries, *(["position"] if position else [])]
    lines = []
    if "causal" in used or ("similarity" not in own and "step" not in own):
        lines.append("causal = q.new_ones(q.shape[-2], q.shape[-2], dtype=torch.bool).tril()")
    lines += _prepare_lines(rule, own, used)
    lines += _step_lines(rule, own) if "step" in own else _slot_lines(rule, own, used)
    state = ", ".join(["S", *rule.carries])
    signature = _wrapped("def chunk_step(", ["q", "k", "v", "beta", *extra], "):")
    doc = f'"""One chunk: o [..., C, Dv], and the next {state}."""'
    body = indent("\n".join([doc, *lines, f"return o, {state}"]), "    ")
    return f"{signature}\n{body}", tuple(extra), position


def _prepare_lines(rule: Rule, own: dict[str, tuple[str, ...]], used: set[str]) -> list[str]:
    keys = _prepared_keys(rule)
    later = {name for slot, names in own.items() if slot != "prepare" for name in names}
    needed = later | ({"q", "k"} if "scores" in later or "similarity" not in own else set())
    if "step" not in own:
        needed |= {"u", "w", "q_read", "k_write", "decay", "keep", "q", "k"}
    taken = [key for key in keys if key in needed]
    lines = [f"prepared = {_call('prepare', own)}"]
    lines += [f'{key} = prepared["{key}"]' for key in taken]
    if "scores" in later or ("similarity" not in own and "step" not in own):
        lines.append("scores = q @ k.mT")
    lines += [f"{name} = {name[0]}" for name in ("q_read", "k_write") if name in later and name not in keys]
    return lines


def _prepared_keys(rule: Rule) -> tuple[str, ...]:
    """The names that `prepare` returns, found by calling it on two tokens."""
    import torch

    from archer.rules.inputs import random_inputs
    from archer.rules.loop import check_prepared

    values = random_inputs(rule, leading=(1, 1), length=2, key_width=2, value_width=2).tensors()
    values |= {"position": torch.zeros(2, 1), "causal": torch.ones(2, 2, dtype=torch.bool).tril()}
    returned = rule.slots["prepare"](**{name: values[name] for name in rule.arguments("prepare")})
    return tuple(check_prepared(rule, returned))


def _slot_lines(rule: Rule, own: dict[str, tuple[str, ...]], used: set[str]) -> list[str]:
    keys = _prepared_keys(rule)
    q_read = "q_read" if "q_read" in keys else "q"
    k_write = "k_write" if "k_write" in keys else "k"
    weights = _call("similarity", own) if "similarity" in own else "scores * causal"
    lines = [f"weights = {f'({weights}) * decay' if 'decay' in keys else weights}", "e = u - w @ S"]
    if "correct" in own:
        lines += _kept(rule, own, "correct", "e")
    if "read" in own:
        lines += [f"o = {q_read} @ S", *_kept(rule, own, "read", "o"), "o = o + weights @ e"]
    else:
        lines.append(f"o = {q_read} @ S + weights @ e")
    if "keep" in keys:
        lines.append("S = keep * S")
    retained, written = "S", f"{k_write}.mT @ e"
    if "G" in own.get("write", ()):
        lines.append(f"G = {written}")
    if "retain" in own:
        lines += _kept(rule, own, "retain", "retained")
        retained = "retained"
    if "write" in own:
        lines += _kept(rule, own, "write", "written")
        written = "written"
    return [*lines, f"S = {retained} + {written}"]


def _step_lines(rule: Rule, own: dict[str, tuple[str, ...]]) -> list[str]:
    lines = [f"o, changed = {_call('step', own)}"]
    return [*lines, *(f'{name} = changed.get("{name}", {name})' for name in ("S", *rule.carries))]


def _kept(rule: Rule, own: dict[str, tuple[str, ...]], slot: str, name: str) -> list[str]:
    """A slot that changes carried values returns them in a dictionary beside its value; one that only reads
    them returns its value."""
    syntax = slot_syntax((rule.source, *rule.ancestry), slot)
    assert syntax is not None
    inside = list(ast.walk(syntax.function.node))
    returned = [node.value for node in inside if isinstance(node, ast.Return)]
    pairs = [isinstance(value, ast.Tuple) for value in returned]
    unclear = any(isinstance(value, ast.Call | ast.Name) for value in returned)
    named = {node.value for node in inside if isinstance(node, ast.Constant)}
    touched = [carried for carried in rule.carries if carried in own[slot] or carried in named]
    if not touched or not (any(pairs) or unclear):
        return [f"{name} = {_call(slot, own)}"]
    call = _call(slot, own) if all(pairs) else f"_with_carried({_call(slot, own)})"
    lines = [f"{name}, changed = {call}"]
    return [*lines, *(f'{carried} = changed.get("{carried}", {carried})' for carried in touched)]


KEPT = '''
def _with_carried(returned):
    """A slot's value, and the carried values that it changed."""
    return returned if isinstance(returned, tuple) else (returned, {})
'''.strip()


def _call(slot: str, own: dict[str, tuple[str, ...]]) -> str:
    return f"{slot}({', '.join(own[slot])})"


def _docstring(rule: Rule, purpose: str) -> str:
    equation = indent(rule.equation, "    ")
    source = fill(f"Source: {rule.citation}", width=100)
    text = f"{rule.title}.\n\n{equation}\n\n{source}\n\n{purpose}\n"
    text += f"Written by Archer from its rule `{rule.name}`,\nhash {rule.hash}; needs only torch.\n"
    return '"""' + text.replace("\\", "\\\\").replace('"""', "'''") + '"""'


def _function(rule: Rule, parts: _Parts) -> str:
    extra = {n: _initial_feature(f) for n, f in rule.features.items()}
    extra |= {n: _initial_value(p) for n, p in rule.parameters.items()}
    keywords = ["*", *(f"{name}={value!r}" for name, value in extra.items())] if extra else []
    arguments = ["q", "k", "v", "beta", "chunk_size=32", *keywords]
    signature = _wrapped("def delta_rule_chunkwise(", arguments, "):")
    lines = [_function_docstring(rule, extra), *_function_start(rule), "outputs = []"]
    lines += ["for start in range(0, q.shape[-2], chunk_size):", indent(_function_loop(rule, parts), "    ")]
    lines += ["o = torch.cat(outputs, dim=-2) if outputs else torch.zeros_like(v)", "return o.to(given), S"]
    helper = f"\n\n\n{EXPANDED}" if extra else ""
    return f"{signature}\n" + indent("\n".join(lines), "    ") + helper + "\n"


def _function_start(rule: Rule) -> list[str]:
    """Everything in one precision, extra arguments in full shape, and the state before the first token."""
    sizes = {"1": "1", "Dk": "q.shape[-1]", "Dv": "v.shape[-1]"}
    lines = ["given = v.dtype", "dtype = torch.promote_types(given, torch.float32)"]
    lines.append("beta = beta[..., None] if beta.dim() == v.dim() - 1 else beta")
    lines.append("q, k, v, beta = (x.to(dtype) for x in (q * q.shape[-1] ** -0.5, k, v, beta))")
    for name, feature in rule.features.items():
        lines.append(f"{name} = _expanded({name}, (*q.shape[:-1], {sizes[feature.width]}), q)")
    for name, parameter in rule.parameters.items():
        shape = f"(q.shape[-3], {sizes[parameter.rows]}, {sizes[parameter.columns]})"
        lines.append(f"{name} = _expanded({name}, {shape}, q)")
    lines.append("S = v.new_zeros(*v.shape[:-2], q.shape[-1], v.shape[-1])")
    for name, carried in rule.carries.items():
        shape = f"(*v.shape[:-2], {sizes[carried.rows]}, {sizes[carried.columns]})"
        lines.append(f"{name} = v.new_full({shape}, {carried.initial!r})")
    return lines


def _function_loop(rule: Rule, parts: _Parts) -> str:
    per_token = ("q", "k", "v", "beta", *rule.features)
    lines = ["now = slice(start, start + chunk_size)"]
    if parts.position:
        lines.append("stop = min(start + chunk_size, q.shape[-2])")
        lines.append("position = torch.arange(start, stop, device=q.device).float()[:, None]")
    names = ("q", "k", "v", "beta", *parts.arguments)
    arguments = [f"{name}[..., now, :]" if name in per_token else name for name in names]
    lines.append(_wrapped(f"o, {', '.join(['S', *rule.carries])} = chunk_step(", arguments, ")"))
    return "\n".join([*lines, "outputs.append(o)"])


EXPANDED = '''
def _expanded(value, shape, like):
    """A number, or a tensor with or without its last axes of size one, as a tensor of this shape."""
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if 0 < value.dim() < len(shape):
        value = value.reshape(*value.shape, *(1,) * (len(shape) - value.dim()))
    return value.expand(shape)
'''.strip()


def _function_docstring(rule: Rule, extra: dict[str, float]) -> str:
    lines = [
        '"""q, k [B, H, T, Dk] (L2-normalised, not scaled), v [B, H, T, Dv], beta [B, H, T], any length T.',
        "",
    ]
    for name in extra:
        if name in rule.features:
            lines.append(f"{name}: [B, H, T, {rule.features[name].width}], or a number for all tokens.")
        else:
            size = rule.parameters[name]
            shape = f"[H, {size.rows}, {size.columns}]" if (size.rows, size.columns) != ("1", "1") else "[H]"
            drawn = (
                "; the default is the middle of its first values" if isinstance(size.initial, Draw) else ""
            )
            lines.append(f"{name}: {shape}, or a number for all heads{drawn}.")
    lines.append("Returns o [B, H, T, Dv] and the state after the last token, S [B, H, Dk, Dv].")
    return "\n".join([*lines, '"""'])


def _initial_value(parameter: Parameter) -> float:
    """The first value that a slot sees; of a random one, the middle."""
    import torch

    if not isinstance(parameter.initial, Draw):
        return float(parameter.initial)
    stored = parameter.initial.transform(torch.tensor(0.5, dtype=torch.float64))
    return round(float(parameter.value(stored)), 6)


def _initial_feature(feature: Feature) -> float:
    import torch

    return round(float(feature.value(torch.tensor(feature.bias or 0.0, dtype=torch.float64))), 6)


def _layer(rule: Rule, parts: _Parts) -> str:
    sizes = {"1": "1", "Dk": "self.key_size", "Dv": "self.value_size"}
    columns = {"q": "heads * self.key_size", "k": "heads * self.key_size", "v": "heads * self.value_size"}
    columns |= {"beta": "heads"}
    columns |= {
        n: "heads" if f.width == "1" else f"heads * {sizes[f.width]}" for n, f in rule.features.items()
    }
    if rule.layer.output_gate:
        columns["gate"] = "heads * self.value_size"
    return LAYER.format(
        heads_doc=str(rule.layer.heads or "any number of"),
        gate_line=" · SiLU(x W_gate)" if rule.layer.output_gate else "",
        heads=f"heads={rule.layer.heads}" if rule.layer.heads else "heads",
        expand=f" * {rule.layer.expand_value:g}" if rule.layer.expand_value != 1 else "",
        columns=indent(",\n".join(f'"{n}": {size}' for n, size in columns.items()), " " * 12),
        conv=CONVOLUTION_WEIGHTS if rule.layer.short_convolution else "",
        learned=_learned_weights(rule, sizes, columns),
        values=indent("\n".join(_layer_values(rule)), " " * 8),
        features=indent("\n".join(_layer_features(rule)), " " * 8),
        empty_state=indent("\n".join(_layer_state(rule, sizes)), " " * 8),
        state_names=", ".join(f'"{n}"' for n in ("S", *rule.carries)),
        arguments=_layer_arguments(rule, parts),
        position=POSITION if parts.position else "",
        convolve=CONVOLVE if rule.layer.short_convolution else NO_CONVOLUTION,
        gate=GATE if rule.layer.output_gate else "",
        drawn=DRAWN if any(isinstance(x.initial, Draw) for x in rule.parameters.values()) else "",
    )


def _learned_weights(rule: Rule, sizes: dict[str, str], columns: dict[str, str]) -> str:
    lines = []
    for name, parameter in rule.parameters.items():
        shape = f"heads, {sizes[parameter.rows]}, {sizes[parameter.columns]}"
        lines.append(_wrapped(f'self.rule["{name}"] = nn.Parameter(', [_first_values(parameter, shape)], ")"))
    biased = {name: feature for name, feature in rule.features.items() if feature.bias is not None}
    for name, feature in biased.items():
        value = f"torch.full(({columns[name]},), {float(feature.bias or 0.0)!r})"
        lines.append(f'self.bias["{name}"] = nn.Parameter({value})')
    kinds = {"rule": rule.parameters, "bias": biased}
    made = [f"self.{kind} = nn.ParameterDict()" for kind, some in kinds.items() if some]
    return indent("".join(f"{line}\n" for line in (*made, *lines)), " " * 8)


def _first_values(parameter: Parameter, shape: str) -> str:
    draw = parameter.initial
    if not isinstance(draw, Draw):
        return f"torch.full(({shape}), {parameter.stored_initial()!r})"
    return f"drawn(({shape}), {draw.low!r}, {draw.high!r}, {draw.spacing!r}, {draw.stored!r})".replace(
        "'", '"'
    )


def _within(expression: str, within: tuple[float, float] | None) -> str:
    if within is None:
        return expression
    low, high = within
    start = f"{low!r} + " if low else ""
    if high == float("inf"):
        return f"{start}{expression}.exp()"
    return f"{start}{'' if high - low == 1 else f'{high - low!r} * '}{expression}.sigmoid()"


def _layer_values(rule: Rule) -> list[str]:
    parameters = rule.parameters.items()
    return [f"{name} = " + _within(f'self.rule["{name}"]', x.within) for name, x in parameters]


def _layer_features(rule: Rule) -> list[str]:
    lines = []
    for name, feature in rule.features.items():
        raw = f'parts["{name}"]' + (f' + self.bias["{name}"]' if feature.bias is not None else "")
        by_head = f"self._by_head({raw})"
        lines.append(f'tokens["{name}"] = {_within(by_head, feature.within)}')
    return lines


def _layer_state(rule: Rule, sizes: dict[str, str]) -> list[str]:
    lines = ['state = {"S": like.new_zeros(batch, self.heads, self.key_size, self.value_size)}']
    for name, carried in rule.carries.items():
        shape = f"(batch, self.heads, {sizes[carried.rows]}, {sizes[carried.columns]})"
        lines.append(f'state["{name}"] = like.new_full({shape}, {carried.initial!r})')
    return lines


def _layer_arguments(rule: Rule, parts: _Parts) -> str:
    names = ['tokens["q"] * self.key_size**-0.5', *(f'tokens["{n}"]' for n in ("k", "v", "beta"))]
    for name in parts.arguments:
        if name in rule.features:
            names.append(f'tokens["{name}"]')
        elif name == "S" or name in rule.carries:
            names.append(f'state["{name}"]')
        else:
            names.append(name)
    return indent(",\n".join(names) + ",", " " * 12)


CONVOLUTION_WEIGHTS = """        self.conv = nn.ParameterDict()
        for name in ("q", "k", "v"):
            self.conv[name] = nn.Parameter(torch.empty(4, sizes[name]).uniform_(-0.5, 0.5))
"""
POSITION = """        first, length = state["tokens"], tokens["q"].shape[-2]
        position = torch.arange(first, first + length, device=tokens["q"].device).float()[:, None]
"""
CONVOLVE = """        length = x.shape[1]
        for name in ("q", "k", "v"):
            padded = torch.cat((before[name], parts[name]), dim=1)
            before[name] = padded[:, -3:]
            taps = self.conv[name]
            parts[name] = sum(padded[:, tap : tap + length] * taps[tap] for tap in range(4))
"""
NO_CONVOLUTION = ""
DRAWN = '''

def drawn(shape, low, high, spacing, stored):
    """Random first values between low and high, as themselves, as logarithms, or as inverse softplus."""
    uniform = torch.rand(shape).clamp_min(1e-4)
    value = low * (high / low) ** uniform if spacing == "log" else low + (high - low) * uniform
    if stored == "inverse_softplus":
        return value.expm1().log()
    return value.log() if stored == "log" else value
'''
GATE = """        o = o * nn.functional.silu(gate.to(o.dtype)).view_as(o)
"""

LAYER = '''class TokenMixer(nn.Module):
    """A token mixer, [B, T, D] to [B, T, D], with {heads_doc} heads.

        q, k, v = SiLU(conv4(x W)), q and k L2-normalised per head; beta = σ(x W_beta), one per head
        y = (RMSNorm(o){gate_line}) W_out

    Weights are stored as they multiply: x @ project[name]. `step` decodes one token at a time and gives what
    `forward` gives; its state holds S at the last chunk boundary, the tokens of the current chunk, and
    the last three inputs of the convolution.
    """

    def __init__(self, width, {heads}, chunk_size=32):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {{width}} is no multiple of {{heads}} heads")
        self.heads, self.chunk_size = heads, chunk_size
        self.key_size = width // heads
        self.value_size = int(self.key_size{expand})
        sizes = {{
{columns},
        }}
        self.project = nn.ParameterDict()
        for name, size in sizes.items():
            self.project[name] = nn.Parameter(torch.empty(width, size).uniform_(-(width**-0.5), width**-0.5))
{conv}{learned}        self.norm = nn.Parameter(torch.ones(self.value_size))
        inputs = heads * self.value_size
        self.out = nn.Parameter(torch.empty(inputs, width).uniform_(-(inputs**-0.5), inputs**-0.5))

    def forward(self, x):
        """x [B, T, D] to y [B, T, D], for any length T."""
        state = self.initial_state(x)
        tokens, gate = self._project(x, state["before"])
        outputs = []
        for start in range(0, x.shape[1], self.chunk_size):
            chunk = {{n: value[..., start : start + self.chunk_size, :] for n, value in tokens.items()}}
            o, state = self._chunk(chunk, state)
            outputs.append(o)
        o = torch.cat(outputs, dim=-2) if outputs else torch.zeros_like(tokens["v"])
        return self._finish(o, gate)

    def step(self, x, state=None):
        """One token x [B, D] to y [B, D] and the next state; state: None, or what the last call returned."""
        state = self.initial_state(x[:, None]) if state is None else dict(state, before=dict(state["before"]))
        token, gate = self._project(x[:, None], state["before"])
        chunk = state["chunk"]
        if chunk is not None:
            token = {{name: torch.cat((chunk[name], value), dim=-2) for name, value in token.items()}}
        o, after = self._chunk(token, state)
        complete = token["q"].shape[-2] == self.chunk_size
        state = dict(after, chunk=None) if complete else dict(state, chunk=token)
        return self._finish(o[..., -1:, :], gate)[:, 0], state

    def initial_state(self, x):
        """The state before the first token of x [B, T, D]."""
        batch, like = x.shape[0], x.new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
{empty_state}
        before = {{n: x.new_zeros(batch, 3, self.project[n].shape[1]) for n in ("q", "k", "v")}}
        return dict(state, tokens=0, chunk=None, before=before)

    def _chunk(self, tokens, state):
        """At most chunk_size tokens after the state: o [B, H, C, Dv] and the next state."""
{position}{values}
        o, *after = chunk_step(
{arguments}
        )
        names = ({state_names},)
        return o, dict(state, tokens=state["tokens"] + tokens["q"].shape[-2], **dict(zip(names, after)))

    def _project(self, x, before):
        """q, k, v, beta, features [B, H, T, size], and the gate; brings `before` up to date."""
        parts = {{name: x @ weight for name, weight in self.project.items()}}
{convolve}        tokens = {{n: self._by_head(nn.functional.silu(parts[n])) for n in ("q", "k", "v")}}
        tokens["q"], tokens["k"] = l2_normalised(tokens["q"]), l2_normalised(tokens["k"])
        tokens["beta"] = self._by_head(parts["beta"]).sigmoid()
{features}
        return tokens, parts.get("gate")

    def _finish(self, o, gate):
        o = o.transpose(1, 2)
        o = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-5) * self.norm
{gate}        return o.flatten(-2).to(self.out.dtype) @ self.out

    def _by_head(self, x):
        """[B, T, H * size] to [B, H, T, size], in float32 at least."""
        x = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return x.to(torch.promote_types(x.dtype, torch.float32))


def l2_normalised(x):
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
{drawn}'''

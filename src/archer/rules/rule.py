"""What a rule is: named slots of the chunk loop, and what those slots learn, read and carry.

A rule file is a plain Python module. Functions named after slots are the slots; `Parameter`, `Feature`
and `Carried` values at its top level are declarations; everything it does not say, its parent says.

    \"\"\"Decay: the state forgets before each write.

    S = γ S + kᵀ e,  γ in (0, 1), one per head
    \"\"\"
    from archer.rules import Parameter

    parent = "delta_net"
    gamma = Parameter(0.98, within=(0, 1))

    def retain(S, gamma):
        return gamma * S

A slot asks for what it needs by the names of its arguments, as listed in `VOCABULARY`, plus the names
that the file declares. Shapes end in `[C, D]`: C tokens of a chunk, one head; all axes in front (chunks,
runs, batch, heads) are added from outside and broadcast, so a slot never sees them.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal

from archer.errors import UserError
from archer.rules.executed import executed

SLOTS = ("prepare", "similarity", "correct", "read", "retain", "write")
"""The six slots, in the order in which the loop calls them. `step` replaces all but `prepare`."""

Size = Literal["1", "Dk", "Dv"]

VOCABULARY: Mapping[str, str] = {
    "q": "[C, Dk] queries, L2-normalised, times Dk^-1/2",
    "k": "[C, Dk] keys, L2-normalised",
    "v": "[C, Dv] values, before beta",
    "beta": "[C, 1] write strength in (0, 1)",
    "position": "[C, 1] index of the token in the sequence, as a float",
    "causal": "[C, C] True where column <= row",
    "scores": "[C, C] q kᵀ, not masked",
    "u": "[C, Dv] T V_beta: the values that the chunk would write onto an empty state",
    "w": "[C, Dk] T K_beta: what the chunk reads of the state before it corrects it",
    "q_read": "[C, Dk] the queries that read S: q, unless `prepare` says otherwise",
    "k_write": "[C, Dk] the keys that e is written with: k, unless `prepare` says otherwise",
    "S": "[Dk, Dv] the state at the start of the chunk",
    "o": "[C, Dv] q S, in `read`",
    "e": "[C, Dv] u - w S in `correct`; the corrected error afterwards",
    "weights": "[C, C] what `similarity` returned",
    "G": "[Dk, Dv] k_writeᵀ e, in `write`",
}
"""The names that a slot may ask for, with their shapes."""

PREPARED: Mapping[str, str] = {
    "q": "[C, Dk] instead of q, in scores too",
    "k": "[C, Dk] instead of k, in scores too",
    "v": "[C, Dv] instead of v",
    "beta": "[C, 1] instead of beta",
    "u": "[C, Dv] what the chunk would write onto an empty state; `wy(k, v, beta)` gives u and w",
    "w": "[C, Dk] what it reads of the state before that",
    "q_read": "[C, Dk] instead of q in q S",
    "k_write": "[C, Dk] instead of k in kᵀ e",
    "decay": "[C, C] a factor of the weights",
    "keep": "[1 or Dk, 1] a factor of S before `retain` sees it",
}
"""What `prepare` may return, beside names of its own for later slots."""

LOOPS_OWN = ("causal", "scores", "weights", "S", "e", "o", "G")
"""What `prepare` may not return: the loop makes it."""


class RuleError(UserError):
    """A rule file that does not follow the contract; the message says what to change."""


@dataclass(frozen=True)
class Draw:
    """A random initial value: uniform between low and high (in the logarithm, if spacing is "log"),
    stored as itself, as its logarithm, or as the number whose softplus it is."""

    low: float
    high: float
    spacing: Literal["linear", "log"] = "linear"
    stored: Literal["identity", "log", "inverse_softplus"] = "identity"

    def transform(self, uniform: Any) -> Any:
        """Maps uniform numbers in [0, 1) (a tensor) to stored initial values of the same shape."""
        if self.spacing == "log":
            value = (math.log(self.low) + uniform * (math.log(self.high) - math.log(self.low))).exp()
        else:
            value = self.low + uniform * (self.high - self.low)
        if self.stored == "log":
            return value.log()
        return value + (-(-value).expm1()).log() if self.stored == "inverse_softplus" else value


@dataclass(frozen=True)
class Parameter:
    """A learned number per head; it arrives in a slot shaped `[..., rows, columns]`, ready to broadcast.

    initial: its first value, or a Draw. within: (low, high) keeps it in that open interval by a sigmoid,
    (0, inf) by an exponential. rows, columns: "1", "Dk" or "Dv" for a vector or matrix per head.
    """

    initial: float | Draw = 0.0
    within: tuple[float, float] | None = None
    rows: Size = "1"
    columns: Size = "1"

    def __post_init__(self) -> None:
        if self.within is None or isinstance(self.initial, Draw):
            return
        low, high = self.within
        if not low < self.initial < high:
            raise RuleError(
                f"a Parameter starts at {self.initial}, outside of within=({low}, {high}), whose ends it "
                "never reaches; start it inside"
            )

    def stored_initial(self) -> float:
        """The number whose `value` is `initial`."""
        assert not isinstance(self.initial, Draw)
        if self.within is None:
            return float(self.initial)
        low, high = self.within
        if math.isinf(high):
            return math.log(self.initial - low)
        fraction = (self.initial - low) / (high - low)
        return math.log(fraction / (1 - fraction))

    def value(self, stored: Any) -> Any:
        """The number that a slot sees, from the number that the optimiser sees."""
        return _inside(stored, self.within)


@dataclass(frozen=True)
class Feature:
    """A linear map of the layer's input, one per token and head; it arrives as `[C, width]`.

    within: (0, 1) for a sigmoid. bias: first value of a learned bias, or None for no bias.
    """

    width: Size = "1"
    within: tuple[float, float] | None = None
    bias: float | None = None

    def value(self, projected: Any) -> Any:
        """What a slot sees, from the projection of the input with its bias."""
        return _inside(projected, self.within)


def _inside(stored: Any, within: tuple[float, float] | None) -> Any:
    if within is None:
        return stored
    low, high = within
    return low + stored.exp() if math.isinf(high) else low + (high - low) * stored.sigmoid()


@dataclass(frozen=True)
class Carried:
    """State beside S that passes from chunk to chunk. A slot that changes it returns it in a dictionary:
    `return M, {"M": M}`."""

    rows: Size = "Dk"
    columns: Size = "Dv"
    initial: float = 0.0


@dataclass(frozen=True)
class Layer:
    """What a rule's own layer has by default (None: as the model says)."""

    output_gate: bool = False
    expand_value: float = 1.0
    heads: int | None = None
    short_convolution: bool = True


@dataclass(frozen=True)
class Rule:
    """One version of the delta rule, complete: its own slots and those of its ancestors.

    slots: the functions by slot name (`step` among them where a rule has one). own: the slots that this
    file defines. source: the text of the file. equation: the indented lines of its docstring.
    """

    name: str
    parent: str | None
    title: str
    equation: str
    citation: str
    source: str
    slots: Mapping[str, Callable[..., Any]]
    own: tuple[str, ...]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    features: Mapping[str, Feature] = field(default_factory=dict)
    carries: Mapping[str, Carried] = field(default_factory=dict)
    layer: Layer = Layer()
    history: tuple[str, ...] = ()
    ancestry: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        arguments = {slot: argument_names(function) for slot, function in self.slots.items()}
        object.__setattr__(self, "_arguments", arguments)

    @property
    def hash(self) -> str:
        """Names what the rule computes: its source and those of all its ancestors (12 hex digits)."""
        return text_hash(self.source, self.ancestry)

    def arguments(self, slot: str) -> tuple[str, ...]:
        """The names that a slot asks for."""
        return self._arguments[slot]  # type: ignore[attr-defined]


def text_hash(source: str, ancestry: Sequence[str]) -> str:
    """The hash of a rule by its text and those of its ancestors, the parent's first."""
    return hashlib.sha256("\0".join((source, *ancestry)).encode()).hexdigest()[:12]


def argument_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a function's arguments, in order."""
    return tuple(inspect.signature(function).parameters)


def load_rule(source: str, name: str, find: Callable[[str], Rule]) -> Rule:
    """A rule from the text of its file.

    find: gives the parent by name. The text is executed: pass generated code through `archer.verify`
    first. Raises RuleError where the file breaks the contract.
    """
    namespace = _execute(source, name)
    parent_name = namespace.get("parent")
    if parent_name is None and name != "delta_net":
        raise RuleError(f'rule {name}: expected a line `parent = "delta_net"` (or another rule), found none')
    parent = find(parent_name) if parent_name is not None else None
    own = {key: value for key, value in namespace.items() if key in (*SLOTS, "step") and callable(value)}
    if not own:
        others = [
            n for n, x in namespace.items() if inspect.isfunction(x) and x.__module__ == namespace["__name__"]
        ]
        found = f"; `{others[0]}` is none" if others else ""
        raise RuleError(
            f"rule {name}: it defines no slot{found}; write a function named one of {', '.join(SLOTS)}"
        )
    _require_written(own, source, name)
    title, equation, citation = _read_docstring(namespace.get("__doc__") or "")
    rule = Rule(
        name=name,
        parent=parent_name,
        title=title,
        equation=equation,
        citation=citation,
        source=source,
        slots=_inherit_slots(own, parent),
        own=tuple(own),
        layer=_layer(namespace, name, parent),
        history=tuple(namespace.get("history", ())),
        ancestry=(parent.source, *parent.ancestry) if parent else (),
    )
    return _with_declarations(rule, namespace, parent)


def _layer(namespace: Mapping[str, Any], name: str, parent: Rule | None) -> Layer:
    layer = namespace.get("layer", parent.layer if parent else Layer())
    if not isinstance(layer, Layer):
        what = "a function" if callable(layer) else f"a {type(layer).__name__}"
        raise RuleError(
            f"rule {name}: `layer` is {what}; that name is for the layer around the rule, as in "
            "`layer = Layer(output_gate=True)`: write that, or rename it"
        )
    return layer


def names_bound(statement: ast.stmt) -> tuple[str, ...]:
    """The names that a statement at the top of a file binds, in the order in which they stand."""
    if isinstance(statement, ast.FunctionDef):
        return (statement.name,)
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return tuple((alias.asname or alias.name).split(".")[0] for alias in statement.names)
    nodes = [x for x in ast.walk(statement) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)]
    return tuple(dict.fromkeys(node.id for node in nodes))


def _require_written(own: Collection[str], source: str, name: str) -> None:
    """A slot is a function that stands under its name at the top of the file: people and `archer verify` read
    there what differs from the parent. And a function that nobody calls is no slot with a mistake in it."""
    tree = ast.parse(source)
    last = {bound: statement for statement in tree.body for bound in names_bound(statement)}
    functions = {bound for bound, statement in last.items() if isinstance(statement, ast.FunctionDef)}
    for slot in own:
        if slot not in functions:
            raise RuleError(
                f"rule {name}: slot `{slot}` is another function under a second name; write it out as "
                f"`def {slot}(...):` at the top of the file"
            )
    read = {x.id for x in ast.walk(tree) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Load)}
    for unused in sorted(functions - {*own, *read}):
        near = get_close_matches(unused, (*SLOTS, "step"), n=1, cutoff=0.75)
        if near:
            raise RuleError(
                f"rule {name}: nobody calls `{unused}`; if it is meant as the slot `{near[0]}`, name it so, "
                "else remove it"
            )


def _inherit_slots(own: dict[str, Callable[..., Any]], parent: Rule | None) -> dict[str, Callable[..., Any]]:
    inherited = dict(parent.slots) if parent else {}
    if "step" not in own and any(slot != "prepare" for slot in own):
        inherited.pop("step", None)
    return {**inherited, **own}


def _execute(source: str, name: str) -> dict[str, Any]:
    filename = f"<rule {name} {hashlib.sha256(source.encode()).hexdigest()[:8]}>"
    module = f"archer_rule_{hashlib.sha256((name + source).encode()).hexdigest()[:12]}"
    try:
        return executed(source, module, filename)
    except SyntaxError as error:
        raise RuleError(f"rule {name}: line {error.lineno} is not Python: {error.msg}") from error


def _with_declarations(rule: Rule, namespace: dict[str, Any], parent: Rule | None) -> Rule:
    """Keeps what some slot asks for; refuses what nobody declared and what nobody uses."""
    kinds = {"parameters": Parameter, "features": Feature, "carries": Carried}
    own = {kind: {n: v for n, v in namespace.items() if isinstance(v, cls)} for kind, cls in kinds.items()}
    redeclared = {n for kind in kinds for n in own[kind]}
    taken = redeclared & {*VOCABULARY, *PREPARED, *SLOTS, "step", "tokens"}
    if taken:
        raise RuleError(
            f"rule {rule.name}: `{min(taken)}` is declared, but that is a name of the chunk loop; rename it"
        )
    inherited = {kind: getattr(parent, kind) if parent else {} for kind in kinds}
    kept = {kind: {n: v for n, v in inherited[kind].items() if n not in redeclared} for kind in kinds}
    known = {kind: {**kept[kind], **own[kind]} for kind in kinds}
    slots = (
        {"prepare": rule.slots["prepare"], "step": rule.slots["step"]} if "step" in rule.slots else rule.slots
    )
    wanted = {name: slot for slot, function in slots.items() for name in argument_names(function)}
    declared = {n for kind in kinds for n in known[kind]}
    for name, slot in wanted.items():
        if (
            name not in declared
            and name not in VOCABULARY
            and name not in PREPARED
            and not _is_prepared(rule, name)
        ):
            near = get_close_matches(name, (*VOCABULARY, *declared), n=1)
            hint = f"did you mean `{near[0]}`? " if near else ""
            raise RuleError(
                f"rule {rule.name}: slot `{slot}` asks for `{name}`, which nobody declares; {hint}"
                f"a slot may ask for {', '.join(VOCABULARY)}, or a Parameter, Feature or Carried of its file"
            )
    unused = [n for kind in kinds for n in own[kind] if n not in wanted]
    if unused:
        raise RuleError(
            f"rule {rule.name}: `{unused[0]}` is declared, but no slot asks for it; use it or remove it"
        )
    if rule.layer.output_gate and "gate" in known["features"]:
        raise RuleError(
            f"rule {rule.name}: the feature `gate` has the name of its layer's output gate; rename it"
        )
    return replace(rule, **{kind: {n: v for n, v in known[kind].items() if n in wanted} for kind in kinds})


def _is_prepared(rule: Rule, name: str) -> bool:
    """Whether `prepare` hands this name on: it is a key of a dictionary somewhere in the rule's files."""
    texts = (rule.source, *rule.ancestry)
    return any(name in _keys(node) for text in texts for node in ast.walk(ast.parse(text)))


def _keys(node: ast.AST) -> list[Any]:
    """What a node puts into a dictionary: `{"m": ...}`, `dict(m=...)` or `values["m"] = ...`."""
    if isinstance(node, ast.Dict):
        return [key.value for key in node.keys if isinstance(key, ast.Constant)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return [keyword.arg for keyword in node.keywords]
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
        return [node.slice.value] if isinstance(node.slice, ast.Constant) else []
    return []


def _read_docstring(text: str) -> tuple[str, str, str]:
    """Title (first line), equation (indented lines), citation (the paragraph that starts with "Source:")."""
    lines = text.splitlines()
    title = lines[0].strip().rstrip(".") if lines else ""
    equation = "\n".join(line.strip() for line in lines[1:] if line.startswith("    "))
    stripped = [line.strip() for line in lines]
    start = next((i for i, line in enumerate(stripped) if line.startswith("Source:")), len(lines))
    citation = " ".join(itertools.takewhile(bool, stripped[start:])).removeprefix("Source:").strip()
    return title, equation, citation

"""What `archer rules` shows, as data, and docs/rules.md, which is made from it.

`python -m archer.rules.describe` writes docs/rules.md anew from the library and from the figures in
docs/rules.json, which benchmarks/rules.py measures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archer.rules.compose import grammar
from archer.rules.registry import get_rule, rule_names
from archer.rules.rule import PREPARED, SLOTS, VOCABULARY, Rule

PLACE = Path("docs") / "rules.md"
FIGURES = Path("docs") / "rules.json"


@dataclass(frozen=True)
class Description:
    """A rule in a table's row.

    slots: where the rule differs from its parent. learned, state: numbers per head, as polynomials in Dk and
    Dv; learned leaves out the projections of features, which are listed by name and width.
    """

    name: str
    title: str
    equation: str
    citation: str
    parent: str | None
    slots: tuple[str, ...]
    parameters: dict[str, str]
    features: dict[str, str]
    carries: dict[str, str]
    learned: str
    state: str
    history: tuple[str, ...]

    def state_per_head(self, key_width: int, value_width: int) -> int:
        """Numbers per head that pass from chunk to chunk: S and what the rule carries beside it."""
        carried = sum(_size(shape, key_width, value_width) for shape in self.carries.values())
        return key_width * value_width + carried


def describe(rule: Rule | str) -> Description:
    """The description of a rule."""
    rule = get_rule(rule) if isinstance(rule, str) else rule
    parameters = {name: f"{x.rows} {x.columns}" for name, x in rule.parameters.items()}
    carries = {name: f"{x.rows} {x.columns}" for name, x in rule.carries.items()}
    return Description(
        name=rule.name,
        title=rule.title,
        equation=rule.equation,
        citation=rule.citation,
        parent=rule.parent,
        slots=tuple(slot for slot in (*SLOTS, "step") if slot in rule.own),
        parameters=parameters,
        features={name: x.width for name, x in rule.features.items()},
        carries=carries,
        learned=_polynomial(list(parameters.values())),
        state=_polynomial(["Dk Dv", *carries.values()]),
        history=rule.history,
    )


def descriptions() -> tuple[Description, ...]:
    """All rules of the library, in their order."""
    return tuple(describe(name) for name in rule_names())


def page(figures: dict[str, Any] | None = None) -> str:
    """The text of docs/rules.md. figures: what benchmarks/rules.py printed, or None for none."""
    rows = descriptions()
    blocks = [HEAD, _table(rows), "## Each rule", *(_section(row) for row in rows), _slots(), _grammar()]
    if figures is not None:
        blocks.append(_figures(figures))
    return "\n\n".join(blocks) + "\n"


def _table(rows: tuple[Description, ...]) -> str:
    header = [
        "rule",
        "parent",
        "differs in",
        "learned per head",
        "per token",
        "state per head",
        "in the history tables",
    ]
    lines = [_row(header), _row(["---"] * len(header))]
    for x in rows:
        features = ", ".join(f"{name} ({width})" for name, width in x.features.items())
        names = ", ".join(f"`{name}`" for name in x.history)
        parent = f"`{x.parent}`" if x.parent else ""
        lines.append(_row([f"`{x.name}`", parent, ", ".join(x.slots), x.learned, features, x.state, names]))
    return "\n".join(lines)


def _section(x: Description) -> str:
    code = get_rule(x.name).source.split('"""', 2)[2].strip()
    text = [
        f"### {x.name}",
        f"{x.title}. {x.citation}.",
        f"```\n{x.equation}\n```",
        f"```python\n{code}\n```",
    ]
    return "\n\n".join(text)


ON_A_GPU = """\
The loop over chunks becomes one kernel, made of the slots, where chunks and the widths of keys and values are
16, 32, 64 or 128. It takes what most slots do: arithmetic, comparisons and `where`, products, sums, means,
norms and extremes along an axis, softmax and layer norm, cumulative sums, one row or column, `topk` with
`scatter`, PyTorch's activations. Other operations (sorting, halves of a block, float64) are computed as
PyTorch does it, chunk by chunk: the same results, slower, and training says which operation it was. `prepare`
may do anything: it is no part of the loop.\
"""


def _slots() -> str:
    return "\n\n".join(
        [
            "## What a slot may ask for",
            _names(VOCABULARY),
            "## What `prepare` may return",
            "Beside names of its own, for which later slots may ask; a rule without one has its parent's.",
            _names(PREPARED),
            "## On a GPU",
            ON_A_GPU,
        ]
    )


def _names(meanings: Mapping[str, str]) -> str:
    lines = [_row(["name", "what it is"]), _row(["---", "---"])]
    return "\n".join(lines + [_row([f"`{name}`", meaning]) for name, meaning in meanings.items()])


def _grammar() -> str:
    return f"## Compositions\n\n```\n{grammar()}\n```"


def _figures(figures: dict[str, Any]) -> str:
    header = ["rule", "forward and backward at 1,024 tokens, ms", "time grows as", "memory grows as"]
    lines = [_row(header), _row(["---"] * len(header))]
    for name, x in figures["rules"].items():
        milliseconds = f"{1000 * x['seconds_at_1024']:.1f}"
        growth = (f"T^{x['time_exponent']:.2f}", f"T^{x['memory_exponent']:.2f}")
        lines.append(_row([f"`{name}`", milliseconds, *growth]))
    return "\n\n".join(["## Time and memory", FIGURES_NOTE.format(**figures["setting"]), "\n".join(lines)])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _polynomial(shapes: list[str]) -> str:
    """Shapes such as "1 1" and "Dk Dv" as a sum: "Dk Dv + 1"."""
    terms = [" ".join(size for size in shape.split() if size != "1") or "1" for shape in shapes]
    counts = {term: terms.count(term) for term in dict.fromkeys(terms)}
    ordered = sorted(counts, key=lambda term: -len(term))
    if not ordered:
        return "0"
    written = [
        str(n) if term == "1" else (f"{n} {term}" if n > 1 else term)
        for term in ordered
        if (n := counts[term])
    ]
    return " + ".join(written)


def _size(shape: str, key_width: int, value_width: int) -> int:
    rows, columns = ({"1": 1, "Dk": key_width, "Dv": value_width}[size] for size in shape.split())
    return rows * columns


HEAD = """# The rules

Made from the library by `python -m archer.rules.describe`; do not edit.

`A` is the matrix of weights inside a chunk, `e` the error, `o` the output, `S` the state, `G = kᵀ e`:

```
A = similarity(q, k)            delta_net: tril(q kᵀ)
e = correct(u - w S)            delta_net: as it is
o = read(q S) + A e             delta_net: plain
S = retain(S) + write(kᵀ e)     delta_net: plain
```

*Differs in* names the slots that a rule changes of its parent. *Per token* lists the features that a rule
computes from the layer's input, with their width. A rule that changes only `retain` and `write` computes
exactly what its parent computes within one chunk; one that changes only `retain`, within two."""

FIGURES_NOTE = """Measured with torch {torch} on the CPU ({threads} thread, {dtype}), batch {batch},
{heads} heads, Dk = {key_width}, Dv = {value_width}, chunks of {chunk_size}; processor time, the
least of {repeats}. The exponents are fitted in the logarithm over {lengths};
memory is what autograd keeps for the backward pass.

What a rule computes and writes grows exactly linearly: tests/rules/test_growth.py counts operations and
numbers, forward and backward. A time above T^1 is the system's: glibc asks it anew for every array of more
than 32 MiB, and it fills each page with zeros first. `kda` has such arrays (`[C, C, Dk]` per chunk) from
2,048 tokens on: half of its 1.28 s at 4,096 passes in the system (252,000 page faults; 3,000 at 256). With
MALLOC_MMAP_THRESHOLD_=4294967296 and MALLOC_TRIM_THRESHOLD_=8589934592 it takes 0.64 s and grows as
T^1.03."""


def read_figures(repository: Path) -> dict[str, Any] | None:
    """The figures of the last benchmark, or None where there are none."""
    path = repository / FIGURES
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def main() -> None:
    """Writes docs/rules.md under the folder given, or the current one."""
    repository = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    (repository / PLACE).write_text(page(read_figures(repository)), encoding="utf-8")


if __name__ == "__main__":
    main()

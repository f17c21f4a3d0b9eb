"""What a language model is told: bounded, deterministic, facts only.

Sections stand in a fixed order and have a share of the room each; what does not fit is left out from the end
of its section, with a line that says so.
"""

from __future__ import annotations

from archer.ledger.records import TASKS
from archer.research.papers import search_cards
from archer.research.researcher import Context
from archer.research.rule_text import chain, read_rule
from archer.research.words import differences
from archer.rules.rule import PREPARED, SLOTS, VOCABULARY

ROOM = 24_000
"""Characters of a whole question at most, the instructions aside."""

SHARES = {
    "Goal": 0.05,
    "Scores": 0.2,
    "What was tried": 0.2,
    "Failures": 0.1,
    "Your track record": 0.05,
    "Parents": 0.25,
    "Papers": 0.15,
}
"""Section to its share of the room, in the order in which they stand."""

CONTRACT = f"""\
For chunk i with state S (C tokens; one head; leading axes are added from outside and broadcast):
    weights = similarity(...)                 [C, C], causal
    e       = correct(u - w S)                [C, Dv]
    o       = read(q_read S) + weights e      [C, Dv]
    S       = retain(S) + write(k_writeᵀ e)   [Dk, Dv]
The slots are {", ".join(SLOTS)}; a whole `step` may replace all but prepare and returns (o, {{"S": S}}).
A slot is a function with the slot's name. It asks for what it needs by the names of its arguments:
{chr(10).join(f"    {name}: {meaning}" for name, meaning in VOCABULARY.items())}
and for names that you declare at the top level, beside the function:
    gamma = Parameter(0.98, within=(0, 1))    one learned number per head (within=(0, torch.inf) for positive)
    g = Feature(within=(0, 1), bias=0.0)      one number per token and head, computed from the layer's input
    M = Carried()                             a state [Dk, Dv] beside S; return it: `return M, {{"M": M}}`
`prepare` runs for all chunks before the loop and returns a dictionary: names of its own, for which later
slots may ask, u and w (`**wy(k, v, beta)`; `from archer.rules import wy`; where each channel of a key fades
on its own, `faded_products((q, beta * k), k, log_decay.cumsum(-2))` gives both [C, C]), and any of:
{chr(10).join(f"    {name}: {meaning}" for name, meaning in PREPARED.items() if name not in "uw")}
Laws: a token's output must not depend on later tokens; no statistics over the batch or the heads; no
randomness, no loops over tokens, no growth of cost beyond linear in the length; finite gradients everywhere
(put an epsilon inside a root); float32 and bfloat16 give the exact result up to rounding, so nothing on the
way may be far larger than the result; only torch mathematics."""
"""What a rule is: slots, the names that a slot may ask for, declarations, laws."""

INSTRUCTIONS = f"""You are a researcher of linear attention. You change ONE slot of the chunk loop of the \
delta rule, and say what the change will score. Your rule is verified, trained on six small tasks and judged.

{CONTRACT}

Answer with ONE JSON object and nothing else:
{{"parent": a rule's name, "slot": the slot that you change, "name": letters, digits and _ only,
 "title": one line, "equation": one line,
 "code": "declarations and the one function, as Python",
 "insights": what the scores say, "issue": the line of the parent's code that is at fault and why,
 "reasoning": why the change helps, "lessons": what past attempts teach,
 "per_task": {{task: one sentence}},
 "predictions": {{task: [score, low, high]}} with a 90% interval for each of {", ".join(TASKS)},
 "cites": [ids of paper cards]}}"""

REMINDER = 'Answer now with the one JSON object, beginning with {"parent":'
"""The last line of a question. Without it small models go on writing about what stands last, the papers."""


def question(context: Context, room: int = ROOM) -> str:
    """The facts that a proposal may rest on, in at most `room` characters."""
    texts = {
        "Goal": _goal(context),
        "Scores": _scores(context),
        "What was tried": _tried(context),
        "Failures": _failures(context),
        "Your track record": _track_record(context),
        "Parents": _parents(context),
        "Papers": _papers(context),
    }
    sections = [f"# {name}\n{_cut(texts[name], int(share * room) - 80)}" for name, share in SHARES.items()]
    return "\n\n".join(sections)


def _cut(text: str, room: int) -> str:
    """As many whole lines as fit."""
    if len(text) <= room:
        return text
    kept: list[str] = []
    for line in text.splitlines():
        if sum(map(len, kept)) + len(kept) + len(line) > room - 40:
            break
        kept.append(line)
    left = len(text.splitlines()) - len(kept)
    return "\n".join([*kept, f"({left} more lines left out)"])


def _goal(context: Context) -> str:
    fitting = [s for s in context.settings if s.length <= context.chunk_size]
    reach = (
        f"{len(fitting)} of the {len(context.settings)} settings fit in one chunk of {context.chunk_size} "
        f"tokens: "
        "there retain and write change nothing."
        if context.settings
        else ""
    )
    return (
        f"One rule better than {context.reference} on all six tasks, under the preset {context.preset}. "
        f"Plain slots: {context.base}. {reach}"
    )


def _scores(context: Context) -> str:
    """One line per rule and source: this preset's first, best mean first."""
    rows: dict[tuple[bool, str, str], dict[str, str]] = {}
    totals: dict[tuple[bool, str, str], float] = {}
    for m in (*context.measured, *context.history):
        if m.score is None:
            continue
        key = (m.source != context.preset, m.source, m.rule)
        interval = f" [{m.low:.3f}, {m.high:.3f}]" if m.low is not None and m.high is not None else ""
        rows.setdefault(key, {})[m.task] = f"{m.score:.3f}{interval}"
        totals[key] = totals.get(key, 0.0) + m.score
    lines = [f"source | rule | {' | '.join(TASKS)}"]
    for key in sorted(rows, key=lambda key: (key[0], key[1], -totals[key], key[2])):
        lines.append(f"{key[1]} | {key[2]} | " + " | ".join(rows[key].get(task, "-") for task in TASKS))
    return "\n".join(lines)


def _tried(context: Context) -> str:
    """Past proposals, newest first, with what came of them; then the largest differences of all."""
    verdicts = {v.proposal: v for v in context.verdicts}
    lines = [
        f"{p.rule} ({', '.join(p.slots)} of {p.parent}): "
        + (verdicts[p.id].summary if p.id in verdicts else "no verdict")
        for p in reversed(context.proposals)
    ]
    seen = sorted(differences(context), key=lambda s: (-abs(s.gain), s.rule, s.task))
    lines += [f"{s.rule} on {s.task}: {s.gain:+.3f} against {context.base}" for s in seen[:24]]
    return "\n".join(lines) or "nothing yet"


def _failures(context: Context) -> str:
    names = {p.id: p.rule for p in context.proposals}
    lines = [f"{names.get(r.proposal, r.proposal)}: {r.message}" for r in reversed(context.rejections)]
    return "\n".join(lines) or "none"


def _track_record(context: Context) -> str:
    lines = [
        f"{row.researcher}, {row.task}: {row.n} predictions, {row.coverage:.0%} inside their 90% interval, "
        f"mean CRPS {row.mean_crps:.4f}"
        for row in context.track_record
    ]
    return "\n".join(lines) or "no predictions were scored yet"


def _parents(context: Context) -> str:
    """The code of the rules that are worth changing, and the names of all."""
    rules = {name: read_rule(source, name) for name, source in context.sources.items()}
    text = [f"Any of these may be the parent: {', '.join(sorted(rules))}"]
    for name in dict.fromkeys((context.reference, context.base, *_best(context))):
        line = chain(rules, name) if name in rules else ()
        text += [
            f"## {rule.name}\n{rule.source.strip()}" for rule in line if f"## {rule.name}\n" not in str(text)
        ]
    return "\n".join(text)


def _best(context: Context) -> list[str]:
    """Up to three rules: each has the best score on some task, most tasks first."""
    wins: dict[str, int] = {}
    for task in TASKS:
        scored = [
            m
            for name in context.sources
            if (m := context.score(name, task)) is not None and m.score is not None
        ]
        if scored:
            winner = max(scored, key=lambda m: (m.score or 0.0, m.rule)).rule
            wins[winner] = wins.get(winner, 0) + 1
    return sorted(wins, key=lambda name: (-wins[name], name))[:3]


def _papers(context: Context) -> str:
    """Cards on what the reference lacks and on the tasks where it is weakest."""
    weak = [s.task for s in differences(context) if s.rule == context.reference and s.gain < 0]
    query = " ".join(["delta rule gated similarity softmax mixture", *weak])
    found = search_cards(query, limit=8)
    return "\n".join(
        f"{f.card.id} ({f.card.reference}, slot {f.card.slot}): {_mechanism(f.card.text)}" for f in found
    )


def _mechanism(text: str) -> str:
    body = text.split("## Mechanism", 1)[-1].split("## ", 1)[0]
    return " ".join(body.split())

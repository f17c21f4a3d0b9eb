"""How a word was reached: the looks that were taken while seeds were added, and winners measured again."""

from __future__ import annotations

from collections.abc import Iterator

from archer.judge.sequential import claim_of
from archer.ledger.records import TASKS, Comparison, ConfirmationRecord
from archer.report.facts import Facts
from archer.report.tree import Block, Inline, Paragraph, Row, Table, code, quoted
from archer.report.wording import Wording, text_cell


def decision_sentences(comparison: Comparison, facts: Facts, words: Wording) -> Iterator[Inline]:
    """At how many seeds it was looked, and what fresh seeds said of what was won."""
    if comparison.looks:
        seeds = words.catalogue.joined([str(look.seeds) for look in comparison.looks])
        yield words.inline("looks.taken", seeds=seeds, **_pair(comparison))
    confirmation = facts.confirmation_of(comparison)
    if confirmation is not None:
        yield confirmation_sentence(confirmation, words, facts.may_rank)
    elif facts.may_rank and claim_of(comparison) and facts.is_contender(comparison):
        yield words.inline("confirmation.absent", **_pair(comparison))


def confirmation_sentence(confirmation: ConfirmationRecord, words: Wording, judged: bool = True) -> Inline:
    """Whether fresh seeds repeated what was won: the mean difference now and then, each with its interval."""
    outcome = "confirmed" if confirmation.confirmed else "refused"
    return words.inline(
        f"confirmation.{outcome if judged else 'not_judged'}",
        claim=words.text("claim.all_six" if confirmation.claim == "all six" else "claim.mean"),
        seeds=len(confirmation.seeds),
        again=words.difference(confirmation.comparison.mean),
        first=words.difference(confirmation.first),
        **_pair(confirmation.comparison),
    )


def looks_blocks(comparison: Comparison, words: Wording, judged: bool) -> Iterator[Block]:
    """Every look: after how many seeds, what it could spend, what was open, what it decided."""
    if not comparison.looks:
        return
    hidden = None if judged else words.text("word.not_judged")
    columns = [words.text(f"column.{name}") for name in ("seeds", "alpha", "open", "decided")]
    none = words.text("number.none")
    rows = tuple(
        Row(
            (
                text_cell(str(look.seeds)),
                text_cell(f"{look.alpha:.2%}"),
                text_cell(_listed(look.open, words) or none),
                text_cell(hidden or _listed(look.decided, words) or none),
            )
        )
        for look in comparison.looks
    )
    yield Table(words.inline("looks.table", **_pair(comparison)), tuple(columns), rows, (1,))
    yield Paragraph(words.inline("looks.reading"), "muted")
    if comparison.method:
        yield Paragraph(words.inline("looks.method", method=quoted(comparison.method)), "muted")


def _listed(tasks: tuple[str, ...], words: Wording) -> str:
    return words.text("claim.all_six") if len(tasks) == len(TASKS) else words.tasks(tasks)


def _pair(comparison: Comparison) -> dict[str, Inline]:
    return {"rule": code(comparison.candidate), "baseline": code(comparison.baseline)}

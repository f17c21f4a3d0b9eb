"""A research note from facts alone: `build(facts)` → Note. No language model, no clock, no file."""

from __future__ import annotations

from archer.report import argument, measured, provenance
from archer.report.facts import Facts
from archer.report.language import catalogue
from archer.report.tree import Block, Note, Section
from archer.report.wording import Wording

LABELS = ("contents", "lead", "quote", "figure", "line", "see_page", "removed", "added", "link")


def build(facts: Facts, language: str = "en") -> Note:
    """The note of one cycle, or of a bench (facts without a proposal).

    The same facts give the same note. Raises UserError for an unknown language.
    """
    words = Wording(catalogue(language))
    return Note(
        title=_title(facts, words),
        language=language,
        lead=measured.lead(facts, words),
        sections=tuple(section for section in _sections(facts, words) if section.blocks),
        contents=words.text("label.contents"),
        labels=labels(words),
    )


def labels(words: Wording) -> dict[str, str]:
    """The few words that a page needs around the note's own; "quote" still has its place `{by}`."""
    return {name: words.catalogue.entries[f"label.{name}"] for name in LABELS}


def _sections(facts: Facts, words: Wording) -> tuple[Section, ...]:
    return (
        measured.verdict_section(facts, words),
        measured.scores_section(facts, words),
        measured.noise_section(facts, words),
        argument.cost_section(facts, words),
        argument.observations_section(facts, words),
        argument.fault_section(facts, words),
        argument.reasoning_section(facts, words),
        argument.expectation_section(facts, words),
        _if_proposed(facts, measured.predictions_section(facts, words)),
        argument.lessons_section(facts, words),
        argument.implementation_section(facts, words),
        measured.curves_section(facts, words),
        provenance.files_section(facts, words),
        measured.limits_section(facts, words),
        argument.next_steps_section(facts, words),
        provenance.provenance_section(facts, words),
    )


def _if_proposed(facts: Facts, section: Section) -> Section:
    none: tuple[Block, ...] = ()
    return section if facts.proposal else Section(section.heading, section.anchor, none)


def _title(facts: Facts, words: Wording) -> str:
    if facts.proposal:
        return words.text("title.cycle", rule=facts.proposal.rule, parent=facts.proposal.parent)
    return words.text("title.bench", preset=facts.cycle.preset)

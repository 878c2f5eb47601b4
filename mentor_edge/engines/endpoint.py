"""An OpenAI-compatible endpoint as an engine: a model behind somebody else's server and template.

What the server answers is read by our own parser, whatever the server made of it: servers overlook calls that come
after text or inside thinking (llama.cpp issues 20260 and 24202), and then leave them in the content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import Any, Self
from urllib.parse import urlsplit

from mentor_edge.engines.base import ChatRequest, Reply, Sampling
from mentor_edge.errors import EngineError
from mentor_edge.messages import Message, ToolCall
from mentor_edge.tool_calls import TOOL_CALL_CLOSE, TOOL_CALL_OPEN, ParsedTurn, parse_turn

SEED = 0

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_TOO_LONG = re.compile(r"context[ _](length|size|window)|(prompt|input) is too long", re.IGNORECASE)
"""How OpenAI, vLLM, llama.cpp and others say that a conversation does not fit; there is no common code for it."""
_URL_HINT = "an OpenAI-compatible URL mostly ends in /v1"
_SHOWN = 200


class EndpointEngine:
    """A model that is reached through the chat completions of `base_url`, such as "http://localhost:8000/v1".

    Greedy where the sampling's temperature is 0, with a fixed seed besides; whether equal requests get equal answers is
    the server's business. `batch_size` requests are under way at once, each may take `timeout` seconds, and what the
    server cannot serve now (429, 5xx, a broken connection) is tried `max_retries` times more. `api_key` is sent to this
    server alone, and never printed or stored.

    Names of tools that the API does not allow (BFCL's have dots) are sent with "_" in place of each other character;
    the model's calls get the tool's own name back.

    Raises: EngineError, from the constructor for a URL that is none or a missing package, from the methods when the
    server cannot be reached, refuses the key, does not know the model, or answers something else than a chat
    completion.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        batch_size: int = 8,
        timeout: float = 120.0,
        max_retries: int = 2,
    ) -> None:
        if batch_size < 1:
            raise EngineError(f"batch_size must be at least 1, got {batch_size}")
        self.base_url = checked_url(base_url)
        self.model = model
        self._api_key = api_key
        self._batch_size = batch_size
        self._timeout = timeout
        self._max_retries = max_retries
        try:
            import openai
        except ImportError as error:
            raise EngineError("endpoints need the package openai", "install it with: pip install openai") from error
        self._client = openai.OpenAI(
            base_url=self.base_url,
            api_key=api_key or "none",  # the package wants one, servers of one's own do not
            timeout=timeout,
            max_retries=max_retries,
        )

    @property
    def batch_size(self) -> int:
        return self._batch_size

    def reply(self, requests: Sequence[ChatRequest], sampling: Sampling) -> list[Reply | None]:
        """See `ChatEngine.reply`. `tokens` are those that the server says, 0 where it does not."""
        return _side_by_side([partial(self._reply, request, sampling) for request in requests])

    def models(self) -> list[str]:
        """The models that the endpoint lists."""
        listed = self._send(lambda client: client.models.with_raw_response.list())
        try:
            return [str(model["id"]) for model in listed["data"]]
        except (KeyError, TypeError) as error:
            raise self._nonsense(listed, "no list of models") from error

    def _reply(self, request: ChatRequest, sampling: Sampling) -> Reply | None:
        names = _wire_names(request.tools)
        arguments: dict[str, Any] = {
            "model": self.model,
            "messages": _wire_messages(request.messages, names),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_new_tokens,
            "seed": SEED,
        }
        if request.tools:  # an empty list is refused
            arguments["tools"] = [_renamed(tool, names) for tool in request.tools]
        try:
            answer = self._send(lambda client: client.chat.completions.with_raw_response.create(**arguments))
        except _DoesNotFit:
            return None
        except _NotFound as error:
            raise EngineError(
                f"{self.base_url} has no model {self.model!r}: {error.said}", self._models_hint()
            ) from error
        try:
            choice = answer["choices"][0]
            turn = read_turn(choice["message"])
            tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise self._nonsense(answer, "no chat completion") from error
        own_names = {wire: name for name, wire in names.items()}
        calls = tuple(ToolCall(own_names.get(call.name, call.name), call.arguments) for call in turn.message.tool_calls)
        message = Message("assistant", turn.message.content, calls)
        return Reply(message, choice.get("finish_reason") != "length", turn.malformed, tokens)

    def _send(self, request: Callable[[Any], Any]) -> Any:
        """The JSON that the server answers.

        Raises: EngineError, of which `_NotFound` and `_DoesNotFit` are for the caller to explain.
        """
        import openai

        try:
            response = request(self._client)
        except openai.APIError as error:
            raise self._explained(error) from error
        try:
            return json.loads(response.http_response.content)
        except (ValueError, RecursionError) as error:
            raise self._nonsense(response.http_response.text, "no JSON") from error

    def _explained(self, error: Any) -> EngineError:
        import openai

        body = error.body
        said = self._said(body.get("message", body) if isinstance(body, dict) else body or _text_of(error))
        match error:
            case openai.APITimeoutError():
                tries = f"{self._max_retries + 1} tries of {self._timeout:g} s"
                return EngineError(f"{self.base_url} gave no answer in {tries}", "is the server overloaded?")
            case openai.APIConnectionError():
                reason = self._said(error.__cause__ or error)
                return EngineError(
                    f"cannot reach {self.base_url}: {reason}", "is the server running, and the URL right?"
                )
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                return EngineError(
                    f"{self.base_url} refuses the API key: {said}",
                    "name the variable that holds the right one with --api-key-env",
                )
            case openai.NotFoundError():
                return _NotFound(f"{self.base_url} answered with status 404: {said}", _URL_HINT, said)
            case openai.APIStatusError(status_code=400 | 413 | 422) if _TOO_LONG.search(_text_of(error)):
                return _DoesNotFit(said)
            case openai.APIStatusError():
                return EngineError(f"{self.base_url} answered with status {error.status_code}: {said}")
        return EngineError(f"{self.base_url} failed: {said}")

    def _models_hint(self) -> str:
        try:
            return f"it has: {', '.join(self.models()) or 'none'}"
        except EngineError:
            return f"it lists no models either; {_URL_HINT}"

    def _nonsense(self, answer: Any, what: str) -> EngineError:
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return EngineError(f"{self.base_url} answered {what}: {self._said(text)}", _URL_HINT)

    def _said(self, text: Any) -> str:
        """A server's words on one line, cut, and without the key: some repeat it."""
        line = " ".join(str(text).split())
        if self._api_key:
            line = line.replace(self._api_key, "***")
        return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _text_of(error: Any) -> str:
    """What a server said in other words than JSON; the package keeps it in the response alone."""
    response = getattr(error, "response", None)
    return str(error.message if response is None else response.text or error.message)


class _DoesNotFit(EngineError):
    """The conversation is longer than the model's context."""


class _NotFound(EngineError):
    """There is no such page, or no such model: servers answer both alike. `said` are their words."""

    def __init__(self, problem: str, hint: str, said: str) -> None:
        super().__init__(problem, hint)
        self.said = said


def checked_url(url: str) -> str:
    """The URL without a slash at its end.

    Raises: EngineError when it is no HTTP URL, or holds a password or a query, which would be printed with it.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EngineError(f"no URL of an endpoint: {url!r}", "give one such as http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise EngineError(
            f"the URL of the endpoint at {parts.hostname} holds more than host and path",
            "a key belongs into an environment variable, named with --api-key-env",
        )
    return url.rstrip("/")


def only_model(base_url: str, api_key: str | None = None) -> str:
    """The model of an endpoint that serves just one.

    Raises: EngineError when it serves none or several, and as `EndpointEngine` does.
    """
    with EndpointEngine(base_url, "", api_key=api_key) as engine:
        models = engine.models()
    if len(models) != 1:
        raise EngineError(f"{engine.base_url} serves {len(models)} models", f"choose one with --model: {models}")
    return models[0]


def read_turn(message: Mapping[str, Any]) -> ParsedTurn:
    """The turn in an assistant message of OpenAI's format.

    Calls that the server made out are spelled the way models write them, and parsed: one set of rules says which
    arguments can be read, for every runtime. Where it made out none, the content is parsed. Reasoning is not looked at.
    Never raises for a message that is an object.
    """
    content = _content(message.get("content"))
    calls = message.get("tool_calls")
    if not calls or not isinstance(calls, list):
        return parse_turn(content)
    functions = [call.get("function") if isinstance(call, dict) else None for call in calls]
    spelled = "".join(TOOL_CALL_OPEN + json.dumps(_function(function)) + TOOL_CALL_CLOSE for function in functions)
    turn = parse_turn(spelled)
    if turn.malformed:
        return ParsedTurn(Message("assistant", content + spelled), malformed=True)
    return ParsedTurn(Message("assistant", content, turn.message.tool_calls), malformed=False)


def _function(function: Any) -> Any:
    if not isinstance(function, dict):
        return function
    return {"name": function.get("name"), "arguments": function.get("arguments") or {}}  # "" where there are none


def _content(content: Any) -> str:
    if isinstance(content, list):  # parts, as some servers send
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return _clean(content) if isinstance(content, str) else ""


def _clean(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can say and no request can carry."""
    return text.encode(errors="replace").decode()


def _wire_names(tools: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The names of the tools, each with the one that the API allows."""
    names = {tool["function"]["name"]: _wire_name(tool["function"]["name"]) for tool in tools}
    if len(set(names.values())) < len(names):  # two would become one
        return {name: name for name in names}
    return names


def _wire_name(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name)[:64] or "_"


def _renamed(tool: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {**tool, "function": {**tool["function"], "name": names[tool["function"]["name"]]}}


def _wire_messages(messages: Sequence[Message], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Messages as the API takes them: arguments as JSON text, and an id that ties every result to its call."""
    sent: list[dict[str, Any]] = []
    waiting: list[str] = []
    calls_so_far = 0
    for message in messages:
        wire: dict[str, Any] = {"role": message.role, "content": _clean(message.content)}
        if message.tool_calls:
            # Nine letters and digits: Mistral's templates refuse any other id.
            waiting = [f"call{calls_so_far + i:05d}" for i in range(len(message.tool_calls))]
            calls_so_far += len(waiting)
            wire["tool_calls"] = [
                _wire_call(call, identity, names) for call, identity in zip(message.tool_calls, waiting, strict=True)
            ]
        if message.role == "tool":
            wire["tool_call_id"] = waiting.pop(0) if waiting else "call99999"
            if message.name is not None:
                wire["name"] = names.get(message.name, _wire_name(message.name))
        sent.append(wire)
    return sent


def _wire_call(call: ToolCall, identity: str, names: Mapping[str, str]) -> dict[str, Any]:
    function = {
        "name": names.get(call.name, _wire_name(call.name)),
        "arguments": json.dumps(dict(call.arguments), ensure_ascii=False),
    }
    return {"id": identity, "type": "function", "function": function}


def _side_by_side(work: Sequence[Callable[[], Reply | None]]) -> list[Reply | None]:
    """The results of all `work`, each in a thread. The first error is raised at once, and so is Ctrl-C: nobody waits
    for the others, which a thread pool would do for minutes when a server hangs."""
    futures: list[Future[Reply | None]] = [Future() for _ in work]

    def run(job: Callable[[], Reply | None], future: Future[Reply | None]) -> None:
        try:
            future.set_result(job())
        except BaseException as error:
            future.set_exception(error)

    for job, future in zip(work, futures, strict=True):
        Thread(target=run, args=(job, future), daemon=True).start()
    return [future.result() for future in futures]

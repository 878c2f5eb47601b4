"""An OpenAI-compatible endpoint as an engine: a model behind somebody else's server and template.

Our own parser reads every answer, even if the server has parsed it already: servers miss calls that come after text
or inside thinking (llama.cpp issues 20260 and 24202), and leave them in the content.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from mentor_edge.engines.base import ChatRequest, Reply, Sampling
from mentor_edge.engines.openai_message import read_turn, without_surrogates
from mentor_edge.errors import EngineError
from mentor_edge.messages import Message, ToolCall
from mentor_edge.readable import harmless
from mentor_edge.tool_calls import ParsedTurn

SEED = 0

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_TOO_LONG = re.compile(r"context[ _](length|size|window)|(prompt|input) is too long", re.IGNORECASE)
"""How OpenAI, vLLM, llama.cpp and others report that a conversation does not fit; there is no common code for it."""
_URL_HINT = "an OpenAI-compatible URL usually ends in /v1"
_SHOWN = 200
"""Characters of a server's text in a message."""
_LISTED = 20
"""Names of models in a message."""
_MOST_TOKENS = 10_000_000
"""A server that counts more tokens in one turn is not believed."""
_LONGEST_TOKEN, _FEWEST_TOKENS = 512, 2_048
"""Characters of a token; and tokens of text that are read in any case, since some servers do not count thinking."""
_GRACE = 1.0
"""Seconds after the deadline in which a request may still report its own error."""
_HINT_SECONDS = 5.0

_Result = TypeVar("_Result")


class EndpointEngine:
    """A model behind the chat completions of an OpenAI-compatible server.

    Requests are greedy if the sampling's temperature is 0, and always carry a fixed seed. Whether equal requests get
    equal answers depends on the server.

    The API restricts the names of tools (BFCL's contain dots). Forbidden characters are sent as "_", and the model's
    calls get the tool's own name back.

    The server is not trusted: an answer ends at a size and at a deadline, redirects are not followed, and the key is
    removed from what the server says. `docs/security.md` has the details.

    Args:
        base_url: such as "http://localhost:8000/v1".
        model: the model's name on that server; `only_model` finds it if there is just one.
        api_key: sent to this server alone, never printed or stored.
        batch_size: requests in progress at once.
        timeout: seconds that one request may take, with its repetitions and the waiting between them.
        max_retries: how often to repeat a request after status 408, 409, 429, 5xx or a broken connection, while there
            is time. The server may say how long to wait.

    Raises:
        EngineError: from the constructor, when the URL is invalid or the package openai is missing; from the methods,
            when the server cannot be reached, refuses the key, does not know the model, or does not answer with a chat
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
        self._batch_size = batch_size
        self._timeout = timeout
        self._max_retries = max_retries
        try:
            from mentor_edge.engines.endpoint_client import bounded_client, without_key
        except ImportError as error:
            raise EngineError("endpoints need the package openai", "install it with: pip install openai") from error
        self._without_key = without_key(api_key)
        self._client = bounded_client(self.base_url, api_key)

    @property
    def batch_size(self) -> int:
        return self._batch_size

    def reply(self, requests: Sequence[ChatRequest], sampling: Sampling) -> list[Reply | None]:
        """See `ChatEngine.reply`. `tokens` is the server's own count, 0 if it sends none or an absurd one."""
        return self._in_time([partial(self._reply, request, sampling) for request in requests], self._timeout)

    def models(self) -> list[str]:
        """The names of the models that the endpoint lists. Raises: EngineError."""
        return self._in_time([partial(self._models, self._timeout)], self._timeout)[0]

    def _models(self, timeout: float) -> list[str]:
        listed = self._send(lambda **options: self._client.models.with_raw_response.list(**options), timeout)
        match listed:
            case {"data": list(models)} if all(
                isinstance(model, dict) and _is_name(model.get("id")) for model in models
            ):
                return [model["id"] for model in models]
        raise self._unexpected(listed, "a list of models")

    def _reply(self, request: ChatRequest, sampling: Sampling) -> Reply | None:
        names = _wire_names(request.tools)
        arguments: dict[str, Any] = {
            "model": self.model,
            "messages": _wire_messages(request.messages, names),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_new_tokens,
            "seed": SEED,
        }
        if request.tools:  # the API refuses an empty list
            arguments["tools"] = [_renamed(tool, names) for tool in request.tools]
        try:
            create = self._client.chat.completions.with_raw_response.create
            answer = self._send(partial(create, **arguments), self._timeout)
        except _DoesNotFit:
            return None
        except _NotFound as error:
            raise EngineError(
                f"{self.base_url} has no model {self.model!r}: {error.message}", self._models_hint()
            ) from error
        usage = (answer.get("usage") if isinstance(answer, dict) else None) or {}  # not every server counts tokens
        match answer, usage:
            case {"choices": [{"message": dict(written), **choice}, *_]}, dict(counts):
                turn = _turn(written, arguments.get("tools", ()), sampling)
            case _:
                raise self._unexpected(answer, "a chat completion")
        own_names = {wire: name for name, wire in names.items()}
        calls = tuple(ToolCall(own_names.get(call.name, call.name), call.arguments) for call in turn.message.tool_calls)
        message = Message("assistant", turn.message.content, calls)
        finished = choice.get("finish_reason") != "length"
        return Reply(message, finished, turn.malformed, _count(counts.get("completion_tokens")))

    def _send(self, request: Callable[..., Any], timeout: float) -> Any:
        """The JSON of the server's answer, without the key. Repeats the request while that may help and there is time.

        Raises: EngineError; the caller handles `_NotFound` and `_DoesNotFit`.
        """
        import openai

        from mentor_edge.engines.endpoint_client import seconds_to_wait

        deadline = time.monotonic() + timeout
        for repeated in range(self._max_retries + 1):
            try:
                response = request(timeout=max(0.001, deadline - time.monotonic()))
                break
            except openai.APIError as error:
                failed = error
            wait = seconds_to_wait(failed, repeated)
            late = wait is not None and time.monotonic() + wait >= deadline
            if wait is None or late or repeated == self._max_retries:
                # Not inside `except`: a traceback would show openai's error, with the server's own words.
                raise self._explained(failed, wait if late else None)
            time.sleep(wait)
        content = response.http_response.content
        try:
            answer = json.loads(content)
            text = json.dumps(answer, ensure_ascii=False)
            return answer if (clean := self._without_key(text)) == text else json.loads(clean)
        except (ValueError, RecursionError):
            pass
        raise self._unexpected(content.decode(errors="replace"), "JSON")

    def _explained(self, error: Any, wait: float | None) -> EngineError:
        import openai

        body = error.body
        message = self._quoted(body.get("message", body) if isinstance(body, dict) else body or _text_of(error))
        match error:
            case openai.APITimeoutError():
                return self._too_slow(self._timeout)
            case openai.APIConnectionError():
                reason = self._quoted(error.__cause__ or error)
                return EngineError(
                    f"cannot reach {self.base_url}: {reason}", "is the server running, and the URL right?"
                )
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                return EngineError(
                    f"{self.base_url} refuses the API key: {message}",
                    "name the environment variable with the right key with --api-key-env",
                )
            case openai.NotFoundError():
                return _NotFound(f"{self.base_url} answered with status 404: {message}", _URL_HINT, message)
            case openai.APIStatusError(status_code=400 | 413 | 422) if _TOO_LONG.search(_text_of(error)):
                return _DoesNotFit(message)
            case openai.APIStatusError() if location := error.response.headers.get("location"):
                return EngineError(
                    f"{self.base_url} redirects to {self._quoted(location)} (status {error.status_code}), which is not "
                    "followed: prompts and tools would go there",
                    "if you trust that server, give its URL",
                )
            case openai.APIStatusError():
                asked = None if wait is None else f"it can be asked again in {wait:,.1f} s, which is too late"
                return EngineError(f"{self.base_url} answered with status {error.status_code}: {message}", asked)
        return EngineError(f"{self.base_url} failed: {message}")

    def _models_hint(self) -> str:
        try:
            return f"it has: {_listed(self._models(min(_HINT_SECONDS, self._timeout)))}"
        except EngineError:
            return f"it does not list its models either; {_URL_HINT}"

    def _unexpected(self, answer: Any, expected: str) -> EngineError:
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return EngineError(f"{self.base_url} did not answer with {expected}: {self._quoted(text)}", _URL_HINT)

    def _quoted(self, text: Any) -> str:
        """A server's text on one line, cut, and without the key: some servers repeat it."""
        line = harmless(" ".join(self._without_key(str(text)).split()))
        return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."

    def _too_slow(self, timeout: float) -> EngineError:
        return EngineError(f"{self.base_url} did not answer within {timeout:g} s", "is the server overloaded?")

    def _in_time(self, work: Sequence[Callable[[], _Result]], timeout: float) -> list[_Result]:
        """Run each job in a thread and return all results.

        The first error, or Ctrl-C, is raised at once without waiting for the other jobs; a thread pool would wait. A
        job that does not even notice its deadline (a host name that is not resolved, a header that never ends) is left
        behind: it ends with the connections of the client.

        Raises: EngineError at the deadline; also what a job raises.
        """
        futures: list[Future[_Result]] = [Future() for _ in work]

        def run(job: Callable[[], _Result], future: Future[_Result]) -> None:
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

        deadline = time.monotonic() + timeout + _GRACE
        for job, future in zip(work, futures, strict=True):
            Thread(target=run, args=(job, future), daemon=True).start()
        try:
            return [future.result(timeout=max(0.0, deadline - time.monotonic())) for future in futures]
        except TimeoutError:
            raise self._too_slow(timeout) from None

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _turn(written: dict[str, Any], tools: Sequence[Any], sampling: Sampling) -> ParsedTurn:
    """The turn in a server's message. More calls, or parts of text, than tokens were allowed are not the model's, and
    neither is much more text."""
    longest = _LONGEST_TOKEN * max(sampling.max_new_tokens, _FEWEST_TOKENS)
    if len(json.dumps(written, ensure_ascii=False)) > longest or any(
        isinstance(value, list) and len(value) > sampling.max_new_tokens for value in written.values()
    ):
        return ParsedTurn(Message("assistant"), malformed=True)
    turn = read_turn(written, tools)
    if len(turn.message.tool_calls) > sampling.max_new_tokens:
        return ParsedTurn(Message("assistant", turn.message.content), malformed=True)
    return turn


def _count(tokens: Any) -> int:
    """A server's count of tokens; 0, which means unknown, if it cannot be one."""
    return tokens if type(tokens) is int and 0 <= tokens <= _MOST_TOKENS else 0


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= _SHOWN and name.isprintable()


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "none") + more


def _text_of(error: Any) -> str:
    """A server's answer that is not JSON; the package keeps it only in the response."""
    response = getattr(error, "response", None)
    return str(error.message if response is None else response.text or error.message)


class _DoesNotFit(EngineError):
    """The conversation is longer than the model's context."""


class _NotFound(EngineError):
    """No such page, or no such model: servers report both in the same way. `message` is the server's text."""

    def __init__(self, problem: str, hint: str, message: str) -> None:
        super().__init__(problem, hint)
        self.message = message


def checked_url(url: str) -> str:
    """The URL without a trailing slash.

    Raises: EngineError when it is not an HTTP URL, or contains a password or a query, which messages would print.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isprintable()
    except ValueError:  # brackets that do not match, or a port that is not a number
        valid = False
    if any(sign in url for sign in "@?#"):
        host = (parts.hostname or "") if valid else ""
        raise EngineError(
            f"the URL of the endpoint{f' at {host}' if host else ''} contains more than host and path",
            "put the key into an environment variable and name that with --api-key-env",
        )
    if not valid:
        shown = url if len(url) <= _SHOWN else f"{url[:_SHOWN]}..."
        raise EngineError(f"not the URL of an endpoint: {shown!r}", "give one such as http://localhost:8000/v1")
    return url.rstrip("/")


def only_model(base_url: str, api_key: str | None = None) -> str:
    """The model of an endpoint that serves only one.

    Raises: EngineError when it serves none or several, or as `EndpointEngine` does.
    """
    with EndpointEngine(base_url, "", api_key=api_key) as engine:
        models = engine.models()
    if len(models) != 1:
        raise EngineError(
            f"{engine.base_url} serves {len(models)} models", f"choose one with --model: {_listed(models)}"
        )
    return models[0]


def _wire_names(tools: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Map the name of each tool to one that the API allows."""
    names = {tool["function"]["name"]: _wire_name(tool["function"]["name"]) for tool in tools}
    if len(set(names.values())) < len(names):  # two tools would get the same name
        return {name: name for name in names}
    return names


def _wire_name(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name)[:64] or "_"


def _renamed(tool: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {**tool, "function": {**tool["function"], "name": names[tool["function"]["name"]]}}


def _wire_messages(messages: Sequence[Message], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Messages as the API expects them: arguments as JSON text, and an id that links every result to its call."""
    sent: list[dict[str, Any]] = []
    waiting: list[str] = []
    calls_so_far = 0
    for message in messages:
        wire: dict[str, Any] = {"role": message.role, "content": without_surrogates(message.content)}
        if message.tool_calls:
            # Nine letters and digits: Mistral's templates accept no other ids.
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

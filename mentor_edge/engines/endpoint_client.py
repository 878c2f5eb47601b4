"""The HTTP client of `EndpointEngine`: what is sent to a server, and how much it may send back.

The package openai builds requests and explains failures. The transport below it sends them, and trusts nothing: the
key goes to the one host that was named, redirects are not followed, and an answer is read up to a limit and a deadline.
"""

from __future__ import annotations

import ipaddress
import math
import re
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import openai

from mentor_edge.errors import EngineError
from mentor_edge.readable import size

LARGEST_REPLY = 8 * 2**20
"""Bytes of an answer, decompressed. A million tokens of text have half of that."""
_SENT = frozenset({"accept", "connection", "content-length", "content-type", "host", "user-agent"})
"""Headers that every server gets, besides the key. openai's describe this machine, or come from the environment."""
_SENT_TO_OPENAI = _SENT | {"openai-organization", "openai-project"}
_READ = (b"location", b"retry-after", b"retry-after-ms")
"""Headers of an answer that are used. Others could set cookies, or choose a decoder for the text."""
_FIRST_WAIT = 0.5
"""Seconds before the first repetition; they double."""
_SHORTEST_KEY = 8
"""Characters of a key that is looked for in texts. Shorter ones are placeholders, such as "none"."""
_BETWEEN = (
    r"(?:[\s\u200b-\u200d\u2060\ufeff]|\\(?:u(?:200[bcd]|2060|feff)|[nrt]|(?![nrt]|\\{0,3}u00))"
    r"|%(?:25){0,4}(?:0[9ad]|20|e2%(?:25){0,4}80%(?:25){0,4}8[bcd])){0,8}"
)
"""What may separate the characters of a key that a server repeats: white space, what has no width, and escapes.

No text can be read in two ways, as a separator and as a character: the server knows the key, and could make the search
take exponential time."""


def bounded_client(base_url: str, api_key: str | None) -> openai.OpenAI:
    """A client of one endpoint. It neither follows redirects nor retries; each call must be given its `timeout`.

    Raises: EngineError when the key cannot be sent in a header, or the environment's proxy cannot be used.
    """
    if api_key and not re.fullmatch(r"[\x21-\x7e]+", api_key):
        raise EngineError(
            "the API key contains spaces, line breaks or characters that are not ASCII", "set the variable again"
        )
    try:
        transport = _BoundedTransport(base_url, api_key)
    except (ValueError, ImportError, httpx2.InvalidURL) as error:  # with the proxy's URL, which may have a password
        raise EngineError(
            f"the proxy that the environment names for {base_url} cannot be used ({type(error).__name__})",
            "correct HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, or name the host in NO_PROXY",
        ) from None
    return openai.OpenAI(
        base_url=base_url,
        api_key="none",  # the package requires one; the transport sends the real one
        max_retries=0,
        http_client=httpx2.Client(transport=transport, follow_redirects=False, trust_env=False),
    )


class _BoundedTransport(httpx2.HTTPTransport):
    """Sends requests of one endpoint, and reads each answer to its end before it hands it over."""

    def __init__(self, base_url: str, api_key: str | None) -> None:
        super().__init__(verify=_certificates(), proxy=_proxy_for(base_url), limits=httpx2.Limits(max_connections=None))
        self._sent = _SENT_TO_OPENAI if is_openai(base_url) else _SENT
        self._key = {"authorization": f"Bearer {api_key}"} if api_key else {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        deadline = time.monotonic() + request.extensions["timeout"]["read"]
        headers = {name: value for name, value in request.headers.items() if name in self._sent}
        headers |= {"accept-encoding": "identity", **self._key}
        # A copy: openai keeps the request in its errors, and reads its own headers later.
        own = httpx2.Request(
            request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
        )
        answer = super().handle_request(own)
        body = bytearray()
        try:
            for part in answer.iter_bytes():  # decompressed, for servers that compress unasked
                body += part
                if len(body) > LARGEST_REPLY:
                    raise EngineError(
                        f"{request.url.host} answered with more than {size(LARGEST_REPLY)}",
                        "is this the URL of an OpenAI-compatible endpoint?",
                    )
                if time.monotonic() > deadline:
                    raise httpx2.ReadTimeout("the answer did not end in time")
        finally:
            answer.close()
        kept = [(name, value) for name, value in answer.headers.raw if name.lower() in _READ]
        return httpx2.Response(answer.status_code, headers=kept, content=bytes(body))


@cache
def _certificates() -> ssl.SSLContext:
    """Which servers to believe. Reading the certificates takes a fifth of a second."""
    return httpx2.create_ssl_context()


def seconds_to_wait(error: openai.APIError, repeated: int) -> float | None:
    """How long to wait before a request is repeated, as the server says or growing; None if that cannot help."""
    default = _FIRST_WAIT * 2**repeated
    if isinstance(error, openai.APIStatusError):
        if error.status_code not in (408, 409, 429) and error.status_code < 500:
            return None
        for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
            with suppress(KeyError, ValueError):  # it may be a date
                asked = float(error.response.headers[name]) * unit
                return asked if math.isfinite(asked) and asked >= 0 else default
        return default
    lost = isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError)
    return default if lost else None


def is_openai(url: str) -> bool:
    """Whether a URL leads to OpenAI's own servers, encrypted."""
    parts = urlsplit(url)
    return parts.scheme == "https" and (parts.hostname or "").endswith(".openai.com")


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL. A server on this machine is never reached through one."""
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def without_key(api_key: str | None) -> Callable[[str], str]:
    """A function that replaces the key in a text of the server, also if it is URL-encoded, broken over lines, or
    written as JSON escapes."""
    if api_key is None or len(api_key) < _SHORTEST_KEY:
        return lambda text: text
    codes = ((re.escape(character), f"{ord(character):02x}") for character in api_key)
    characters = (rf"(?:{itself}|%(?:25){{0,4}}{code}|\\{{1,4}}u00{code})" for itself, code in codes)
    pattern = re.compile(_BETWEEN.join(characters), re.IGNORECASE)
    return lambda text: pattern.sub("***", text)

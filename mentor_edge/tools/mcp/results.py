"""What a model reads of a tool's result. Servers return more shapes than the protocol allows, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_KNOWN = frozenset({"content", "structuredContent", "isError", "toolResult", "_meta", "resultType"})
"""Keys that the protocol gives a result."""
_SNAKE_CASE = {"is_error": "isError", "structured_content": "structuredContent", "mime_type": "mimeType"}
"""As objects of the Python SDK name them."""
_BINARY = ("image", "audio")
_SHOWN_ELSEWHERE = frozenset({"type", "mimeType", "uri", "resource", "annotations", "_meta"})
"""Fields of content that a marker shows in words, or that are not for the model."""
_COMPARED = 1_000
"""Parts of the text, each of which may say what the structured content says."""
_DETAILS_LIMIT = 500
"""Characters of the further fields of an image or a sound: they may contain it."""


def readable_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of `tools/call` with one text that contains all of it, as mcp's models accept it.

    Text stays as it is, that of embedded resources and of unknown types of content too. Structured content follows,
    unless the text already says it. Everything else becomes a marker, `[image image/png, 512 bytes]`, with its kind,
    type and size as far as known, and its other fields as JSON. A result without any of these is its own JSON.

    Requests for further input stay as they are. A result with NaN or an infinity is a failed call, as of other tools.
    """
    try:
        return _readable(result)
    except ValueError:
        text = "the tool returned NaN or an infinity, which JSON lacks"
        return {"content": [{"type": "text", "text": text}], "isError": True}


def _readable(result: Mapping[str, Any]) -> dict[str, Any]:
    if result.get("resultType") not in (None, "complete"):
        return dict(result)
    result = _in_camel_case(result)
    content = result.get("content")
    blocks = [] if content is None else content if isinstance(content, list) else [content]
    parts = [_block_text(block) for block in blocks if block is not None]
    for key in ("structuredContent", "toolResult"):  # the second is from before the protocol's first version
        value = result.get(key)
        if value is not None and not _is_said(value, parts):
            parts.append(_as_text(value))
    other = {key: value for key, value in result.items() if key not in _KNOWN}
    if other and not "".join(parts).strip():
        parts = [_as_text(other)]
    failed = result.get("isError") is True or str(result.get("isError")).lower() == "true"
    text = "\n".join(parts)
    if failed and not text.strip():
        text = "the tool failed and did not say why"
    rest = {key: value for key, value in result.items() if key in ("_meta", "resultType")}
    return {**rest, "content": [{"type": "text", "text": text}], "isError": failed}


def _block_text(block: Any) -> str:
    if not isinstance(block, dict):
        return _as_text(block)
    block = _in_camel_case(block)
    kind, resource = block.get("type"), block.get("resource")
    if kind in ("resource", "resource_link") or isinstance(resource, dict):
        resource = resource if isinstance(resource, dict) else block
        text = _stated(resource, "text", "json")
        return _marker("resource", resource, "uri", "blob") if text is None else text
    text = None if kind in _BINARY else _stated(block, "text", "json", kind, "content", "value")
    return _marker(kind, block, "mimeType", "data") if text is None else text


def _stated(block: Mapping[str, Any], *keys: Any) -> str | None:
    """The first of these fields that is there. Content of a type such as markdown may be in a field of that name."""
    values = (block.get(key) for key in keys if isinstance(key, str))
    return next((_as_text(value) for value in values if value is not None), None)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def _marker(kind: Any, block: Mapping[str, Any], name: str, data: str) -> str:
    """`name` and `data` are the fields with the type or address, and with the content in base 64."""
    words = [str(word)[:200] for word in (kind or "content of an unknown type", block.get(name)) if word]
    base64, hidden = block.get(data), set(_SHOWN_ELSEWHERE)
    if isinstance(base64, str):
        words[-1] += f", {len(base64) * 3 // 4 - base64[-2:].count('=')} bytes"
        hidden.add(data)
    other = {key: value for key, value in block.items() if key not in hidden and value is not None}
    details = _as_text(other) if other else ""
    if details and (kind not in _BINARY or len(details) <= _DETAILS_LIMIT):
        words.append(details)
    return f"[{' '.join(words)}]"


def _in_camel_case(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {_SNAKE_CASE.get(key, key): value for key, value in fields.items()}


def _is_said(value: Any, parts: Sequence[str]) -> bool:
    """Whether the text says `value`, as JSON or as servers of the Python SDK: they wrap other values in `result`."""
    text = "\n".join(parts)
    if not value and value is not False and value != 0:
        return bool(parts)
    values = [value]
    if isinstance(value, dict) and list(value) == ["result"]:
        values.append(value["result"])
    whole, items = _parsed(text), [_parsed(part) for part in parts[:_COMPARED]]
    squeezed = _without_space(text)
    return any(
        whole == said
        or (isinstance(said, str) and said == text)
        or (isinstance(said, list) and said in (items, list(parts)))
        or (isinstance(said, dict | list) and any(item == said for item in items))
        or (isinstance(said, dict | list) and any(form in squeezed for form in _spellings(said)))
        for said in values
    )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _spellings(value: Any) -> Iterator[str]:
    """A value as JSON without space: with indents, a small one that is nested deeply has hundreds of megabytes."""
    return (_without_space(json.dumps(value, ensure_ascii=ascii)) for ascii in (True, False))


def _without_space(text: str) -> str:
    return "".join(text.split())

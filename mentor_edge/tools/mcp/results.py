"""What a model reads of a tool's result. Servers return more shapes than the protocol allows, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def readable_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of `tools/call` with one text that contains all of it, as mcp's models accept it.

    Text stays as it is, that of embedded resources too. Structured content follows, unless the text already says it.
    Everything else becomes a marker, `[image image/png, 512 bytes]`, with its kind, type and size as far as known.

    Results of another shape, such as requests for further input, stay as they are.
    """
    if not result.keys() & {"content", "structuredContent", "isError", "toolResult"}:
        return {**result, "content": []} if not result.keys() - {"_meta", "resultType"} else dict(result)
    content = result.get("content")
    blocks = [] if content is None else content if isinstance(content, list) else [content]
    if not all(isinstance(block, dict | str) for block in blocks):
        return dict(result)
    parts = [_block_text(block) for block in blocks]
    for key in ("structuredContent", "toolResult"):  # the second is from before the protocol's first version
        value = result.get(key)
        if value is not None and not _is_said(value, parts):
            parts.append(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    failed = result.get("isError") is True
    text = "\n".join(parts)
    if failed and not text.strip():
        text = "the tool failed and did not say why"
    rest = {key: value for key, value in result.items() if key not in ("structuredContent", "toolResult", "isError")}
    return {**rest, "content": [{"type": "text", "text": text}], "isError": failed}


def _block_text(block: dict[str, Any] | str) -> str:
    if isinstance(block, str):
        return block
    kind, resource = block.get("type"), block.get("resource")
    if kind in ("text", None) and "text" in block:
        text = block["text"]
        return text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    if isinstance(resource, dict):
        text = resource.get("text")
        return text if isinstance(text, str) else _marker("resource", resource.get("uri"), resource.get("blob"))
    if kind == "resource_link":
        return _marker("resource", block.get("uri"), None)
    return _marker(kind, block.get("mimeType"), block.get("data"))


def _marker(kind: Any, name: Any, base64: Any) -> str:
    words = " ".join(str(word)[:200] for word in (kind or "content of an unknown type", name) if word)
    size = f", {len(base64) * 3 // 4 - base64[-2:].count('=')} bytes" if isinstance(base64, str) else ""
    return f"[{words}{size}]"


def _is_said(value: Any, parts: Sequence[str]) -> bool:
    """Whether the text says `value`, as JSON or as servers of the Python SDK: they wrap other values in `result`."""
    text = "\n".join(parts)
    if not value and value is not False and value != 0:
        return bool(parts)
    values = [value]
    if isinstance(value, dict) and list(value) == ["result"]:
        values.append(value["result"])
    items = [_parsed(part) for part in parts]
    return any(
        _parsed(text) == said
        or (isinstance(said, str) and said == text)
        or (isinstance(said, list) and said in (items, list(parts)))
        or (isinstance(said, dict | list) and any(item == said for item in items))
        or (isinstance(said, dict | list) and any(form in text for form in _spellings(said)))
        for said in values
    )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _spellings(value: Any) -> list[str]:
    forms: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, {"indent": 2}]
    return [json.dumps(value, ensure_ascii=ascii, **form) for form in forms for ascii in (True, False)]

"""Chat templates that transformers renders, in our child process with limits.

Relied on upstream (transformers 5.23; tests/contracts/test_transformers.py): `apply_chat_template` calls
`render_jinja_template` by its name in `tokenization_utils_base`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import tokenization_utils_base
from transformers.utils.chat_template_utils import get_json_schema

from mentor_edge.chat import renderer
from mentor_edge.chat.own_templates import own_templates


@contextmanager
def limited_rendering() -> Iterator[None]:
    """Let transformers, and TRL on top of it, render templates of others in the child process.

    There, a template that fails raises a `StudentError`.
    """
    original = tokenization_utils_base.render_jinja_template

    def render(*, chat_template: str, tools: Any = None, **options: Any) -> Any:
        if chat_template in own_templates():
            return original(chat_template=chat_template, tools=tools, **options)
        schemas = tools and [tool if isinstance(tool, dict) else get_json_schema(tool) for tool in tools]
        try:
            return renderer.render_as_transformers(chat_template, {"tools": schemas, **options})
        except renderer.TemplateFault as fault:
            raise fault.error("default", "as transformers renders it") from fault

    tokenization_utils_base.render_jinja_template = render
    try:
        yield
    finally:
        tokenization_utils_base.render_jinja_template = original

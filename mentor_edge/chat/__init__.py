"""Rendering chats with tools: one renderer for every runtime (the parser is in `tool_calls`).

- `template`: a template with its tokens, and the texts it makes: prompts, turns, tool results
- `left_out`: what is missing from a turn that a template writes
- `wire_format`: the messages in the form that a template expects
- `renderer`: compiles and renders templates in a child process (`render_worker`) with limits (`limits`)
- `environment`: the Jinja environment, as in transformers
- `setting`: which template a student uses, and with which arguments
- `own_templates`, `templates/`: our own templates, for students whose own template does not render tools
"""

from __future__ import annotations

from mentor_edge.chat.template import ChatTemplate

__all__ = ["ChatTemplate"]

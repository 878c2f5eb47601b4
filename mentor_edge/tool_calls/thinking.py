"""Which part of a turn is thinking. Calls in it are drafts, unless nothing follows."""

from __future__ import annotations

import re

CLOSING = (
    r"</think>|</thinking>|</thought>|</reasoning>|\[/think\]|</seed:think>|<\|end_thinking\|>|<channel\|>"
    r"|◁/think▷|<\|end\|><\|start\|>assistant|<\|channel\|>final<\|message\|>"
)
"""A pattern without groups, in lower case. Only the closing tag decides: after a template that ends the prompt with the
opening one, the model writes no other. The last two are gpt-oss's."""

CLOSES = re.compile(CLOSING, re.IGNORECASE)
OPENING = (
    r"<think>|<thinking>|<thought>|<reasoning>|\[think\]|<seed:think>|<\|start_thinking\|>"
    r"|<\|channel>thought|◁think▷|<\|channel\|>analysis"
)
"""A pattern without groups, in lower case."""
OPENS = re.compile(rf"\s{{0,64}}(?:{OPENING})", re.IGNORECASE)
"""How a turn begins that thinks."""
ENDS = re.compile(rf"(?:{CLOSING})\s{{0,64}}\Z", re.IGNORECASE)
"""How a turn ends that does nothing but think."""
MENTIONED = re.compile(r"(?<=[ `])(?:" + CLOSING + r")(?:`| (?=[^\W\d_]))", re.IGNORECASE)
"""A closing tag inside a sentence: text may be about the tag."""

"""Chat templates with one fault each: the tiny students' template with one place changed."""

from __future__ import annotations

from helpers.tiny_models import TEMPLATE


def changed(old: str, new: str) -> str:
    """The tiny students' template with one text replaced."""
    assert TEMPLATE.count(old) == 1, old
    return TEMPLATE.replace(old, new)


_RESULT = "<tool_response>{{ message.content }}</tool_response>"
_CALL = '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
_CALLS = "for call in message.tool_calls or []"
_CONTENT = "{{ message.content }}\n{%- for"
_OTHER_ROLES = "{% else %}<|im_start|>{{ message.role }}"
_ROLE = "{%- if message.role == 'tool' %}"


def refusing(condition: str, message: str) -> str:
    """A template that raises for messages of this kind."""
    return changed(_ROLE, f"{{%- if {condition} %}}{{{{ raise_exception('{message}') }}}}{{% endif %}}{_ROLE}")


REFUSED = {
    "tools": changed("{%- if tools %}", "{%- if false %}"),
    "one tool": changed("for tool in tools %}", "for tool in tools[:1] %}"),
    "calls": changed(_CALLS, "for call in []"),
    "the arguments": changed("{{ call.function.arguments | tojson }}", "{}"),
    "all but one argument": changed(
        "{{ call.function.arguments | tojson }}", "{{ dict((call.function.arguments.items() | list)[:1]) | tojson }}"
    ),
    "nested arguments": changed(
        "{{ call.function.arguments | tojson }}",
        "{ {%- for key, value in call.function.arguments.items() if value is not mapping %}{{ ', ' if not loop.first }}"
        "{{ key | tojson }}: {{ value | tojson }}{% endfor -%} }",
    ),
    "the types of arguments": changed(
        "{{ call.function.arguments | tojson }}",
        "{ {%- for key, value in call.function.arguments.items() %}{{ ', ' if not loop.first }}"
        "{{ key | tojson }}: {{ value | string | tojson }}{% endfor -%} }",
    ),
    "calls after text": changed(_CALLS, "for call in (message.tool_calls or []) if not message.content"),
    "answers": changed(_CONTENT, "{{ message.content if message.role != 'assistant' }}\n{%- for"),
    "the question beside tools": changed(
        _OTHER_ROLES, "{% elif not tools or message.role != 'user' %}<|im_start|>{{ message.role }}"
    ),
    "the question beside tools and a system message": changed(
        _OTHER_ROLES,
        "{% elif not tools or message.role != 'user' or messages[0].role != 'system' %}<|im_start|>{{ message.role }}",
    ),
    "all but one call": changed(_CALLS, "for call in (message.tool_calls or [])[:1]"),
    "results": changed(_RESULT, ""),
    "all but one result": changed(
        _ROLE, "{%- if message.role == 'tool' and loop.previtem.role == 'tool' %}{% elif message.role == 'tool' %}"
    ),
    "raises on tools": changed("{%- if tools %}", "{%- if tools %}{{ raise_exception('no tools here') }}"),
    "raises on calls": refusing("message.tool_calls", "no calls here"),
    "raises on results": refusing("message.role == 'tool'", "roles must alternate"),
    "tools hidden by a system message": changed("{%- if tools %}", "{%- if tools and messages[0].role != 'system' %}"),
    "unknown spelling": changed(_CALL, "{{ call.function.name }} WITH {{ call.function.arguments | tojson }}"),
    "nothing": "{{ 'hello' }}",
}
"""Templates that cannot carry tool use, by what they drop or refuse."""

NOTED = {
    "no system message": refusing("message.role == 'system'", "System role not supported"),
    "drops the system message": changed(
        _OTHER_ROLES,
        "{% elif message.role != 'system' %}<|im_start|>{{ message.role }}",
    ),
    "one call only": refusing("(message.tool_calls or []) | length > 1", "single calls only"),
    "two turns for two calls": changed(
        f"{_CALLS} %}}", _CALLS + " %}{{ '<|im_end|>\n<|im_start|>assistant\n' if not loop.first }}"
    ),
    "a system message or tools": refusing("tools and messages[0].role == 'system'", "not both"),
    "refuses text beside calls": refusing("message.tool_calls and message.content", "calls only"),
    "refuses some arguments": refusing(
        "message.tool_calls and not message.tool_calls[0].function.arguments", "no arguments"
    ),
    "no text beside calls": changed(_CONTENT, "{{ message.content if not message.tool_calls }}\n{%- for"),
    "no parameters": changed(
        "{{ tool.function | tojson }}", "{{ tool.function.name }}: {{ tool.function.description }}"
    ),
    "the date": "{{ strftime_now('%d %b %Y') }}" + TEMPLATE,
}
"""Templates with which tool use works, but differently from what you may expect."""

"""Turns at the border: a call that cannot be read is malformed, and text that only resembles one is an answer."""

from __future__ import annotations

from typing import Any

import pytest

from mentor_edge.messages import ToolCall
from mentor_edge.tool_calls import parse_turn


def schema(name: str, *parameters: str) -> dict[str, Any]:
    return {"name": name, "parameters": {"type": "object", "properties": {key: {} for key in parameters}}}


TOOLS = [schema("get_weather", "city", "days", "unit"), schema("search", "query")]
CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Bergen"}}</tool_call>'
BERGEN = ToolCall("get_weather", {"city": "Bergen"})


@pytest.mark.parametrize(
    "text",
    [
        "Action: search\nAction Input: fjords",
        "<search><query>fjords</query></search>",
        'search {"query": "fjords"}',
        '{"search": "fjords"}',
        "name: search\narguments:\n  query: fjords",
        "search: \n  query: fjords",
        "get_weather(city=Molde)",
        'get_weather("Molde")',
        'get_weather {"city": "Molde"}',
        "<get_weather><city>Molde</city></get_weather>",
        "Action: get_weather\nAction Input: Molde",
        'Then I call get_weather(city="Molde") too.',
        '[send_sms(to="Kari")]',
    ],
)
def test_an_unread_call_beside_a_call_makes_the_turn_malformed(text):
    for turn in (f"{CALL}\n{text}", f"{text}\n{CALL}"):
        assert parse_turn(turn, TOOLS).malformed


@pytest.mark.parametrize(
    "text",
    [
        "I use get_weather for Bergen, then search.",
        'Calling get_weather with city="Bergen":',
        'You may call get_weather(city="Bergen") for that.',
        'I call get_weather("Bergen") now.',
        "get_weather(city, days) takes a city.",
        "- get_weather: the forecast\n- search: web pages",
    ],
)
def test_text_about_a_call_beside_it_is_text(text):
    for turn in (f"{CALL}\n{text}", f"{text}\n{CALL}"):
        parsed = parse_turn(turn, TOOLS)
        assert not parsed.malformed and parsed.message.tool_calls == (BERGEN,)


@pytest.mark.parametrize(
    "text",
    [
        'get_weather(city: "Bergen")',
        "get_weather(city: Bergen)",
        '```\nget_weather(city: "Bergen", days: 3)\n```',
        '`search(query: "fjords near Bergen")`',
        'get_weather{city: "Bergen"}',
        "$get_weather{city: Bergen}",
        "get_weather:\n  city: Bergen",
        "get_weather\n```python\ntool_call(city='Bergen')\n```",
        "Action: Search\nAction Input: Bergen",
        "{“name”: “get_weather”, “arguments”: {“city”: “Bergen”}}",
        # tools that are not offered
        'Sure!\n[send_sms(to="Kari")]',
        '[send_sms("Kari")]',
        'Action: send_sms\nAction Input: {"to": "Kari"}',
        '>>>send_sms\n{"to": "Kari"}',
        '✿FUNCTION✿: send_sms\n✿ARGS✿: {"to": "Kari"}',
        '{"action": "send_sms", "action_input": "Kari"}',
        # text before the call on its line
        'Do not run get_weather(city="Bergen")',
        'You could use get_weather(city="Bergen").',
        # thinking
        CALL + " The tag </think> ends it.",
        "<think>hm</think>" + CALL + " It ends with </think> here.",
        '{"get_weather": {"city": "Bergen"}, "note": "soon"}',
        '{"function": {"name": "get_weather", "arguments": {"city": "Bergen"}}, "arguments": {"city": "Molde"}}',
        '<think>get_weather("Bergen")</think>',
        'I use get_weather(city="Bergen").</think>\n',
        # tags of DeepSeek-V3.2
        '<｜DSML｜invoke name="search">',
        '<｜DSML｜invoke name="search"><｜DSML｜parameter name="query" string="false">fjords</｜DSML｜parameter>'
        "</｜DSML｜invoke>",
        "It begins with <|DSML|function_calls>.",
        # other ways to name a tool
        "Tool call: get_weather, city: Bergen",
        "**Function call:** search fjords",
        "```\nsearch fjords near Bergen\n```",
        "```text\nget_weather Bergen\n```",
        'get_weather\u200b(city="Bergen")',
        '\u2060{"na\u200bme": "search", "arguments": {"query": "fjords"}}',
        "{&quot;name&quot;: &quot;search&quot;, &quot;arguments&quot;: {&quot;query&quot;: &quot;fjords&quot;}}",
        "<search query=&#34;fjords&#34;/>",
        "search --query fjords",
        "get_weather --now",
        # beside a boxed answer
        r"\boxed{search('fjords')}",
        'get_weather("Bergen")\n' + r"\boxed{3}",
        "```python\nprint(search('fjords'))\n```\n" + r"\boxed{3}",
        r"<tool_call>search('fjords')</tool_call> It is \boxed{3}",
        r"I call search('fjords'). \boxed{}",
        'I use search:\n```json\n{"query": "fjords"}\n```\n' + r"\boxed{3}",
    ],
)
def test_an_attempt_is_malformed(text):
    assert parse_turn(text, TOOLS).malformed


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (CALL + "\n<think>wait</think>\nThe weather is fine.", [BERGEN]),
        (f"<think>a</think>Now.{CALL}\n<think>b {CALL}</think>\n", [BERGEN]),
        ('{"get_weather": {"city": "Bergen"}, "search": {"query": "x"}}', [BERGEN, ToolCall("search", {"query": "x"})]),
        ('{"function": {"name": "get_weather"}, "arguments": {"city": "Bergen"}}', [BERGEN]),
        ('I look it up. get_weather(city="Bergen")', [BERGEN]),
        ('1. get_weather(city="Bergen")\n2. search(query="x")', [BERGEN, ToolCall("search", {"query": "x"})]),
        ('weather = get_weather(city="Bergen")', [BERGEN]),
        ('Sure!\n[get_weather(city="Bergen")]', [BERGEN]),
        ('<think>get_weather(city="Bergen")</think>', [BERGEN]),
        ('It is cold.\nget_weather(city="Bergen")\n</think>', [BERGEN]),
        ('get_weather(city="Bergen")\n' + r"\boxed{3}", [BERGEN]),
        ('Function call: get_weather(city="Bergen")', [BERGEN]),
        (
            '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
            '<｜DSML｜parameter name="city" string="true">3</｜DSML｜parameter>\n'
            '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
            '<｜DSML｜invoke name="search">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
            [ToolCall("get_weather", {"city": "3", "days": 3}), ToolCall("search", {})],
        ),
        ('{"tool_name": "send_sms", "parameters": {"to": "Kari"}}', [ToolCall("send_sms", {"to": "Kari"})]),
        ('{"function_name": "send_sms", "arguments": {"to": "Kari"}}', [ToolCall("send_sms", {"to": "Kari"})]),
        ('Action: ```json\n[{"tool": "send_sms", "arguments": {}}]\n```', [ToolCall("send_sms", {})]),
    ],
)
def test_calls_in_unusual_places_are_read(text, calls):
    turn = parse_turn(text, TOOLS)
    assert not turn.malformed and list(turn.message.tool_calls) == calls


@pytest.mark.parametrize(
    ("text", "tool"),
    [
        ('{"weather": "sunny", "temperature": 21}', schema("weather", "city")),
        ('{"temperature": 21, "weather": "sunny"}', schema("weather", "city")),
        ('{"name": "Anna", "input": {"a": 1}}', schema("weather", "city")),
        ('{"action": "move", "params": {"x": 1}}', schema("weather", "city")),
        ('{"tool": "hammer", "args": {"size": 3}}', schema("weather", "city")),
        ("```xml\n<tools>\n <tool>hammer</tool>\n</tools>\n```", schema("weather", "city")),
        (r"[floor(2.5), floor(3.5)] = [2, 3], so the answer is \boxed{3}", schema("floor", "x")),
        ("floor(x) + floor(y) <= floor(x+y)", schema("floor", "x")),
        ("sqrt(x+1) = 3 so x = 8", schema("sqrt", "x")),
        ("sqrt(a^2 + b^2) = c", schema("sqrt", "x")),
        ("|sqrt(16)| = 4", schema("sqrt", "x")),
        ("[P(X=1), P(X=2)] are 0.2 and 0.3", schema("sqrt", "x")),
        ("Which file(s) do you mean?", schema("file", "path")),
        ("https://www.google.com/search?q=oslo", schema("search", "q")),
        ("https://wttr.in/weather?city=Oslo", schema("weather", "city")),
        ('<a href="/weather?city=Oslo">', schema("weather", "city")),
        ('<input type="text" name="search">', schema("search", "q")),
        ('WHERE name="search"', schema("search", "q")),
        ("search(q: string, pages?: number) finds pages.", schema("search", "q", "pages")),
        ("`search(q: dict[str, int], pages: Optional[int] = None)`", schema("search", "q", "pages")),
        ("search: \n  q: string\n  pages: int", schema("search", "q", "pages")),
        ('{"name": "Linear model", "parameters": {"slope": 2}}', schema("search", "q")),
        ('{"action": "buy", "parameters": {"pieces": 2}}', schema("search", "q")),
        ('{"tool": "hammer", "arguments": "heavy"}', schema("search", "q")),
        # a mention beside a boxed answer
        (r"The result of total(1, 3) is 4. \boxed{4}", schema("total", "a", "b")),
        (r"I called `total(a=1, b=3)`, which returned 4: \boxed{\text{four}}", schema("total", "a", "b")),
        (r"total(a=1, b=3) gives \boxed{4}", schema("total", "a", "b")),
        (r"I used total with a=1 and got \boxed{4}", schema("total", "a", "b")),
        (r'I called total with {"a": 1, "b": 3} and got \boxed{4}', schema("total", "a", "b")),
        # HTML
        ('<input type="text">', schema("input", "type")),
        ('<time datetime="2024">noon</time>', schema("time", "zone")),
        ('<link rel="icon"> and <nav id="top">', schema("link", "rel")),
        # functions and commands of other languages
        ('```python\nf = open("a.txt")\nprint(f.read())\n```', schema("open", "path")),
        ("```python\nprint(list(filter(lambda x: x, y)))\n```", schema("filter", "column")),
        ("```sql\nSELECT date(created) FROM t\n```", schema("date", "format")),
        ("Run `date --utc`.", schema("date", "format")),
        ('=FILTER(A1:A5, B1:B5="x")', schema("filter", "column")),
    ],
)
def test_text_that_resembles_a_call_is_an_answer(text, tool):
    turn = parse_turn(text, [tool])
    assert not turn.malformed and not turn.message.tool_calls

"""Any typed signature: valid JSON values pass the schema and reach the function as the annotated types."""

from __future__ import annotations

import datetime
import inspect
import json
import math
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tool_types import Pair, Point, Unit
from mentor_edge.tools.definition import tool


def same(value: Any, other: Any) -> bool:
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=1e-12)
    return bool(value == other) and type(value) is type(other)


WORDS = st.text(st.characters(codec="utf-8"), max_size=5)
WHOLE = st.integers(-(2**40), 2**40)
KINDS: list[tuple[Any, st.SearchStrategy[tuple[Any, Any]]]] = [
    # annotation, and pairs of JSON and what the function must receive
    (int, WHOLE.map(lambda n: (n, n)) | WHOLE.map(lambda n: (float(n), n))),
    (float, (WHOLE | st.floats(allow_nan=False, allow_infinity=False)).map(lambda x: (x, x))),
    (str, WORDS.map(lambda s: (s, s))),
    (bool, st.booleans().map(lambda b: (b, b))),
    (bool | None, st.sampled_from([(None, None), (True, True)])),
    (Unit, st.sampled_from([("m", Unit.METRE), ("ft", Unit.FOOT)])),
    (Literal["a", 3], st.sampled_from([("a", "a"), (3, 3)])),
    (list[int], st.lists(WHOLE).map(lambda ns: (ns, ns))),
    (tuple[int, str], st.tuples(WHOLE, WORDS).map(lambda pair: (list(pair), pair))),
    (set[str], st.sets(WORDS).map(lambda s: (list(s), s))),
    (dict[str, Unit], st.just(({"x": "ft"}, {"x": Unit.FOOT}))),
    (datetime.date, st.dates().map(lambda d: (d.isoformat(), d))),
    (Point, WORDS.map(lambda s: ({"title": s}, Point(title=s)))),
    (list[Pair], st.lists(WHOLE).map(lambda ns: ([{"left": n, "right": 0} for n in ns], [Pair(n, 0) for n in ns]))),
]


@given(st.lists(st.sampled_from(KINDS), max_size=5), st.data())
@settings(max_examples=200)
def test_valid_values_of_any_signature_reach_the_function_as_the_annotated_types(kinds, data):
    parameters = [
        inspect.Parameter(f"p{i}", inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
        for i, (annotation, _) in enumerate(kinds)
    ]

    def f(**arguments: Any) -> dict[str, Any]:
        """Anything."""
        return arguments

    f.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    defined = tool(f)
    pairs = {f"p{i}": data.draw(values) for i, (_, values) in enumerate(kinds)}
    sent = json.loads(json.dumps({name: given for name, (given, _) in pairs.items()}))
    assert defined.argument_error(sent) is None
    received = defined.function(**(defined.convert(sent) if defined.convert else sent))
    assert received.keys() == pairs.keys()
    assert all(same(received[name], expected) for name, (_, expected) in pairs.items())
    if pairs:
        missing = dict(list(sent.items())[1:])
        assert "is a required property" in str(defined.argument_error(missing))
    assert defined.argument_error({**sent, "unknown": 1}) is not None
    json.dumps(defined.to_openai())

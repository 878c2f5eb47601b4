"""The verdicts of `mentor_edge.tasks.call_matching` against those of BFCL's own checker.

Upstream: `bfcl_eval/eval_checker/ast_eval/ast_checker.py` of the bfcl_eval wheel 2026.3.23 (ShishirPatil/gorilla,
Apache-2.0), which is installed only for tests.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import permutations
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.bfcl_corruptions import Calls, corruptions, data_directory, golden_answers, native_functions, readings
from mentor_edge.tasks import bfcl
from mentor_edge.tasks.call_matching import match_calls

Checker = Callable[[str, list[dict[str, Any]], list[Any], Calls], bool]


@pytest.fixture(scope="module")
def checker() -> Checker:
    """BFCL's AST checker. Calls that make it raise count as refused.

    Its module imports the client of every model provider to look up one flag: whether dots in names became underscores.
    A stub replaces those clients during the import.
    """
    pytest.importorskip("bfcl_eval", reason="BFCL's own checker is not installed: pip install --no-deps bfcl_eval")
    models = ModuleType("bfcl_eval.constants.model_config")
    models.MODEL_CONFIG_MAPPING = {"ours": SimpleNamespace(underscore_to_dot=False)}
    with mock.patch.dict(sys.modules, {models.__name__: models}):  # afterwards sys.modules is as before
        from bfcl_eval.constants.enums import Language
        from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    def check(category: str, functions: list[dict[str, Any]], truth: list[Any], calls: Calls) -> bool:
        output = [{call["name"]: call["arguments"]} for call in calls]
        try:
            return ast_checker(functions, output, truth, Language.PYTHON, category, "ours")["valid"]
        except (AttributeError, TypeError, OverflowError):
            return False

    return check


@pytest.mark.parametrize("data", ["excerpt", pytest.param("full", marks=pytest.mark.slow)])
def test_verdicts_on_golden_answers_and_corruptions_equal_the_checkers(checker, data, record_property):
    directory = data_directory(data)
    native = native_functions(directory)
    compared, differing = 0, []
    for task in bfcl.load(directory).tasks:
        if task.domain == "irrelevance":
            continue
        functions, truth = [schema["function"] for schema in task.tool_schemas], list(task.accepted_calls)
        for kind, calls in [*(("golden", calls) for calls in golden_answers(task)), *corruptions(task)]:
            compared += 1
            theirs = checker(task.domain, native[task.id], truth, calls)
            if match_calls(task.domain, functions, truth, calls).valid != theirs:
                assert not theirs, (task.id, kind, calls)
                orders = map(list, permutations(calls))
                assert any(checker(task.domain, native[task.id], truth, order) for order in orders), (task.id, kind)
                differing.append((task.id, kind))
    record_property("comparisons", compared)
    assert compared > 1_000
    assert set(differing) == {("parallel_178", "reordered calls")}


# Any value and any answer, beyond those in the data

LEAVES = st.sampled_from([0, 1, True, False, 1.0, 0.5, "", "a", "A", "a b", "it's", 'it"s', "1", None])
LISTS = st.lists(LEAVES, max_size=2)
ANSWERED_OBJECTS = st.dictionaries(st.sampled_from("pq"), st.lists(LEAVES | LISTS, min_size=1, max_size=2), max_size=2)
TYPES = st.sampled_from(["string", "any", "integer", "float", "boolean", "dict"])
SCHEMAS = st.builds(dict, type=TYPES) | st.builds(
    dict, type=st.sampled_from(["array", "tuple"]), items=st.builds(dict, type=TYPES | st.just("array"))
)
OPTIONS = st.one_of(
    st.lists(family | st.just(""), min_size=1, max_size=3)
    for family in (LEAVES, LISTS, st.lists(LISTS, max_size=2), ANSWERED_OBJECTS, st.lists(ANSWERED_OBJECTS, max_size=2))
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("pq"), inner, max_size=2)
)


@given(SCHEMAS, OPTIONS, VALUES, st.data())
@settings(max_examples=500)
def test_any_value_is_judged_as_by_the_checker(checker, schema, options, value, data):
    answers = [reading for option in options for reading in readings(option)]
    arguments = data.draw(st.sampled_from([{"x": value}, {}, *({"x": answer} for answer in answers)]))
    parameters = {"type": "dict", "properties": {"x": schema}, "required": []}
    functions, truth = [{"name": "f", "parameters": parameters}], [{"f": {"x": options}}]
    calls = [{"name": "f", "arguments": arguments}]
    theirs = checker("simple_python", functions, truth, calls)
    assert match_calls("simple_python", functions, truth, calls).valid == theirs

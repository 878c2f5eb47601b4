"""The nano world: hold-outs, splits, references, and its student."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mentor_edge.chat import ChatTemplate
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.export.gguf.convert import convert
from mentor_edge.export.gguf.quantize import quantize
from mentor_edge.recipes.nano.student import TEMPLATE, build_model, build_tokenizer
from mentor_edge.recipes.nano.warm_start import bfloat16_products, warm_start
from mentor_edge.tasks.nano.operations import OPERATIONS, TOOL_BY_OPERATION
from mentor_edge.tasks.nano.problems import WORDS, held_out_pair, held_out_word
from mentor_edge.tasks.nano.suites import (
    CORE_OOD,
    GATED,
    OOD_DOMAINS,
    evaluation_suite,
    training_suite,
    warm_start_stream,
)
from mentor_edge.tasks.nano.teacher import RATES, Noise
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.teacher.validation import validate_references
from mentor_edge.tool_calls import TOOL_CALL_OPEN, parse_turn
from mentor_edge.tools.execution.executor import ToolExecutor

COUNTS = dict.fromkeys(("id", *OOD_DOMAINS), 120)
OPERATION_OF = {id(tool.function): name for name, tool in TOOL_BY_OPERATION.items()}
OWN_NAMES = {*TOOL_BY_OPERATION, "get_price", "get_stock", "get_weight"}


@pytest.fixture(scope="module")
def training() -> Suite:
    return training_suite(1000, seed=3)


@pytest.fixture(scope="module")
def evaluation(training: Suite) -> Suite:
    return evaluation_suite(COUNTS, seed=3, exclude=training)


@pytest.fixture(scope="module")
def practice() -> list[Task]:
    return list(itertools.islice(warm_start_stream(3), 4000))


def operations(task: Task) -> list[str]:
    """The operations of a task's calls, in order, even if its tools have made-up names."""
    assert task.reference is not None
    functions = [task.tools_by_name[call.name].function for call in task.reference.calls]
    return [OPERATION_OF[id(function)] for function in functions if id(function) in OPERATION_OF]


def clauses(task: Task) -> list[str]:
    """The clauses of a story, without the first sentence and the question."""
    question = task.prompt[-1].content
    who = question.split()[0]
    return [part.removeprefix(f"{who} ") for part in question.removesuffix(". what is the result?").split(". ")[1:]]


def phrasing(clause: str) -> set[tuple[str, int]]:
    """The operations, each with the index of its phrasing, that a clause may belong to."""
    words = [word for word in clause.split() if not word.isdigit()]
    return {
        (name, index)
        for name, operation in OPERATIONS.items()
        for index, template in enumerate(operation.clauses)
        if [word for word in template.split() if not word.startswith("{")] == words
    }


def made_up(task: Task) -> set[str]:
    """The made-up words in a task: names of tools, and goods."""
    names = {tool.name for tool in task.tools} - OWN_NAMES
    return names | (set(task.prompt[-1].content.replace("?", " ").split()) & set(WORDS))


def of(suite: Suite, domain: str) -> tuple[Task, ...]:
    tasks = suite.where(domains=[domain]).tasks
    assert len(tasks) == COUNTS[domain]
    return tasks


def test_practice_and_training_contain_no_held_out_pair(training: Suite, practice: list[Task]) -> None:
    for task in (*practice, *training.tasks):
        operations_asked = [next(iter(phrasing(clause)))[0] for clause in clauses(task)]
        assert not any(held_out_pair(*pair) for pair in itertools.pairwise(operations_asked)), task.prompt[-1].content
    practised = {pair for task in practice for pair in itertools.pairwise(operations(task))}
    assert len(practised) > 50  # the check has something to look at
    held_out = [pair for pair in itertools.product(OPERATIONS, repeat=2) if held_out_pair(*pair)]
    assert 20 < len(held_out) < 50


def test_practice_and_training_contain_no_held_out_word(training: Suite, practice: list[Task]) -> None:
    words = set().union(*(made_up(task) for task in practice))
    assert len(words) > 100
    assert not any(held_out_word(word) for word in words)
    assert not any(made_up(task) for task in training.tasks)
    held_out = {OPERATIONS[name].descriptions[2] for name in OPERATIONS}
    assert not held_out & {tool.description for task in (*practice, *training.tasks) for tool in task.tools}


def test_practice_contains_no_long_chains(practice: list[Task]) -> None:
    assert max(len(operations(task)) for task in practice) == 3
    assert {len(clauses(task)) for task in practice if clauses(task)} == {1, 2, 3}


def test_questions_differ_from_each_other_and_from_training(training: Suite, evaluation: Suite) -> None:
    taught = {task.prompt[-1].content for task in training.tasks}
    assert len(taught) == 1000
    stories = [task for task in evaluation.tasks if task.domain != "lookup"]
    questions = [task.prompt[-1].content for task in stories]
    assert len(set(questions)) == len(questions)
    assert not taught & set(questions)
    assert len({task.id for task in evaluation.tasks}) == len(evaluation.tasks)


def test_training_is_in_domain(training: Suite, evaluation: Suite) -> None:
    for task in (*training.tasks, *of(evaluation, "id")):
        assert task.split == "id"
        assert len(clauses(task)) in (1, 2)
        assert all(0 in {index for _, index in phrasing(clause)} for clause in clauses(task))
        assert len(task.tools) == 4
        assert [tool.name for tool in task.tools] == sorted(tool.name for tool in task.tools)
        assert {tool.name for tool in task.tools} <= TOOL_BY_OPERATION.keys()


def by_paraphrase(task: Task) -> bool:
    return all(index > 0 for clause in clauses(task) for _, index in phrasing(clause))


def by_held_out_pair(task: Task) -> bool:
    operations_asked = operations(task)
    return len(operations_asked) == 2 and held_out_pair(*operations_asked)


def by_many_tools(task: Task) -> bool:
    return 6 <= len(task.tools) <= 8


def by_unseen_names(task: Task) -> bool:
    described = {words.descriptions[2] for words in OPERATIONS.values()}
    return all(tool.name in WORDS and held_out_word(tool.name) and tool.description in described for tool in task.tools)


def by_length(task: Task) -> bool:
    return len(operations(task)) == len(clauses(task)) in (3, 4)


def by_missing_tool(task: Task) -> bool:
    needed = next(iter(phrasing(clauses(task)[0])))[0]
    return needed not in task.tools_by_name and task.answer == "none" and not operations(task)


def by_hidden_table(task: Task) -> bool:
    goods = set(task.prompt[-1].content.replace("?", " ").split()) & set(WORDS)
    return len(goods) == 1 and all(map(held_out_word, goods)) and task.answer not in task.prompt[-1].content.split()


@pytest.mark.parametrize(
    ("domain", "defining"),
    [
        ("para", by_paraphrase), ("comb", by_held_out_pair), ("distract", by_many_tools), ("names", by_unseen_names),
        ("long", by_length), ("irrel", by_missing_tool),
    ],
)  # a table  # fmt: skip
def test_each_split_has_its_property_and_the_in_domain_split_does_not(
    evaluation: Suite, domain: str, defining: Callable[[Task], bool]
) -> None:
    tasks = of(evaluation, domain)
    assert all(task.split == "ood" and defining(task) for task in tasks)
    assert not any(defining(task) for task in of(evaluation, "id"))


def test_lookups_cannot_be_answered_from_the_question(evaluation: Suite) -> None:
    tasks = of(evaluation, "lookup")
    assert sum(by_hidden_table(task) for task in tasks) > 0.95 * len(tasks)  # a product may equal its factor's digits
    for task in tasks:
        assert task.reference is not None and task.reference.calls[0].name.startswith("get_")
        assert "table" not in str([schema["function"] for schema in task.tool_schemas])


def test_other_splits_contain_no_held_out_pair(evaluation: Suite) -> None:
    for domain in ("id", "para", "distract", "names", "long"):
        for task in of(evaluation, domain):
            assert not any(held_out_pair(*pair) for pair in itertools.pairwise(operations(task)))


def test_the_gate_uses_what_a_nano_student_can_do() -> None:
    assert ("id", *CORE_OOD) == GATED and set(CORE_OOD) < set(OOD_DOMAINS)


@pytest.mark.parametrize(
    "noise", [Noise.HEAVY, *(pytest.param(n, marks=pytest.mark.slow) for n in Noise if n != Noise.HEAVY)]
)
def test_every_reference_is_right_when_executed(noise: Noise) -> None:
    suites = [training_suite(150, seed=1, noise=noise), evaluation_suite(dict.fromkeys(COUNTS, 25), seed=1)]
    with ToolExecutor() as executor:
        for suite in suites:
            kept, rejected = validate_references(suite.tasks, executor)
            assert rejected == [] and len(kept) == len(suite.tasks)


def test_tools_of_one_problem_have_different_names(practice: list[Task]) -> None:
    for task in (*practice, *evaluation_suite({"names": 300}).tasks):
        assert len(task.tools_by_name) == len(task.tools), task.tools_by_name


def test_practice_is_right_when_executed(practice: list[Task]) -> None:
    with ToolExecutor() as executor:
        assert validate_references(practice[:300], executor)[1] == []


def noise_of(task: Task) -> dict[str, tuple[int, int]]:
    """For each kind of noise in one trace: how often it happened, and how often it could have."""
    assert task.reference is not None
    calls = [(call.name, dict(call.arguments)) for call in task.reference.calls]
    operations_asked = [next(iter(phrasing(clause)))[0] for clause in clauses(task)]
    steps: list[tuple[str, dict[str, Any]]] = []
    repeats = 0
    if any(first == second for first, second in itertools.pairwise(operations_asked)):  # looks like a repetition
        return {"swap": (0, 0), "repeat": (0, 0), "detour": (0, 0)}
    for call in calls:
        if steps and call == steps[-1]:
            repeats += 1
        else:
            steps.append(call)
    constants = [[int(word) for word in clause.split() if word.isdigit()] for clause in clauses(task)]
    pairs = [
        (call[1], numbers) for call, numbers in zip(steps, constants, strict=False) if call[0] in ("add", "multiply")
    ]
    swapped = sum(arguments["a"] == numbers[0] and arguments["b"] != numbers[0] for arguments, numbers in pairs)
    answer = float(task.answer or "nan")
    can_detour = (
        {"abs_value", "round_number"} & task.tools_by_name.keys() and answer >= 0 and round(answer, 2) == answer
    )
    return {
        "swap": (swapped, len(pairs)),
        "repeat": (repeats, len(operations_asked)),
        "detour": (len(steps) - len(operations_asked), int(bool(can_detour))),
    }


@pytest.mark.parametrize("noise", list(Noise))
def test_the_teacher_makes_noise_as_often_as_declared(noise: Noise) -> None:
    counted = [noise_of(task) for task in training_suite(3000, seed=2, noise=noise).tasks]
    for kind in ("swap", "repeat", "detour"):
        happened, possible = (sum(row[kind][i] for row in counted) for i in (0, 1))
        rate = getattr(RATES[noise], kind)
        assert possible > 500
        assert happened / possible == pytest.approx(rate, abs=0.05 if rate else 1e-12), kind


def test_suites_depend_only_on_their_seed() -> None:
    assert training_suite(50, seed=7).sha256 == training_suite(50, seed=7).sha256
    assert training_suite(50, seed=7).sha256 != training_suite(50, seed=8).sha256
    assert training_suite(60, seed=7).tasks[:50] == training_suite(50, seed=7).tasks
    counts = {"id": 20, "comb": 20}
    assert evaluation_suite(counts, seed=7).sha256 == evaluation_suite(counts, seed=7).sha256
    assert evaluation_suite(counts, seed=7).sha256 != evaluation_suite(counts, seed=8).sha256
    first, second = (list(itertools.islice(warm_start_stream(5), 30)) for _ in range(2))
    assert [task.prompt for task in first] == [task.prompt for task in second]


# The student


@pytest.fixture(scope="module")
def exported(nano_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.gguf"
    convert(nano_student, path)
    return path


@pytest.fixture(scope="module")
def tokenizer(nano_student: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(nano_student)


def test_both_runtimes_read_conversations_as_the_same_tokens(
    exported: Path, tokenizer: Any, evaluation: Suite, training: Suite
) -> None:
    template = ChatTemplate(tokenizer.chat_template, tokenizer.eos_token)
    tasks = (*evaluation.tasks[::6], *training.tasks[:50])
    texts = [
        template.render((*task.prompt, *task.reference.messages), task.tool_schemas, add_generation_prompt=True)
        for task in tasks
        if task.reference is not None
    ]
    texts += [f"{word} {i} -{i}.5\n\n\t ü 漢字 😀 {TOOL_CALL_OPEN}" for i, word in enumerate(WORDS[:20])]
    expected = tokenizer(texts, add_special_tokens=False)["input_ids"]
    with LlamaCppEngine(exported) as engine:
        assert engine.encode(texts) == expected
        assert engine.decode(expected) == texts
        assert engine.template.source == TEMPLATE


def test_calls_and_numbers_are_short(tokenizer: Any) -> None:
    ids = tokenizer('<tool_call>\n{"name": "add", "arguments": {"a": 12, "b": 30}}\n</tool_call><|im_end|>')[
        "input_ids"
    ]
    assert len(ids) <= 16
    assert len(tokenizer("9876")["input_ids"]) == 4  # digit by digit


def test_the_template_is_read_back_as_it_was_written(tokenizer: Any, evaluation: Suite) -> None:
    template = ChatTemplate(tokenizer.chat_template, tokenizer.eos_token)
    for task in evaluation.tasks[::10]:
        assert task.reference is not None
        for message in task.reference.messages:
            if message.role == "assistant":
                text = template.render((*task.prompt, message), task.tool_schemas)
                turn = text.rpartition("<|im_start|>assistant\n")[2].removesuffix("<|im_end|>\n")
                assert parse_turn(turn).message == message and not parse_turn(turn).malformed


def test_the_student_is_small_and_its_rows_fit_k_quants(exported: Path, tmp_path: Path) -> None:
    model = build_model(build_tokenizer(conversations=200), seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    matrices = {name: p.shape for name, p in model.named_parameters() if p.ndim == 2}
    assert all(shape[1] % 256 == 0 for shape in matrices.values()), matrices
    written = quantize(exported, tmp_path / "q4.gguf", "q4_k_m")
    assert set(written.types) == {"f32", "q4_K", "q6_K"} and not written.fallbacks


@pytest.mark.parametrize("processor", ["AVX2", "AVX512"])
def test_products_of_the_warm_start_are_bfloat16_on_every_processor(
    monkeypatch: pytest.MonkeyPatch, processor: str
) -> None:
    import torch

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    generator = torch.Generator().manual_seed(0)
    first, second, third = (torch.randn(40, 40, generator=generator).bfloat16() for _ in range(3))
    with bfloat16_products():
        product = first @ second.T
        update = torch.addmm(third, first, second, beta=0.5, alpha=2.0)
        assert (first.float() @ second.float()).dtype == torch.float32
    first, second, third = first.double(), second.double(), third.double()
    for result, exact in ((product, first @ second.T), (update, 0.5 * third + 2 * first @ second)):
        assert result.dtype == torch.bfloat16
        assert torch.allclose(result.double(), exact, rtol=2**-8, atol=1e-4)  # rounded once, to 8 bits


@pytest.mark.slow
def test_the_warm_start_is_deterministic_and_learns(tmp_path: Path) -> None:
    losses = [warm_start(tmp_path / name, seed=1, steps=3) for name in ("a", "b")]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()

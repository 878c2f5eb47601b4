from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.paths import SHARED
from mentor_edge.errors import TaskError
from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.rewards import is_correct
from mentor_edge.tasks import musique
from mentor_edge.tasks.answers.passages import (
    exact_match,
    normalized_answer,
    passage_metrics,
    passage_recall,
    token_f1,
)
from mentor_edge.tasks.registry import load_suite
from mentor_edge.tasks.types import Task
from mentor_edge.tools.execution.executor import ToolExecutor
from mentor_edge.tools.retrieval import Corpus

CORPUS = [
    {"doc_id": 7, "title": "Tarn Bridge", "text": "The bridge was opened by the engineer Ilse Varga."},
    {"doc_id": 8, "title": "Ilse Varga", "text": "Ilse Varga was born in Molnau in 1903."},
    {"doc_id": 9, "title": "Orlík", "text": "Orlík has a café."},
]
QUESTION = {
    "id": "2hop__1", "question": "Where was the person born who opened Tarn Bridge?",
    "answers": ["Molnau", "the Molnau"],
    "hops": 2, "gold_doc_ids": [7, 8], "decomposition": [{"question": "Who opened it?", "answer": "Ilse Varga"}],
}  # a table  # fmt: skip


def directory(tmp_path: Path, *questions: str) -> Path:
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, CORPUS)))
    (tmp_path / "questions.jsonl").write_text("\n".join(questions or [json.dumps(QUESTION)]))
    return tmp_path


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Task:
    return musique.load(directory(tmp_path_factory.mktemp("musique"))).tasks[0]


# Loading


def test_a_question_is_a_task_with_one_tool_and_all_accepted_answers(task):
    assert (task.id, task.split, task.domain, task.reference) == ("2hop__1", "ood", "2hop", None)
    assert task.prompt == (Message("user", f"{QUESTION['question']}\n{musique.INSTRUCTION}"),)
    assert task.answers == ("Molnau", "the Molnau") and task.gold_passages == ("7", "8")
    assert [tool.name for tool in task.tools] == ["search"]


def test_the_hash_covers_questions_answers_and_corpus(tmp_path):
    path = directory(tmp_path)
    hashes = {load_suite("musique", path).sha256, musique.load(path).sha256}
    assert len(hashes) == 1
    for changed in ({"answers": ["Molnau"]}, {"gold_doc_ids": [7]}, {"question": "Where?"}, {"hops": 3}):
        hashes.add(musique.load(directory(tmp_path, json.dumps(QUESTION | changed))).sha256)
    directory(tmp_path)
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, CORPUS[:2])))
    assert len(hashes | {musique.load(path).sha256}) == 6


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"id": 3}, "id: expected text, found 3"),
        ({"answers": []}, "answers: the list is empty"),
        ({"answers": ["a", 1]}, "answers[1]: expected text, found 1"),
        ({"gold_doc_ids": []}, "gold_doc_ids: the list is empty"),
        ({"gold_doc_ids": [7, None]}, "gold_doc_ids[1]: expected a whole number or text, found null"),
        ({"gold_doc_ids": [7, 10]}, "gold_doc_ids: '10' is not in the corpus"),
        ({"hops": "2"}, 'hops: expected a whole number, found "2"'),
        ({}, "id: '2hop__1' is already used on an earlier line"),
    ],
)
def test_a_malformed_question_is_named_with_field_and_value(tmp_path, changed, problem):
    path = directory(tmp_path, json.dumps(QUESTION), json.dumps(QUESTION | changed))
    with pytest.raises(TaskError) as raised:
        musique.load(path)
    assert raised.value.problem == f"{path / 'questions.jsonl'}:2: {problem}"


def test_the_data_must_be_there(tmp_path):
    with pytest.raises(TaskError, match="--data"):
        load_suite("musique")
    with pytest.raises(TaskError, match="has no file questions"):
        load_suite("musique", tmp_path)


# Answers


@pytest.mark.parametrize(
    ("prediction", "answers", "em", "f1"),
    [
        ("G. Stanley Hall", ["g stanley hall"], True, 1),
        ("The Beatles!", ["Beatles"], True, 1),
        (r"\text{Victoria Falls}", ["Victoria Falls"], True, 1),
        ("Hall", ["Granville Hall", "Stanley Hall"], False, 2 / 3),
        ("the the", ["a"], True, 1),
        ("the", ["them"], False, 0),
        ("Paris, France", ["Paris"], False, 2 / 3),
        ("falls falls", ["falls"], False, 2 / 3),
        ("5.1", ["51"], True, 1),
        ("Anaheim", ["aheim"], False, 0),
        ("", ["Paris"], False, 0),
        (None, ["Paris"], False, 0),
        ("Paris", [], False, 0),
    ],
)
def test_answers_are_compared_as_squad_does(prediction, answers, em, f1):
    assert exact_match(prediction, answers) is em
    assert token_f1(prediction, answers) == pytest.approx(f1)


WORDS = st.lists(
    st.sampled_from(["the", "A", "tarn", "Tarn.", "tarns", "bridge", "-", "5", "\\text{bridge}"]), max_size=5
)
TEXT = st.text() | WORDS.map(" ".join)


@given(TEXT, st.lists(TEXT, max_size=3))
def test_scores_are_bounded_and_exact_answers_score_full(prediction, answers):
    f1 = token_f1(prediction, answers)
    assert 0 <= f1 <= 1
    assert f1 == max((token_f1(prediction, [answer]) for answer in answers), default=0)
    if exact_match(prediction, answers):
        assert f1 == 1


@given(TEXT, TEXT)
def test_scores_are_symmetric_and_full_for_the_same_words_alone(first, second):
    assert exact_match(first, [second]) == exact_match(second, [first])
    assert token_f1(first, [second]) == token_f1(second, [first])
    words = [Counter(normalized_answer(text).split()) for text in (first, second)]
    assert (token_f1(first, [second]) == 1) == (words[0] == words[1])
    assert (token_f1(first, [second]) == 0) == (words[0] != words[1] and not words[0] & words[1])


# Passages


def results(*contents: str) -> list[Message]:
    return [Message("tool", content, name="search") for content in contents]


def test_a_passage_counts_once_however_often_it_is_found():
    first, second = '[{"doc_id": "7", "text": "..."}, {"doc_id": "1"}]', '[{"doc_id": "7"}, {"doc_id": "8"}]'
    assert passage_recall(results(first), ["7", "8"]) == 0.5
    assert passage_recall(results(first, second), ["7", "8"]) == 1
    assert passage_recall(results("[]"), ["7"]) == passage_recall([], ["7"]) == 0
    assert passage_recall([Message("assistant", first)], ["7"]) == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("7"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("doc_id") | st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON.map(json.dumps) | st.text(), max_size=4))
def test_any_tool_result_can_be_read(contents):
    assert passage_recall(results(*contents, "[" * 100_000), ["7"]) in (0, 1)
    assert passage_recall(results(*contents, '[{"doc_id": "7"}]'), ["7"]) == 1


# A conversation


def conversation(task: Task, answer: str, *queries: str, ending: Ending = Ending.ANSWERED) -> Trajectory:
    messages: list[Message] = []
    with ToolExecutor() as executor:
        for query in queries:
            call = ToolCall("search", {"query": query, "top_n": 1})
            content = executor.run(call, task.tools_by_name).content
            messages += [Message("assistant", "", (call,)), Message("tool", content, name="search")]
    return Trajectory((*messages, Message("assistant", rf"\boxed{{{answer}}}")), answer, ending)


@pytest.mark.parametrize(
    ("answer", "queries", "ending", "em", "f1", "recall"),
    [
        ("molnau", ["who opened Tarn Bridge", "Ilse Varga born"], Ending.ANSWERED, 1, 1, 1),
        ("the town of Molnau", ["Tarn Bridge"], Ending.ANSWERED, 0, 0.5, 0.5),
        ("Molnau", [], Ending.ANSWERED, 1, 1, 0),
        ("Molnau", ["Tarn Bridge", "Ilse Varga born"], Ending.TRUNCATED, 0, 0, 1),
        ("1903", ["café", "???"], Ending.ANSWERED, 0, 0, 0),
    ],
)
def test_a_conversation_is_measured(task, answer, queries, ending, em, f1, recall):
    trajectory = conversation(task, answer, *queries, ending=ending)
    assert passage_metrics(task, trajectory) == pytest.approx({"em": em, "f1": f1, "passage_recall": recall})
    assert is_correct(trajectory, task) == bool(em)


def test_any_accepted_answer_is_right():
    task = Task("a", (), (), "id", "sums", answer="1/2", other_answers=("half",))
    right = {text: is_correct(Trajectory((), text, Ending.ANSWERED), task) for text in ("0.5", "Half", "2")}
    assert right == {"0.5": True, "Half": True, "2": False}
    assert not is_correct(Trajectory((), "half", Ending.TRUNCATED), task)


# The hundred questions


@pytest.fixture(scope="module")
def data() -> Path:
    path = SHARED / "musique100"
    if not path.is_dir():
        pytest.skip("MuSiQue is missing: set MENTOR_EDGE_DATA to a folder that contains musique100/")
    return path


@pytest.fixture(scope="module")
def rows(data) -> list[dict]:
    return [json.loads(line) for line in (data / "questions.jsonl").read_text().splitlines()]


def recall(corpus: Corpus, queries: list[str], gold: list[int]) -> float:
    retrieved = {passage.doc_id for query in queries for passage in corpus.search(query)}
    return len(retrieved & set(map(str, gold))) / len(gold)


def test_the_suite_contains_all_questions_and_shows_no_sub_question(data, rows):
    suite = load_suite("musique", data)
    assert Counter(task.domain for task in suite.tasks) == {"2hop": 68, "3hop": 27, "4hop": 5}
    few = load_suite("musique", data, limit=3)
    assert (len(few.tasks), few.limits) == (9, musique.LIMITS)
    for task, row in zip(suite.tasks, rows, strict=True):
        visible = task.prompt[0].content + json.dumps(task.tool_schemas)
        assert not any(step["question"] in visible for step in row["decomposition"])


def test_search_finds_half_of_the_passages_by_the_question_alone(data, rows):
    corpus = Corpus.open(data / "corpus.jsonl")
    assert sum(recall(corpus, [row["question"]], row["gold_doc_ids"]) for row in rows) / len(rows) >= 0.5


def test_search_finds_nearly_all_passages_hop_by_hop(data, rows):
    corpus = Corpus.open(data / "corpus.jsonl")
    total = 0.0
    for row in rows:
        answers = [step["answer"] for step in row["decomposition"]]
        queries = [
            re.sub(r"#(\d)", lambda match, answers=answers: answers[int(match[1]) - 1], step["question"])
            for step in row["decomposition"]
        ]
        total += recall(corpus, queries, row["gold_doc_ids"])
    assert total / len(rows) >= 0.9

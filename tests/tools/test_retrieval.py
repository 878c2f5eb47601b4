from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentor_edge.errors import OutputError, TaskError
from mentor_edge.messages import ToolCall
from mentor_edge.tools.execution.executor import ToolExecutor
from mentor_edge.tools.retrieval import LONGEST_TEXT, LONGEST_TITLE, Corpus, Passage, search_tool

PASSAGES = [
    Passage("1", "Tarn Bridge", "The bridge was opened by the engineer Ilse Varga, who was born in Molnau."),
    Passage("2", "Molnau", "Molnau is a town on the river Tarn. Its population was 12,400 in 1998."),
    Passage("3", "Café Orlík", "A café in the old town where engineers used to meet."),
    Passage("4", "The Tarn", "It flows through four towns; a bridge crosses it in each of them."),
    Passage("5", "Not", "NOT and OR and AND and NEAR are words, too."),
]


def written(path: Path, passages: list[Passage] = PASSAGES) -> Path:
    rows = ({"doc_id": int(p.doc_id), "title": p.title, "text": p.text, "source": "invented"} for p in passages)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return Corpus.open(written(tmp_path_factory.mktemp("corpus") / "corpus.jsonl"))


def search_ids(corpus: Corpus, query: str, top_n: int = 5) -> list[str]:
    return [passage.doc_id for passage in corpus.search(query, top_n)]


# Searching


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("Ilse Varga", ["1"]),
        ("ENGINEERED", ["3", "1"]),
        ("cafe orlik", ["3"]),
        ("Which bridges of the river are in Molnau?", ["2", "1", "4"]),
        ("1998", ["2"]),
        ("near", ["5"]),
        ('"ilse" AND NOT (varga* OR NEAR(molnau, 2)) ^title:', ["1", "2", "5"]),
        ("zeppelin", []),
        ("", []),
        ("who was it, and what is the", []),
        ("?!_ \x00 \ud800 *", []),
    ],
)
def test_passages_are_found_by_their_words(corpus, query, ids):
    assert sorted(search_ids(corpus, query)) == sorted(ids)
    assert search_ids(corpus, query)[:1] == ids[:1]


def test_a_passage_comes_back_whole_and_the_number_of_passages_is_limited(corpus):
    assert corpus.search("population")[0] == PASSAGES[1]
    assert search_ids(corpus, "Tarn bridge Molnau", 2) == search_ids(corpus, "Tarn bridge Molnau", 5)[:2]
    assert corpus.doc_ids == {"1", "2", "3", "4", "5"}


OPERATORS = st.sampled_from(
    ['"', "'", "(", ")", "*", "^", "-", "+", ":", "{", "}", " AND ", " OR ", " NOT ", " NEAR/3 "]
)


@given(st.lists(st.text() | OPERATORS | st.just("tarn"), max_size=12).map("".join))
def test_any_text_is_a_query(corpus, query):
    ids = search_ids(corpus, query)
    assert len(set(ids)) == len(ids) <= 5
    assert "tarn" not in query.split() or set(ids) & {"1", "2", "4"}


def test_a_query_may_be_very_long(corpus):
    assert search_ids(corpus, "tarn " + " ".join(f"word{i}" for i in range(100_000)))


# The index


def index_of(tmp_path: Path) -> tuple[Path, Path]:
    path, index = written(tmp_path / "corpus.jsonl"), tmp_path / "index #1?.sqlite"
    Corpus.open(path, index)
    return path, index


def test_an_index_is_built_once_and_reused(tmp_path, monkeypatch):
    monkeypatch.setenv("MENTOR_EDGE_CACHE", str(tmp_path / "cache"))
    path = written(tmp_path / "corpus.jsonl")
    first = Corpus.open(path)
    before = first.index.stat()
    assert first.index.is_relative_to(tmp_path / "cache") and first.sha256 in first.index.name
    assert Corpus.open(path) == first and first.index.stat() == before
    changed = Corpus.open(written(path, PASSAGES[:2]))
    assert changed.index != first.index and changed.doc_ids == {"1", "2"}
    assert first.doc_ids == {"1", "2", "3", "4", "5"}


def test_an_index_of_another_text_is_replaced(tmp_path):
    path, index = index_of(tmp_path)
    assert search_ids(Corpus.open(path, index), "cafe") == ["3"]
    assert search_ids(Corpus.open(written(path, PASSAGES[:2]), index), "cafe") == []


def overwrite(share: float):
    def damage(index: Path) -> None:
        content = bytearray(index.read_bytes())
        offset = int(share * (len(content) - 1))
        content[offset] ^= 0xFF
        index.write_bytes(content)

    return damage


def record(index: Path) -> Path:
    return index.with_name(index.name + ".json")


DAMAGES = {
    "removed": Path.unlink,
    "emptied": lambda index: index.write_bytes(b""),
    "cut off": lambda index: index.write_bytes(index.read_bytes()[:-5000]),
    "zeros": lambda index: index.write_bytes(bytes(index.stat().st_size)),
    **{f"a byte at {share:.0%}": overwrite(share) for share in (0, 0.1, 0.35, 0.6, 0.85, 1)},
    "no record": lambda index: record(index).unlink(),
    "a record that is not JSON": lambda index: record(index).write_bytes(b"\xff"),
    "another version": lambda index: record(index).write_text(record(index).read_text().replace(": 1", ": 0")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_index_is_rebuilt(tmp_path, damage):
    path, index = index_of(tmp_path)
    before, recorded = index.read_bytes(), record(index).read_text()
    damage(index)
    assert search_ids(Corpus.open(path, index), "Ilse Varga") == ["1"]
    assert index.read_bytes() == before and record(index).read_text() == recorded


KILLED = """
import os, signal, sys
from pathlib import Path
from mentor_edge.tools import retrieval

def die(row, made=retrieval._row, rows=[]):
    rows.append(row)
    if len(rows) > 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return made(row)

retrieval._row = die
retrieval.Corpus.open(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_build_does_not_block_the_next(tmp_path):
    path, index = written(tmp_path / "corpus.jsonl"), tmp_path / "index.sqlite"
    assert subprocess.run([sys.executable, "-c", KILLED, path, index]).returncode == -signal.SIGKILL
    assert not index.exists() and list(tmp_path.glob(".index*"))
    (tmp_path / f".index.sqlite.{os.getpid()}.partial").write_bytes(b"left by a process with our id")
    assert search_ids(Corpus.open(path, index), "Ilse Varga") == ["1"]


def test_processes_may_build_at_once(tmp_path):
    path, index = written(tmp_path / "corpus.jsonl", PASSAGES), tmp_path / "index.sqlite"
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(4), context.SimpleQueue()

    def build() -> None:
        start.wait()
        answers.put(search_ids(Corpus.open(path, index), "Ilse Varga"))

    builders = [context.Process(target=build) for _ in range(4)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert [answers.get() for builder in builders if builder.exitcode == 0] == [["1"]] * 4
    built = index.stat()
    Corpus.open(path, index)
    assert index.stat() == built and sorted(p.name for p in tmp_path.iterdir()) == [
        "corpus.jsonl",
        "index.sqlite",
        "index.sqlite.json",
    ]


def test_an_index_that_cannot_be_written_is_an_error_message(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        Corpus.open(written(tmp_path / "corpus.jsonl"), tmp_path / "corpus.jsonl" / "index.sqlite")


ROW = '{"doc_id": 9, "title": "a", "text": "b"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('"\xff"', "not UTF-8"),
        ("[1]", "expected an object, found [1]"),
        ('{"title": "a", "text": "b"}', "doc_id: missing"),
        ('{"doc_id": 1.5, "title": "a", "text": "b"}', "doc_id: expected a whole number or text, found 1.5"),
        ('{"doc_id": true, "title": "a", "text": "b"}', "doc_id: expected a whole number or text, found true"),
        ('{"doc_id": 1, "title": null, "text": "b"}', "title: expected text, found null"),
        (r'{"doc_id": 1, "title": "a", "text": "\ud800"}', "text: contains half of a surrogate pair"),
        (r'{"doc_id": ["\ud800"]}', r'expected a whole number or text, found ["\ud800"]'),
        (ROW.replace("9", '"9"'), "doc_id: '9' is already used on an earlier line"),
    ],
)
def test_a_malformed_line_is_named_and_no_index_is_left(tmp_path, line, message):
    path, index = tmp_path / "corpus.jsonl", tmp_path / "index.sqlite"
    path.write_bytes(f"{ROW}\n\n{line}\n".encode("latin-1"))
    with pytest.raises(TaskError) as raised:
        Corpus.open(path, index)
    assert raised.value.problem.startswith(f"{path}:3: ") and message in raised.value.problem
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("content", "message"), [(None, "cannot read passages"), ("\n", "contains no passages")])
def test_a_corpus_that_is_missing_or_empty_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "corpus.jsonl").write_text(content)
    with pytest.raises(TaskError, match=message):
        Corpus.open(tmp_path / "corpus.jsonl", tmp_path / "index.sqlite")


# The tool


@pytest.fixture(scope="module")
def executor():
    with ToolExecutor() as shared:
        yield shared


def test_the_tool_searches_in_a_child_process_after_its_parent_did(corpus, executor):
    tool = search_tool(corpus)
    assert search_ids(corpus, "Ilse Varga") == ["1"]
    for _ in range(2):
        result = executor.run(ToolCall("search", {"query": "Ilse Varga"}), {"search": tool})
        assert not result.failed
        assert json.loads(result.content) == [{"doc_id": "1", "title": PASSAGES[0].title, "text": PASSAGES[0].text}]
        assert search_ids(pickle.loads(pickle.dumps(corpus)), "Ilse Varga") == ["1"]


@pytest.mark.parametrize("arguments", [{}, {"query": 3}, {"query": "a", "top_n": 0}, {"query": "a", "top_n": 21}])
def test_arguments_out_of_range_are_refused(corpus, executor, arguments):
    result = executor.run(ToolCall("search", arguments), {"search": search_tool(corpus)})
    assert result.failed and "invalid arguments" in result.content


def test_results_are_cut_to_fit_small_contexts(tmp_path, executor):
    long = [Passage(str(i), "Tarn " + "t" * 900, f"tarn {'x' * 20_000}") for i in range(1, 31)]
    tool = search_tool(Corpus.open(written(tmp_path / "corpus.jsonl", long), tmp_path / "index.sqlite"))
    for top_n, longest in ((1, LONGEST_TEXT), (5, LONGEST_TEXT), (10, LONGEST_TEXT), (20, LONGEST_TEXT // 2)):
        result = executor.run(ToolCall("search", {"query": "tarn", "top_n": top_n}), {"search": tool})
        assert not result.failed
        passages = json.loads(result.content)
        assert len(passages) == top_n
        assert {(len(p["title"]), len(p["text"])) for p in passages} == {(LONGEST_TITLE, longest)}
        assert all(p["text"].endswith("x…") for p in passages)

r"""MuSiQue: questions of two to four hops over a local corpus, which the model reads through a search tool.

A directory with two files of JSON lines; further fields are ignored:

    corpus.jsonl     {"doc_id": 6, "title": "...", "text": "..."}
    questions.jsonl  {"id": "2hop__...", "question": "...", "answers": ["..."], "hops": 2, "gold_doc_ids": [6, 10]}

Questions and passages are from MuSiQue (Trivedi, Balasubramanian, Khot and Sabharwal, "MuSiQue: Multihop Questions via
Single-hop Question Composition", TACL 2022), under CC BY 4.0. The loader skips the decomposition that MuSiQue records
for every question: the model has to find it.

An answer is right when it equals an accepted one after SQuAD's normalisation
(`mentor_edge.tasks.answers.passages`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from mentor_edge.messages import Message
from mentor_edge.rows import Identifier, Text, parse_row, read_rows, require_file
from mentor_edge.tasks.types import AgentLimits, Suite, Task
from mentor_edge.tools.retrieval import Corpus, search_tool
from mentor_edge.tools.types import Tool

INSTRUCTION = r"Search as often as you need. Put the final answer, in as few words as possible, in \boxed{}."
VERSION = "1"
LIMITS = AgentLimits(tool_rounds=8, tokens_per_turn=512, completion_tokens=8192)
"""Limits of one conversation: room for eight searches."""


class _Row(BaseModel):
    id: Text
    question: Text
    answers: Annotated[list[Text], Field(min_length=1)]
    hops: int
    gold_doc_ids: Annotated[list[Identifier], Field(min_length=1)]


def load(directory: str | Path) -> Suite:
    """Read questions and corpus as a suite: split "ood", domain by hops ("2hop"), one tool, `search`.

    `answer` is the first accepted answer, `other_answers` the others, `gold_passages` the passages that the hops need.
    Tasks have no reference. The suite's version names the corpus, because the same questions over other passages are
    another suite.

    Raises: TaskError naming file, line, field and value seen; OutputError when the search index cannot be written.
    """
    directory = Path(directory)
    require_file(directory / "questions.jsonl", "a directory with MuSiQue's questions.jsonl and corpus.jsonl")
    corpus = Corpus.open(directory / "corpus.jsonl")
    parse = partial(_task, corpus=corpus, tools=(search_tool(corpus),))
    tasks = read_rows(directory / "questions.jsonl", parse, what="questions", unique="id")
    return Suite("musique", f"{VERSION}-{corpus.sha256[:8]}", tuple(tasks), LIMITS)


def _task(row: Any, corpus: Corpus, tools: tuple[Tool, ...]) -> Task:
    parsed = parse_row(_Row, row)
    if missing := [doc_id for doc_id in parsed.gold_doc_ids if doc_id not in corpus.doc_ids]:
        raise ValueError(f"gold_doc_ids: {missing[0]!r} is not in the corpus")
    return Task(
        parsed.id,
        (Message("user", f"{parsed.question}\n{INSTRUCTION}"),),
        tools,
        split="ood",
        domain=f"{parsed.hops}hop",
        answer=parsed.answers[0],
        other_answers=tuple(parsed.answers[1:]),
        gold_passages=tuple(parsed.gold_doc_ids),
    )

r"""MuSiQue: questions of two to four hops over a local corpus, which the model reads through a search tool.

A directory with two files of JSON lines; further fields are ignored:

    corpus.jsonl     {"doc_id": 6, "title": "...", "text": "..."}
    questions.jsonl  {"id": "2hop__...", "question": "...", "answers": ["..."], "hops": 2, "gold_doc_ids": [6, 10]}

Questions and passages are from MuSiQue (Trivedi, Balasubramanian, Khot and Sabharwal, "MuSiQue: Multihop Questions via
Single-hop Question Composition", TACL 2022), under CC BY 4.0. The decomposition that MuSiQue records for every question
is not read: the model has to find it.

An answer is right when it equals an accepted one after SQuAD's normalisation (`em`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mentor_edge.messages import Message, Trajectory
from mentor_edge.rows import checked, field, read_rows
from mentor_edge.tasks.answers.passages import exact_match, passage_recall, token_f1
from mentor_edge.tasks.types import AgentLimits, Suite, Task
from mentor_edge.tools.retrieval import Corpus, search_tool

INSTRUCTION = r"Search as often as you need. Put the final answer, in as few words as possible, in \boxed{}."
VERSION = "1"
LIMITS = AgentLimits(tool_rounds=8, tokens_per_turn=256, completion_tokens=8192)
"""Limits of one conversation: room for eight searches."""


def load(directory: str | Path) -> Suite:
    """Read questions and corpus as a suite: split "ood", domain by hops ("2hop"), one tool, `search`.

    `answer` is the first accepted answer, `other_answers` the others, `gold_passages` the passages that the hops need.
    No task has a reference. The suite's version names the corpus: the same questions over other passages are another
    suite.

    Raises: TaskError naming file, line, field and value seen; OutputError when the search index cannot be written.
    """
    directory = Path(directory)
    corpus = Corpus.open(directory / "corpus.jsonl")
    tools = (search_tool(corpus),)

    def parse(row: Any) -> Task:
        question = field(row, "question", str)
        answers = [checked(answer, f"answers[{i}]", str) for i, answer in enumerate(field(row, "answers", list))]
        gold = [
            str(checked(doc_id, f"gold_doc_ids[{i}]", (int, str)))
            for i, doc_id in enumerate(field(row, "gold_doc_ids", list))
        ]
        for name, items in (("answers", answers), ("gold_doc_ids", gold)):
            if not items:
                raise ValueError(f"{name}: the list is empty")
        if missing := [doc_id for doc_id in gold if doc_id not in corpus.doc_ids]:
            raise ValueError(f"gold_doc_ids: {missing[0]!r} is not in the corpus")
        return Task(
            field(row, "id", str),
            (Message("user", f"{question}\n{INSTRUCTION}"),),
            tools,
            split="ood",
            domain=f"{field(row, 'hops', int)}hop",
            answer=answers[0],
            other_answers=tuple(answers[1:]),
            gold_passages=tuple(gold),
        )

    tasks = read_rows(directory / "questions.jsonl", parse, what="questions", unique="id")
    return Suite("musique", f"{VERSION}-{corpus.sha256[:8]}", tuple(tasks), LIMITS)


def metrics(task: Task, trajectory: Trajectory) -> dict[str, float]:
    """`em` (1 when the answer is right, else 0), `f1` and `passage_recall` of one conversation, each from 0 to 1.

    An answer counts only when the model closed its last turn; passages count whether or not it did.
    """
    answer = trajectory.answer if trajectory.terminated else None
    return {
        "em": float(exact_match(answer, task.answers)),
        "f1": token_f1(answer, task.answers),
        "passage_recall": passage_recall(trajectory.messages, task.gold_passages),
    }

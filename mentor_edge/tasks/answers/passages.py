r"""How well a question was answered from passages: exact match and F1 of the answer, recall of the passages.

The normalisation is SQuAD's (Rajpurkar et al. 2016, arXiv 1606.05250; the official evaluation script), which MuSiQue
and HotpotQA use too: lower case, no ASCII punctuation, no articles (a, an, the), single spaces. Before that, LaTeX's
`\text{...}`, which models write around words in a box, is replaced by its content.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence

from mentor_edge.messages import Message, Trajectory
from mentor_edge.tasks.types import Task

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf)\s*\{([^{}]*)\}")
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def passage_metrics(task: Task, trajectory: Trajectory) -> dict[str, float]:
    """`em` (1 when the answer is right, else 0), `f1` and `passage_recall` of one conversation, each from 0 to 1.

    An answer counts only if the model closed its last turn; passages count either way.
    """
    answer = trajectory.answer if trajectory.terminated else None
    return {
        "em": float(exact_match(answer, task.answers)),
        "f1": token_f1(answer, task.answers),
        "passage_recall": passage_recall(trajectory.messages, task.gold_passages),
    }


def normalized_answer(text: str) -> str:
    """The words that are compared, separated by single spaces."""
    words = _TEXT_COMMAND.sub(r"\1", text).lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", words).split())


def exact_match(prediction: str | None, answers: Sequence[str]) -> bool:
    """Whether the prediction equals an accepted answer, both normalised. None means no answer and is never right."""
    return prediction is not None and normalized_answer(prediction) in map(normalized_answer, answers)


def token_f1(prediction: str | None, answers: Sequence[str]) -> float:
    """The highest F1, from 0 to 1, between the words of the prediction and of an accepted answer, as multisets."""
    if prediction is None:
        return 0.0
    given = Counter(normalized_answer(prediction).split())
    return max((_f1(given, Counter(normalized_answer(answer).split())) for answer in answers), default=0.0)


def _f1(given: Counter[str], accepted: Counter[str]) -> float:
    if given == accepted:
        return 1.0
    return 2 * (given & accepted).total() / (given.total() + accepted.total())


def passage_recall(messages: Sequence[Message], gold_passages: Sequence[str]) -> float:
    """The share of `gold_passages` (ids, at least one) that the tool results of a conversation contain.

    Only results in the format of `mentor_edge.tools.retrieval.search_tool` count; all others are skipped.
    """
    retrieved = {doc_id for message in messages if message.role == "tool" for doc_id in _doc_ids(message.content)}
    return len(retrieved.intersection(gold_passages)) / len(set(gold_passages))


def _doc_ids(result: str) -> Iterator[str]:
    try:
        passages = json.loads(result)
    except (ValueError, RecursionError):
        return
    for passage in passages if isinstance(passages, list) else ():
        if isinstance(passage, dict) and isinstance(doc_id := passage.get("doc_id"), str):
            yield doc_id

"""Whether evaluation tasks were trained on: equal prompts, and prompts that share much of their wording.

Only the user's messages are compared, as words without case and punctuation (an operator before a number counts as a
word). System messages are left out: instructions that all tasks share are not contamination. The overlap of two tasks
is the share of the evaluation prompt's word n-grams that occur in one training prompt.

n is 8, as in PaLM (arXiv 2204.02311) and Llama 3 (arXiv 2407.21783). GPT-3 (arXiv 2005.14165) used 8 to 13, depending
on the length of a benchmark's examples, and word problems are short. A task is reported if it shares half of its
n-grams or more. PaLM required 0.7 of the n-grams, anywhere in the training data. Half of them in a single prompt is
stricter about where they occur and looser about how many: a question with other numbers or another ending is still
detected.

N-grams that occur in more than half of the training prompts identify the kind of task, not the task ("put the final
answer in a box at the end"), so they are ignored. Suites generated from templates still share wording; the mean share
shows how much. No comparison of words can detect paraphrases, translations, or copies of text without spaces.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from mentor_edge.tasks.types import Task

NGRAM = 8
THRESHOLD = 0.5

_WORD = re.compile(r"[^\W_]+|[-+*/^=<>](?=\s*\d)")
_Words = tuple[str, ...]
# Among fewer training prompts, half may share an n-gram by chance.
_FEWEST_FOR_TEMPLATES = 10
_PAIRS_IN_JSON = 20


@dataclass(frozen=True, slots=True)
class Overlap:
    """An evaluation task and the training task that it shares most with."""

    evaluation_id: str
    training_id: str
    domain: str
    """The domain of the evaluation task."""
    share: float
    """The share of the evaluation task's n-grams that the training task contains, from 0 to 1."""
    exact: bool
    """Whether the two prompts have the same words."""


@dataclass(frozen=True, slots=True)
class DomainOverlap:
    """The overlaps of one domain of the evaluation."""

    n: int
    """How many tasks the domain has."""
    exact: int
    """How many of them equal a training task."""
    overlapping: int
    """How many are at or above the threshold, equal ones included."""
    mean_share: float
    """The mean of all tasks' highest shares."""


@dataclass(frozen=True)
class ContaminationReport:
    """The result of `contamination`."""

    training: int
    """How many training tasks there are."""
    n: int
    """The number of words in an n-gram."""
    threshold: float
    """The smallest share that is reported."""
    ignored_ngrams: int
    """How many n-grams were ignored because more than half of the training prompts contain them."""
    overlaps: tuple[Overlap, ...]
    """The evaluation tasks at or above the threshold, the worst first."""
    shares: Mapping[str, Sequence[float]]
    """The highest share of every evaluation task, by domain."""

    @cached_property
    def by_domain(self) -> dict[str, DomainOverlap]:
        """The counts of every domain of the evaluation."""
        return {
            domain: DomainOverlap(
                n=len(shares),
                exact=sum(overlap.exact for overlap in self.overlaps if overlap.domain == domain),
                overlapping=sum(overlap.domain == domain for overlap in self.overlaps),
                mean_share=round(sum(shares) / len(shares), 4),
            )
            for domain, shares in self.shares.items()
        }

    @property
    def statement(self) -> str:
        """The report in one line."""
        shares = [share for domain_shares in self.shares.values() for share in domain_shares]
        equal = sum(overlap.exact for overlap in self.overlaps)
        return (
            f"overlap with {self.training} training tasks: of {len(shares)} tasks, {equal} equal, "
            f"{len(self.overlaps) - equal} more with a share of {self.threshold:g} or more of their {self.n}-grams in "
            f"one of them, mean share {sum(shares) / max(1, len(shares)):.3f}"
        )

    def to_json(self) -> dict[str, Any]:
        """The report with its twenty worst pairs."""
        return {
            "training": self.training,
            "evaluation": sum(map(len, self.shares.values())),
            "exact": sum(overlap.exact for overlap in self.overlaps),
            "overlapping": len(self.overlaps),
            "ngram": self.n,
            "threshold": self.threshold,
            "ignored_ngrams": self.ignored_ngrams,
            "by_domain": {domain: asdict(counts) for domain, counts in self.by_domain.items()},
            "worst": [asdict(overlap) for overlap in self.overlaps[:_PAIRS_IN_JSON]],
        }


def contamination(
    training: Sequence[Task], evaluation: Sequence[Task], *, n: int = NGRAM, threshold: float = THRESHOLD
) -> ContaminationReport:
    """Compare every evaluation task with all training tasks, through an inverted index of the training n-grams.

    `n` is the number of words in an n-gram; a prompt of fewer words counts as one n-gram. A task is reported if its
    share is at least `threshold`.
    """
    first: dict[_Words, str] = {}  # a training prompt's words -> the first task that has it
    for task in training:
        first.setdefault(_words(task), task.id)
    index: dict[_Words, list[str]] = defaultdict(list)
    for words, task_id in first.items():
        for gram in _ngrams(words, n):
            index[gram].append(task_id)
    templates: set[_Words] = set()
    if len(first) >= _FEWEST_FOR_TEMPLATES:
        templates = {gram for gram, task_ids in index.items() if 2 * len(task_ids) > len(first)}
    shares: dict[str, list[float]] = defaultdict(list)
    overlaps = []
    for task in evaluation:
        words = _words(task)
        grams = _ngrams(words, n) - templates
        shared = Counter(task_id for gram in grams for task_id in index.get(gram, ()))
        nearest, count = shared.most_common(1)[0] if shared else ("", 0)
        exact = words in first
        share = 1.0 if exact else count / len(grams) if grams else 0.0
        shares[task.domain].append(share)
        if exact or share >= threshold:
            overlaps.append(Overlap(task.id, first.get(words, nearest), task.domain, share, exact))
    overlaps.sort(key=lambda overlap: (not overlap.exact, -overlap.share))
    return ContaminationReport(len(training), n, threshold, len(templates), tuple(overlaps), dict(shares))


def _words(task: Task) -> _Words:
    text = "\n".join(message.content for message in task.prompt if message.role == "user")
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _ngrams(words: _Words, n: int) -> set[_Words]:
    return {words[i : i + n] for i in range(max(len(words) - n, 0) + 1)}

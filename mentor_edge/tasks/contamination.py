"""Whether evaluation tasks were trained on: equal prompts, and prompts that share much of their wording.

Compared is what the user says, as words without case and punctuation (an operator before a number counts as a word).
System messages are left out: instructions that all tasks share are no contamination. Two tasks overlap by the share of
the evaluation prompt's word n-grams that stand in one training prompt.

n is 8, as PaLM (arXiv 2204.02311) and Llama 3 (arXiv 2407.21783) have it; GPT-3 (arXiv 2005.14165) took 8 to 13, by the
length of a benchmark's examples, and word problems are short. A task is reported from a share of 0.5 on. PaLM asked for
0.7 of the n-grams, found anywhere in the training data: half of them in a single prompt is narrower about where and
wider about how much, so that a question with other numbers or another ending is still seen.

N-grams of more than half of the training prompts say what kind of task it is, not which one ("put the final answer in a
box at the end"): they are ignored. Suites that are generated from templates share wording all the same, and the mean
share says how much. What no comparison of words can see: paraphrases, translations, and text without spaces.
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
# Of fewer training prompts, half may say the same and be no template.
_FEWEST_FOR_TEMPLATES = 10
_PAIRS_IN_JSON = 20


@dataclass(frozen=True, slots=True)
class Overlap:
    """An evaluation task and the training task that it shares most with. `share` is that of its n-grams, from 0 to 1;
    `exact` means that the two prompts have the same words."""

    evaluation_id: str
    training_id: str
    domain: str
    share: float
    exact: bool


@dataclass(frozen=True)
class ContaminationReport:
    """What `contamination` found. `overlaps` holds the evaluation tasks at or above the threshold, the worst first;
    `shares` the highest share of every evaluation task, by domain."""

    training: int
    n: int
    threshold: float
    ignored_ngrams: int
    overlaps: tuple[Overlap, ...]
    shares: Mapping[str, Sequence[float]]

    @cached_property
    def by_domain(self) -> dict[str, dict[str, float]]:
        """Per domain of the evaluation: tasks (`n`), those equal to a training task (`exact`), those at or above the
        threshold, equal ones included (`overlapping`), and the mean of all tasks' highest shares (`mean_share`)."""
        return {
            domain: {
                "n": len(shares),
                "exact": sum(found.exact for found in self.overlaps if found.domain == domain),
                "overlapping": sum(found.domain == domain for found in self.overlaps),
                "mean_share": round(sum(shares) / len(shares), 4),
            }
            for domain, shares in self.shares.items()
        }

    @property
    def statement(self) -> str:
        """The report in one line."""
        shares = [share for of_domain in self.shares.values() for share in of_domain]
        equal = sum(found.exact for found in self.overlaps)
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
            "exact": sum(found.exact for found in self.overlaps),
            "overlapping": len(self.overlaps),
            "ngram": self.n,
            "threshold": self.threshold,
            "ignored_ngrams": self.ignored_ngrams,
            "by_domain": self.by_domain,
            "worst": [asdict(found) for found in self.overlaps[:_PAIRS_IN_JSON]],
        }


def contamination(
    training: Sequence[Task], evaluation: Sequence[Task], *, n: int = NGRAM, threshold: float = THRESHOLD
) -> ContaminationReport:
    """Compare every evaluation task with all training tasks, through an inverted index of the training n-grams.

    A prompt of fewer than `n` words counts as one n-gram.
    """
    first: dict[_Words, str] = {}  # a training prompt's words -> the first task that has it
    for task in training:
        first.setdefault(_words(task), task.id)
    index: dict[_Words, list[str]] = defaultdict(list)
    for words, identity in first.items():
        for gram in _ngrams(words, n):
            index[gram].append(identity)
    templates: set[_Words] = set()
    if len(first) >= _FEWEST_FOR_TEMPLATES:
        templates = {gram for gram, holders in index.items() if 2 * len(holders) > len(first)}
    shares: dict[str, list[float]] = defaultdict(list)
    overlaps = []
    for task in evaluation:
        words = _words(task)
        grams = _ngrams(words, n) - templates
        shared = Counter(identity for gram in grams for identity in index.get(gram, ()))
        nearest, count = shared.most_common(1)[0] if shared else ("", 0)
        exact = words in first
        share = 1.0 if exact else count / len(grams) if grams else 0.0
        shares[task.domain].append(share)
        if exact or share >= threshold:
            overlaps.append(Overlap(task.id, first.get(words, nearest), task.domain, share, exact))
    overlaps.sort(key=lambda found: (not found.exact, -found.share))
    return ContaminationReport(len(training), n, threshold, len(templates), tuple(overlaps), dict(shares))


def _words(task: Task) -> _Words:
    text = "\n".join(message.content for message in task.prompt if message.role == "user")
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _ngrams(words: _Words, n: int) -> set[_Words]:
    return {words[i : i + n] for i in range(max(len(words) - n, 0) + 1)}

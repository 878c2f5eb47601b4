"""Evaluation tasks among training tasks: equal prompts, shared wording, shared instructions."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.command_line import run_command
from helpers.paths import SHARED
from mentor_edge.messages import Message
from mentor_edge.tasks import bfcl, gsm8k
from mentor_edge.tasks.contamination import ContaminationReport, DomainOverlap, contamination
from mentor_edge.tasks.nano.suites import evaluation_suite, training_suite
from mentor_edge.tasks.types import Task

STORY = "Martha has eleven blue butterflies and twice as many black ones in a box that holds at most forty"
CHANGED_END = "Martha has eleven blue butterflies and twice as many black ones in a box, how many are there"
OTHER = "A train leaves the station at noon and arrives two hours later after three stops on the way to town"


def task(text: str, name: str = "t", domain: str = "d", system: str = "") -> Task:
    messages = (Message("system", system),) if system else ()
    return Task(name, (*messages, Message("user", text)), (), "id", domain, answer="1")


def compared(text: str, *training: str) -> ContaminationReport:
    return contamination([task(words, f"train-{i}") for i, words in enumerate(training)], [task(text, "test")])


@pytest.mark.parametrize(
    "same", [STORY, STORY.upper(), f"  {STORY.replace(' ', '  ')}?!\n", STORY.replace("e", "\uff45")]
)
def test_case_punctuation_spaces_and_width_do_not_make_another_prompt(same: str) -> None:
    (overlap,) = compared(same, OTHER, STORY).overlaps
    assert (overlap.evaluation_id, overlap.training_id, overlap.share, overlap.exact) == ("test", "train-1", 1.0, True)


def test_a_prompt_that_shares_half_of_its_ngrams_with_one_training_prompt_is_reported() -> None:
    (overlap,) = compared(CHANGED_END, OTHER, STORY).overlaps
    assert not overlap.exact and overlap.training_id == "train-1"
    assert overlap.share == pytest.approx(7 / 11)  # of its 18 words, the first 14 are the story's
    assert compared(OTHER, STORY).overlaps == ()


def test_shares_of_several_training_prompts_do_not_add_up() -> None:
    half, rest = " ".join(STORY.split()[:10]), " ".join(STORY.split()[8:])
    report = compared(STORY, half, rest)
    assert report.shares == {"d": [pytest.approx(4 / 12)]} and report.overlaps == ()


def test_operators_count_and_short_prompts_are_compared_as_a_whole() -> None:
    assert compared("What is 3 + 4?", "what is 3 +4").overlaps[0].exact
    assert compared("What is 3 + 4?", "What is 3 - 4?", "What is 3 + 5?").shares == {"d": [0.0]}


def test_instructions_that_training_prompts_share_do_not_count() -> None:
    instruction = "Think step by step and put the final answer in a box at the very end of your reply"
    training = [task(f"{word} is number {i}. {instruction}", str(i)) for i, word in enumerate(OTHER.split()[:12])]
    report = contamination(
        training, [task(f"Something new. {instruction}"), task(f"{training[3].prompt[0].content}", "old")]
    )
    assert [overlap.evaluation_id for overlap in report.overlaps] == ["old"]
    assert report.ignored_ngrams >= 11 and report.shares["d"][0] < 0.5
    instructed = [task(text, system=instruction) for text in (OTHER, STORY)]
    assert contamination(instructed[:1], instructed[1:]).shares == {"d": [0.0]}


def test_the_report_counts_by_domain_and_lists_the_worst_first() -> None:
    evaluation = [
        task(CHANGED_END, "near", "a"),
        task(OTHER, "new", "b"),
        task(STORY, "same", "a"),
        task("?", "empty", "b"),
    ]
    report = contamination([task(STORY, "train")], evaluation)
    assert [overlap.evaluation_id for overlap in report.overlaps] == ["same", "near"]
    assert report.by_domain == {
        "a": DomainOverlap(n=2, exact=1, overlapping=2, mean_share=0.8182),
        "b": DomainOverlap(n=2, exact=0, overlapping=0, mean_share=0.0),
    }
    row = report.to_json()
    assert row["by_domain"]["a"] == {"n": 2, "exact": 1, "overlapping": 2, "mean_share": 0.8182}
    assert json.loads(json.dumps(row)) == row
    assert (row["training"], row["evaluation"], row["exact"], row["overlapping"], row["ngram"]) == (1, 4, 1, 2, 8)
    assert row["worst"][0] == {
        "evaluation_id": "same",
        "training_id": "train",
        "domain": "a",
        "share": 1.0,
        "exact": True,
    }
    assert contamination([], evaluation).overlaps == ()
    assert contamination(evaluation, []).by_domain == {}


@given(st.lists(st.text(max_size=60), min_size=1, max_size=12), st.text(max_size=60))
def test_every_training_prompt_is_found_and_shares_are_fractions(texts: list[str], other: str) -> None:
    training = [task(text, str(i)) for i, text in enumerate(texts)]
    report = contamination(training, [*training, task(other)])
    assert sum(overlap.exact for overlap in report.overlaps) >= len(texts)
    assert all(0 <= share <= 1 for share in report.shares["d"])


# The suites' own overlaps


def test_excluding_the_training_questions_leaves_no_equal_nano_task() -> None:
    training = training_suite(200)
    counts = {"id": 60, "para": 40}
    report = contamination(training.tasks, evaluation_suite(counts, exclude=training).tasks)
    assert sum(overlap.exact for overlap in report.overlaps) == 0
    assert report.by_domain["id"].mean_share > 0.05 > report.by_domain["para"].mean_share


def shared_data(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is missing: set MENTOR_EDGE_DATA to a folder that contains it")
    return path


@pytest.mark.slow
def test_gsm8k_and_bfcl_overlap_as_documented() -> None:
    folder = shared_data("gsm8k")
    training = gsm8k.load(folder / "traj_train.jsonl").tasks
    report = contamination(training, gsm8k.load(folder / "traj_dev.jsonl").tasks)
    assert [round(overlap.share, 2) for overlap in report.overlaps] == [0.97, 0.56]
    calls = bfcl.load(shared_data("bfcl")).tasks
    assert contamination(training, calls).overlaps == ()
    simple = [one for one in calls if one.domain == "simple_python"]
    counts = contamination(simple, [one for one in calls if one.domain != "simple_python"]).by_domain
    assert {name: count.exact for name, count in counts.items() if count.exact} == {
        "multiple": 101,
        "irrelevance": 1,
    }


def test_the_command_reports_files_and_suites(tmp_path: Path) -> None:
    row = {"id": "a", "messages": [{"role": "user", "content": STORY}], "answer": "1", "tools": ["add"]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "test.jsonl").write_text(json.dumps(row | {"id": "b"}) + "\n")

    def run_overlap(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_command("tasks", "overlap", *arguments, cwd=tmp_path)

    done = run_overlap("train.jsonl", "test.jsonl", "--tools", "calculator", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["exact"] == 1 and "b: equal to a" in done.stderr
    done = run_overlap("nano-train", "nano", "--json")
    assert json.loads(done.stdout)["evaluation"] == 2400 and "mean share" in done.stderr
    done = run_overlap("gsm8k", "nano")
    assert done.returncode == 1 and "the suite gsm8k needs its data\nwrite gsm8k:PATH" in done.stderr

"""`Suite`: its hash, its selections and its limits, and suites by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.paths import DATA
from helpers.task_rows import CALCULATORS, ROW, written
from mentor_edge.errors import TaskError
from mentor_edge.messages import Message
from mentor_edge.tasks import bfcl, calculator, gsm8k, musique
from mentor_edge.tasks.nano import suites as nano
from mentor_edge.tasks.registry import load_suite, load_tasks
from mentor_edge.tasks.types import AgentLimits, Suite, Task

WIDE = AgentLimits(tool_rounds=9, tokens_per_turn=99, completion_tokens=999)
MIXED = Suite(
    "mixed",
    "1",
    tuple(
        Task(f"{domain}-{i}", (), (), split, domain, answer="1")
        for i in range(3)
        for split, domain in (("id", "a"), ("ood", "b"))
    ),
    WIDE,
)


def test_suites_without_passages_keep_their_hash():
    suite = Suite("sums", "1", (Task("a", (Message("user", "2 + 3?"),), (), "id", "sums", answer="5"),))
    assert suite.sha256 == "9431a9a5fccb2b526109e524b5bbf442073449edf9e7e29f13bdc7bdf4b6e515"


def test_a_selection_keeps_name_version_and_limits() -> None:
    selections = (MIXED.where(split="ood"), MIXED.where(domains=["a"]), MIXED.at_most(1), replace(MIXED, tasks=()))
    assert [len(suite.tasks) for suite in selections] == [3, 3, 2, 0]
    assert {(suite.name, suite.version, suite.limits) for suite in selections} == {("mixed", "1", WIDE)}


def test_the_hash_leaves_out_the_limits() -> None:
    assert replace(MIXED, limits=AgentLimits()).sha256 == MIXED.sha256
    assert replace(MIXED, version="2").sha256 != MIXED.sha256 != MIXED.at_most(1).sha256


def test_every_suite_has_its_own_limits() -> None:
    assert nano.evaluation_suite({}).limits == AgentLimits(5, 48, 256)
    assert calculator.evaluation_suite({}).limits == AgentLimits(8, 512, 2048)
    assert gsm8k.load(DATA / "gsm8k_excerpt.jsonl").limits == AgentLimits(12, 1024, 3072)
    assert bfcl.load(DATA / "bfcl").limits == AgentLimits(0, 1024, 1024)
    assert AgentLimits(8, 512, 8192) == musique.LIMITS


def test_a_users_suite_has_the_default_limits(tmp_path: Path) -> None:
    path = written(tmp_path / "nano.jsonl", ROW)
    assert load_tasks(str(path), CALCULATORS).limits == AgentLimits()


@pytest.mark.parametrize("training", ["nano-train", "calculator-train"])
def test_training_tasks_are_loaded_by_name(training: str) -> None:
    suite = load_tasks(training, {})
    assert (suite.name, len(suite.tasks)) == (training, 1000)


def test_tasks_are_loaded_by_name_data_or_file(tmp_path: Path) -> None:
    data = DATA / "gsm8k_excerpt.jsonl"
    assert load_tasks(f"gsm8k:{data}", {}) == load_suite("gsm8k", data) == gsm8k.load(data)
    with pytest.raises(TaskError, match=r"the suite bfcl needs its data\nwrite bfcl:PATH"):
        load_tasks("bfcl", {})
    with pytest.raises(TaskError, match=r"the suite bfcl needs its data\ngive its path with --data PATH"):
        load_suite("bfcl")
    with pytest.raises(
        TaskError, match=r"there is no file and no suite 'nan' \(did you mean 'nano'\?\)\ngive the name of a suite"
    ):
        load_tasks("nan", {})
    with pytest.raises(TaskError, match=r"there is no suite 'chess' \(known: nano, calculator, gsm8k, bfcl, musi"):
        load_suite("chess")

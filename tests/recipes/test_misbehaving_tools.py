"""Tools that raise, hang, print, return too much, exit or quit during training."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from helpers.grpo_trainers import LIMITS
from helpers.taught_students import teach
from mentor_edge.agent import run_conversations
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.recipes import MentorRecipe, base
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.tools.execution.executor import ToolExecutor
from mentor_edge.tools.types import Tool


def misbehave(mode: str) -> str:
    if mode == "raise":
        raise RuntimeError("the tool broke")
    if mode == "hang":
        time.sleep(60)
    if mode == "print":
        print("x" * 5_000_000)
    if mode == "return":
        return "x" * 5_000_000
    if mode == "exit":
        os._exit(3)
    if mode == "quit":
        raise SystemExit(1)
    return "7"


UNRELIABLE = Tool(
    "fetch", "fetches a number",
    {"type": "object", "properties": {"mode": {"type": "string"}}, "required": ["mode"], "additionalProperties": False},
    misbehave,
)  # a table  # fmt: skip


MODES = ("raise", "hang", "print", "return", "exit", "quit")


def fetching(mode: str, question: str, identity: str) -> Task:
    """A task whose reference calls the tool once, in some mode, and answers 7 in any case."""
    call = Message("assistant", "", (ToolCall("fetch", {"mode": mode}),))
    turns = (call, Message("tool", "7", name="fetch"), Message("assistant", "\\boxed{7}"))
    reference = Trajectory(turns, "7", Ending.ANSWERED)
    return Task(identity, (Message("user", question),), (UNRELIABLE,), "id", "fetch", answer="7", reference=reference)


@pytest.fixture(scope="module")
def provocative_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that calls the tool in each of the ways that break it, depending on the question."""
    tasks = [fetching(mode, f"{mode}, {mode}, {mode}!", mode) for mode in MODES]
    return teach(tmp_path_factory.mktemp("students") / "provocative", tasks, steps=80)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["edge", "trl"])
def test_training_continues_when_tools_misbehave(
    provocative_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    tasks = tuple(fetching("work", f"{mode}, {mode}, {mode}!", mode) for mode in MODES)  # the teacher's calls do work
    monkeypatch.setattr(base, "load_training_suite", lambda *_: Suite("fetch", "1", tasks))
    recipe = MentorRecipe(
        student=str(provocative_student),
        output_dir=tmp_path / "run",
        train={"steps": 2, "prompts_per_step": len(MODES), "rollouts_per_prompt": 2, "save_every": 1},
        rollout={"engine": engine, "tool_timeout": 0.3, "temperature": 0.3},
    )
    run = recipe.fit()
    log = run.training_log()
    assert [row.step for row in log] == [1, 2]
    assert run.tasks.used == len(MODES)
    assert all(row.calls > 0.8 for row in log)
    if engine == "edge":
        assert all(row.tool_errors > 0.8 for row in log)  # nearly every rollout called it


@pytest.mark.slow
def test_every_misbehaviour_is_an_error_that_the_model_reads(provocative_student: Path) -> None:
    """What happened in the training above: each mode was called, and each had its own error."""
    engine = TransformersEngine.load(provocative_student)
    tasks = [fetching("work", f"{mode}, {mode}, {mode}!", mode) for mode in MODES]
    with ToolExecutor(timeout=0.3) as executor:
        trajectories = run_conversations(engine, tasks, executor, LIMITS)
    errors = {t.calls[0].arguments["mode"]: t.messages[1].content for t in trajectories}
    assert errors.keys() == set(MODES)
    assert all(trajectory.tool_errors >= 1 for trajectory in trajectories)
    assert "the tool broke" in errors["raise"]
    assert "within 0.3 s" in errors["hang"]
    assert "printed more than" in errors["print"]
    assert "returned 5000000 characters" in errors["return"]
    assert "exit code 3" in errors["exit"]
    assert "exit the interpreter" in errors["quit"]

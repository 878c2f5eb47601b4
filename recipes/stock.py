"""Stock TRL rollouts (`rollout.engine: trl`), for comparison and for models that our decode loop refuses.

The tool loop and the parser are TRL's; decoding is transformers' `generate`. Only the tools are ours; they run in the
executor. Tools differ from task to task, so each distinct set of tools becomes one environment class, which TRL picks
by the row's `environment` column.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import Dataset
from trl import GRPOTrainer

from mentor_edge.errors import StudentError
from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.tasks.answers.judge import boxed_answer
from mentor_edge.tasks.types import Task
from mentor_edge.tool_calls import TOOL_CALL_CLOSE, TOOL_CALL_OPEN
from mentor_edge.tools.execution.executor import ToolExecutor

from .grpo import StepReward


def _environment_class(names: Sequence[str], tasks: Mapping[str, Task], executor: ToolExecutor) -> type:
    """A class whose public methods are the named tools. `reset` binds them to the task of a row."""

    def reset(self: Any, *, task_id: str, **_: Any) -> None:
        if hasattr(self, "_session"):  # TRL uses an instance for one rollout after another
            self._session.close()
        self._tools = tasks[task_id].tools_by_name
        self._session = executor.session()

    def method(name: str) -> Callable[..., str]:
        def call(self: Any, **arguments: Any) -> str:
            return executor.run(ToolCall(name, arguments), self._tools, self._session).content

        call.__name__ = name
        return call

    return type("Tools", (), {"reset": reset, **{name: method(name) for name in names}})


def trajectory_of_completion(completion: list[dict[str, Any]], completion_ids: Sequence[int], eos: int) -> Trajectory:
    """The trajectory of a rollout that TRL made: its messages in OpenAI's format, and its token ids."""
    messages = tuple(Message.from_openai(message) for message in completion)
    last = messages[-1]
    if last.role != "assistant" or not completion_ids or completion_ids[-1] != eos:
        ending = Ending.TRUNCATED
    elif last.tool_calls:
        ending = Ending.OUT_OF_TURNS
    elif TOOL_CALL_OPEN in last.content or TOOL_CALL_CLOSE in last.content:
        ending = Ending.MALFORMED
    else:
        ending = Ending.ANSWERED
    answer = boxed_answer(last.content) if ending is Ending.ANSWERED else None
    return Trajectory(messages, answer, ending)


def stock_trainer(
    *,
    tasks: Mapping[str, Task],
    executor: ToolExecutor,
    train_dataset: Dataset,
    reward_funcs: StepReward,
    **arguments: Any,
) -> GRPOTrainer:
    """A plain GRPOTrainer on the same tasks, reward and arguments.

    Raises: StudentError when TRL cannot parse the tool calls of the student's chat template.
    """
    environment_of: dict[str, str] = {}
    schemas: dict[str, list[dict[str, Any]]] = {}
    for key, task in tasks.items():
        listed = sorted(task.tool_schemas, key=lambda schema: str(schema["function"]["name"]))
        environment_of[key] = json.dumps(listed, sort_keys=True)
        schemas[environment_of[key]] = listed
    eos = arguments["processing_class"].eos_token_id

    def reward(completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
        trajectories = [trajectory_of_completion(*pair, eos) for pair in zip(completions, completion_ids, strict=True)]
        return reward_funcs(trajectory=trajectories, **columns)

    try:
        trainer = GRPOTrainer(
            train_dataset=train_dataset.map(lambda row: {"environment": environment_of[row["task_id"]]}),
            reward_funcs=reward,
            environment_factory={
                name: _environment_class([schema["function"]["name"] for schema in listed], tasks, executor)
                for name, listed in schemas.items()
            },
            **arguments,
        )
    except ValueError as error:
        if "chat template" not in str(error):
            raise
        raise StudentError(
            f"TRL does not know how this student's chat template writes tool calls: {str(error).splitlines()[0]}",
            "set rollout.engine to edge, or add a response_template to the tokenizer",
        ) from error
    # TRL would derive schemas from the methods' signatures, but the student must see the tools' own schemas.
    trainer._env_tools = schemas
    return trainer

"""The tasks that a config trains on, and those that a finished run was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mentor_edge.tasks import calculator, gsm8k, jsonl
from mentor_edge.tasks.nano.suites import training_suite
from mentor_edge.tasks.types import Suite, Task
from mentor_edge.tools.catalog import load_tools
from mentor_edge.tools.types import Tool

from .config import TasksConfig, read_saved_config


def load_training_suite(config: TasksConfig, seed: int, tools: Mapping[str, Tool]) -> Suite:
    """The training tasks of a config; `tools` are the implementations for a JSONL file.

    Raises: TaskError when the tasks file is missing or malformed.
    """
    if config.suite == "nano":
        return training_suite(config.limit or 1000, seed=seed, noise=config.teacher_noise, references=config.references)
    if config.suite == "calculator":
        return calculator.training_suite(config.limit or 1000, seed=seed)
    assert config.path is not None  # checked by TasksConfig
    suite = jsonl.load(config.path, tools) if config.suite == "jsonl" else gsm8k.load(config.path)
    return replace(suite, tasks=suite.tasks[: config.limit])


def tasks_trained_on(directory: Path) -> list[Task]:
    """The training tasks of the run in `directory`, preceded by those of the run that it continued from.

    Raises: ConfigError, TaskError when they can no longer be loaded (a file or a server is gone); RunError when the
    run's config.yaml is damaged.
    """
    config = read_saved_config(directory)
    with load_tools(config.tasks.tools) as tools:
        tasks = list(load_training_suite(config.tasks, config.seed, tools.by_name).tasks)
    return tasks if config.from_run is None else [*tasks_trained_on(config.from_run), *tasks]

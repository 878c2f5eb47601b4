"""What a training's steps say about a student that does not learn."""

from __future__ import annotations

import pytest

from mentor_edge.recipes.steps import PolicyStep, SupervisedStep, remarks


def step(**changes: float) -> PolicyStep:
    usual = {
        "step": 1, "loss": 0.1, "tokens": 9, "reward": 0.5, "accuracy": 0.5, "zero_variance_groups": 0,
        "malformed": 0.0, "truncated": 0.0, "tool_errors": 0.0, "calls": 1.0, "entropy": 0.2, "completion_tokens": 40.0,
        "sampled_tokens": 90,
    }  # a table  # fmt: skip
    return PolicyStep.model_validate(usual | changes)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([step(), step(accuracy=0.0)], []),
        ([step(truncated=0.1), step(truncated=0.3)], []),
        ([step(truncated=0.75), step(truncated=0.25)], ["50% of the rollouts were cut off by a token limit"]),
        ([step(malformed=0.5)], ["50% of the rollouts ended with a call that cannot be read"]),
        ([step(calls=0.0, accuracy=0.0), step(calls=0.0)], ["no rollout called a tool"]),
        ([step(accuracy=0.0)], ["no rollout was right"]),
        ([SupervisedStep(step=1, loss=0.1, tokens=9)], []),
        ([], []),
    ],
)
def test_faults_of_many_rollouts_are_named(steps: list[PolicyStep], expected: list[str]) -> None:
    found = list(remarks(steps))
    assert len(found) == len(expected)
    assert all(sentence.startswith(begin) for sentence, begin in zip(found, expected, strict=True))

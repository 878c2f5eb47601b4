"""`mentor-edge quickstart`: the whole loop on the embedded nano student, stage by stage, resumable.

Each stage leaves its result in stages/NAME.json when it is done; with --resume, finished stages are read back, training
goes on from its last checkpoint, and anything half-written is made anew.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mentor_edge.errors import ConfigError, RunError
from mentor_edge.files import atomic_directory, write_json
from mentor_edge.progress import Progress, as_stage
from mentor_edge.tasks.nano.teacher import Noise

CONTROL = "q2_k"
"""A quantization that a student of this size does not survive: it shows that the gate can fail."""


@dataclass(frozen=True)
class Plan:
    """How much of everything. Steps are optimizer steps."""

    warm_steps: int
    sft_steps: int
    mentor_steps: int
    training_tasks: int
    counts: Mapping[str, int]


FULL = Plan(
    warm_steps=140, sft_steps=60, mentor_steps=140, training_tasks=1000,
    counts={
        "id": 600, "para": 400, "comb": 400, "distract": 400, "names": 100, "long": 100, "irrel": 100, "lookup": 100,
    },
)  # a table  # fmt: skip
SMOKE = Plan(
    warm_steps=20, sft_steps=3, mentor_steps=3, training_tasks=60,
    counts={"id": 40, "para": 20, "comb": 20, "distract": 20, "names": 10, "long": 10, "irrel": 10, "lookup": 10},
)  # a table  # fmt: skip


class Stages:
    """Runs stages once: a finished one is read back from stages/NAME.json, with the seconds it took."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "stages"
        self._directory.mkdir(exist_ok=True)
        self.seconds: dict[str, float] = {}

    def run(self, name: str, work: Callable[[], Any]) -> Any:
        path = self._directory / f"{name}.json"
        if path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8"))
        else:
            started = time.monotonic()
            result = work()
            stored = {"seconds": round(time.monotonic() - started, 1), "result": result}
            write_json(path, stored)
        self.seconds[name] = stored["seconds"]
        return stored["result"]


def run_quickstart(
    out: Path, *, smoke: bool, resume: bool, seed: int, teacher_noise: str, progress: Progress
) -> dict[str, Any]:
    """Run all stages and return the summary, which also stands in summary.json beside report.md.

    Raises: OutputError (the directory exists), ConfigError, and whatever a stage raises.
    """
    from mentor_edge.quickstart.report import write_report
    from mentor_edge.recipes.run import prepare_output

    if teacher_noise not in list(Noise):
        raise ConfigError([f"teacher noise {teacher_noise!r} is unknown (known: {', '.join(Noise)})"])
    prepare_output(out, resume=resume)
    settings = {"smoke": smoke, "seed": seed, "teacher_noise": teacher_noise}
    _same_settings(out / "quickstart.json", settings)
    for leftover in out.glob(".*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    session = _Session(out, SMOKE if smoke else FULL, seed, Noise(teacher_noise), Stages(out), progress)
    summary = session.run()
    summary["settings"] = settings
    write_json(out / "summary.json", summary)
    write_report(out, summary)
    return summary


def _same_settings(path: Path, settings: dict[str, Any]) -> None:
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != settings:
        raise RunError(f"{path.parent} was started with other settings than {settings}", "resume with the same options")
    write_json(path, settings)


class _Session:
    """The stages of one quickstart, in order."""

    def __init__(self, out: Path, plan: Plan, seed: int, noise: Noise, stages: Stages, progress: Progress) -> None:
        self.out, self.plan, self.seed, self.noise = out, plan, seed, noise
        self.stages, self.progress = stages, progress
        self.mentor_evaluation: Any = None  # the gate's source side, if this session measured it

    def run(self) -> dict[str, Any]:
        from mentor_edge.recipes import MentorRecipe, SFTRecipe
        from mentor_edge.tasks.contamination import contamination
        from mentor_edge.tasks.nano.suites import evaluation_suite, training_suite

        out, stages, plan = self.out, self.stages, self.plan
        base = stages.run("base", self._base)
        training = training_suite(plan.training_tasks, seed=self.seed, noise=self.noise)
        traces = stages.run("traces", lambda: self._traces(training))
        suite = evaluation_suite(plan.counts, seed=self.seed, exclude=training)
        common = {
            "student": str(out / "base"),
            "seed": self.seed,
            "tasks": {"suite": "nano", "limit": plan.training_tasks, "teacher_noise": self.noise},
        }
        sft = SFTRecipe(**common, output_dir=out / "sft", train={"steps": plan.sft_steps})
        mentor = MentorRecipe(**common, output_dir=out / "mentor", train={"steps": plan.mentor_steps})
        stages.run("sft", lambda: self._fit(sft))
        log = stages.run("mentor", lambda: self._fit(mentor))
        stages.run("merge", self._merge)
        models = {"base": out / "base", "sft": out / "sft" / "merged", "mentor": out / "mentor" / "merged"}
        right = {
            name: stages.run(f"evaluate-{name}", partial(self._evaluate, name, path, suite))
            for name, path in models.items()
        }
        artifacts = stages.run("export", lambda: self._export(suite))
        conversation = stages.run("conversation", lambda: self._converse(suite, artifacts))
        return {
            "seed": self.seed,
            "seconds": stages.seconds | {"total": round(sum(stages.seconds.values()), 1)},
            "student": base,
            "traces": traces,
            "suite": {"name": suite.name, "version": suite.version, "sha256": suite.sha256},
            "overlap": contamination(training.tasks, suite.tasks).statement,
            "accuracy": {name: _accuracy(by_domain) for name, by_domain in right.items()},
            "lift": {name: _lift(right["base"], right[name]) for name in ("sft", "mentor")},
            "training": {
                "mentor": [
                    {key: row[key] for key in ("step", "reward", "accuracy", "zero_variance_groups")} for row in log
                ]
            },
            "artifacts": artifacts,
            "conversation": conversation,
        }

    def _base(self) -> dict[str, int]:
        from mentor_edge.engines.torch.loading import load_student
        from mentor_edge.recipes.nano.warm_start import warm_start

        target = self.out / "base"
        if not target.is_dir():
            with atomic_directory(target) as temporary:
                warm_start(temporary, seed=self.seed, steps=self.plan.warm_steps, progress=self.progress)
        model, _ = load_student(target)
        return {"parameters": sum(parameter.numel() for parameter in model.parameters())}

    def _traces(self, training: Any) -> dict[str, Any]:
        from mentor_edge.files import write_jsonl

        rows = [
            {
                "id": task.id,
                "answer": task.answer,
                "messages": [message.to_openai() for message in (*task.prompt, *task.reference.messages)],
            }
            for task in training.tasks
        ]
        write_jsonl(self.out / "traces.jsonl", rows)
        calls = sum(len(task.reference.calls) for task in training.tasks)
        return {"n": len(rows), "noise": self.noise, "calls_per_trace": round(calls / len(rows), 3)}

    def _fit(self, recipe: Any) -> list[dict[str, Any]]:
        run = recipe.fit(resume=True, progress=self.progress)
        return list(run.training_log())

    def _merge(self) -> None:
        from mentor_edge.recipes import Run

        for name in ("sft", "mentor"):
            Run.load(self.out / name).merged()

    def _evaluate(self, name: str, path: Path, suite: Any) -> dict[str, list[int]]:
        from mentor_edge.export import evaluate_directory

        evaluation = evaluate_directory(path, suite, as_stage(self.progress, f"evaluate {name} (torch)"))
        evaluation.write_jsonl(self.out / f"evaluation-{name}.jsonl")
        if name == "mentor":
            self.mentor_evaluation = evaluation
        right: dict[str, list[int]] = {}
        for outcome in evaluation.outcomes:
            right.setdefault(outcome.domain, []).append(int(outcome.correct))
        return right

    def _export(self, suite: Any) -> list[dict[str, Any]]:
        from mentor_edge.export import export
        from mentor_edge.recipes import Run

        target = self.out / "artifact"
        if target.is_dir():  # finished, but interrupted before its stage was written down
            shutil.rmtree(target)
        artifact = export(
            Run.load(self.out / "mentor").source(),
            out=target,
            suite=suite,
            gguf=("q8_0", "q4_k_m"),
            controls=("f32", CONTROL),
            source_evaluation=self.mentor_evaluation,
            progress=self.progress,
        )
        return [row.model_dump(mode="json") for row in artifact.summary()]

    def _converse(self, suite: Any, artifacts: list[dict[str, Any]]) -> dict[str, Any]:
        from mentor_edge.agent import ToolAgent

        task = next(task for task in suite.tasks if task.domain == "comb")
        file = self.out / "artifact" / artifacts[0]["file"]
        with ToolAgent.load(file, task.tools) as agent:
            trajectory = agent.run(task.prompt)
        return {
            "file": str(Path("artifact") / artifacts[0]["file"]),
            "tools": [tool.name for tool in task.tools],
            "question": task.prompt[-1].content,
            "messages": [message.to_openai() for message in trajectory.messages],
            "answer": trajectory.answer,
            "expected": task.answer,
        }


def _accuracy(right: Mapping[str, list[int]]) -> dict[str, Any]:
    counts = {domain: {"n": len(bits), "correct": sum(bits)} for domain, bits in right.items()}
    return {"id": counts.pop("id"), "ood": counts}


def _lift(before: Mapping[str, list[int]], after: Mapping[str, list[int]]) -> dict[str, Any]:
    """The paired change over the OOD splits that a student of this size can do at all, with a 95 % interval."""
    from mentor_edge.evaluation.statistics import paired_difference
    from mentor_edge.tasks.nano.suites import CORE_OOD

    difference = paired_difference(
        [bool(bit) for domain in CORE_OOD for bit in before[domain]],
        [bool(bit) for domain in CORE_OOD for bit in after[domain]],
    )
    return {
        "splits": list(CORE_OOD),
        "n": difference.n,
        "delta": difference.delta,
        "ci": [difference.low, difference.high],
        "lost": difference.lost,
        "gained": difference.gained,
    }

"""The quickstart: the whole loop on the embedded nano student, stage by stage.

Each finished stage leaves its result in stages/NAME.json. On resuming, finished stages are read back, training
continues from its last checkpoint, and half-written directories are made again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import TypeAdapter

from mentor_edge.errors import ConfigError, RunError
from mentor_edge.evaluation.summary import Counts
from mentor_edge.files import atomic_directory, write_json, write_jsonl
from mentor_edge.progress import Progress, as_stage, no_progress
from mentor_edge.quickstart.report import write_report
from mentor_edge.quickstart.summary import (
    Accuracy,
    Conversation,
    Lift,
    QuickstartSummary,
    Settings,
    Student,
    Traces,
    Training,
    TrainingStep,
)
from mentor_edge.results import ModelSummary, SuiteRecord
from mentor_edge.tasks.nano.teacher import Noise

if TYPE_CHECKING:
    from mentor_edge.evaluation.evaluate import Evaluation
    from mentor_edge.recipes import PolicyStep, Recipe, Step
    from mentor_edge.tasks.types import Suite

CONTROL = "q2_k"
"""A quantization that a student of this size does not survive. It shows that the gate can fail."""

Answers = dict[str, list[int]]
"""Domain -> 1 (right) or 0 (wrong) for each task."""
_Result = TypeVar("_Result")
_Step = TypeVar("_Step", bound="Step")


@dataclass(frozen=True)
class Amounts:
    """How much work every stage does."""

    warm_steps: int
    """Optimizer steps that make the base."""
    sft_steps: int
    """Optimizer steps of SFT."""
    sft_batch: int
    """Trajectories of one step of SFT."""
    mentor_steps: int
    """Optimizer steps of MENTOR."""
    mentor_prompts: int
    """Prompts of one step of MENTOR."""
    training_tasks: int
    """Training tasks, each with one teacher's trajectory."""
    counts: Mapping[str, int]
    """Evaluation tasks, by domain."""


FULL = Amounts(
    warm_steps=140, sft_steps=60, sft_batch=64, mentor_steps=140, mentor_prompts=12, training_tasks=1000,
    counts={
        "id": 600, "para": 400, "comb": 400, "distract": 400, "names": 100, "long": 100, "irrel": 100, "lookup": 100,
    },
)  # a table  # fmt: skip
SMOKE = Amounts(
    warm_steps=4, sft_steps=3, sft_batch=16, mentor_steps=3, mentor_prompts=4, training_tasks=60,
    counts={"id": 40, "para": 20, "comb": 20, "distract": 20, "names": 10, "long": 10, "irrel": 10, "lookup": 10},
)  # a table  # fmt: skip


def run_quickstart(
    out: str | Path,
    *,
    smoke: bool = False,
    resume: bool = False,
    seed: int = 0,
    teacher_noise: str = "mild",
    progress: Progress = no_progress,
) -> QuickstartSummary:
    """Train, evaluate, export, gate and run the nano student, and report on it.

    Args:
        out: output directory. It gets summary.json, report.md, and a directory for every model.
        smoke: run every stage for a few steps only.
        resume: resume an interrupted quickstart in `out`.
        seed: seed of all random choices.
        teacher_noise: how many mistakes the teacher makes: "clean", "mild" or "heavy".
        progress: called as each stage advances.

    Returns:
        The content of summary.json.

    Raises:
        OutputError: when `out` exists already and `resume` is False, or cannot be written.
        ConfigError: when `teacher_noise` is unknown.
        RunError: when `out` was started with other settings.
    """
    from mentor_edge.recipes.run import prepare_output

    if teacher_noise not in list(Noise):
        raise ConfigError([f"teacher noise {teacher_noise!r} is unknown (known: {', '.join(Noise)})"])
    out = Path(out)
    settings = Settings(smoke=smoke, seed=seed, teacher_noise=teacher_noise)
    prepare_output(out, resume=resume)
    _check_settings(out / "quickstart.json", settings)
    for leftover in out.glob(".*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    summary = _Quickstart(out, settings, SMOKE if smoke else FULL, Noise(teacher_noise), progress).run()
    write_json(out / "summary.json", summary.model_dump(mode="json"))
    write_report(out, summary)
    return summary


def _check_settings(path: Path, settings: Settings) -> None:
    values = settings.model_dump(mode="json")
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != values:
        raise RunError(f"{path.parent} was started with other settings than {values}", "resume with the same options")
    write_json(path, values)


class Stages:
    """Runs every stage once. A finished stage is read back from stages/NAME.json, with the seconds it took."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "stages"
        self._directory.mkdir(exist_ok=True)
        self.seconds: dict[str, float] = {}

    def run(self, name: str, type_: type[_Result], work: Callable[[], _Result]) -> _Result:
        """The result of a stage; `type_` reads it back.

        Raises: RunError when stages/NAME.json is damaged; also what `work` raises.
        """
        path, adapter = self._directory / f"{name}.json", TypeAdapter(type_)
        if path.is_file():
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
                self.seconds[name] = stored["seconds"]
                return adapter.validate_python(stored["result"])
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"{path} is damaged: {error}", "remove it and resume") from error
        started = time.monotonic()
        result = work()
        self.seconds[name] = round(time.monotonic() - started, 1)
        write_json(path, {"seconds": self.seconds[name], "result": adapter.dump_python(result, mode="json")})
        return result


class _Quickstart:
    """One quickstart. `run` lists the stages in order; every other method is a stage."""

    def __init__(self, out: Path, settings: Settings, amounts: Amounts, noise: Noise, progress: Progress) -> None:
        self.out, self.settings, self.amounts, self.noise, self.progress = out, settings, amounts, noise, progress
        self.stages = Stages(out)
        self.mentor_evaluation: Evaluation | None = None  # if made in this process; the gate then reuses it

    def run(self) -> QuickstartSummary:
        from mentor_edge.recipes import MentorRecipe, PolicyStep, SFTRecipe, SupervisedStep
        from mentor_edge.tasks.contamination import contamination
        from mentor_edge.tasks.nano.suites import evaluation_suite, training_suite

        out, stages, amounts, seed = self.out, self.stages, self.amounts, self.settings.seed
        base = stages.run("base", Student, self.make_base)
        training = training_suite(amounts.training_tasks, seed=seed, noise=self.noise)
        traces = stages.run("traces", Traces, lambda: self.write_traces(training))
        suite = evaluation_suite(amounts.counts, seed=seed, exclude=training)
        tasks = {"suite": "nano", "limit": amounts.training_tasks, "teacher_noise": self.noise}
        student = str(out / "base")
        sft_train = {"steps": amounts.sft_steps, "batch_size": amounts.sft_batch}
        mentor_train = {"steps": amounts.mentor_steps, "prompts_per_step": amounts.mentor_prompts}
        sft = SFTRecipe(student=student, seed=seed, tasks=tasks, output_dir=out / "sft", train=sft_train)
        mentor = MentorRecipe(student=student, seed=seed, tasks=tasks, output_dir=out / "mentor", train=mentor_train)
        stages.run("sft", list[SupervisedStep], lambda: self.fit(sft, SupervisedStep))
        log = stages.run("mentor", list[PolicyStep], lambda: self.fit(mentor, PolicyStep))
        stages.run("merge", type(None), self.merge)
        models = {"base": out / "base", "sft": out / "sft" / "merged", "mentor": out / "mentor" / "merged"}
        answers = {
            name: stages.run(f"evaluate-{name}", Answers, partial(self.evaluate, name, path, suite))
            for name, path in models.items()
        }
        artifacts = stages.run("export", tuple[ModelSummary, ...], lambda: self.export(suite))
        conversation = stages.run("conversation", Conversation, lambda: self.converse(suite, artifacts))
        return QuickstartSummary(
            seed=seed,
            seconds=stages.seconds | {"total": round(sum(stages.seconds.values()), 1)},
            student=base,
            traces=traces,
            suite=SuiteRecord(name=suite.name, version=suite.version, sha256=suite.sha256),
            overlap=contamination(training.tasks, suite.tasks).statement,
            accuracy={name: _accuracy(by_domain) for name, by_domain in answers.items()},
            lift={name: _lift(answers["base"], answers[name]) for name in ("sft", "mentor")},
            training=Training(mentor=tuple(map(_training_step, log))),
            artifacts=artifacts,
            conversation=conversation,
            settings=self.settings,
        )

    def make_base(self) -> Student:
        from mentor_edge.engines.torch.loading import load_student
        from mentor_edge.recipes.nano.warm_start import warm_start

        target = self.out / "base"
        if not target.is_dir():
            with atomic_directory(target) as temporary:
                warm_start(temporary, seed=self.settings.seed, steps=self.amounts.warm_steps, progress=self.progress)
        model, _ = load_student(target)
        return Student(parameters=sum(parameter.numel() for parameter in model.parameters()))

    def write_traces(self, training: Suite) -> Traces:
        references = [(task, task.reference) for task in training.tasks if task.reference is not None]
        rows = [
            {
                "id": task.id,
                "answer": task.answer,
                "messages": [message.to_openai() for message in (*task.prompt, *reference.messages)],
            }
            for task, reference in references
        ]
        write_jsonl(self.out / "traces.jsonl", rows)
        calls = sum(len(reference.calls) for _, reference in references)
        return Traces(n=len(rows), noise=self.noise, calls_per_trace=round(calls / len(rows), 3))

    def fit(self, recipe: Recipe, kind: type[_Step]) -> list[_Step]:
        steps = recipe.fit(resume=True, progress=self.progress).training_log()
        return [step for step in steps if isinstance(step, kind)]

    def merge(self) -> None:
        from mentor_edge.recipes import Run

        for name in ("sft", "mentor"):
            Run.load(self.out / name).merged()

    def evaluate(self, name: str, path: Path, suite: Suite) -> Answers:
        from mentor_edge.export import evaluate_directory

        evaluation = evaluate_directory(path, suite, as_stage(self.progress, f"evaluate {name} (torch)"))
        evaluation.write_jsonl(self.out / f"evaluation-{name}.jsonl")
        if name == "mentor":
            self.mentor_evaluation = evaluation
        answers: Answers = {}
        for outcome in evaluation.outcomes:
            answers.setdefault(outcome.domain, []).append(int(outcome.correct))
        return answers

    def export(self, suite: Suite) -> tuple[ModelSummary, ...]:
        from mentor_edge.export import export
        from mentor_edge.recipes import Run

        target = self.out / "artifact"
        if target.is_dir():  # finished, but interrupted before its stage was recorded
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
        return tuple(artifact.summary())

    def converse(self, suite: Suite, artifacts: Sequence[ModelSummary]) -> Conversation:
        from mentor_edge.agent import ToolAgent

        task = next(task for task in suite.tasks if task.domain == "comb")
        file = Path("artifact") / artifacts[0].file
        with ToolAgent.load(self.out / file, task.tools) as agent:
            trajectory = agent.run(task.prompt)
        return Conversation(
            file=str(file),
            tools=tuple(tool.name for tool in task.tools),
            question=task.prompt[-1].content,
            messages=tuple(message.to_openai() for message in trajectory.messages),
            answer=trajectory.answer,
            expected=task.answer,
        )


def _accuracy(answers: Answers) -> Accuracy:
    counts = {domain: Counts(n=len(bits), correct=sum(bits)) for domain, bits in answers.items()}
    return Accuracy(id=counts.pop("id"), ood=counts)


def _lift(before: Answers, after: Answers) -> Lift:
    """The paired change over the OOD domains that a student of this size can do at all, with a 95 % interval."""
    from mentor_edge.evaluation.statistics import paired_difference
    from mentor_edge.tasks.nano.suites import CORE_OOD

    difference = paired_difference(
        [bool(bit) for domain in CORE_OOD for bit in before[domain]],
        [bool(bit) for domain in CORE_OOD for bit in after[domain]],
    )
    return Lift.of(CORE_OOD, difference)


def _training_step(step: PolicyStep) -> TrainingStep:
    return TrainingStep(**{name: getattr(step, name) for name in TrainingStep.model_fields})

"""`inspect_student`: know a student before anything is spent on it.

`mentor_edge.inspection` reads the files and probes the template. This module is above `export` and `recipes`, because
it also says what `export` makes of the architecture, and finds the model behind a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mentor_edge.chat.setting import TemplateSetting, checked_setting, fitting_template
from mentor_edge.errors import StudentError
from mentor_edge.inspection.directory import CONFIG, read_directory
from mentor_edge.inspection.exported import read_gguf, read_onnx
from mentor_edge.inspection.facts import StudentFacts
from mentor_edge.inspection.student_report import Ability, EndToken, FormatSupport, Kind, StudentReport, Use
from mentor_edge.inspection.template import probe_template
from mentor_edge.inspection.template_report import TemplateReport
from mentor_edge.inspection.tool_use import template_hint
from mentor_edge.manifest import MANIFEST
from mentor_edge.model_directory import HUB_ID, from_hub
from mentor_edge.path_kind import is_other_file, wrong_kind
from mentor_edge.template_record import Scalar

_HUB_FILES = ("*.json", "*.jinja", "additional_chat_templates/*")
"""The small files of a model on the hub. Weights are not fetched, so their size is unknown."""
_NOT_TRAINED = "only a Hugging Face directory or a GGUF file can be trained"
_NOT_EXPORTED = "it is exported already"
_DEQUANTIZED = "as a dequantized copy, if transformers reads its family"


def inspect_student(
    target: str | Path, *, template: str | Path | None = None, template_arguments: Mapping[str, Scalar] | None = None
) -> StudentReport:
    """Find out what a student can do, without loading its weights. It takes about a second.

    Args:
        target: A Hugging Face directory, a finished run, a GGUF file, an ONNX directory, or a hub id if a hub can be
            reached.
        template: The chat template to use instead of the student's own: "hermes", "neutral" or a file.
        template_arguments: Arguments of the template, such as {"enable_thinking": False}.

    Returns:
        The report: what the template does with tools, calls and results; sizes; and whether the student can be trained,
        evaluated and exported, with reasons and hints.

    Raises:
        StudentError: `target` is not a student, or a file that it needs is missing or damaged.
        EngineError: An exported file is truncated or damaged.
        RunError: The run is not finished, or its record is damaged.
        ConfigError: `template` or its arguments are misspelt, or the run's config.yaml cannot be read.
    """
    kind, facts = _facts(target, checked_setting(template, template_arguments or {}))
    probed = _probed(facts)
    formats = _formats(facts.config) if facts.config else ()
    reason, name = _template_problem(probed), fitting_template(facts.has_token)
    return StudentReport(
        target=str(target),
        kind=kind,
        directory=str(facts.path),
        architecture=facts.architecture,
        context_length=facts.context_length,
        parameters=sum(facts.dtypes.values()) or None,
        bytes=facts.bytes,
        dtypes=dict(facts.dtypes),
        vocabulary=facts.vocabulary,
        tied=facts.tied,
        own_head=facts.own_head,
        end_tokens=tuple(EndToken(id=number, text=text) for number, text in facts.end_tokens.items()),
        templates=facts.templates,
        template_name=facts.template_name,
        template=probed,
        formats=formats,
        train=_train(kind, facts, reason, name),
        evaluate=_evaluate(facts, reason, name),
        export=_export(kind, facts, reason, name, formats),
        notes=(*facts.notes, *_end_notes(facts, probed)),
    )


def _facts(target: str | Path, setting: TemplateSetting) -> tuple[Kind, StudentFacts]:
    """What `target` is, and the facts about it."""
    path = Path(target)
    if is_other_file(path):
        raise StudentError(*wrong_kind(path, "a model"))
    if path.is_file():
        return "GGUF file", read_gguf(path, setting)
    if not path.exists():
        if HUB_ID.fullmatch(str(target)) and "/" in str(target):
            return "Hugging Face directory", read_directory(from_hub(str(target), _HUB_FILES), setting)
        raise StudentError(f"there is no file or directory {target}", "give a model directory, a run or a GGUF file")
    if (path / "run.json").is_file() or ((path / "config.yaml").is_file() and not (path / CONFIG).is_file()):
        return "run", _run_facts(path, setting)
    if (path / MANIFEST).is_file() and not (path / CONFIG).is_file():
        raise StudentError(f"{path} is an artifact with several models", "name one of its files or ONNX directories")
    if (path / "genai_config.json").is_file():
        return "ONNX directory", read_onnx(path, setting)
    if (path / CONFIG).is_file():
        return "Hugging Face directory", read_directory(path, setting)
    if (path / "adapter_config.json").is_file():
        raise StudentError(f"{path} is an adapter without its base", "give the base model, or the run")
    raise StudentError(f"{path} is not a model ({CONFIG} is missing)", "give a model directory, a run or a GGUF file")


def _run_facts(path: Path, setting: TemplateSetting) -> StudentFacts:
    from mentor_edge.recipes import Run

    run = Run.load(path)
    model = Path(run.model)
    facts = read_directory(model if model.is_dir() else from_hub(run.model, _HUB_FILES), setting)
    if model.parent == path.resolve() and model.name == "merged":
        return facts
    return replace(facts, notes=(*facts.notes, "the run's adapter is not merged yet: these are the files of its base"))


def _probed(facts: StudentFacts) -> TemplateReport | None:
    try:
        return None if facts.template is None else probe_template(facts.template)
    except StudentError as error:
        raise StudentError(f"{facts.path} cannot be used: {error.problem}", error.hint) from error


def _formats(config: Mapping[str, Any]) -> tuple[FormatSupport, ...]:
    from mentor_edge.export.support import format_support

    return format_support(config)


def _template_problem(probed: TemplateReport | None) -> str:
    if probed is None:
        return "it has no chat template"
    return f"its chat template cannot carry tool use: {'; '.join(probed.problems)}" if probed.problems else ""


def _train(kind: Kind, facts: StudentFacts, reason: str, name: str) -> Use:
    if kind == "ONNX directory":
        return Use(ability=Ability.NO, reason=_NOT_TRAINED)
    if facts.problems:
        return Use(ability=Ability.NO, reason="; ".join(facts.problems))
    if reason:
        return Use(ability=Ability.NO, reason=reason, hint=template_hint(name))
    return Use(ability=Ability.YES, reason=_DEQUANTIZED if kind == "GGUF file" else "")


def _evaluate(facts: StudentFacts, reason: str, name: str) -> Use:
    if facts.problems:
        return Use(ability=Ability.NO, reason="; ".join(facts.problems))
    if not reason:
        return Use(ability=Ability.YES)
    ability = Ability.NO if facts.template is None else Ability.WARNS
    return Use(ability=ability, reason=reason, hint=f"use --template {name}")


def _export(kind: Kind, facts: StudentFacts, reason: str, name: str, formats: tuple[FormatSupport, ...]) -> Use:
    if kind in ("GGUF file", "ONNX directory"):
        return Use(ability=Ability.NO, reason=_NOT_EXPORTED)
    use = _train(kind, facts, reason, name)
    if use.ability is Ability.NO:
        return use
    if supported := [each.format for each in formats if each.supported]:
        return Use(ability=Ability.YES, reason=f"to {' and '.join(name.upper() for name in supported)}")
    details = "; ".join(f"{each.format.upper()}: {each.detail}" for each in formats)
    return Use(ability=Ability.NO, reason=details, hint=" or ".join(each.hint for each in formats if each.hint))


def _end_notes(facts: StudentFacts, probed: TemplateReport | None) -> list[str]:
    """Whether the template ends turns with something that the runtimes do not stop at."""
    if probed is None or not probed.question.reaches or not facts.end_tokens:
        return []
    listed = ", ".join(facts.end_tokens.values())
    if not probed.end_of_turn:
        return [f"the template writes nothing after an assistant's turn; the end tokens are {listed}"]
    if probed.end_of_turn not in facts.end_tokens.values():
        return [f"the template ends turns with {probed.end_of_turn!r}, but the end tokens are {listed}"]
    return []

"""What `inspect_student` returns: the facts about a student, and what can be done with it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from mentor_edge.inspection.template_report import TemplateReport
from mentor_edge.results import Result

Kind = Literal["Hugging Face directory", "run", "GGUF file", "ONNX directory"]
"""What a student may be."""


class Ability(StrEnum):
    """Whether something can be done with a student."""

    YES = "yes"
    """It works."""
    WARNS = "with a warning"
    """It runs, and every figure is marked."""
    NO = "no"
    """It is refused."""


class Use(Result):
    """Whether a student can be trained, evaluated or exported."""

    ability: Ability
    """Whether it works."""
    reason: str = ""
    """Why it does not, or what it is that works."""
    hint: str = ""
    """What to do about it; empty if nothing needs to be done."""


class FormatSupport(Result):
    """Whether a student's architecture can be exported to one format."""

    format: Literal["gguf", "onnx"]
    """The file format."""
    supported: bool
    """Whether our own converter or exporter is known to be exact for it."""
    detail: str = ""
    """The family, or why it is not supported."""
    hint: str = ""
    """Another way, if there is one."""


class EndToken(Result):
    """A token that ends a turn."""

    id: int
    """Its number in the vocabulary."""
    text: str
    """Its text."""


class StudentReport(Result):
    """What is known about a student before its weights are loaded."""

    target: str
    """What was inspected, as it was named."""
    kind: Kind
    """What it is."""
    directory: str
    """The file or directory that was read: of a run, its merged student or else its base."""
    architecture: str | None
    """The model's class in transformers, or llama.cpp's or genai's name of the architecture."""
    context_length: int | None
    """The longest conversation in tokens, as the files state it."""
    parameters: int | None
    """The number of weights, if the files state it."""
    bytes: int
    """Size of the weights on disk."""
    dtypes: dict[str, int]
    """The number of weights of each type."""
    vocabulary: int | None
    """The number of tokens of the tokenizer."""
    tied: bool | None
    """Whether the configuration says that the output head is the embedding; None if it says nothing."""
    own_head: bool | None
    """Whether the weights hold an output head of their own; None if they cannot be seen."""
    end_tokens: tuple[EndToken, ...]
    """The tokens that end a turn."""
    templates: tuple[str, ...]
    """The names of the chat templates that it comes with."""
    template_name: str | None
    """The one that is used: a name, "hermes", "neutral" or a file."""
    template: TemplateReport | None
    """What that template does; None if there is none."""
    formats: tuple[FormatSupport, ...]
    """What its architecture can be exported to."""
    train: Use
    """Whether `fit` accepts it."""
    evaluate: Use
    """Whether `evaluate` and `run` accept it."""
    export: Use
    """Whether `export` accepts it."""
    notes: tuple[str, ...]
    """What you should know, although nothing is refused because of it."""

    @property
    def template_sha256(self) -> str | None:
        """The hash of the template that is used."""
        return None if self.template is None else self.template.sha256

    @property
    def usable(self) -> bool:
        """Whether nothing would be refused or marked: by `fit` and `export`, or by `evaluate` for an exported file."""
        if self.kind in ("GGUF file", "ONNX directory"):
            return self.evaluate.ability is Ability.YES
        return Ability.NO not in (self.train.ability, self.export.ability)

    def to_json(self) -> dict[str, Any]:
        """The report as a dictionary, with the template's problems and notes written out."""
        values = self.model_dump(mode="json") | {"usable": self.usable}
        if self.template is not None:
            values["template"] |= {"problems": list(self.template.problems), "notes": list(self.template.notes)}
        return values

"""What an export measures about its models: one model per result, in the shape that manifest.json stores.

The code that measures builds these models. The manifest, the model card, the reports and the quickstart read them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError


class Result(BaseModel):
    """A frozen record. Unknown fields are refused, and so are figures that JSON cannot represent (NaN, infinity)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def first_problem(error: ValidationError) -> str:
    """The first mistake of a record that was read from a file: where it is, and what is wrong."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"


# The gate


class Verdict(StrEnum):
    """The outcome of a gate."""

    PASS = "pass"  # noqa: S105 (not a password)
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class PairedDifference(Result):
    """Change of the proportion of right answers over pairs of answers to the same task, after minus before."""

    n: PositiveInt
    """Pairs compared."""
    delta: float
    """(gained - lost) / n, between -1 and 1."""
    low: float
    """Lower end of the interval around `delta`."""
    high: float
    """Upper end of the interval around `delta`."""
    lost: NonNegativeInt
    """Pairs that were right before and wrong after."""
    gained: NonNegativeInt
    """Pairs that were wrong before and right after."""

    @property
    def flips(self) -> int:
        """Pairs whose correctness changed in either direction."""
        return self.lost + self.gained


class SideCounts(Result):
    """A count for each side of the gate."""

    source: NonNegativeInt
    """The count for the model that was exported."""
    exported: NonNegativeInt
    """The count for the exported model."""


class SplitReport(PairedDifference):
    """The paired test on one split of the gate's tasks: source before, exported model after."""

    verdict: Verdict
    """The verdict on this split alone."""
    correct: SideCounts
    """Right answers of both sides."""


Measure = Literal["skill", "format"]


class GateReport(Result):
    """The gate's result for one exported model."""

    verdict: Verdict
    """The worst verdict of all splits."""
    margin: float
    """The largest accepted loss of accuracy, as a proportion: 0.02 is two points."""
    measure: Measure = "skill"
    """What counts as right on both sides: "skill", calls in every spelling that can be read; "format", only in that of
    the model's own chat template."""
    splits: Annotated[dict[str, SplitReport], Field(min_length=1)]
    """The test of every split. Tasks on which no call is right are the split "irrelevance"."""
    malformed: SideCounts
    """Conversations that ended in an unreadable tool call."""
    cut_off: SideCounts | None = None
    """Conversations that a limit cut off; None if they were not counted."""
    cut_off_warnings: tuple[str, ...] = ()
    """Which limit cut off more than 5 % of a domain, on which side, and how to raise it."""
    explanation: str
    """The figures of all splits in one line."""

    @property
    def headline(self) -> SplitReport:
        """The out-of-domain split if there is one, else the first split."""
        return self.splits.get("ood") or next(iter(self.splits.values()))


class Runtime(Result):
    """The program that the gate ran a model with, and its settings."""

    engine: str
    """"llama.cpp" or "onnxruntime-genai"."""
    context_length: NonNegativeInt = 0
    """Tokens; 0 means the model's own limit."""
    kv: str | None = None
    """Type of llama.cpp's key-value cache: "f16" or "f32"."""
    flash_attention: bool | None = None
    """Whether llama.cpp used flash attention."""
    threads: PositiveInt | None = None
    """Processor threads; None if they were not recorded."""


# Parity: does the exported file compute what its source computes?


class TextParity(Result):
    """How much of template and tokenizer was compared, and found equal."""

    template_sha256: str | None
    """Hash of the chat template; None if the source has none."""
    rendered_cases: NonNegativeInt
    """Conversations rendered by both sides."""
    token_cases: NonNegativeInt
    """Texts tokenized and decoded by both sides."""
    extra_end_tokens: tuple[str, ...]
    """Tokens that end a turn in this runtime but not in the source: llama.cpp adds some because of their names."""


class TurnParity(Result):
    """How greedy turns of the file compare with those of the source."""

    turns: NonNegativeInt
    """Turns compared."""
    ended: NonNegativeInt
    """Turns that the source ended within the token limit."""
    with_calls: NonNegativeInt
    """Turns in which the source made tool calls."""
    stop_agreement: float
    """Share of turns that both sides ended, or both did not end."""
    calls_agreement: float
    """Share of turns in which the parser found the same calls on both sides."""


class ConversionParity(Result):
    """A float32 file against its source, by the raw logits of the whole vocabulary."""

    kind: Literal["conversion"] = "conversion"
    """Distinguishes this record from a `QuantizedParity`."""
    text: TextParity
    """Template and tokenizer."""
    turns: TurnParity
    """Greedy turns."""
    positions: PositiveInt
    """Token positions whose logits were compared."""
    max_difference: float
    """Largest difference of a logit."""
    mean_difference: float
    """Mean difference of the logits."""
    top1_agreement: float
    """Share of positions with the same likeliest token, among those where the source prefers one clearly (by more than
    the tolerance)."""


class QuantizedParity(Result):
    """A quantized file against its source, by KL(source || file) in nats."""

    kind: Literal["quantized"] = "quantized"
    """Distinguishes this record from a `ConversionParity`."""
    text: TextParity
    """Template and tokenizer."""
    turns: TurnParity
    """Greedy turns."""
    positions: PositiveInt
    """Token positions whose distributions were compared."""
    kl_mean: float
    """Mean divergence."""
    kl_p99: float
    """99th percentile of the divergence."""
    kl_guess: float
    """Divergence of a guess that does not read the text."""
    top1_agreement: float
    """Share of positions with the same likeliest token."""


Parity = Annotated[ConversionParity | QuantizedParity, Field(discriminator="kind")]


# Quantization: what was really written


class GgufQuantization(Result):
    """The tensors of a GGUF file, in llama.cpp's spelling of the types."""

    format: Literal["gguf"] = "gguf"
    """Distinguishes this record from an `OnnxQuantization`."""
    types: dict[str, int]
    """Number of tensors of each type, most frequent first."""
    fallbacks: dict[str, int] = {}
    """Number of tensors written in another type than intended, by change, such as `{"q4_K -> q5_0": 132}`."""
    uneven_rows: tuple[tuple[int, int], ...] = ()
    """The reason for the fallbacks: (row width, block size) pairs."""
    overrides: dict[str, str] = {}
    """The requested types, by regular expression over tensor names."""

    @property
    def note(self) -> str | None:
        """The fallbacks in one sentence, None if there were none."""
        if not self.fallbacks:
            return None
        matrices = sum(count for kind, count in self.types.items() if kind != "f32")
        changes: list[str] = []
        for change, count in self.fallbacks.items():
            intended, _, written = change.partition(" -> ")
            changes.append(
                f"{count} {'' if changes else f'of {matrices} matrices '}became {written} instead of {intended}"
            )
        rows = " and ".join(f"rows of {width} are not multiples of {block}" for width, block in self.uneven_rows)
        return f"{', '.join(changes)}, because their {rows}"


class OnnxWeights(Result):
    """How the weights of an ONNX graph are stored, as read back from the graph."""

    operators: dict[str, int]
    """Number of operators of each kind, most frequent first."""
    body: dict[str, int]
    """Number of matrices of each precision ("int4", "fp32"), without the output head."""
    head: str | None
    """Precision of the output head, None if there is none."""
    embedding: str | None
    """Precision of the embedding, None if there is none."""
    head_shares_embedding: bool
    """Whether both read one stored table."""
    block_size: int | tuple[int, ...] | None
    """Block size of the block-quantized matrices; several if they differ, None without such matrices."""
    accuracy_level: int | tuple[int, ...] | None
    """Accuracy level of the block-quantized matrices; several if they differ, None without such matrices."""
    symmetric: bool | tuple[bool, ...] | None
    """Whether the block-quantized matrices have no zero points; None without such matrices."""


class OnnxQuantization(Result):
    """An ONNX directory: which exporter made it, and what its graph contains."""

    format: Literal["onnx"] = "onnx"
    """Distinguishes this record from a `GgufQuantization`."""
    exporter: str
    """"genai", "transformers" or "optimum"."""
    precision: str
    """"fp32", "int8" or "int4"."""
    weights: OnnxWeights
    """How the weights are stored."""


Quantization = Annotated[GgufQuantization | OnnxQuantization, Field(discriminator="format")]


class Calibration(Result):
    """The importance matrix that a file was quantized with, and how much text it was measured on."""

    sha256: str
    """Hash of the importances."""
    tokens: NonNegativeInt
    """Tokens run through the model."""
    conversations: NonNegativeInt
    """Conversations that these tokens form."""


class Survival(Result):
    """How much of a fine-tune survived quantization.

    The figures compare the quantized tuned model with its base, quantized in the same way. D is the change of the
    weights before quantization, Q the change after it; both are measured on a sample of the touched tensors'
    rows.
    """

    touched: NonNegativeInt
    """Tensors that differ between tuned model and base before quantization."""
    unchanged: tuple[str, ...]
    """Names of touched tensors that quantization made equal again, to the last bit."""
    changed_share: float
    """Share of the quantized weights that differ (of bytes, for types that cannot be dequantized here)."""
    projection: float | None
    """<Q, D> / <D, D>: 1 if the whole change is there, 0 if it is lost, None if it cannot be measured."""
    alignment: float | None
    """Cosine between Q and D: low if Q is mostly rounding noise; None if it cannot be measured or Q is zero."""
    survived: bool
    """Whether some touched tensor is still changed and `projection`, if measured, is at least 0.5. True if nothing
    was touched."""

    @property
    def noise(self) -> float | None:
        """The length of Q without its part along D, as a multiple of that of D: what rounding adds to the change.
        None if it cannot be measured."""
        if not self.projection or not self.alignment:
            return None
        return abs(self.projection / self.alignment) * max(0.0, 1 - self.alignment**2) ** 0.5


# The merge


class MergeReport(Result):
    """How an adapter was merged into its base. All figures are over the weights that the adapter changes."""

    base: str
    """"16-bit" (the original weights) or "4-bit" (their dequantized 4-bit values)."""
    modules: NonNegativeInt
    """Layers that the adapter changes."""
    rank: PositiveInt
    """Rank of the adapter."""
    trained_on: str | None
    """The base named in the adapter's configuration."""
    delta: float
    """|D| / |W| for the adapter's change D of the weights W (Frobenius norms)."""
    base_dtype: str
    """Type of the base's stored weights."""
    kept: float | None
    """Share of D left after rounding W + D to `base_dtype`: <rounded - W, D> / <D, D>. None if D is zero."""
    rounding: float | None
    """Norm of the rounding error / |D|. None if D is zero."""
    dtype: str
    """Type of the saved weights."""


class BaseChoice(Result):
    """Why an adapter was merged onto one base rather than another."""

    base: str
    """The chosen base, "16-bit" or "4-bit"."""
    n: PositiveInt
    """Tasks that every merged model ran."""
    correct: dict[str, int]
    """Right answers, by base."""
    difference: PairedDifference | None = None
    """Second base minus first, with a 95 % interval; None for a single candidate."""


# For reports


class SuiteRecord(Result):
    """Which suite was run."""

    name: str
    """The suite's name."""
    version: str
    """The suite's version."""
    sha256: str
    """Hash of the suite's tasks."""


class ModelSummary(Result):
    """One exported model in a report. The single figures are those of `GateReport.headline`."""

    format: Literal["gguf", "onnx"]
    """The file format."""
    quant: str
    """The quantization, such as "q4_k_m" or "int4"."""
    file: str
    """Path relative to the artifact."""
    bytes: NonNegativeInt
    """Size of the file, or of all files of a directory."""
    sha256: str
    """One hash for the whole model."""
    verdict: Verdict
    """The gate's verdict."""
    n: PositiveInt
    """Tasks compared."""
    delta: float
    """Change of accuracy, exported model minus source, as a proportion."""
    ci: tuple[float, float]
    """Its two-sided 90 % interval."""
    malformed: NonNegativeInt
    """Conversations that ended in an unreadable tool call."""
    flips: NonNegativeInt
    """Tasks whose answers differ in correctness."""
    control: bool
    """Whether the model only tests the gate and is never shipped."""
    splits: dict[str, SplitReport]
    """The test of every split."""

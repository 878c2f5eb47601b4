"""The settings in genai_config.json that are passed to onnxruntime-genai. All others are refused by name.

The runtime obeys settings that load a shared library (`custom_ops_library`, every execution provider but the CPU's),
write a file (`enable_profiling`, `session.optimized_model_filepath`) or start a hundred thousand threads. A directory
may come from anywhere, so the runtime never reads its file: it reads a copy with what the models below accept.

Relied on upstream: onnxruntime-genai 0.18 (src/config.cpp) reads these names.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mentor_edge.errors import EngineError
from mentor_edge.files import files_below
from mentor_edge.json_object import read_json
from mentor_edge.model_directory import LARGEST_ID, MOST_ENDS
from mentor_edge.weight_files import is_file_name

CONFIG = "genai_config.json"
_REFUSED = (
    "a file that comes with a model may only describe its graph and the search; if you trust this setting, remove it "
    "from the file and set it in your own program"
)
_MANY = 1_000_000
"""More layers, heads or tokens of a step than any model has."""
_CPU = ("cpu", "cpuexecutionprovider")
_SHOWN = 60


def _name(text: str) -> str:
    """The name of an input or output of the graph: the runtime puts a layer's number in place of one "%d"."""
    if not text.isprintable() or "%" in text.replace("%d", "", 1):
        raise ValueError("is not a name; it may contain %d once")
    return text


def _file(name: str) -> str:
    plain = is_file_name(name) and name.isprintable() and ":" not in name
    if not plain or name.startswith(".") or not name.endswith(".onnx"):
        raise ValueError("is not the name of an .onnx file in the directory itself")
    return name


def _only_cpu(providers: list[dict[str, dict[str, str]]]) -> list[dict[str, dict[str, str]]]:
    for provider in providers:
        for name, options in provider.items():
            if name.lower() not in _CPU or options:
                raise ValueError("names an execution provider that loads a library, or options; only cpu is used")
    return []  # what the runtime uses without providers


def _as_list(stages: Any) -> Any:
    """A pipeline is a list of stages, or an object."""
    return [{name: stage} for name, stage in stages.items()] if isinstance(stages, dict) else stages


_Name = Annotated[str, Field(max_length=63), AfterValidator(_name)]
_File = Annotated[str, AfterValidator(_file)]
_Count = Annotated[int, Field(gt=0, le=_MANY)]
_Number = Annotated[int | float, Field(ge=-(2**31), lt=2**31)]
_Token = Annotated[int, Field(ge=-1, lt=LARGEST_ID)]
_EndToken = Annotated[int, Field(ge=0, lt=LARGEST_ID)]
_Switch = Literal["0", "1"]
_Names = dict[_Name, _Name]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, populate_by_name=True)


class _SessionOptions(_Section):
    log_id: _Name | None = None
    log_severity_level: Annotated[int, Field(ge=0, le=4)] | None = None
    log_verbosity_level: Annotated[int, Field(ge=0, le=4)] | None = None
    intra_op_num_threads: Annotated[int, Field(ge=0, le=1024)] | None = None
    inter_op_num_threads: Annotated[int, Field(ge=0, le=1024)] | None = None
    enable_cpu_mem_arena: bool | None = None
    enable_mem_pattern: bool | None = None
    graph_optimization_level: (
        Literal["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"] | None
    ) = None
    provider_options: Annotated[list[dict[str, dict[str, str]]], AfterValidator(_only_cpu)] = []
    prepacking: _Switch | None = Field(None, alias="session.disable_prepacking")
    denormals: _Switch | None = Field(None, alias="session.set_denormal_as_zero")
    allocator: _Switch | None = Field(None, alias="session.use_device_allocator_for_initializers")
    intra_op_spinning: _Switch | None = Field(None, alias="session.intra_op.allow_spinning")
    inter_op_spinning: _Switch | None = Field(None, alias="session.inter_op.allow_spinning")


class _Stage(_Section):
    """A graph: an embedding, an encoder, or a part of a decoder."""

    filename: _File | None = None
    session_options: _SessionOptions | None = None
    hidden_size: _Count | None = None
    head_size: _Count | None = None
    num_attention_heads: _Count | None = None
    num_hidden_layers: _Count | None = None
    num_key_value_heads: _Count | None = None
    inputs: _Names | None = None
    outputs: _Names | None = None


class _PipelineStage(_Section):
    filename: _File
    session_options: _SessionOptions | None = None
    inputs: list[_Name] = []
    outputs: list[_Name] = []
    output_names_forwarder: _Names | None = None
    run_on_prompt: bool | None = None
    run_on_token_gen: bool | None = None
    is_lm_head: bool | None = None
    inherit_session_options: bool | None = None
    reset_session_idx: Annotated[int, Field(ge=-1, le=_MANY)] | None = None


class _SlidingWindow(_Section):
    window_size: _Count | None = None
    pad_value: _Number | None = None
    alignment: _Name | None = None
    slide_key_value_cache: bool | None = None
    slide_inputs: bool | None = None
    cache_slack: Annotated[int, Field(ge=0, le=_MANY)] | None = None
    layers: list[Annotated[int, Field(ge=0, le=_MANY)]] | None = None


class _StateGroup(_Section):
    kind: _Name
    layer_ids: list[Annotated[int, Field(ge=0, le=_MANY)]] = []
    state_update: dict[_Name, _Count] | None = None


class Decoder(_Stage):
    """`model.decoder`."""

    filename: _File
    """The graph."""
    head_size: _Count
    """Numbers per head."""
    num_hidden_layers: _Count
    """Layers."""
    num_key_value_heads: _Count
    """Heads that have a cache."""
    sliding_window: _SlidingWindow | None = None
    layer_types: list[_Name] | None = None
    state_groups: list[_StateGroup] | None = None
    state_update_capacity: Annotated[int, Field(ge=0, le=_MANY)] | None = None
    conv_cache_size: Annotated[int, Field(ge=0, le=_MANY)] | None = None
    ple_token_pad_id: _Token | None = None
    pipeline: Annotated[list[dict[_Name, _PipelineStage]], BeforeValidator(_as_list)] | None = None


class Model(_Section):
    """`model`."""

    type: _Name | None = None
    """The runtime's name of the family."""
    context_length: Annotated[int, Field(gt=0, lt=2**31)]
    """In tokens."""
    vocab_size: _Count | None = None
    """Rows of the output."""
    eos_token_id: _EndToken | Annotated[list[_EndToken], Field(max_length=MOST_ENDS)]
    """The tokens that end a turn."""
    pad_token_id: _Token | None = None
    bos_token_id: _Token | list[_Token] | None = None
    sep_token_id: _Token | None = None
    decoder_start_token_id: _Token | None = None
    bot_token_id: _Token | None = None
    eot_token_id: _Token | None = None
    bor_token_id: _Token | None = None
    eor_token_id: _Token | None = None
    decoder: Decoder
    """The graph that writes text."""
    encoder: _Stage | None = None
    embedding: _Stage | None = None


class _Search(_Section):
    do_sample: bool | None = None
    early_stopping: bool | None = None
    past_present_share_buffer: bool | None = None
    min_length: _Number | None = None
    max_length: _Number | None = None
    batch_size: _Number | None = None
    num_beams: _Number | None = None
    num_return_sequences: _Number | None = None
    top_k: _Number | None = None
    top_p: _Number | None = None
    temperature: _Number | None = None
    repetition_penalty: _Number | None = None
    length_penalty: _Number | None = None
    diversity_penalty: _Number | None = None
    no_repeat_ngram_size: _Number | None = None
    random_seed: _Number | None = None
    chunk_size: _Number | None = None


class GenaiConfig(_Section):
    """What genai_config.json of a directory may state."""

    model: Model
    search: _Search = _Search()

    @classmethod
    def read(cls, directory: Path) -> GenaiConfig:
        """The settings of a directory.

        Raises: EngineError when the file is missing or damaged, or has a setting that is not accepted. The message
        names it by its path, such as model.decoder.session_options.custom_ops_library.
        """
        path = directory / CONFIG
        try:
            return cls.model_validate(read_json(path, strict=True))
        except ValidationError as error:
            raise _explained(path, error) from error
        except (OSError, ValueError) as error:
            raise EngineError(
                f"{path} cannot be used: {error}", "the directory is incomplete or damaged: export the model again"
            ) from error

    @contextmanager
    def opened(self, directory: Path) -> Iterator[Path]:
        """A private directory for the runtime: these settings, and links to the other files of `directory`.

        Only regular files are linked, so the runtime cannot wait for a pipe. It refuses weights outside the directory
        of the graph itself. Once the model is loaded, the directory may go.
        """
        with tempfile.TemporaryDirectory(prefix="mentor-edge-onnx-") as name:
            private = Path(name)
            for file in runtime_files(directory):
                if file.suffix != ".json":
                    link = private / file.relative_to(directory)
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(file.resolve())
            # The runtime cannot read \u escapes.
            values = self.model_dump(by_alias=True, exclude_none=True)
            (private / CONFIG).write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
            yield private


def runtime_files(directory: Path) -> list[Path]:
    """The files that may determine what a directory's model writes: the graph may name any of them but hidden ones."""
    return [
        file
        for file in files_below(directory)
        if not any(part.startswith(".") for part in file.relative_to(directory).parts)
    ]


def _explained(path: Path, error: ValidationError) -> EngineError:
    """The first setting that is not accepted; those that are not known come first."""
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    setting = ".".join(map(str, first["loc"])) or "its content"
    value = repr(first["input"])
    shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
    if first["type"] == "extra_forbidden":
        return EngineError(
            f"{path} sets {setting} to {shown}, which is not accepted from a model's directory", _REFUSED
        )
    reason = first["msg"].removeprefix("Value error, ")
    return EngineError(f"{path} cannot be used: {setting} is {shown}: {reason}", _REFUSED)

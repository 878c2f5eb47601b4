"""The importance matrix: how much each input column of a weight matters, measured on tool-call conversations.

llama.cpp's quantizer weights the error of a column by the mean square of the inputs that it is multiplied with. Its own
tool, llama-imatrix, measures these on text, by default without special tokens. Here the conversations are rendered with
the student's template and tools and encoded with its special tokens, so the tokens of a tool call count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from mentor_edge.chat import ChatTemplate
from mentor_edge.errors import ExportError, StudentError
from mentor_edge.progress import Progress, no_progress
from mentor_edge.results import Calibration
from mentor_edge.tasks.types import Suite

Encode = Callable[[Sequence[str]], list[list[int]]]


@dataclass(frozen=True)
class ImportanceMatrix:
    """The mean squares of the inputs of every weight, and how much text they were measured on."""

    values: Mapping[str, npt.NDArray[np.float32]]
    """The mean square of each input column, `[row width]` float32, by GGUF tensor name."""
    tokens: int
    """The number of tokens that were run through the model."""
    conversations: int
    """The number of conversations with at least one token."""

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(self.values):
            digest.update(f"{name}\n".encode() + self.values[name].astype("<f4").tobytes())
        return digest.hexdigest()

    @property
    def calibration(self) -> Calibration:
        """The record of this matrix in a manifest."""
        return Calibration(sha256=self.sha256, tokens=self.tokens, conversations=self.conversations)


def rendered_conversations(template: ChatTemplate, encode: Encode, suite: Suite, limit: int = 64) -> list[list[int]]:
    """Token ids of at most `limit` conversations, drawn evenly over the suite.

    A conversation is the task's prompt with its tools and the reference trajectory, in the pieces of a rollout, or the
    prompt alone if the task has no reference. Conversations that the template cannot render are left out. `encode` is
    an engine's method: it recognizes special and added tokens in the text, and adds none.
    """
    count = min(limit, len(suite.tasks))
    texts = []
    for task in (suite.tasks[index * len(suite.tasks) // count] for index in range(count)):
        reference = () if task.reference is None else task.reference.messages
        with suppress(StudentError):
            texts.append("".join(text for text, _ in template.pieces(task.prompt, task.tool_schemas, reference)))
    return encode(texts)


def importance_matrix(
    model_dir: Path,
    conversations: Sequence[Sequence[int]],
    progress: Progress = no_progress,
) -> ImportanceMatrix:
    """Run the conversations through the model in torch and average the squared inputs of every linear layer.

    The model is loaded in float32 (4 bytes per parameter, plus the file's pages while it loads), and the activations of
    one conversation are in memory at a time. Conversations are cut at the model's context length. No logits are
    computed, because the head's input is the last hidden state. The values of a tied head are named
    `token_embd.weight`, as in GGUF. `progress` counts conversations.

    Raises: ExportError when the model cannot be loaded, there is no text, a token is not in the vocabulary, an input is
    not finite, or gguf has no tensor names for the model's family.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if not any(map(len, conversations)):
        raise ExportError("there is no text to compute the importance matrix from", "name a suite with tasks")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            model_dir, trust_remote_code=False, dtype=torch.float32, local_files_only=True, use_safetensors=True
        ).eval()
    except (OSError, ValueError, SafetensorError) as error:
        raise ExportError(f"cannot load {model_dir} for the importance matrix: {error}") from error
    vocabulary = model.get_input_embeddings().num_embeddings
    context = model.config.get_text_config().max_position_embeddings
    names = _tensor_names(model)
    squares = {name: np.zeros(layer.in_features) for name, layer in names.items()}
    tokens = 0
    with torch.inference_mode(), _summed_squares(names, squares):
        for done, ids in enumerate(conversations):
            progress("importance matrix", done, len(conversations))
            if not ids:
                continue
            if not all(0 <= token < vocabulary for token in ids):
                raise ExportError(f"conversation {done} has token ids outside 0..{vocabulary - 1}")
            fitting = torch.tensor([ids[:context]])
            hidden = model.base_model(fitting, use_cache=False).last_hidden_state
            _add_squares(squares[_head_name(model)], hidden)
            tokens += fitting.numel()
    progress("importance matrix", len(conversations), len(conversations))
    values = {name: (total / tokens).astype(np.float32) for name, total in squares.items()}
    if bad := [name for name, mean in values.items() if not np.isfinite(mean).all()]:
        raise ExportError(f"the inputs of {bad[0]} are not finite in {model_dir}", "the weights are damaged")
    return ImportanceMatrix(values, tokens, sum(map(bool, map(len, conversations))))


def _tensor_names(model: Any) -> dict[str, Any]:
    """Every linear layer by the GGUF name of its weight, the head included."""
    from torch.nn import Linear

    config = model.config.get_text_config()
    family = config.model_type.removesuffix("_text")
    architectures = {name: architecture for architecture, name in gguf.MODEL_ARCH_NAMES.items()}
    if family not in architectures:
        raise ExportError(f"no importance matrix for the family {family!r}", "gguf has no tensor names for it")
    stored = gguf.get_tensor_name_map(architectures[family], config.num_hidden_layers)
    head = model.get_output_embeddings()
    layers = {_head_name(model): head}
    for name, layer in model.named_modules():
        if isinstance(layer, Linear) and layer is not head:
            gguf_name = stored.get_name(name)
            if gguf_name is None:
                raise ExportError(f"no importance matrix for {name!r}: gguf has no name for it in {family}")
            layers[f"{gguf_name}.weight"] = layer
    return layers


def _head_name(model: Any) -> str:
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return "token_embd.weight" if tied else "output.weight"


@contextmanager
def _summed_squares(layers: Mapping[str, Any], squares: Mapping[str, npt.NDArray[np.float64]]) -> Iterator[None]:
    """A context in which the squared inputs of every call of a layer are added to `squares`."""

    def adder(name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        return lambda _, inputs: _add_squares(squares[name], inputs[0])

    hooks = [layer.register_forward_pre_hook(adder(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _add_squares(total: npt.NDArray[np.float64], inputs: Any) -> None:
    # float32 is exact enough for the sum over one conversation, but not over many.
    total += inputs.square().sum(dim=tuple(range(inputs.ndim - 1))).double().numpy()

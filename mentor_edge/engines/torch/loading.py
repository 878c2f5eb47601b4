"""Loading a student from a Hugging Face directory, and reading from it what every engine needs.

It checks what transformers silently accepts: missing or misshapen weights, tokens without an embedding, a
missing or broken chat template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from mentor_edge.chat import ChatTemplate
from mentor_edge.errors import StudentError
from mentor_edge.model_directory import end_ids
from mentor_edge.weight_files import weight_files

_OTHER_WEIGHTS = "copy the model again: its weights and config.json do not belong together"


@contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, ImportError, SafetensorError, StrictDataclassError) as error:
        first_lines = " ".join(" ".join(str(error).strip().splitlines()[:2]).split()) or type(error).__name__
        raise StudentError(
            f"cannot load the student {name!r}: {first_lines}",
            "give a directory with config.json, model.safetensors and a tokenizer (a hub id needs a reachable hub)",
        ) from error


def load_tokenizer(path: str | Path) -> Any:
    """Load the tokenizer of a student.

    Raises: StudentError when it cannot be loaded, has no end token, or has no chat template or one that is not valid
    Jinja.
    """
    name = str(path)
    with _loading(name):
        tokenizer = AutoTokenizer.from_pretrained(name)
    if not tokenizer.chat_template:
        raise StudentError(
            f"the student {name!r} has no chat template",
            "a tool-calling student needs one: add chat_template.jinja or use an instruct model",
        )
    if tokenizer.eos_token is None:
        raise StudentError(f"the student {name!r} has no end-of-turn token (eos_token)")
    try:
        template_of(tokenizer).check()
    except StudentError as error:
        raise StudentError(f"the student {name!r} cannot be used: {error.problem}", error.hint) from error
    return tokenizer


def load_model(path: str | Path, tokenizer: Any, **options: Any) -> Any:
    """Load the weights of a student into a transformers model, with `options` of `from_pretrained`.

    Raises: StudentError when they cannot be loaded, when some are missing or of another shape (transformers would
    initialize those at random), or when the tokenizer has tokens without an embedding. Added tokens may lack one, as
    Gemma 3's image token does.
    """
    name = str(path)
    if Path(name).is_dir():
        weight_files(Path(name))
    with _loading(name):
        model, info = AutoModelForCausalLM.from_pretrained(
            name, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    for weight in sorted(info["missing_keys"]):
        raise StudentError(f"the weights of the student {name!r} lack {weight}", _OTHER_WEIGHTS)
    for weight, stored, expected in sorted(info["mismatched_keys"]):
        shapes = f"{list(stored)}, but its configuration needs {list(expected)}"
        raise StudentError(f"{weight} of the student {name!r} has the shape {shapes}", _OTHER_WEIGHTS)
    rows = model.get_input_embeddings().weight.shape[0]
    used = {*tokenizer.get_vocab().values()} - tokenizer.added_tokens_decoder.keys()
    largest = max(used | end_ids_of(model, tokenizer), default=0)
    if largest >= rows:
        raise StudentError(
            f"the student {name!r} has embeddings of {rows} tokens, but its tokenizer or generation_config.json uses a"
            f" token {largest}",
            "put the model's own tokenizer and generation_config.json next to its weights",
        )
    return model


def load_student(path: str | Path, *, four_bit: bool = False, as_stored: bool = False) -> tuple[Any, Any]:
    """Load a student as (model, tokenizer).

    Args:
        path: a local Hugging Face directory or, if a hub is reachable, a hub id.
        four_bit: keep the weights as NF4 with double quantization (QLoRA). By default they are float32 on a CPU and
            bfloat16 on a GPU.
        as_stored: keep the weights in the dtype that the configuration names.

    Raises:
        StudentError: as `load_tokenizer` and `load_model`.
    """
    name = str(path)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    options: dict[str, Any] = {"dtype": "auto" if as_stored else dtype}
    if four_bit:  # only then: passing None makes transformers forget how a quantized student is stored
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    tokenizer = load_tokenizer(name)
    return load_model(name, tokenizer, **options), tokenizer


def end_ids_of(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a turn of a loaded model: the tokenizer's end token and those of its generation config."""
    return end_ids(tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None))


def encoder_of(tokenizer: Any) -> Callable[[Sequence[str]], list[list[int]]]:
    """A function from texts to token ids, which adds nothing."""
    return lambda texts: [tokenizer.encode(text, add_special_tokens=False) for text in texts]


def template_of(tokenizer: Any) -> ChatTemplate:
    """The chat template of a loaded tokenizer, with its end and start tokens."""
    return ChatTemplate(tokenizer.chat_template, tokenizer.eos_token or "", tokenizer.bos_token or "")

"""Which files of a Hugging Face directory contain its weights: the ones that transformers loads.

Every reader of weights asks here, so that what is inspected, trained, merged and exported is the same model. A
directory may contain more than one candidate: an index left over from an earlier save, weights in PyTorch's format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mentor_edge.errors import StudentError
from mentor_edge.json_object import LARGEST_TOKENIZER, check_values, read_json
from mentor_edge.readable import one_line

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
"""PEFT's description of an adapter. transformers applies one that it finds beside a model's weights."""
HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
"""The names of the output head and, without its prefix, of the embedding."""
_LONGEST_HEADER = 100_000_000
"""The format's limit, in bytes."""
_SHOWN = 80
_MOST_SHARDS = 10_000
_MOST_VALUES = 1_000_000
"""Values in the header of one file: about six for each tensor."""


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that transformers loads from a directory, in its order.

    `transformers_weights` of config.json takes precedence, then model.safetensors, then the shards that
    model.safetensors.index.json lists.

    Raises: StudentError when there are none, a shard is missing, a tensor is in two shards, the index is damaged or
    names a file elsewhere, the head has another shape than the embedding, or the directory also contains an adapter.
    """
    name = _configured_name(directory)
    if name is None:
        name = WEIGHTS if (directory / WEIGHTS).is_file() or not (directory / INDEX).is_file() else INDEX
    if not (directory / name).is_file():
        raise StudentError(_why_missing(directory, name), _other_weights(directory))
    if (directory / ADAPTER).exists():
        raise StudentError(
            f"{directory} contains an adapter ({ADAPTER}) beside a model; transformers would apply it, exporters not",
            "merge it into the model and save that, or move it to a directory of its own",
        )
    files = _shards(directory, directory / name) if name.endswith(".json") else [directory / name]
    _check_head(directory, files)
    return files


def _check_head(directory: Path, files: Sequence[Path]) -> None:
    """Refuse a head of another shape than the embedding: transformers fails on it without naming it if they are tied.

    Packed weights have another type than the embedding, and any shape.
    """
    stored = {name: entry for file in files for name, entry in _tensors(file).items()}
    embeddings = [name for name in stored if f".{name}".endswith(f".{EMBEDDING}")]
    if HEAD not in stored or len(embeddings) != 1:
        return
    head, embedding = stored[HEAD], stored[embeddings[0]]
    if head.get("dtype") == embedding.get("dtype") and head.get("shape") != embedding.get("shape"):
        shapes = f"the shape {head.get('shape')}, but {embeddings[0]} has {embedding.get('shape')}"
        raise StudentError(f"{HEAD} of {directory} has {shapes}", "copy or download the model again")


def _why_missing(directory: Path, name: str) -> str:
    path, problem = directory / name, f"cannot load the weights of {directory}"
    if path.is_symlink() and not path.exists():
        return f"{problem}: {name} is a link to {path.readlink()}, which does not exist"
    return f"{problem}: {name} is a directory" if path.is_dir() else f"{problem}: there is no {name}"


def _configured_name(directory: Path) -> str | None:
    """The file that config.json names, if it names one."""
    try:
        name = read_json(directory / "config.json").get("transformers_weights")
    except (OSError, ValueError):
        return None  # reported where the configuration is read
    if name is None:
        return None
    if not is_file_name(name) or not name.endswith((".safetensors", ".safetensors.index.json")):
        raise StudentError(
            f"config.json of {directory} names {one_line(str(name), _SHOWN)!r} as its weights (transformers_weights)",
            "only a safetensors file in the directory itself is read",
        )
    return str(name)


def _shards(directory: Path, index: Path) -> list[Path]:
    again = "copy or download the model again"
    try:
        names = set(read_json(index, largest=LARGEST_TOKENIZER)["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudentError(f"cannot read {index}: {type(error).__name__}: {error}", again) from error
    if foreign := [name for name in names if not is_file_name(name) or not name.endswith(".safetensors")]:
        raise StudentError(
            f"{index} names {one_line(sorted(map(str, foreign))[0], _SHOWN)!r} as a shard",
            "only safetensors files in the directory itself are read",
        )
    if len(names) > _MOST_SHARDS:
        raise StudentError(f"{index} lists {len(names):,} files; the limit is {_MOST_SHARDS:,}", again)
    if missing := sorted(name for name in names if not (directory / name).is_file()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise StudentError(
            f"cannot load the weights of {directory}: {index.name} lists {missing[0]}{more}, which is missing", again
        )
    if not names:
        raise StudentError(f"{index} lists no weights", again)
    shards = [directory / name for name in sorted(names)]
    owner: dict[str, Path] = {}
    for shard in shards:
        for tensor in _tensors(shard):
            if tensor in owner:
                raise StudentError(
                    f"{tensor} is in two files of {directory}: {owner[tensor].name} and {shard.name}", again
                )
            owner[tensor] = shard
    return shards


def safetensors_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """What the header of a safetensors file states about each tensor, and the byte at which the tensors begin.

    Raises: OSError or ValueError when the file cannot be read, or its header is damaged.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= _LONGEST_HEADER:
            raise ValueError(f"it declares a header of {length} bytes")
        content = file.read(length)
        check_values(content, _MOST_VALUES)
        try:
            header = json.loads(content)
        except RecursionError:
            raise ValueError("its header is nested too deeply") from None
    if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise ValueError("its header is not an object of objects")
    return {name: entry for name, entry in header.items() if name != "__metadata__"}, 8 + length


def _tensors(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """The header of a safetensors file; empty if it is damaged, which is reported where it is loaded."""
    try:
        return safetensors_header(path)[0]
    except (OSError, ValueError):
        return {}


def is_file_name(name: object) -> bool:
    """Whether a text from elsewhere is the name of a file, and no path; file systems have at most 255 bytes for it."""
    named = isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)
    return named and len(str(name).encode(errors="surrogatepass")) <= 255


def _other_weights(directory: Path) -> str:
    """What to do about a directory without the expected weights, by what it has instead."""
    if not directory.is_dir():
        return "give a directory with config.json, model.safetensors and a tokenizer"
    names = sorted(path.name for path in directory.iterdir())
    if WEIGHTS in names:
        return "copy or download the model again"
    if variants := [name for name in names if name.startswith("model.") and name.endswith(".safetensors")]:
        return f"{variants[0]} is a variant: rename it to {WEIGHTS} if it is the one to use"
    if pickled := [name for name in names if name.endswith((".bin", ".pt", ".pth"))]:
        return f"{pickled[0]} may run code when it is loaded: save the model as safetensors first"
    if {"adapter_model.safetensors", ADAPTER} & {*names}:
        return "this is an adapter: merge it into its base, or give the run that it belongs to"
    return "give a directory with config.json, model.safetensors and a tokenizer"

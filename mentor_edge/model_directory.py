"""Reading a Hugging Face directory: its JSON files, the tokens that end a turn, and the chat template.

Every runtime and every exporter derives end tokens and template here, so that they cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mentor_edge.errors import StudentError, panics_as_errors
from mentor_edge.json_object import LARGEST, LARGEST_TOKENIZER, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_LIMIT = 1 << 18
"""Characters of a template; real ones have at most 30,000. Of a longer one, one character more is read: rendering then
refuses it."""
MORE_TEMPLATES = "additional_chat_templates"
"""The folder of a model's other templates, one file each."""
TOKENIZER_CONFIG = "tokenizer_config.json"
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
"""A model's name on the hub: "owner/name"; some old ones have no owner."""
LARGEST_ID = 1 << 31
"""Token ids are below it."""
MOST_ENDS = 1_000
"""End tokens of a model; each is decoded and compared."""
_DTYPES = (
    "bfloat16", "float16", "float32", "float64", "auto", "half", "float", "double", "float8_e4m3fn", "float8_e5m2",
)  # a table  # fmt: skip
_SIZES: Mapping[str, int] = {
    "vocab_size": 10**7, "hidden_size": 10**6, "intermediate_size": 10**7, "num_hidden_layers": 10**4,
    "num_attention_heads": 10**5, "num_key_value_heads": 10**5, "head_dim": 10**5, "max_position_embeddings": 2**31,
}  # a table  # fmt: skip
"""Settings of config.json that are sizes, with numbers that no model reaches."""
_COUNTS: Mapping[str, int] = {
    "num_labels": 10**6, "num_experts": 10**5, "num_local_experts": 10**5, "n_routed_experts": 10**5,
    "num_layers": 10**4, "n_layer": 10**4, "n_layers": 10**4,
}  # a table  # fmt: skip
"""Further ones, of which transformers makes so many objects. They may be 0."""
_IMPLEMENTATIONS = (
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation",
    "_experts_implementation", "_experts_implementation_internal",
)  # a table  # fmt: skip
"""Settings with which transformers loads compiled code from the hub, if the value names a repository."""
_COPY_AGAIN = "copy or download the model again"
_OTHER_TEMPLATE = f"{_COPY_AGAIN}, or set template: hermes, neutral or the path of a .jinja file"
_REMOVE = f"{_COPY_AGAIN}, or remove {{}} and set template: hermes, neutral or the path of a .jinja file"


def require_hub_id(name: str) -> None:
    """Refuse what is neither a directory nor a name on the hub, before the hub is asked: a mistyped path.

    Raises: StudentError.
    """
    if not HUB_ID.fullmatch(name) or Path(name).exists():
        raise StudentError(
            f"the student {name!r} is not a directory" + ("" if Path(name).exists() else "; the path does not exist"),
            "give a directory with config.json, model.safetensors and a tokenizer, or a hub id such as owner/name",
        )


def from_hub(name: str, patterns: Sequence[str]) -> Path:
    """The directory with those files of a model on the hub whose names match `patterns`.

    Raises: StudentError when it cannot be a name on the hub, or the hub cannot be reached or does not have the model.
    """
    require_hub_id(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise StudentError(
            f"cannot load the student {name!r}: there is no such directory, and the hub does not provide it: {reason}",
            "give a directory with config.json, model.safetensors and a tokenizer (a hub id needs a reachable hub)",
        ) from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises: StudentError when the file is missing, cannot be read or does not contain an object.
    """
    try:
        return read_json(path, largest=LARGEST_TOKENIZER if path.name.startswith("tokenizer") else LARGEST)
    except FileNotFoundError as error:
        raise StudentError(f"{path.parent} has no {path.name}", _COPY_AGAIN) from error
    except (OSError, ValueError) as error:
        raise StudentError(f"{path} is damaged: {error}", _COPY_AGAIN) from error


def read_optional_json_object(path: Path) -> dict[str, Any]:
    """As `read_json_object`, but empty if there is no such file."""
    return read_json_object(path) if path.is_file() else {}


def end_ids(*stated: int | Iterable[int] | None) -> frozenset[int]:
    """The token ids that end a turn.

    Each argument is what one source states: the tokenizer's `eos_token_id`, or the `eos_token_id` of
    generation_config.json or genai_config.json, which may be one id, several or null.
    """
    ids: set[int] = set()
    for value in stated:
        ids |= set() if value is None else {value} if isinstance(value, int) else set(value)
    return frozenset(ids)


def stated_end_ids(directory: Path) -> frozenset[int]:
    """The end tokens that generation_config.json states. Without that file, those of config.json, as in transformers.

    Raises: StudentError when the file cannot be read, or states something else than token ids.
    """
    generation = directory / "generation_config.json"
    path = generation if generation.is_file() else directory / "config.json"
    stated = read_json_object(path).get("eos_token_id")
    numbers = stated if isinstance(stated, list) else [] if stated is None else [stated]
    if len(numbers) > MOST_ENDS:
        raise StudentError(f"{path} states {len(numbers):,} end tokens; the limit is {MOST_ENDS:,}", _COPY_AGAIN)
    for number in numbers:
        if type(number) is not int or not 0 <= number < LARGEST_ID:
            raise StudentError(f"{path} states the end token {number!r}, which is not a token id", _COPY_AGAIN)
    return end_ids(numbers)


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Check the settings of a config.json at `path` that libraries fail on without naming them, or obey although nobody
    vouches for them.

    Raises: StudentError.
    """
    _check_implementations(config, path)
    names = config.get("architectures")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise StudentError(f"{path} states the architectures {_shown(names)}, which are not names", _COPY_AGAIN)
    nested = config.get("text_config")
    for part in (config, nested) if isinstance(nested, dict) else (config,):
        dtype = part.get("dtype", part.get("torch_dtype"))
        if isinstance(dtype, str) and dtype.removeprefix("torch.") not in _DTYPES:
            raise StudentError(f"{path} states the dtype {dtype!r}, which does not exist", f"use {_DTYPES[0]}")
        if not isinstance(part.get("tie_word_embeddings", False), bool):
            problem = f"{path} states tie_word_embeddings = {_shown(part['tie_word_embeddings'])}"
            raise StudentError(problem, "use true or false: whether the output head is the embedding")
        for name, limit in {**_SIZES, **_COUNTS}.items():
            value = part.get(name)
            listed = value if isinstance(value, list) and name != "max_position_embeddings" else []
            for size in listed or [value]:  # some models have one for each layer
                if size is not None and (type(size) is not int or not (name in _SIZES) <= size <= limit):
                    what = "a number of tokens" if name == "max_position_embeddings" else "a size that a model can have"
                    raise StudentError(f"{path} states {name} = {_shown(value)}, which is not {what}", _COPY_AGAIN)


def _check_implementations(config: Mapping[str, Any], path: Path) -> None:
    """Refuse implementations that are repositories on the hub, at any depth. Raises: StudentError."""
    pending = [config]
    while pending:
        part = pending.pop()
        pending += [value for value in part.values() if isinstance(value, Mapping)]
        for name in _IMPLEMENTATIONS:
            value = part.get(name)
            chosen = [*value.values()] if isinstance(value, Mapping) else [value]
            if not all(each is None or (isinstance(each, str) and each.isidentifier()) for each in chosen):
                raise StudentError(
                    f"{path} names program code on the hub: {name} is {_shown(value)}", f"remove {name} from it"
                )


def parse_tokenizer(text: str) -> Tokenizer:
    """The tokenizer in the text of a tokenizer.json. It neither truncates nor pads texts: the file may have such
    settings from training.

    Raises: ValueError with the library's reason.
    """
    from tokenizers import Tokenizer

    try:
        with panics_as_errors():
            tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(str(error)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def check_tokenizer_config(directory: Path) -> None:
    """Refuse settings of a tokenizer_config.json with which transformers would read other files than those of the
    directory. A path such as `tokenizer_file` is not one of them: the directory's own file replaces it.

    Raises: StudentError, also when the file cannot be read.
    """
    path = directory / TOKENIZER_CONFIG
    settings = read_optional_json_object(path)
    for name in ("gguf_file", "init_inputs", "fast_tokenizer_files"):
        if (value := settings.get(name)) and value != ["tokenizer.json"]:
            raise StudentError(
                f"{path} sets {name} to {_shown(value)}, but the tokenizer is tokenizer.json", "remove the setting"
            )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True, slots=True)
class NamedTemplate:
    """One of a model's chat templates."""

    name: str
    """Its name among the model's templates; "default" if it is the only one."""
    source: str
    """The Jinja source."""


def stored_template(directory: Path, entry: Any, *, replaced: bool = False) -> NamedTemplate | None:
    """The chat template of a directory that transformers uses with tools; None if it has none.

    The files chat_template.jinja and additional_chat_templates/NAME.jinja take precedence over `entry`, the
    `chat_template` of tokenizer_config.json, which may be a list of named templates.

    Args:
        directory: the model.
        entry: the `chat_template` of its tokenizer_config.json.
        replaced: another template is used, so one that cannot be used counts as none. What transformers cannot load is
            an error all the same.

    Raises: StudentError when a file cannot be read, or as `template_for_tools`.
    """
    files = {"default": directory / TEMPLATE_FILE} if (directory / TEMPLATE_FILE).is_file() else {}
    files |= {file.stem: file for file in sorted((directory / MORE_TEMPLATES).glob("*.jinja")) if file.is_file()}
    if not files:
        return template_for_tools(entry, str(directory), replaced=replaced)
    templates = {}
    for name, file in files.items():
        try:
            with file.open(encoding="utf-8", newline="") as stream:  # byte for byte: "\r\n" is not translated
                templates[name] = stream.read(TEMPLATE_LIMIT + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise StudentError(f"cannot read {file}: {error}", _REMOVE.format("the file")) from error
    return template_for_tools(templates, str(directory), replaced=replaced)


def template_names(directory: Path, entry: Any) -> tuple[str, ...]:
    """The names of all chat templates of a directory; `entry` is the `chat_template` of tokenizer_config.json."""
    files = ["default"] if (directory / TEMPLATE_FILE).is_file() else []
    files += [file.stem for file in sorted((directory / MORE_TEMPLATES).glob("*.jinja"))]
    if files or not entry:
        return tuple(files)
    if isinstance(entry, list | tuple):
        names = [each.get("name") for each in entry if isinstance(each, Mapping)]
    else:
        names = list(entry) if isinstance(entry, Mapping) else ["default"] if isinstance(entry, str) else []
    return tuple(name for name in names if isinstance(name, str))


def stored_entry(directory: Path) -> Any:
    """The `chat_template` of a directory's tokenizer_config.json, None if there is none or the file cannot be read."""
    try:
        return read_json_object(directory / TOKENIZER_CONFIG).get("chat_template")
    except StudentError:
        return None


def template_for_tools(templates: Any, model: str, *, replaced: bool = False) -> NamedTemplate | None:
    """The template that transformers uses with tools: "tool_use", else "default". None if there is none.

    Args:
        templates: a template's text, a list of objects with `name` and `template`, or a mapping from names to texts.
        model: for messages.
        replaced: as in `stored_template`.

    Raises: StudentError when `templates` has another form or neither of the two names, or the template is empty.
    """
    try:
        return _one_for_tools(_named_templates(templates, model), model)
    except _Unusable:
        if replaced:
            return None
        raise


class _Unusable(StudentError):
    """transformers can load the model, but not use its template."""


def _named_templates(templates: Any, model: str) -> dict[str, str]:
    if templates is None or isinstance(templates, str):
        return {"default": templates} if templates else {}
    error: type[StudentError] = _Unusable
    hint = _OTHER_TEMPLATE
    if isinstance(templates, list | tuple):
        entries = [entry if isinstance(entry, Mapping) else {} for entry in templates]
        if not all({"name", "template"} <= entry.keys() and isinstance(entry["name"], Hashable) for entry in entries):
            error, hint = StudentError, _REMOVE.format(f"chat_template from {TOKENIZER_CONFIG}")
        named = [(entry.get("name"), entry.get("template")) for entry in entries]
    elif isinstance(templates, Mapping):
        named = list(templates.items())
    else:
        raise _Unusable(f"the chat_template of {model} is {type(templates).__name__}, not text", _OTHER_TEMPLATE)
    texts: dict[str, str] = {}
    for name, source in named:
        if isinstance(name, str) and isinstance(source, str):
            texts[name] = source
        else:
            raise error(
                f"the chat templates of {model} cannot be read: an entry has the name {name!r} and"
                f" {'no template' if source is None else f'a template of type {type(source).__name__}'}",
                hint,
            )
    return texts


def _one_for_tools(texts: Mapping[str, str], model: str) -> NamedTemplate | None:
    for name in ("tool_use", "default"):
        if texts.get(name):
            return NamedTemplate(name, texts[name])
    if not texts:
        return None
    if not texts.keys().isdisjoint(("tool_use", "default")):
        raise _Unusable(f"the chat template of {model} is empty", _OTHER_TEMPLATE)
    raise _Unusable(
        f"the chat templates of {model} are {', '.join(sorted(texts))}; none is named tool_use or default",
        "set template to the path of the one that the model was trained with, as a .jinja file",
    )

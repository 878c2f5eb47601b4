"""The settings of a LoRA adapter: which ones a merge gets right, and which ones it must refuse.

PEFT only warns about settings that it does not know, as a newer version's may be, and merges as if they were not there.
The tables below follow from comparing merged weights with PEFT's live adapter, setting by setting (PEFT 0.21).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from mentor_edge.errors import ExportError
from mentor_edge.json_object import read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
HINT = "give a LoRA adapter together with the base that it was trained on"
_MORE_THAN_LORA = (
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "use_bdlora",
    "monteclora_config",
    "megatron_config",
    "use_qalora",
)
"""Settings of PEFT's LoRA with which an adapter changes more than the base's own layers by low-rank updates."""
_EXACT_STARTS = (True, False, "gaussian", "orthogonal", "eva", "olora", "pissa")
"""Values of `init_lora_weights` that leave the base as it is, or change it in a way that can be repeated exactly. The
others (loftq, corda, lora_ga, pissa_niter_N) change the base by a quantizer, by data or by a random algorithm: merged
onto the original base, such an adapter makes another model."""

_PATTERNS, _PATTERN_KEYS = ("target_modules", "exclude_modules", "layers_pattern"), ("rank_pattern", "alpha_pattern")
"""Settings that are patterns, and settings whose keys are."""
_SEARCH = r"""
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    for name in names:
        re.fullmatch(pattern, name), re.match(rf"(.*\.)?({pattern})$", name)
"""
"""What PEFT does with a pattern, as a program that can be ended."""
_SECONDS = 5.0
"""For all patterns of an adapter."""


def lora_settings(adapter: Path) -> dict[str, Any]:
    """The adapter's configuration, if it is plain LoRA in files that can be read safely.

    Raises: ExportError when a file is missing or damaged, or when a setting is on that a merge would ignore.
    """
    for name in (CONFIG, WEIGHTS):
        if not (adapter / name).is_file():
            raise ExportError(f"{adapter} is not an adapter ({name} is missing)", "give the directory that PEFT saved")
    try:
        settings = read_json(adapter / CONFIG)
        kind, task = settings["peft_type"], settings.get("task_type")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{adapter / CONFIG} is damaged: {error!r}") from error
    if kind != "LORA" or task not in (None, "CAUSAL_LM"):
        raise ExportError(f"the adapter {adapter} is {kind} for {task}, not LORA for CAUSAL_LM", HINT)
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    # A comparison never overflows, and is false for NaN.
    scaled = isinstance(alpha, int | float) and not isinstance(alpha, bool) and abs(alpha) <= sys.float_info.max
    if type(rank) is not int or rank < 1 or not scaled:
        stated = f"r = {json.dumps(rank)[:80]} and lora_alpha = {json.dumps(alpha)[:80]}"
        raise ExportError(f"{adapter / CONFIG} states {stated}", "r must be a positive integer, lora_alpha a number")
    for name in _PATTERN_KEYS:
        if not isinstance(settings.get(name) or {}, Mapping):
            stated = f"{name} = {json.dumps(settings[name])[:80]}"
            raise ExportError(
                f"{adapter / CONFIG} states {stated}", "it must be an object with a number for each pattern"
            )
    if beyond := [name for name in _MORE_THAN_LORA if settings.get(name)]:
        raise ExportError(
            f"the adapter {adapter} changes more than LoRA can ({_listed(settings, beyond)})",
            "merge it with PEFT yourself",
        )
    if settings.get("init_lora_weights", True) not in _EXACT_STARTS:
        raise ExportError(
            f"the adapter {adapter} belongs to a changed base ({_listed(settings, ['init_lora_weights'])})",
            "convert it to plain LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...) of PEFT",
        )
    if unknown := _unknown_and_on(settings):
        from peft import __version__

        maker = settings.get("peft_version")
        hint = "merge it with the version of PEFT that made it" + (f" ({maker})" if maker else "")
        if maker == __version__:
            hint = f"PEFT {maker} made it, so another program added them: merge it with that program"
        raise ExportError(
            f"the adapter {adapter} has settings that PEFT {__version__} does not know ({_listed(settings, unknown)})",
            hint,
        )
    return dict(settings)


def check_patterns(settings: Mapping[str, Any], layers: Iterable[str]) -> None:
    """Try the patterns with which an adapter's settings choose layers: PEFT searches with them without a limit of time.

    Raises: ValueError with the reason.
    """
    patterns = [settings[name] for name in _PATTERNS if isinstance(settings.get(name), str)]
    patterns += [key for name in _PATTERN_KEYS for key in settings.get(name) or {}]
    if not patterns:
        return
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _SEARCH],
            input=json.dumps([patterns, list(layers)]),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"the patterns in its settings take more than {_SECONDS:g} s: {str(patterns)[:80]}") from None
    if done.returncode:
        raise ValueError(f"a pattern in its settings is wrong: {done.stderr.strip().splitlines()[-1][:200]}")


def _unknown_and_on(settings: Mapping[str, Any]) -> list[str]:
    """The settings that PEFT does not know and that are on.

    A setting is off if it is null, false, 0, empty or "none". So is one whose switch is off: a newer PEFT writes the
    group size of a method (`newlora_group_size`) even where the method is not used (`use_newlora` is false).
    """
    from peft import LoraConfig

    known = {field.name for field in fields(LoraConfig)}
    unused = tuple(f"{_method(name)}_" for name, value in settings.items() if _method(name) and not value)
    return sorted(
        name
        for name, value in settings.items()
        if name not in known and value and value != "none" and not name.startswith(unused)
    )


def _method(name: str) -> str:
    """The method that a switch turns on: "newlora" for `use_newlora` and `newlora_config`; empty for other names."""
    if name.startswith("use_"):
        return name.removeprefix("use_")
    return name.removesuffix("_config") if name.endswith("_config") else ""


def _listed(settings: Mapping[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name}: {str(settings[name])[:80]}" for name in names)

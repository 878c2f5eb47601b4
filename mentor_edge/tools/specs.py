"""Reads the specs of `mentor_edge.tools.catalog`, without starting or importing anything."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mentor_edge.errors import did_you_mean
from mentor_edge.tools.calculator import CALCULATOR
from mentor_edge.yaml_text import parse_yaml

ToolSpec = str | Mapping[str, Any]
"""Specifies where tools come from; `mentor_edge.tools.catalog` lists the forms."""


@dataclass(frozen=True, slots=True)
class Source:
    """A spec that was read."""

    kind: str
    target: str = ""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names of the environment variables with the values, by name of the header."""
    only: tuple[str, ...] | None = None
    excluded: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.target:
            return self.kind
        return f"{self.kind}:{without_secrets(self.target) if self.kind == 'mcp' else self.target}"


_PLAIN = ("calculator", "python", *(tool.name for tool in CALCULATOR))
_WITH_TARGET = ("mcp", "search", "import")
_OPTIONS = ("only", "except", "env", "headers")


def separated(specs: Sequence[ToolSpec]) -> list[ToolSpec]:
    """Split specs whose names shared one text. Commands, paths and mappings may contain commas."""
    separated: list[ToolSpec] = []
    for spec in specs:
        if isinstance(spec, str) and "," in spec and not {":", "{"} & set(spec):
            separated += [name for part in spec.split(",") if (name := part.strip())]
        else:
            separated.append(spec)
    return separated


def parsed(spec: ToolSpec) -> Source:
    """Read one spec. Raises: ValueError, whose text shows no values of variables and headers."""
    if isinstance(spec, str) and spec.lstrip().startswith("{"):
        spec = _mapping(spec)
    if isinstance(spec, str):
        kind, _, target = spec.partition(":")
        if kind in _WITH_TARGET and target.strip():
            return Source(kind, target.strip())
        if spec in _PLAIN:
            return Source(spec)
        if kind in _WITH_TARGET:
            raise ValueError(f"{_shown(spec)} needs a target: {kind}:...")
        forms = [f"{name}:..." for name in _WITH_TARGET]
        raise ValueError(f"{_shown(spec)} is not a tool{did_you_mean(spec, [*_PLAIN, *forms])}")
    if not isinstance(spec, Mapping):
        raise ValueError(f"{_shown(spec)} is neither text nor a mapping")
    named = [key for key in spec if key in _WITH_TARGET]
    keys = [*_WITH_TARGET, *_OPTIONS]
    if unknown := [str(key) for key in spec if key not in keys]:
        raise ValueError(f"{_shown(spec)}: unknown key {unknown[0]!r}{did_you_mean(unknown[0], keys)}")
    if len(named) != 1 or (named != ["mcp"] and len(spec) > 1):
        targets, options = ", ".join(_WITH_TARGET), ", ".join(_OPTIONS)
        raise ValueError(f"{_shown(spec)} must have one of the keys {targets} (only mcp may also have {options})")
    target = spec[named[0]]
    if not isinstance(target, str) or not target.strip():
        raise ValueError(f"{_shown(spec)}: {named[0]} must be text, got {target!r}")
    target = target.strip()
    if "only" in spec and "except" in spec:
        raise ValueError(f"{_shown(spec)}: give only or except, not both")
    if "headers" in spec and not is_url(target):
        raise ValueError(f"{_shown(spec)}: headers are for servers with a URL; a command gets env")
    only = _names("only", spec["only"]) if "only" in spec else None
    return Source(
        named[0],
        target,
        _environment(spec.get("env", {})),
        _headers(spec.get("headers", {})),
        only,
        _names("except", spec["except"]) if "except" in spec else (),
    )


def _shown(spec: Any) -> str:
    """A spec for a message, without what may be secret."""
    if not isinstance(spec, Mapping):
        return repr(spec)
    shown = {key: "..." if key in ("env", "headers") else value for key, value in spec.items()}
    if isinstance(target := shown.get("mcp"), str):
        shown["mcp"] = without_secrets(target)
    return repr(shown)


def _mapping(text: str) -> Mapping[str, Any]:
    try:
        spec = parse_yaml(text)
    except ValueError as error:
        problem = getattr(error.__cause__, "problem", None) or error
        raise ValueError(f"the mapping {text.partition(',')[0]}... cannot be read as YAML: {problem}") from None
    if not isinstance(spec, Mapping):
        raise ValueError(f"{text!r} is not a mapping")
    return spec


def _names(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{key} must be a list of tool names, got {value!r}")
    return tuple(value)


def _headers(headers: Any) -> dict[str, str]:
    """Check names and values without keeping a value."""
    if not isinstance(headers, Mapping) or not all(isinstance(text, str) for pair in headers.items() for text in pair):
        raise ValueError("headers must be a mapping of header names to names of environment variables")
    for header, variable in headers.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", header):
            raise ValueError(f"headers: {header!r} is not the name of a header")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):  # not shown: it may be the secret itself
            raise ValueError(f"headers: {header} must name an environment variable that contains the value")
        if variable not in os.environ:
            raise ValueError(f"headers: not set here: {variable}")
        if not re.fullmatch(r"[\x20-\x7e\t]+", os.environ[variable]):
            raise ValueError(f"headers: the value of {variable} is empty or contains what a header cannot")
    return dict(headers)


def _environment(env: Any) -> dict[str, str]:
    if isinstance(env, Mapping) and all(isinstance(key, str) and isinstance(env[key], str) for key in env):
        return dict(env)
    if not isinstance(env, Sequence) or isinstance(env, str) or not all(isinstance(name, str) for name in env):
        raise ValueError(f"env must be a list of names or a mapping of names to text, got {env!r}")
    if missing := [name for name in env if name not in os.environ]:
        raise ValueError(f"env: not set here: {', '.join(missing)}")
    return {name: os.environ[name] for name in env}


def is_url(target: str) -> bool:
    """Whether an MCP server is named by its URL rather than by a command."""
    return target.startswith(("http://", "https://"))


def without_secrets(target: str) -> str:
    """A command as it is, or a URL without the parts that may contain secrets."""
    if not is_url(target):
        return target
    parts = urlsplit(target)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

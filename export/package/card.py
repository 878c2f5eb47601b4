"""README.md of an artifact: a model card in Hugging Face's style. Every figure in it comes from the manifest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from mentor_edge.evaluation.document import Code, Grid, markdown_code, markdown_table, markdown_text
from mentor_edge.json_object import read_bounded
from mentor_edge.manifest import Manifest
from mentor_edge.readable import harmless
from mentor_edge.results import Quantization, QuantizedParity, Survival
from mentor_edge.yaml_text import parse_yaml

_ROLES = {"shipped": "shipped", "refused": "refused by the gate", "control": "control, made to test the gate"}

_LICENSE = re.compile(r"^(license|license_name|license_link):[ \t]+(\S.{0,200})$", re.MULTILINE)


def license_of(directory: Path) -> dict[str, str]:
    """The license entries in the front matter of a model directory's README.md; empty if there are none.

    Only their lines are read as YAML: the whole may be large, and nested so deeply that PyYAML takes minutes.
    """
    try:
        text = read_bounded(directory / "README.md").decode("utf-8")
        front = text.split("---")[1] if text.startswith("---") else ""
        entries = {found[1]: parse_yaml(found[2]) for found in _LICENSE.finditer(front)}
    except (OSError, ValueError, IndexError):
        return {}
    return {key: harmless(value) for key, value in entries.items() if isinstance(value, str)}


def model_card(manifest: Manifest, license: Mapping[str, str]) -> str:
    """The card's text. `license` is `license_of` the base: entries for the front matter."""
    source = manifest.source
    base = source.base or source.model
    front: dict[str, Any] = {**license}
    if "/" in base:
        front["base_model"] = harmless(base)
    front["pipeline_tag"] = "text-generation"
    front["tags"] = [*sorted({entry.format for entry in manifest.entries}), "function-calling", "mentor-edge"]
    sections = [
        ("How the models did", _gate(manifest)),
        ("The files", _files(manifest)),
        ("How they were made", _making(manifest)),
        ("What was tested, and what was not", _limits(manifest)),
        (
            "Verify and run",
            ["```sh", "mentor-edge verify .", "```", "", "[run.md](run.md) has the commands for every program."],
        ),
    ]
    lines = ["---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), "---", ""]
    lines += [f"# {markdown_text(Path(base).name)} for devices, with tools", ""]
    for title, body in sections:
        lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines)


def _gate(manifest: Manifest) -> Iterator[str]:
    suite = manifest.suite
    tasks = sum(split.n for split in manifest.entries[0].gate.splits.values()) if manifest.entries else 0
    yield (
        f"The same {tasks} tasks went through the merged model in torch (the source) and through every exported model "
        f"in its own runtime. Decoding was greedy, tools were really executed, and the answers were compared task by "
        f"task. Suite: {markdown_text(f'{suite.name} {suite.version}')}, SHA-256 {markdown_code(suite.sha256)}. "
        f"A model passes if "
        f"the one-sided 95 % bound of its loss is within {100 * manifest.margin:g} points on every split; the interval "
        f"below is the two-sided 90 % one (Tango)."
    )
    yield ""
    header = (
        "model",
        "split",
        "n",
        "source, %",
        "model, %",
        "difference, points",
        "90 % interval",
        "lost",
        "gained",
        "verdict",
    )
    rows = []
    for entry in manifest.entries:
        for name, split in entry.gate.splits.items():
            rows.append(
                [
                    entry.path,
                    name,
                    split.n,
                    f"{100 * split.correct.source / split.n:.1f}",
                    f"{100 * split.correct.exported / split.n:.1f}",
                    f"{100 * split.delta:+.2f}",
                    f"[{100 * split.low:+.2f}, {100 * split.high:+.2f}]",
                    split.lost,
                    split.gained,
                    split.verdict,
                ]
            )
    yield from _table(header, rows)


def _files(manifest: Manifest) -> Iterator[str]:
    header = (
        "model",
        "MB",
        "verdict",
        "what it is",
        "malformed turns (source)",
        "mean KL, nats",
        "same top-1, %",
        "survival",
        "SHA-256",
    )
    rows = []
    for entry in manifest.entries:
        malformed, parity = entry.gate.malformed, entry.parity
        rows.append(
            [
                entry.path,
                f"{entry.bytes / 1e6:.1f}",
                entry.verdict,
                _ROLES[entry.role],
                f"{malformed.exported} ({malformed.source})",
                _figure(parity.kl_mean if isinstance(parity, QuantizedParity) else None, ".2g"),
                _figure(parity.top1_agreement, ".1f", 100),
                _survival(entry.survival),
                Code(markdown_code(manifest.content_digest(entry))),
            ]
        )
    yield from _table(header, rows)
    yield ""
    yield (
        "KL and top-1 compare the next-token distributions with the source's, over the positions named in the "
        "manifest. Survival is the share of the fine-tune's change of the weights that quantization left, on average; "
        "noise is what rounding added, as a multiple of that change."
    )
    yield ""
    for entry in manifest.entries:
        yield f"- {markdown_code(entry.path)}, as written: {_written(entry.quantization)}"


def _written(quantization: Quantization) -> str:
    """The types of a model's weights in one line. A graph's operators are left out; the manifest lists them."""
    values = quantization.model_dump(exclude={"format": True, "weights": {"operators"}}, exclude_none=True)
    if quantization.format == "gguf" and quantization.note is not None:
        values["note"] = quantization.note
    return _flat({key: value for key, value in values.items() if value not in ({}, ())})


def _making(manifest: Manifest) -> Iterator[str]:
    source = manifest.source
    yield f"- Model: {markdown_code(source.model)}. The manifest lists the SHA-256 of its files."
    if source.base is not None:
        yield f"- Base: {markdown_code(source.base)}."
    if source.dequantized is not None:
        kinds = ", ".join(source.dequantized.kinds)
        yield (
            f"- The base's weights are those of {markdown_code(source.dequantized.file)} "
            f"(GGUF: {markdown_text(kinds)}; SHA-256 {markdown_code(source.dequantized.sha256)}), dequantized."
        )
    if source.adapter is not None:
        yield f"- Adapter: {markdown_code(source.adapter)}."
    if source.choice is not None:
        yield f"- Choice of the base, by tasks solved: {_flat(source.choice)}."
    if source.merge is not None:
        yield f"- Merge: {_flat(source.merge)}."
    elif source.merged_onto is not None:
        yield f"- Merged onto: {source.merged_onto}."
    yield f"- Chat template: SHA-256 `{manifest.template_sha256}`, stored byte for byte in every model."
    for entry in manifest.entries:
        if entry.calibration is not None:
            yield f"- Calibration of {markdown_code(entry.path)}: {_flat(entry.calibration)}."
    for format, parity in manifest.parity.items():
        yield f"- Unquantized {format} compared with the model: {_flat(parity)}."
    yield f"- Versions: {_flat(manifest.versions)}."


def _limits(manifest: Manifest) -> Iterator[str]:
    runtimes = dict.fromkeys(_flat(entry.runtime) for entry in manifest.entries)
    yield f"- The verdicts are valid for these tasks in these runtimes: {'; '.join(runtimes)}."
    yield "- They compare with the source: a model that passed still makes the source's mistakes."
    yield (
        "- Not tested: other tasks and languages, sampling, other runtimes, other templates and tool-call parsers "
        "(llama-server with tools and Ollama have their own), safety and bias."
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    cells = [[cell if isinstance(cell, str) else str(cell) for cell in row] for row in rows]
    yield from markdown_table(Grid(header, cells))


def _figure(value: Any, form: str, factor: float = 1) -> str:
    return "-" if value is None else format(factor * value, form)


def _survival(survival: Survival | None) -> str:
    if survival is None or survival.noise is None:
        return _figure(None if survival is None else survival.projection, ".2f")
    return f"{survival.projection:.2f} (noise {survival.noise:.2g})"


def _flat(values: Any) -> str:
    """Nested figures in one line: `a 1, b (c 2, d 3)`. Figures of a result that are None are left out."""
    return markdown_text(_listed(values))


def _listed(values: Any) -> str:
    if isinstance(values, BaseModel):
        values = values.model_dump(exclude_none=True, exclude={"kind"})
    if isinstance(values, Mapping):
        flat = {key: _listed(value) for key, value in values.items()}
        return ", ".join(f"{key} ({text})" if ", " in text else f"{key} {text}" for key, text in flat.items()) or "none"
    if isinstance(values, list | tuple):
        return ", ".join(map(_listed, values)) or "none"
    return f"{values:.4g}" if isinstance(values, float) else str(values)

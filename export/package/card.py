"""README.md of an artifact: a model card in Hugging Face's style. Every figure in it stands in the manifest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mentor_edge.manifest import Manifest

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_LICENSE_KEYS = ("license", "license_name", "license_link")
_ROLES = {"shipped": "shipped", "refused": "refused by the gate", "control": "control, made to test the gate"}


def license_of(directory: Path) -> dict[str, str]:
    """What the front matter of a model directory's README.md says about its license; nothing where there is none."""
    try:
        text = (directory / "README.md").read_text(encoding="utf-8")
        found = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (OSError, UnicodeDecodeError, IndexError, yaml.YAMLError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: found[key] for key in _LICENSE_KEYS if isinstance(found.get(key), str)}


def model_card(manifest: Manifest, license: Mapping[str, str]) -> str:
    """The card's text. `license` are entries of its front matter, as `license_of` finds them in the base's card."""
    source = manifest.source
    base = source.base or source.model
    front: dict[str, Any] = {**license}
    if _HUB_ID.fullmatch(base) and not Path(base).exists():  # not a directory of the machine that made it
        front["base_model"] = base
    front["pipeline_tag"] = "text-generation"
    front["tags"] = [*sorted({entry.format for entry in manifest.entries}), "function-calling", "mentor-edge"]
    sections = [
        ("How the models did", _gate(manifest)),
        ("The files", _files(manifest)),
        ("How they were made", _making(manifest)),
        ("What was tested, and what was not", _limits(manifest)),
        (
            "Verify and run",
            ["```sh", "mentor-edge verify .", "```", "", "[run.md](run.md) has the lines for every program."],
        ),
    ]
    lines = ["---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), "---", ""]
    lines += [f"# {Path(base).name} for devices, with tools", ""]
    for title, body in sections:
        lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines)


def _gate(manifest: Manifest) -> Iterator[str]:
    suite = manifest.suite
    yield (
        f"The same {sum(split['n'] for split in _first_splits(manifest))} tasks went through the merged model in torch "
        f"(the reference) and through every exported model in its own runtime, decoded greedily, with tools really "
        f"executed, and were compared one by one. Suite: {_plain(suite['name'])} {_plain(suite['version'])}, "
        f"SHA-256 {_code(suite['sha256'])}. A model passes when the one-sided 95 % bound of its loss lies within "
        f"{100 * manifest.margin:g} points on every split; the interval below is the two-sided 90 % one (Tango)."
    )
    yield ""
    header = (
        "model",
        "split",
        "n",
        "reference, %",
        "model, %",
        "difference, points",
        "90 % interval",
        "lost",
        "gained",
        "verdict",
    )
    rows = []
    for entry in manifest.entries:
        for name, split in entry.gate["splits"].items():
            accuracy = [f"{100 * split['correct'][side] / split['n']:.1f}" for side in ("reference", "artifact")]
            rows.append(
                [
                    entry.path,
                    name,
                    split["n"],
                    *accuracy,
                    f"{100 * split['delta']:+.2f}",
                    f"[{100 * split['low']:+.2f}, {100 * split['high']:+.2f}]",
                    split["lost"],
                    split["gained"],
                    split["verdict"],
                ]
            )
    yield from _table(header, rows)


def _first_splits(manifest: Manifest) -> list[Any]:
    return list(manifest.entries[0].gate["splits"].values()) if manifest.entries else []


def _files(manifest: Manifest) -> Iterator[str]:
    header = (
        "model",
        "MB",
        "verdict",
        "what it is",
        "malformed turns (reference)",
        "mean KL, nats",
        "same top-1, %",
        "delta kept",
        "SHA-256",
    )
    rows = []
    for entry in manifest.entries:
        malformed = entry.gate["malformed"]
        rows.append(
            [
                entry.path,
                f"{entry.bytes / 1e6:.1f}",
                entry.verdict,
                _ROLES[entry.role],
                f"{malformed['artifact']} ({malformed['reference']})",
                _figure(entry.parity.get("kl_mean"), ".2g"),
                _figure(entry.parity.get("top1_agreement"), ".1f", 100),
                _figure((entry.delta or {}).get("projection"), ".2f"),
                f"`{manifest.content_digest(entry)}`",
            ]
        )
    yield from _table(header, rows)
    yield ""
    yield (
        "KL and top-1 compare the next-token distributions with the reference's, over the positions named in the "
        'manifest. "Delta kept" is how much of the fine-tune\'s change is left in the quantized weights, 1 being all.'
    )
    yield ""
    for entry in manifest.entries:
        yield f"- {_code(entry.path)}, as written: {_flat(_without_details(entry.quantization))}"


def _without_details(written: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is empty and without the graph's operators, which stand in the manifest."""
    kept = {key: _without_details(value) if isinstance(value, Mapping) else value for key, value in written.items()}
    return {key: value for key, value in kept.items() if key != "operators" and value not in (None, {}, [], ())}


def _making(manifest: Manifest) -> Iterator[str]:
    source = manifest.source
    yield f"- Model: {_code(_shown(source.model))}. The manifest has the SHA-256 of its files."
    if source.base is not None:
        yield f"- Base: {_code(_shown(source.base))}."
    if source.adapter is not None:
        yield f"- Adapter: {_code(_shown(source.adapter))}."
    if source.merge:
        yield f"- Merge: {_flat(source.merge)}."
    yield f"- Chat template: SHA-256 `{manifest.template_sha256}`, stored in every file byte for byte."
    for entry in manifest.entries:
        if entry.calibration is not None:
            yield f"- Calibration of {_code(entry.path)}: {_flat(entry.calibration)}."
    for format, parity in manifest.parity.items():
        yield f"- Unquantized {format} against the model, before anything else: {_flat(parity)}."
    yield f"- Versions: {_flat(manifest.versions)}."


def _limits(manifest: Manifest) -> Iterator[str]:
    runtimes = dict.fromkeys(_flat(entry.gate["runtime"]) for entry in manifest.entries)
    yield f"- The verdicts hold for these tasks in these runtimes: {'; '.join(runtimes)}."
    yield "- They compare with the reference: a model that passed makes the mistakes that the reference makes."
    yield (
        "- Not tested: other tasks and languages, sampling, other runtimes, other templates and tool-call parsers "
        "(llama-server with tools and Ollama have their own), safety and bias."
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(_plain(cell).replace("|", r"\|") for cell in row) + " |"


def _figure(value: Any, form: str, factor: float = 1) -> str:
    return "-" if value is None else format(factor * value, form)


def _flat(values: Any) -> str:
    """Nested figures in one line: `a 1, b (c 2, d 3)`."""
    if isinstance(values, Mapping):
        flat = {key: _flat(value) for key, value in values.items()}
        parts = (f"{key} ({text})" if ", " in text else f"{key} {text}" for key, text in flat.items())
        return ", ".join(map(_plain, parts)) or "none"
    if isinstance(values, list | tuple):
        return ", ".join(map(_flat, values)) or "none"
    return _plain(f"{values:.4g}" if isinstance(values, float) else values)


def _shown(place: str) -> str:
    """A hub id as it is; of a path only its end, since the rest belongs to the machine that made it."""
    return place if _HUB_ID.fullmatch(place) else Path(place).name


def _code(text: object) -> str:
    return f"`{_plain(text)}`"


def _plain(value: object) -> str:
    """One line, whatever a name holds."""
    return " ".join(str(value).split())

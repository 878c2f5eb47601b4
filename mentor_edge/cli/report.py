"""Results for people: tables on the screen, report.md with pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from mentor_edge.cli.screen import console
from mentor_edge.files import atomic_file

if TYPE_CHECKING:
    from mentor_edge.export import Artifact
    from mentor_edge.manifest import ManifestEntry

_STYLE = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def _percent(counts: Mapping[str, int]) -> str:
    return f"{100 * counts['correct'] / counts['n']:.1f}" if counts["n"] else "-"


def _points(low_high: Sequence[float]) -> str:
    return f"[{100 * low_high[0]:+.2f}, {100 * low_high[1]:+.2f}]"


def _accuracy_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    accuracy = summary["accuracy"]
    domains = ["id", *accuracy["base"]["ood"]]
    rows = []
    for domain in domains:
        cells = [accuracy[name]["id"] if domain == "id" else accuracy[name]["ood"][domain] for name in accuracy]
        rows.append([domain, str(cells[0]["n"]), *map(_percent, cells)])
    return rows


def _lift_line(summary: Mapping[str, Any], name: str) -> str:
    lift = summary["lift"][name]
    return (
        f"{name} - base on {'+'.join(lift['splits'])}: {100 * lift['delta']:+.2f} points, "
        f"95 % interval {_points(lift['ci'])}, n {lift['n']}"
    )


def _artifact_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """One row per file and split; the file's verdict is the worst of its splits."""
    rows = []
    for file in summary["artifacts"]:
        name = ("" if file["format"] == "gguf" else "onnx ") + file["quant"] + (" (control)" if file["control"] else "")
        for split, result in file["splits"].items():
            flips = result["lost"] + result["gained"]
            interval = _points((result["low"], result["high"]))
            figures = [str(result["n"]), f"{100 * result['delta']:+.2f}", interval, str(flips), result["verdict"]]
            rows.append([name, f"{file['bytes'] / 1e6:.2f}", file["verdict"], split, *figures])
            name = ""
    return rows


_ARTIFACT_HEADER = ("file", "MB", "gate", "split", "n", "points", "90 % interval", "flips", "split's verdict")


def print_summary(summary: Mapping[str, Any], out: Path) -> None:
    """The quickstart's tables."""
    accuracy = Table("split", "n", *summary["accuracy"], title="accuracy, % (greedy, torch)", title_justify="left")
    for row in _accuracy_rows(summary):
        accuracy.add_row(*row)
    console.print(accuracy)
    for name in summary["lift"]:
        console.print(_lift_line(summary, name), markup=False)
    console.print(summary["overlap"], markup=False)
    title = "gate: merged torch model against the file in llama.cpp"
    gate = Table(*_ARTIFACT_HEADER, title=title, title_justify="left")
    for row in _artifact_rows(summary):
        gate.add_row(*(escape(cell) for cell in row), style=_STYLE[row[2]])
    console.print(gate)
    conversation = summary["conversation"]
    console.print(f"\n[bold]{conversation['file']}[/bold] answers (expected: {conversation['expected']})")
    print_conversation(conversation["question"], conversation["messages"])
    stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in summary["seconds"].items())
    console.print(f"\nseconds: {stages}\nwritten: {out / 'report.md'}, {out / 'summary.json'}", markup=False)


def _spoken(message: Mapping[str, Any]) -> str:
    calls = [call["function"] for call in message.get("tool_calls", ())]
    parts = [f"{c['name']}({', '.join(f'{k}={v!r}' for k, v in c['arguments'].items())})" for c in calls]
    return " ".join(part for part in (message["content"], *parts) if part)


def print_conversation(question: str, messages: Sequence[Mapping[str, Any]]) -> None:
    """A conversation, one line per message."""
    for role, text in [("user", question), *((message["role"], _spoken(message)) for message in messages)]:
        console.print(f"  [dim]{role:>9}[/dim]  {escape(text)}")


def print_gate(artifact: Artifact) -> None:
    """The gate's table for an exported artifact, and what stands behind it."""
    manifest = artifact.manifest
    table = Table(*_ARTIFACT_HEADER, title=f"gate on {manifest.suite['name']}", title_justify="left")
    for row in _artifact_rows({"artifacts": artifact.summary()}):
        table.add_row(*(escape(cell) for cell in row), style=_STYLE[row[2]])
    console.print(table)
    if "difference" in manifest.source.merge:
        solved = ", ".join(f"{base} {correct}" for base, correct in manifest.source.merge["correct"].items())
        merge = manifest.source.merge
        console.print(f"merged onto the {merge['base']} base (right of {merge['n']} tasks: {solved})", markup=False)
    for format, found in manifest.parity.items():
        console.print(
            f"{format}: converted without a difference above {found['max_difference']:.1e} in {found['positions']} "
            f"positions; template and {found['text']['token_cases']} token cases equal",
            markup=False,
        )
    for entry in manifest.entries:
        console.print(f"{entry.format} {entry.quant}: {'; '.join(_facts(entry))}", markup=False, soft_wrap=True)
    console.print(f"written: {artifact.directory} (run.md says how to run it)", markup=False)


def _facts(entry: ManifestEntry) -> Iterator[str]:
    """What the manifest says of a model, for people."""
    yield entry.gate["explanation"]
    malformed = entry.gate["malformed"]
    yield f"malformed {malformed['artifact']} (reference {malformed['reference']})"
    if "kl_mean" in entry.parity:
        yield f"divergence {entry.parity['kl_mean']:.2g} nats, same top-1 {entry.parity['top1_agreement']:.1%}"
    if entry.delta is not None and entry.delta["projection"] is not None:
        alignment = entry.delta["alignment"]
        noise = "" if alignment is None else f" (cosine with it {alignment:.2f}: the rest is rounding)"
        yield f"{entry.delta['projection']:.0%} of the fine-tune left{noise}"
    if "types" in entry.quantization:
        yield "tensors " + ", ".join(f"{count} {kind}" for kind, count in entry.quantization["types"].items())
        if note := entry.quantization.get("note"):
            yield note


def write_report(out: Path, summary: Mapping[str, Any]) -> None:
    """Write report.md and its two pictures beside it.

    Raises: OutputError.
    """
    _draw_training(out / "training.png", summary["training"]["mentor"])
    _draw_gate(out / "gate.png", summary["artifacts"])
    conversation = summary["conversation"]
    lines = [
        "# Quickstart report",
        "",
        f"Student: nano, {summary['student']['parameters']:,} parameters, seed {summary['seed']}. "
        f"Teacher: programmatic, noise {summary['traces']['noise']}, {summary['traces']['n']} traces, "
        f"{summary['traces']['calls_per_trace']} calls each. Suite: {summary['suite']['name']} "
        f"{summary['suite']['version']}, sha256 {summary['suite']['sha256']}.",
        "",
        "## Accuracy, % (greedy, merged model in torch)",
        "",
        *markdown_table(["split", "n", *summary["accuracy"]], _accuracy_rows(summary)),
        "",
        *(f"- {_lift_line(summary, name)}" for name in summary["lift"]),
        f"- {summary['overlap']}",
        "",
        "![reward and accuracy of the MENTOR rollouts](training.png)",
        "",
        "## Gate",
        "",
        "Merged torch model against the file in llama.cpp, item by item; a file's verdict is the worst of its splits. "
        "Controls show what the gate can see and are never shipped.",
        "",
        *markdown_table(_ARTIFACT_HEADER, _artifact_rows(summary)),
        "",
        "![gate intervals](gate.png)",
        "",
        f"## One conversation with {conversation['file']}",
        "",
        f"Tools offered: {', '.join(conversation['tools'])}. Expected answer: {conversation['expected']}.",
        "",
        "```",
        f"user: {conversation['question']}",
        *(f"{message['role']}: {_spoken(message)}" for message in conversation["messages"]),
        "```",
        "",
        "## Seconds",
        "",
        *markdown_table(["stage", "s"], [[k, f"{v:.1f}"] for k, v in summary["seconds"].items()]),
        "",
    ]
    with atomic_file(out / "report.md") as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def new_figure(height: float = 3) -> Any:
    """An empty picture of 7 by `height` inches."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    return Figure(figsize=(7, height), layout="constrained")


def _draw_training(path: Path, log: Sequence[Mapping[str, float]]) -> None:
    figure = new_figure()
    axes = figure.subplots()
    steps = [row["step"] for row in log]
    axes.plot(steps, [row["reward"] for row in log], label="reward (maximum 1.1)")
    axes.plot(steps, [row["accuracy"] for row in log], label="accuracy of sampled rollouts")
    axes.set(xlabel="step", ylim=(0, 1.15))
    axes.legend(loc="lower right", frameon=False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_gate(path: Path, artifacts: Sequence[Mapping[str, Any]]) -> None:
    from mentor_edge.export.gate import MARGIN

    figure = new_figure()
    axes = figure.subplots()
    colours = {"pass": "tab:green", "fail": "tab:red", "inconclusive": "tab:orange"}
    rows = [(f"{file['quant']} {split}", result) for file in artifacts for split, result in file["splits"].items()]
    for row, (_, result) in enumerate(rows):
        colour = colours[result["verdict"]]
        axes.plot([100 * result["low"], 100 * result["high"]], [row, row], color=colour, linewidth=3)
        axes.plot(100 * result["delta"], row, "o", color=colour)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.axvline(-100 * MARGIN, color="grey", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set(xlabel="accuracy, points against the merged model (90 % interval; dashed: margin)")
    axes.invert_yaxis()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)

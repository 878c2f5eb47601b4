"""The child process that runs onnxruntime-genai's model builder: `python -P -m mentor_edge.export.onnx.builder_worker`.

The parent is `mentor_edge.export.onnx.genai_exporter`; the protocol is in `mentor_edge.engines.process.serving`.

Relied on upstream (onnxruntime-genai 0.18, models/builder.py): `create_model` makes the graph, then calls
`Model.save_model(out_dir)`, which quantizes it and writes it. tests/contracts/test_genai_builder.py checks this.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from mentor_edge.engines.process.limits import limit_process
from mentor_edge.engines.process.serving import Refused, serve

from . import builder_patches

_CACHE = ".cache"


class BuildServer:
    """Builds one model at a time. Every public method is an operation of the protocol."""

    def __init__(self, alive: Callable[[], None] = lambda: None) -> None:
        # The builder prints a line per layer, the quantizer one per matrix: each is a sign of life. The parent keeps
        # the output and shows its end when something fails.
        for name in ("stdout", "stderr"):
            setattr(sys, name, _ReportingStream(getattr(sys, name), alive))

    def convert(self, source: str, target: str, precision: str, options: Mapping[str, str], size: int) -> None:
        """Make the graph, and write all other files. `size` is the size of the weights in float32, in bytes."""
        builder = self._builder
        limit_process(size)
        self._models: list[Any] = []
        positional = (source, target, precision, "cpu", str(Path(target) / _CACHE))
        extra = builder.parse_extra_options("", *positional, [f"{name}={value}" for name, value in options.items()])
        builder.create_model("", *positional, **extra)

    @cached_property
    def _builder(self) -> Any:
        """The patched library, which keeps the graph for `write` instead of writing it."""
        builder = load_builder()
        builder_patches.apply(builder)
        self._save = builder.Model.save_model
        builder.Model.save_model = lambda model, out_dir: self._models.append(model)
        return builder

    def write(self, target: str) -> None:
        """Quantize the graph if the precision asks for it, and write it."""
        import torch

        with torch.no_grad():  # as in create_model: weights become arrays only now
            self._save(self._models.pop(), target)
        shutil.rmtree(Path(target) / _CACHE, ignore_errors=True)


class _ReportingStream:
    """A text stream that reports every write as a sign of life."""

    def __init__(self, stream: TextIO, alive: Callable[[], None]) -> None:
        self._stream = stream
        self._alive = alive

    def write(self, text: str) -> int:
        self._alive()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def load_builder() -> Any:
    """The builder's module. Raises: Refused when it or what it needs is not installed."""
    package = find_spec("onnxruntime_genai")
    if package is None or package.origin is None:
        raise Refused("onnxruntime-genai is not installed", "pip install 'mentor-edge[onnx]'")
    sys.path.insert(0, str(Path(package.origin).parent / "models"))  # its modules import each other by bare names
    try:
        from onnxruntime_genai.models import builder
    except ImportError as error:
        raise Refused(f"it cannot be imported ({error})", "pip install 'mentor-edge[onnx]'") from error
    finally:
        sys.path.pop(0)
    return builder


OPERATIONS = ("convert", "write")


def main() -> None:
    serve(BuildServer, OPERATIONS)


if __name__ == "__main__":
    main()

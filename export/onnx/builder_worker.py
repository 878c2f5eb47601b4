"""The child process that runs onnxruntime-genai's model builder: `python -P -m mentor_edge.export.onnx.builder_worker`.

The parent is `mentor_edge.export.onnx.build`; see `mentor_edge.engines.process.serving`.

Relied on upstream (onnxruntime-genai 0.18): the names patched in `patch`, and that `create_model` makes the graph,
then calls `Model.save_model(out_dir)`, which quantizes it and writes it. tests/test_onnx_build.py holds every fault
patched here as it is in the library, so that an upgrade which mends or moves one is noticed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from mentor_edge.engines.process.serving import Refused, limit_process, serve

_CACHE = ".cache"


class BuildServer:
    """One model at a time on its way to ONNX. Every public method is an operation of the protocol."""

    def __init__(self, alive: Callable[[], None] = lambda: None) -> None:
        # The builder prints a line per layer, the quantizer one per matrix: they are its signs of life. What is
        # printed is kept, and its end shown, by the parent.
        for name in ("stdout", "stderr"):
            setattr(sys, name, _Heard(getattr(sys, name), alive))

    def convert(self, source: str, target: str, precision: str, options: Mapping[str, str], size: int) -> None:
        """Make the graph, and write everything but it. `size` is the weights' in float32, in bytes."""
        builder = self._builder
        limit_process(size)
        self._made: list[Any] = []
        where = (source, target, precision, "cpu", str(Path(target) / _CACHE))
        extra = builder.parse_extra_options("", *where, [f"{name}={value}" for name, value in options.items()])
        builder.create_model("", *where, **extra)

    @cached_property
    def _builder(self) -> Any:
        """The library, mended, with the graph kept for `write` instead of written."""
        builder = load_builder()
        patch(builder)
        self._save = builder.Model.save_model
        builder.Model.save_model = lambda model, out_dir: self._made.append(model)
        return builder

    def write(self, target: str) -> None:
        """Quantize the graph, where that was asked for, and write it."""
        import torch

        with torch.no_grad():  # as in create_model: weights become arrays only now
            self._save(self._made.pop(), target)
        shutil.rmtree(Path(target) / _CACHE, ignore_errors=True)


class _Heard:
    """A text stream whose every use is a sign of life."""

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


def patch(builder: Any) -> None:
    """Mend what the builder of onnxruntime-genai 0.18 gets wrong."""

    def has_lm_head(model: Any, module: Any) -> bool:
        # It takes the first linear layer with as many outputs as the vocabulary has tokens.
        return module is model.weights.lm_head

    shared_names = builder.Model.make_tied_quantized_embedding_input_names

    def default_shared_names(model: Any) -> tuple[int, str, str, str]:
        # A table that head and embedding share is looked up under another name than the default quantizer gives it,
        # but for four symmetric bits.
        if model.quantization_algo != "default":
            return shared_names(model)
        quant_type = model.matmul_mixed_precision.get("last_matmul", f"int{model.quant_attrs['bits']}")
        bits, weight = int(quant_type.removeprefix("int")), "lm_head.MatMul.weight"
        zero_points = "" if model.quant_attrs["is_symmetric"] else f"{weight}_zero_points"
        return bits, f"{weight}_Q{bits}", f"{weight}_scales", zero_points

    class SmolLM3Model(builder.SmolLM3Model):
        def make_attention(self, layer_id: int, attention: Any, root_input: str, **kwargs: Any) -> None:
            # It turns to a separate rotary embedding in layers that have none.
            self.attention_attrs["rope"] = bool(self.no_rope_layers[layer_id])
            super().make_attention(layer_id, attention, root_input, **kwargs)

    class Gemma3Model(builder.Gemma3Model):
        def __init__(self, config: Any, *arguments: Any) -> None:
            # It expects the configuration of transformers 4.
            rope = config.rope_parameters
            config.rope_local_base_freq = rope["sliding_attention"]["rope_theta"]
            config.rope_parameters = dict(rope["full_attention"])
            super().__init__(config, *arguments)
            self.embed_attrs["scale"] = self.hidden_size**0.5  # it rounds to two decimals

        def make_rotary_embedding_caches_from_scratch(self) -> Any:
            # Full attention comes first. It scales the positions of the sliding layers, too.
            if hasattr(self, "cos_cache_local_name"):
                self.rope_attrs["rescale_factors"] = 1
            return super().make_rotary_embedding_caches_from_scratch()

    builder.Model.has_lm_head = has_lm_head
    builder.Model.make_tied_quantized_embedding_input_names = default_shared_names
    builder.SmolLM3Model = SmolLM3Model
    builder.Gemma3Model = Gemma3Model


OPERATIONS = ("convert", "write")


def main() -> None:
    serve(BuildServer, OPERATIONS)


if __name__ == "__main__":
    main()

"""The child process of the exporters "transformers" and "optimum": `python -m mentor_edge.export.onnx.capture_worker`.

It captures a graph, quantizes it if the precision asks for it, and writes it. The parent is
`mentor_edge.export.onnx.transformers_exporter`.

Relied on upstream (transformers 5.23, `transformers/exporters/`): a call with two new tokens after a cache of three,
captured with dynamic lengths, makes a graph that is right for an empty cache, for one token and for many. At batch 1
its attention is fused to ONNX Runtime's `GroupQueryAttention`, and it has no attention mask as input.
tests/contracts/test_transformers_exporters.py checks this.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mentor_edge.engines.onnx.genai_config import CONFIG
from mentor_edge.engines.process.limits import limit_process
from mentor_edge.engines.process.serving import Refused, serve
from mentor_edge.files import write_json

GRAPH, WEIGHTS = "model.onnx", "model.onnx.data"
Names = dict[str, dict[str, str]]
TRANSFORMERS_NAMES: Names = {
    "inputs": {
        "input_ids": "input_ids",
        "position_ids": "position_ids",
        "past_key_names": "input.past_key_values.layers.%d.keys",
        "past_value_names": "input.past_key_values.layers.%d.values",
    },
    "outputs": {
        "logits": "logits",
        "present_key_names": "output.past_key_values.layers.%d.keys",
        "present_value_names": "output.past_key_values.layers.%d.values",
    },
}
OPTIMUM_NAMES: Names = {
    "inputs": {
        "input_ids": "input_ids",
        "attention_mask": "attention_mask",
        "position_ids": "position_ids",
        "past_key_names": "past_key_values.%d.key",
        "past_value_names": "past_key_values.%d.value",
    },
    "outputs": {
        "logits": "logits",
        "present_key_names": "present.%d.key",
        "present_value_names": "present.%d.value",
    },
}


class CaptureServer:
    """Exports one model. Every public method is an operation of the protocol, called in this order."""

    def __init__(self, alive: Callable[[], None] = lambda: None) -> None:
        pass

    def capture(self, exporter: str, source: str, scratch: str) -> None:
        """Capture the graph of a Hugging Face directory as float32, by "transformers" or "optimum".

        `scratch` is a directory that does not exist. Until `write` it may contain the captured weights.
        """
        # Weights of 16 bits become twice as large.
        limit_process(2 * sum(file.stat().st_size for file in Path(source).glob("*.safetensors")))
        self._source, self._scratch = Path(source), Path(scratch)
        capture, self._names = {
            "transformers": (self._capture_with_transformers, TRANSFORMERS_NAMES),
            "optimum": (self._capture_with_optimum, OPTIMUM_NAMES),
        }[exporter]
        try:
            from transformers import AutoConfig

            self._config: Any = AutoConfig.from_pretrained(source, trust_remote_code=False)
            self._model: Any = capture()
        except ImportError as error:
            raise Refused(str(error), "pip install 'mentor-edge[onnx]'") from error

    def _capture_with_transformers(self) -> Any:
        import torch
        from transformers import AutoModelForCausalLM, DynamicCache
        from transformers.exporters import OnnxConfig, OnnxExporter

        exporter = OnnxExporter()
        model, loaded = AutoModelForCausalLM.from_pretrained(
            self._source, trust_remote_code=False, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        if missing := sorted(loaded["missing_keys"]):
            # transformers fills them with random values.
            raise Refused(f"the weights lack {missing[0]}", "give a directory with all weights")
        ids = torch.arange(5)[None]
        with torch.no_grad():
            # A cache without a configuration keeps every position, also in layers with a sliding window.
            cache = model(ids[:, :3], past_key_values=DynamicCache()).past_key_values
        if cache is None:
            raise Refused(f"{type(model).__name__} has no cache of keys and values", "give a decoder-only model")
        inputs = {"input_ids": ids[:, 3:], "position_ids": ids[:, 3:], "past_key_values": cache}
        length = torch.export.Dim.DYNAMIC
        # Only the axes that vary are named: otherwise the exporter would try every axis, which takes longer.
        shapes: dict[str, Any] = {"input_ids": {1: length}, "position_ids": {1: length}}
        shapes["past_key_values"] = [{2: length}] * (2 * len(cache.layers))
        config = OnnxConfig(dynamic=True, dynamic_shapes=shapes, ort_fusions="cpu")
        return exporter.export_program(model, inputs, config)[0]

    def _capture_with_optimum(self) -> Any:
        import onnx_ir
        from optimum.exporters.onnx import main_export

        readable = for_transformers_4(self._source, self._scratch / "source")
        # Its post-processing would hide a tied head behind a transposition.
        main_export(
            str(readable),
            self._scratch,
            task="text-generation-with-past",
            dtype="fp32",
            trust_remote_code=False,
            do_validation=False,
            no_post_process=True,
        )
        return onnx_ir.load(self._scratch / GRAPH)

    def quantize(self, bits: int) -> None:
        """Quantize the captured graph's weights; see `quantize_weights`."""
        from .quantize_weights import quantize_weights

        quantize_weights(self._model, bits)

    def write(self, target: str) -> None:
        """Write graph, weights and genai_config.json to the directory `target`, and remove `scratch`."""
        import onnx_ir

        onnx_ir.save(self._model, Path(target) / GRAPH, external_data=WEIGHTS)
        shutil.rmtree(self._scratch, ignore_errors=True)
        write_json(Path(target) / CONFIG, self._genai_config())

    def _genai_config(self) -> dict[str, Any]:
        config, inputs, outputs = self._config, self._names["inputs"], self._names["outputs"]
        shapes = {value.name: value.shape for value in (*self._model.graph.inputs, *self._model.graph.outputs)}
        _, kv_heads, _, head_size = shapes[inputs["past_key_names"] % 0]  # [batch, heads, positions, head size]
        return {
            "model": {
                "type": config.model_type,
                "context_length": config.max_position_embeddings,
                "vocab_size": shapes[outputs["logits"]][2],
                "eos_token_id": [],  # `export_onnx` fills it in
                "decoder": {
                    "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                    "filename": GRAPH,
                    "head_size": head_size,
                    "hidden_size": config.hidden_size,
                    "num_attention_heads": config.num_attention_heads,
                    "num_hidden_layers": config.num_hidden_layers,
                    "num_key_value_heads": kv_heads,
                    **self._names,
                },
            },
            # The caches grow with every call, so the runtime cannot write into them in place.
            "search": {"max_length": config.max_position_embeddings, "past_present_share_buffer": False},
        }


def for_transformers_4(source: Path, target: Path) -> Path:
    """A directory of links to `source`, with a config.json whose rotary settings transformers 4 can read.

    transformers 4 would silently ignore the settings of transformers 5 and use its defaults.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if (rope := config.pop("rope_parameters", None)) is None:
        return source
    if "sliding_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    target.mkdir(parents=True)
    for file in source.iterdir():
        (target / file.name).symlink_to(file.resolve())
    (target / "config.json").unlink()
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


OPERATIONS = ("capture", "quantize", "write")


def main() -> None:
    serve(CaptureServer, OPERATIONS)


if __name__ == "__main__":
    main()

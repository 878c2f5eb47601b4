"""Checks whether onnxruntime-genai works here: makes a tiny model and decodes it in a child process."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from mentor_edge.engines.base import Generation
from mentor_edge.engines.onnx.engine import start_worker
from mentor_edge.errors import EngineError

_VOCABULARY = 8


def onnx_problem(timeout: float = 60.0) -> str | None:
    """Why onnxruntime-genai cannot decode a model that repeats its last token, or None if it can.

    Needs onnx_ir. `timeout` is in seconds, per request.
    """
    with tempfile.TemporaryDirectory() as directory:
        write_tiny_model(Path(directory))
        try:
            with start_worker(timeout) as worker:
                worker.request("load", "loading a tiny model", path=directory, context_length=16, end_ids=[0])
                worker.request("open", "opening a tiny model", size=1)
                doing = "decoding with a tiny model"
                worker.request("begin", doing, rows=[0], token_ids=[[1, 2, 3]], max_new_tokens=2)
                (reply,) = worker.request("advance", doing)["generations"]
        except EngineError as error:
            return error.problem
    turn = Generation(**reply)
    return None if turn.token_ids == [3, 3] else f"a tiny model produced the tokens {turn.token_ids} instead of [3, 3]"


def write_tiny_model(directory: Path) -> None:
    """Write a model of one layer whose keys and values are the token ids and whose logits favour the token itself."""
    import onnx_ir as ir  # loaded only here: it takes half a second

    cache = [f"{part}.0.{kind}" for part in ("past_key_values", "present") for kind in ("key", "value")]
    floats: dict[str, list[int | str | None]] = {name: ["batch", 1, name.partition(".")[0], 1] for name in cache}
    floats |= {"logits": ["batch", "tokens", _VOCABULARY], "ids_as_floats": ["batch", "tokens"]}
    floats |= {"entry": ["batch", 1, "tokens", 1]}
    values = {
        name: ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
        for name, shape in floats.items()
    }
    ids = ir.Value(name="input_ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch", "tokens"]))
    constants = [
        ir.Value(name=name, const_value=ir.tensor(array, name=name))
        for name, array in (("table", np.eye(_VOCABULARY, dtype=np.float32)), ("axes", np.array([1, 3])))
    ]
    pasts, presents = ([values[name] for name in names] for names in (cache[:2], cache[2:]))
    to_float = [ir.AttrInt64("to", ir.DataType.FLOAT.value)]
    nodes = [
        ir.Node("", "Gather", [constants[0], ids], outputs=[values["logits"]]),
        ir.Node("", "Cast", [ids], to_float, outputs=[values["ids_as_floats"]]),
        ir.Node("", "Unsqueeze", [values["ids_as_floats"], constants[1]], outputs=[values["entry"]]),
    ]
    for past, present in zip(pasts, presents, strict=True):
        nodes.append(ir.Node("", "Concat", [past, values["entry"]], [ir.AttrInt64("axis", 2)], outputs=[present]))
    inputs, outputs = [ids, *pasts], [values["logits"], *presents]
    graph = ir.Graph(inputs, outputs, nodes=nodes, initializers=constants, opset_imports={"": 21}, name="tiny")
    ir.save(ir.Model(graph, ir_version=10), directory / "model.onnx")
    sizes = dict.fromkeys(
        ("head_size", "hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers"), 1
    )
    names = {
        f"{part}_{kind}_names": f"{prefix}.%d.{kind}"
        for kind in ("key", "value")
        for part, prefix in (("past", "past_key_values"), ("present", "present"))
    }
    decoder = sizes | {
        "filename": "model.onnx",
        "inputs": {"input_ids": "input_ids"} | {key: name for key, name in names.items() if "past" in key},
        "outputs": {"logits": "logits"} | {key: name for key, name in names.items() if "present" in key},
    }
    special_ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    model = {"type": "llama", "context_length": 16, "vocab_size": _VOCABULARY, "decoder": decoder} | special_ids
    (directory / "genai_config.json").write_text(json.dumps({"model": model, "search": {"max_length": 16}}))

"""run.md of an artifact: the lines that run each model as the gate ran it, and what its verdict does not cover."""

from __future__ import annotations

from string import Template

from mentor_edge.manifest import Manifest, ManifestEntry

from .ollama import NOT_COVERED

_HEAD = """\
# How to run these models

All lines are meant for this directory; `mentor-edge verify .` first says whether it is whole. mentor-edge compares a
model with the manifest before every load; the other programs do not.

The verdicts hold for greedy decoding on a CPU, the settings below ($cache), the model's own
chat template, and mentor-edge's parser of tool calls. What renders or parses in another way (llama-server with tools,
Ollama, a binding's own chat handler) is another system, and nobody has measured it. To measure a server:
`mentor-edge evaluate http://localhost:8080/v1 --suite ...`.

`OMP_WAIT_POLICY=passive` keeps threads from burning a core while they wait for each other.
`ORT_DISABLE_TELEMETRY=1` must stand before onnxruntime-genai is imported: it records usage otherwise.
"""

_AGENT = """\
## $path

With mentor-edge:

```sh
OMP_WAIT_POLICY=passive mentor-edge run $path "What is 12 plus 30?" --tools add,subtract
```

```python
import os

os.environ["OMP_WAIT_POLICY"] = "passive"
from mentor_edge import ToolAgent, tool


@tool
def get_weather(city: str) -> str:
    \"""weather in a city\"""
    return f"sunny in {city}"


with ToolAgent.load("$path", tools=[get_weather]) as agent:
    trajectory = agent.run("How is the weather in Rome?")
print(trajectory.ending, trajectory.answer)
```
"""

_GGUF = """
With llama-cpp-python, rendering and parsing as the gate did (its own chat handlers ignore tools or parse no calls):

```python
import os

os.environ["OMP_WAIT_POLICY"] = "passive"
from llama_cpp import Llama
from mentor_edge import Message, tool
from mentor_edge.chat import ChatTemplate
from mentor_edge.tool_calls import parse_turn


@tool
def get_weather(city: str) -> str:
    \"""weather in a city\"""
    return f"sunny in {city}"


model = Llama(
    "$path", n_ctx=$context, n_gpu_layers=0, n_threads=1, flash_attn=$flash, type_k=$kv_number, type_v=$kv_number,
    verbose=False,
)
end, start = (
    model.detokenize([token], special=True).decode() if token >= 0 else ""
    for token in (model.token_eos(), model.token_bos())
)
template = ChatTemplate(model.metadata["tokenizer.chat_template"], end, start)
question = Message("user", "How is the weather in Rome?")
prompt = template.render([question], [get_weather.to_openai()], add_generation_prompt=True)
ids = model.tokenize(prompt.encode(), add_bos=False, special=True)
reply = model.create_completion(ids, max_tokens=256, temperature=0, repeat_penalty=1)
print(parse_turn(reply["choices"][0]["text"]))
```

With llama.cpp's programs, which render the same template and parse calls in their own way:

```sh
OMP_WAIT_POLICY=passive llama-server -m $path --jinja -c $context --temp 0 -ngl 0 -ctk $kv -ctv $kv -fa $fa --port 8080
OMP_WAIT_POLICY=passive llama-cli -m $path --jinja -c $context --temp 0 -ngl 0 -ctk $kv -ctv $kv -fa $fa -st -p "Hello"
```
"""

_ONNX = """
With onnxruntime-genai, rendering and parsing as the gate did:

```python
import json
import os
from pathlib import Path

os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime_genai as og
from mentor_edge import Message, tool
from mentor_edge.engines.onnx.directory import OnnxDirectory
from mentor_edge.tool_calls import parse_turn


@tool
def get_weather(city: str) -> str:
    \"""weather in a city\"""
    return f"sunny in {city}"


directory = OnnxDirectory.read(Path("$path"))
question = Message("user", "How is the weather in Rome?")
prompt = directory.template.render([question], [get_weather.to_openai()], add_generation_prompt=True)
ids = directory.tokenizer.encode(prompt, add_special_tokens=False).ids

config = og.Config("$path")
config.overlay(json.dumps({"model": {"pad_token_id": -1}}))  # a prompt may end with the padding token
model = og.Model(config)
settings = og.GeneratorParams(model)
limit = min(len(ids) + 256, directory.context_length)
settings.set_search_options(max_length=limit, do_sample=False, num_beams=1, repetition_penalty=1.0)
generator = og.Generator(model, settings)
generator.append_tokens(ids)
turn = []
while not generator.is_done():
    generator.generate_next_token()
    turn.append(int(generator.get_next_tokens()[0]))
said = [token for token in turn if token not in directory.end_ids]
print(parse_turn(directory.tokenizer.decode(said, skip_special_tokens=False)))
```
"""

_OLLAMA = f"""\
## Ollama

```sh
ollama create my-model -f Modelfile
ollama run my-model
```

{NOT_COVERED}
"""

_GGML_TYPES = {"f32": 0, "f16": 1}
"""ggml's numbers of the cache types that the gate runs with."""


def run_markdown(manifest: Manifest, ollama_refusal: str | None) -> str:
    """The text of run.md, for the models that passed. `ollama_refusal` says why there is no Modelfile, None if there is
    one."""
    shipped = [entry for entry in manifest.entries if entry.role == "shipped"]
    types = sorted({_kv(entry) for entry in shipped if _is_gguf(entry)})
    cache = f"llama.cpp's cache in {' or '.join(types)}" if types else "the runtime's own cache"
    parts = [Template(_HEAD).substitute(cache=cache)]
    for entry in shipped:
        runtime, kv = entry.gate["runtime"], _kv(entry)
        flash = bool(runtime.get("flash_attention"))
        values = {
            "path": entry.path,
            "kv": kv,
            "kv_number": _GGML_TYPES[kv],
            "flash": flash,
            "fa": "on" if flash else "off",
            "context": runtime.get("context_length", 0),  # 0 is the model's own, in all of llama.cpp's programs
        }
        parts.append(Template(_AGENT + (_GGUF if _is_gguf(entry) else _ONNX)).substitute(values))
    if not shipped:
        parts.append("No model passed the gate: there is none to run.\n")
    parts.append(_OLLAMA if ollama_refusal is None else f"## Ollama\n\nThere is no Modelfile: {ollama_refusal}.\n")
    return "\n".join(parts)


def _is_gguf(entry: ManifestEntry) -> bool:
    return entry.format == "gguf"


def _kv(entry: ManifestEntry) -> str:
    return str(entry.gate["runtime"].get("kv", "f16"))

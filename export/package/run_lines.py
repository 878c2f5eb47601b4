"""run.md of an artifact: the commands that run each model as the gate did, and what its verdict does not cover."""

from __future__ import annotations

from string import Template

from mentor_edge.manifest import Manifest

_HEAD = """\
# How to run these models

Run all commands in this directory. First check that it is intact: `mentor-edge verify .`. mentor-edge compares a model
with the manifest before every load; other programs do not.

The verdicts are valid for greedy decoding on a CPU, the settings below ($cache), the model's own chat template,
and mentor-edge's parser of tool calls. A program that renders or parses differently (llama-server with tools, Ollama, a
binding's own chat handler) is a different system, which the gate did not measure. To measure a server:
`mentor-edge evaluate http://localhost:8080/v1 --suite ...`.

`OMP_WAIT_POLICY=passive` keeps threads from burning a core while they wait for each other.
Set `ORT_DISABLE_TELEMETRY=1` before onnxruntime-genai is imported: otherwise it records usage.
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
With llama-cpp-python, rendering and parsing as the gate did (its own chat handlers ignore tools or do not parse calls):

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
print(parse_turn(reply["choices"][0]["text"], [get_weather.to_openai()]))
```

With llama.cpp's programs, which render the same template but parse calls in their own way:

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
turn = [token for token in turn if token not in directory.end_ids]
text = directory.tokenizer.decode(turn, skip_special_tokens=False)
print(parse_turn(text, [get_weather.to_openai()]))
```
"""

_OLLAMA = """\
## Ollama

Not supported. Ollama does not render the chat template inside a GGUF file. It uses a template in Go's template
language: the one in your Modelfile, or a built-in one. If that template does not use tools, requests with tools fail
with "does not support tools"; Ollama also parses calls with its own parser. To try a model anyway, write a Modelfile
with `FROM ./FILE.gguf` and a `TEMPLATE` that renders the same text as the model's chat template, then run `ollama
create NAME -f Modelfile`. The gate measured nothing of this: its verdicts do not cover Ollama.
"""

_GGML_TYPES = {"f32": 0, "f16": 1}
"""ggml's numbers for the cache types that the gate runs with."""
_DEFAULT_CACHE = "f16"
"""llama.cpp's own default."""


def run_markdown(manifest: Manifest) -> str:
    """The text of run.md, for the models that passed the gate."""
    shipped = [entry for entry in manifest.entries if entry.role == "shipped"]
    caches = sorted({entry.runtime.kv or _DEFAULT_CACHE for entry in shipped if entry.format == "gguf"})
    cache = f"llama.cpp's cache in {' or '.join(caches)}" if caches else "the runtime's own cache"
    parts = [Template(_HEAD).substitute(cache=cache)]
    for entry in shipped:
        kv = entry.runtime.kv or _DEFAULT_CACHE
        values = {
            "path": entry.path,
            "kv": kv,
            "kv_number": _GGML_TYPES[kv],
            "flash": bool(entry.runtime.flash_attention),
            "fa": "on" if entry.runtime.flash_attention else "off",
            "context": entry.runtime.context_length,  # 0 means the model's own, in all of llama.cpp's programs
        }
        parts.append(Template(_AGENT + (_GGUF if entry.format == "gguf" else _ONNX)).substitute(values))
    if not shipped:
        parts.append("No model passed the gate, so there is none to run.\n")
    parts.append(_OLLAMA)
    return "\n".join(parts)

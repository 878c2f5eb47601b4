"""What engines/onnx relies on in onnxruntime-genai 0.18.

Upstream files: `src/python/python.cpp` (Config.overlay, Generator), `src/generators.cpp` (append_tokens, get_logits).
The model is the doctor's: the logits are large for the token itself, one position per token of an append.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest

from mentor_edge.engines.onnx.doctor import write_tiny_model

SCRIPT = """
import json, sys
import numpy as np
import onnxruntime_genai as og

def generator(rows=1):
    config = og.Config(sys.argv[1])
    config.overlay(json.dumps({"model": {"pad_token_id": -1}}))
    model = og.Model(config)
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=16, batch_size=rows, num_beams=1, num_return_sequences=1)
    return og.Generator(model, params)

def append(one, ids):
    one.append_tokens(np.asarray(ids, np.int32))
    return np.asarray(one.get_logits()), one.get_output("logits")

facts = {}
one = generator()
last, every = append(one, [1, 2, 3])
facts["last"] = [list(last.shape), int(last[0, -1].argmax())]
facts["every"] = [list(every.shape), every[0].argmax(-1).tolist()]
last, every = append(one, [5])
facts["appended"] = [int(last[0, -1].argmax()), list(every.shape), one.token_count()]
facts["padding"] = int(append(generator(), [4, 0])[0][0, -1].argmax())
two = generator(2)
append(two, [1, 2])
try:
    append(two, [3, 4])
    facts["second append"] = None
except Exception as error:
    facts["second append"] = str(error)
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Gathered in a child process: the runtime is never loaded into this one."""
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_model(directory)
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(directory)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_version_is_the_one_that_the_child_was_written_for() -> None:
    assert version("onnxruntime-genai").startswith("0.18.")


def test_get_logits_returns_those_after_the_last_token(facts: Any) -> None:
    assert facts["last"] == [[1, 1, 8], 3]


def test_get_output_returns_what_the_graph_computed_for_the_append(facts: Any) -> None:
    assert facts["every"] == [[1, 3, 8], [1, 2, 3]]


def test_a_second_append_continues_from_the_cache(facts: Any) -> None:
    assert facts["appended"] == [5, [1, 1, 8], 4]


def test_without_a_padding_token_a_prompt_may_end_with_any_id(facts: Any) -> None:
    assert facts["padding"] == 0


def test_several_rows_cannot_be_continued(facts: Any) -> None:
    """Therefore the child has one generator per conversation."""
    assert facts["second append"]

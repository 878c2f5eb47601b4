"""The templates and the tokenizer of real models, rendered, encoded and converted exactly as transformers does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest
import trl

from helpers.qwen2_tokenizer import MARKERS, ROWS, SPECIAL, golden_vectors, make_qwen2_tokenizer
from helpers.tiny_models import make_student
from mentor_edge.chat import ChatTemplate
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.errors import StudentError
from mentor_edge.export.gguf.convert import convert
from mentor_edge.export.parity.check import check
from mentor_edge.export.parity.corpus import PROBES, TEXTS

TEMPLATES = Path(trl.__file__).parent / "chat_templates"


@pytest.fixture(scope="module")
def qwen() -> Any:
    return make_qwen2_tokenizer()


FAMILIES_TEMPLATES = (
    "qwen2_5", "qwen2_5_training", "qwen3", "qwen3_training", "qwen3_instruct_2507", "llama3", "llama3_training",
    "llama3_1", "llama3_2", "gemma3", "gemma3_training",
)  # a table  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES_TEMPLATES)
def test_real_templates_render_as_in_transformers(qwen: Any, name: str) -> None:
    qwen.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    bos = "<|endoftext|>"
    ours = ChatTemplate(qwen.chat_template, qwen.eos_token, bos)
    rendered = 0
    for probe in PROBES:
        messages = [message.to_openai() for message in probe.messages]
        options = {"tools": list(probe.tools) or None, "add_generation_prompt": probe.add_generation_prompt}
        try:
            expected = qwen.apply_chat_template(messages, tokenize=False, bos_token=bos, **options)
        except jinja2.TemplateError:
            with pytest.raises(StudentError):
                ours.render(probe.messages, probe.tools, add_generation_prompt=probe.add_generation_prompt)
            continue
        assert ours.render(probe.messages, probe.tools, add_generation_prompt=probe.add_generation_prompt) == expected
        rendered += 1
    assert rendered == len(PROBES) if name.startswith("qwen") else rendered > 2


def test_the_real_tokenizer_produces_the_golden_ids(qwen: Any) -> None:
    vectors = golden_vectors()
    assert len(vectors) == 46
    assert [qwen.encode(text, add_special_tokens=False) for text, _ in vectors] == [ids for _, ids in vectors]
    assert qwen.convert_tokens_to_ids(["<|im_end|>", "<tool_call>", "</think>"]) == [151_645, 151_657, 151_668]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "template"),
    [("qwen2", "qwen2_5"), ("qwen3", "qwen3_training")],
)
def test_a_model_with_the_real_tokenizer_and_template_agrees(
    qwen: Any, tmp_path: Path, family: str, template: str
) -> None:
    qwen.chat_template = (TEMPLATES / f"{template}.jinja").read_text()
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    make_student(tmp_path, family, tokenizer=qwen, vocab_size=ROWS, num_key_value_heads=1, **sizes)
    convert(tmp_path, tmp_path / "f32.gguf")
    report = check(tmp_path, tmp_path / "f32.gguf")
    assert report.max_difference < 2e-4 and report.top1_agreement == 1
    assert report.text.token_cases == len(TEXTS) + 3 * len(SPECIAL + MARKERS)
    assert "<|fim_pad|>" in report.text.extra_end_tokens
    vectors = golden_vectors()
    with LlamaCppEngine(tmp_path / "f32.gguf", batch_size=1) as engine:
        assert engine.encode([text for text, _ in vectors]) == [ids for _, ids in vectors]

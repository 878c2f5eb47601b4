"""The tokenizers of converted files: llama.cpp's token ids equal those of transformers, or the tokenizer is refused."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.qwen2_tokenizer import golden_vectors, make_qwen2_tokenizer
from helpers.tiny_models import (
    EMBEDDING_ROWS,
    LLAMA3_SPLIT,
    MARKERS,
    QWEN2_SPLIT,
    SPECIAL,
    TEMPLATE,
    make_sentencepiece_tokenizer,
    make_student,
    make_tokenizer,
)
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.errors import EngineError, ExportError
from mentor_edge.export.gguf.convert import convert
from mentor_edge.export.parity.check import check

QWEN35_SPLIT = QWEN2_SPLIT.replace(r"]?\p{L}+", r"]?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
BYTE_LEVEL: dict[str, Callable[[], Any]] = {
    "qwen2": make_tokenizer,
    "qwen35": lambda: make_tokenizer(QWEN35_SPLIT),
    "llama-bpe": lambda: make_tokenizer(LLAMA3_SPLIT, ignore_merges=True),
    "smaug-bpe": lambda: make_tokenizer(LLAMA3_SPLIT),
    "smollm": lambda: make_tokenizer("digits"),
    "gpt-2": lambda: make_tokenizer(None),
}
SENTENCEPIECE = ("gemma", "llama", "llama-2")
PIECES = (
    *SPECIAL,
    *MARKERS,
    "<s>",
    "<unk>",
    "<0x0A>",
    "▁",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "don't",
    "apples",
    " the ",
    "123",
    "12",
    '{"a": 1}',
    "e\u0301",
    "Zürich",
    "你好",
    "👍🏽",
    "\u0903",
    "==",
    "...",
    "\x00",
)
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=12).map("".join)


def make_engine(directory: Path, tokenizer: Any) -> tuple[Any, LlamaCppEngine]:
    from transformers import AutoTokenizer

    make_student(directory, "llama", tokenizer=tokenizer)
    convert(directory, directory / "f32.gguf")
    return AutoTokenizer.from_pretrained(directory), LlamaCppEngine(directory / "f32.gguf", batch_size=1)


@pytest.fixture(scope="module", params=[*BYTE_LEVEL, *SENTENCEPIECE])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A tokenizer loaded from a directory by transformers, and llama.cpp with the directory's converted file."""
    make = BYTE_LEVEL.get(request.param, lambda: make_sentencepiece_tokenizer(request.param))
    tokenizer, engine = make_engine(tmp_path_factory.mktemp(request.param), make())
    with engine:
        yield tokenizer, engine


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT, min_size=1, max_size=20))
def test_llama_cpp_splits_as_transformers_does(both: Any, texts: list[str]) -> None:
    tokenizer, engine = both
    texts = [text.encode(errors="ignore").decode() for text in texts]  # no lone surrogates, which have no bytes
    expected = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert engine.encode(texts) == expected
    assert engine.decode(expected) == [tokenizer.decode(ids) for ids in expected]


def test_an_added_token_without_embedding_is_left_out(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<image_soft_token>"], special_tokens=True)
    rows = tokenizer.convert_tokens_to_ids("<image_soft_token>")
    student = make_student(tmp_path, tokenizer=tokenizer, vocab_size=rows)
    convert(student, tmp_path / "f32.gguf")
    assert check(student, tmp_path / "f32.gguf").text.token_cases > 20
    with LlamaCppEngine(tmp_path / "f32.gguf") as engine:
        assert engine.vocabulary_size == rows
        assert len(engine.encode(["<image_soft_token>"])[0]) > 1  # plain text


def test_the_real_qwen_tokenizer_encodes_to_the_golden_ids(tmp_path: Path) -> None:
    vectors = golden_vectors()
    tokenizer = make_qwen2_tokenizer(TEMPLATE)
    make_student(
        tmp_path,
        "qwen2",
        tokenizer=tokenizer,
        vocab_size=151_936,
        hidden_size=64,
        intermediate_size=64,
        dtype="float16",
    )
    convert(tmp_path, tmp_path / "f16.gguf", "f16")
    with LlamaCppEngine(tmp_path / "f16.gguf", batch_size=1) as engine:
        assert engine.encode([text for text, _ in vectors]) == [ids for _, ids in vectors]
        assert engine.vocabulary_size == 151_936
        assert engine.eos_token == "<|im_end|>"


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_a_split_is_named_as_llama_cpp_names_it(tmp_path: Path, name: str) -> None:
    make_student(tmp_path, tokenizer=BYTE_LEVEL[name]())
    convert(tmp_path, tmp_path / "f32.gguf")
    assert read(tmp_path, "tokenizer.ggml.pre") == name


def read(directory: Path, key: str) -> Any:
    field = gguf.GGUFReader(directory / "f32.gguf").get_field(key)
    return None if field is None else field.contents()


def test_an_nfc_tokenizer_agrees_on_composed_text_only(tmp_path: Path) -> None:
    from tokenizers import normalizers

    tokenizer, engine = make_engine(tmp_path, make_tokenizer(normalizer=normalizers.NFC()))
    decomposed = unicodedata.normalize("NFD", "Zürich")
    with engine:
        assert engine.encode(["Zürich"]) == [tokenizer.encode("Zürich")]
        assert engine.encode([decomposed]) != [tokenizer.encode(decomposed)]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with a SentencePiece-like tokenizer."""
    return make_student(tmp_path_factory.mktemp("pieces"), "gemma3", tokenizer=make_sentencepiece_tokenizer())


def make_copy(student: Path, target: Path, **files: Callable[[Any], None]) -> Path:
    """A copy of a directory in which each of the JSON files named has been changed."""
    for file in student.glob("*.[js]*"):
        (target / file.name).write_bytes(file.read_bytes())
    for name, change in files.items():
        path = target / f"{name}.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
    return target


def test_vocabulary_and_template_are_stored_faithfully(student: Path, tmp_path: Path) -> None:
    convert(make_copy(student, tmp_path), tmp_path / "f32.gguf")
    tokens = read(tmp_path, "tokenizer.ggml.tokens")
    types = dict(zip(tokens, read(tmp_path, "tokenizer.ggml.token_type"), strict=True))
    assert len(tokens) == EMBEDDING_ROWS
    assert {types[token] for token in SPECIAL} == {gguf.TokenType.CONTROL}
    assert {types[token] for token in MARKERS} == {gguf.TokenType.USER_DEFINED}
    assert types[f"[PAD{EMBEDDING_ROWS - 1}]"] == gguf.TokenType.UNUSED
    assert types["a"] == gguf.TokenType.NORMAL
    assert read(tmp_path, "tokenizer.chat_template") == TEMPLATE
    assert read(tmp_path, "tokenizer.ggml.add_bos_token") is False
    assert read(tmp_path, "tokenizer.ggml.add_eos_token") is False


def test_pieces_are_stored_with_their_types_and_scores(pieces: Path, tmp_path: Path) -> None:
    convert(make_copy(pieces, tmp_path), tmp_path / "f32.gguf")
    tokens = read(tmp_path, "tokenizer.ggml.tokens")
    types = dict(zip(tokens, read(tmp_path, "tokenizer.ggml.token_type"), strict=True))
    scores = dict(zip(tokens, read(tmp_path, "tokenizer.ggml.scores"), strict=True))
    assert types["<unk>"] == gguf.TokenType.UNKNOWN
    assert types["<s>"] == types["<|im_end|>"] == gguf.TokenType.CONTROL
    assert types["<0x00>"] == types["<0xFF>"] == gguf.TokenType.BYTE
    assert types["<tool_call>"] == gguf.TokenType.USER_DEFINED
    merges = [left + right for left, right in json.loads((pieces / "tokenizer.json").read_text())["model"]["merges"]]
    first = [scores[token] for token in dict.fromkeys(merges)]
    assert first == sorted(first, reverse=True) and len(set(first)) == len(first)
    assert scores["a"] < first[-1]
    assert read(tmp_path, "tokenizer.ggml.model") == "llama"
    assert read(tmp_path, "tokenizer.ggml.add_space_prefix") is False
    assert read(tmp_path, "tokenizer.ggml.unknown_token_id") == tokens.index("<unk>")


def test_runs_of_spaces_that_are_added_tokens_read_as_spaces(tmp_path: Path) -> None:
    """Gemma's tokenizer lists them as added tokens, which transformers matches in raw text and prints as spaces."""
    from tokenizers import AddedToken

    made = make_sentencepiece_tokenizer()
    made.add_tokens([AddedToken("▁" * length, special=False, normalized=False) for length in (2, 3)])
    tokenizer, engine = make_engine(tmp_path, made)
    texts = ["  a", "if x:\n       return  the   sum", "a  <tool_call>   b"]
    expected = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert tokenizer.convert_tokens_to_ids("▁▁") in expected[0]
    with engine:
        assert engine.encode(texts) == expected
        assert engine.decode(expected) == texts


@pytest.mark.parametrize(
    ("single", "starts", "ends"),
    [("<|endoftext|> $A", True, False), ("$A <|im_end|>", False, True), ("<|endoftext|> $A <|im_end|>", True, True)],
)
def test_what_the_post_processor_adds_is_recorded(tmp_path: Path, single: str, starts: bool, ends: bool) -> None:
    from tokenizers import processors

    tokenizer = make_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<|endoftext|>", 0), ("<|im_end|>", 2)]
    )
    _, engine = make_engine(tmp_path, tokenizer)
    assert read(tmp_path, "tokenizer.ggml.add_bos_token") is starts
    assert read(tmp_path, "tokenizer.ggml.add_eos_token") is ends
    with engine:
        assert engine.template.bos_token == "<|endoftext|>"
        assert not {0, 2} & set(engine.encode(["hello"])[0])  # templates write these tokens themselves


@pytest.mark.parametrize(("ends", "eot", "eom"), [([2], None, None), ([2, 0], None, None), ([2, 77, 0, 78], 77, 78)])
def test_generation_stops_at_every_end_token(
    student: Path, tmp_path: Path, ends: list[int], eot: int | None, eom: int | None
) -> None:
    make_copy(student, tmp_path, generation_config=lambda config: config.update(eos_token_id=ends))
    convert(tmp_path, tmp_path / "f32.gguf")
    assert read(tmp_path, "tokenizer.ggml.eot_token_id") == eot
    assert read(tmp_path, "tokenizer.ggml.eom_token_id") == eom
    with LlamaCppEngine(tmp_path / "f32.gguf", batch_size=1) as engine:
        assert engine.end_ids >= set(ends)
        assert engine.eos_token == "<|im_end|>"


def test_a_missing_template_is_left_out(student: Path, tmp_path: Path) -> None:
    (make_copy(student, tmp_path) / "chat_template.jinja").unlink()
    convert(tmp_path, tmp_path / "f32.gguf")
    assert read(tmp_path, "tokenizer.chat_template") is None
    with LlamaCppEngine(tmp_path / "f32.gguf") as engine, pytest.raises(EngineError, match="no chat template"):
        _ = engine.template


def test_of_several_templates_the_one_for_tools_is_stored(student: Path, tmp_path: Path) -> None:
    named = [{"name": "default", "template": "c"}, {"name": "tool_use", "template": "a\n{{ b }} "}]
    (make_copy(student, tmp_path) / "chat_template.jinja").unlink()
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for entry, stored in ((named, "a\n{{ b }} "), (named[:1], "c")):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": entry}))
        convert(tmp_path, tmp_path / "f32.gguf")
        assert read(tmp_path, "tokenizer.chat_template") == stored
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": [{"name": "rag"}]}))
    with pytest.raises(ExportError, match="'rag' and no template"):
        convert(tmp_path, tmp_path / "f32.gguf")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("x")
    convert(tmp_path, tmp_path / "f32.gguf")
    assert read(tmp_path, "tokenizer.chat_template") == "x"


def test_a_sentencepiece_file_alone_is_refused(student: Path, tmp_path: Path) -> None:
    (make_copy(student, tmp_path) / "tokenizer.json").rename(tmp_path / "tokenizer.model")
    with pytest.raises(
        ExportError, match=r"tokenizer\.model but no tokenizer\.json\n.*AutoTokenizer and save_pretrained"
    ):
        convert(tmp_path, tmp_path / "out.gguf")


def setting(path: str, value: Any) -> Callable[[Any], None]:
    """A change of one entry of a JSON value, for example of "model.merges.0"."""

    def change(values: Any) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        for key in parents:
            values = values[key]
        values[last] = value

    return change


def merges_without(left: str, right: str) -> Callable[[Any], None]:
    def change(values: Any) -> None:
        values["model"]["merges"] = [merge for merge in values["model"]["merges"] if merge != [left, right]]

    return change


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ("student", [("pre_tokenizer", {"type": "Whitespace"})], "pre-tokenizer .*Whitespace"),
        (
            "student",
            [("pre_tokenizer.pretokenizers.0.pattern.Regex", ".")],
            r"pre-tokenizer \. with ignore_merges=False",
        ),
        ("student", [("pre_tokenizer.pretokenizers.0.behavior", "Removed")], "pre-tokenizer .*ignore_merges=False"),
        ("student", [("pre_tokenizer.pretokenizers.1.add_prefix_space", True)], "pre-tokenizer .*ignore_merges=False"),
        ("student", [("model.ignore_merges", True)], "pre-tokenizer .*ignore_merges=True"),
        ("student", [("model.type", "WordPiece")], "cannot convert this WordPiece tokenizer"),
        ("student", [("model.dropout", 0.1)], "dropout = 0.1"),
        ("student", [("normalizer", {"type": "Lowercase"})], "normalizer Lowercase"),
        ("student", [("decoder", METASPACE)], "its decoder is Metaspace"),
        ("student", [("added_tokens.0.lstrip", True)], "added token '<|endoftext|>'"),
        ("student", [("model.vocab.a", EMBEDDING_ROWS)], f"has id {EMBEDDING_ROWS}; the embedding has"),
        ("student", [("added_tokens.0.content", "a")], "two tokens have the text 'a'"),
        ("student", [("post_processor", {"type": "Nonsense"})], "post-processor of tokenizer.json cannot be read"),
        ("pieces", [("model.ignore_merges", True)], "ignore_merges = True"),
        ("pieces", [("normalizer", None)], '"normalizer": null'),
        ("pieces", [("normalizer", {"type": "NFC"})], '"type": "NFC"'),
        (
            "pieces",
            [("normalizer", None), ("pre_tokenizer", METASPACE)],
            "first.*\n.*before none; .*add_prefix_space=False",
        ),
        ("pieces", [("pre_tokenizer", {"type": "Whitespace"})], "Whitespace"),
        ("pieces", [("added_tokens.7.normalized", True), ("added_tokens.7.content", "a b")], "normalized=False"),
    ],
)
def test_tokenizers_that_llama_cpp_would_run_differently_are_refused(
    request: pytest.FixtureRequest, tmp_path: Path, source: str, changes: list[tuple[str, Any]], message: str
) -> None:
    def change(values: Any) -> None:
        for path, value in changes:
            setting(path, value)(values)

    make_copy(request.getfixturevalue(source), tmp_path, tokenizer=change)
    with pytest.raises(ExportError, match=message):
        convert(tmp_path, tmp_path / "out.gguf")


def test_a_missing_merge_is_refused_because_llama_cpp_would_make_it(pieces: Path, tmp_path: Path) -> None:
    merges = json.loads((pieces / "tokenizer.json").read_text())["model"]["merges"]
    left, right = next(merge for merge in merges if len("".join(merge)) > 2)
    make_copy(pieces, tmp_path, tokenizer=merges_without(left, right))
    with pytest.raises(ExportError, match=f"does not merge '{left}' and '{right}'; llama.cpp would"):
        convert(tmp_path, tmp_path / "out.gguf")


def test_a_missing_byte_is_refused(pieces: Path, tmp_path: Path) -> None:
    make_copy(pieces, tmp_path, tokenizer=lambda values: values["model"]["vocab"].pop("<0x80>"))
    with pytest.raises(ExportError, match="lacks the byte token <0x80>"):
        convert(tmp_path, tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("file", "entry", "value", "message"),
    [
        ("tokenizer_config", "bos_token", "<nothing>", "names '<nothing>' as bos_token, which its tokenizer lacks"),
        ("tokenizer_config", "eos_token", None, "has no eos_token"),
        (
            "generation_config",
            "eos_token_id",
            [2, EMBEDDING_ROWS],
            rf"stops at the ids \[{EMBEDDING_ROWS}\], which do not exist",
        ),
        ("generation_config", "eos_token_id", [2, 77, 78, 79], r"3 further tokens: \[77, 78, 79\]"),
    ],
)
def test_special_tokens_that_llama_cpp_would_not_know_are_refused(
    student: Path, tmp_path: Path, file: str, entry: str, value: Any, message: str
) -> None:
    make_copy(student, tmp_path, **{file: setting(entry, value)})
    with pytest.raises(ExportError, match=message):
        convert(tmp_path, tmp_path / "out.gguf")


def test_an_unusual_post_processor_is_refused(student: Path, tmp_path: Path) -> None:
    from tokenizers import processors

    unusual = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    spec = json.loads(unusual.__getstate__())
    make_copy(student, tmp_path, tokenizer=setting("post_processor", spec))
    with pytest.raises(ExportError, match=r"post-processor turns a text into \[1, 'text'\]"):
        convert(tmp_path, tmp_path / "out.gguf")

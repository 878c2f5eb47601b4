"""Search over a local corpus: SQLite's full-text index (FTS5), built once and reused.

English text: words are stemmed (Porter) and compared without case and accents; a query is the OR of its words without
stop words; passages are ranked by BM25, a match in the title counting double.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from mentor_edge.errors import OutputError, TaskError
from mentor_edge.files import atomic_file, cache_directory, sha256_of, write_json
from mentor_edge.rows import field, iter_rows
from mentor_edge.tools.types import Tool

INDEX_VERSION = 1
"""Raise it when an index of the same corpus would hold something else, so that cached ones are built anew."""

LONGEST_TEXT = 500
LONGEST_TITLE = 100
LONGEST_RESULT = 5000
"""Characters that the search tool gives of one passage's text, of its title, and of all texts together."""

_MOST_PASSAGES = 20
_MOST_WORDS = 64
_WORD = re.compile(r"[^\W_]+")
_STOP_WORDS = frozenset(
    _WORD.findall("""
    a about after all also am an and any are as at be because been before being between both but by can could did do
    does doing during each few for from further had has have having he her here hers him his how i if in into is it
    its itself just me more most my no nor not of off on once only or other our out over own s same she should so
    some such t than that the their them then there these they this those through to too under until up very was we
    were what when where which while who whom whose why will with would you your
    """)
)
_CREATE = """
CREATE VIRTUAL TABLE passages
USING fts5(doc_id UNINDEXED, title, text, tokenize = 'porter unicode61 remove_diacritics 2')
"""
_SEARCH = """
SELECT doc_id, title, text FROM passages WHERE passages MATCH ? ORDER BY bm25(passages, 0, 2, 1), rowid LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a corpus. `doc_id` is unique in it."""

    doc_id: str
    title: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Passages that can be searched. `sha256` is that of the corpus file, `index` the file searched in its place.

    It holds no connection, so it may be copied, pickled and used after a fork: every process opens its own.
    """

    sha256: str
    index: Path

    @classmethod
    def open(cls, corpus_jsonl: Path, index: Path | None = None) -> Corpus:
        """The corpus in a file of lines `{"doc_id": text or whole number, "title": text, "text": text}`.

        The index is built unless a whole one of this corpus is there; both files are read through to know. It is kept
        in `index`, or else in the cache (`mentor_edge.files.cache_directory`) under the corpus file's SHA-256. Beside
        it stands `<index>.json`, written last, which says what it was built from and its hash: an index that is cut
        off, damaged, of other text or of another version is built anew. Processes that build at once do not disturb
        each other.

        Raises: TaskError naming file and line for a corpus that is missing, empty or malformed; OutputError when the
        index cannot be written.
        """
        try:
            sha256 = sha256_of(corpus_jsonl)
        except OSError as error:
            raise TaskError(
                f"cannot read passages from {corpus_jsonl}: {error.strerror}", "give the path of a JSONL file"
            ) from error
        index = cache_directory() / "corpora" / f"{sha256}.v{INDEX_VERSION}.sqlite" if index is None else index
        corpus = cls(sha256, index.absolute())
        if not corpus._is_whole():
            corpus._build(corpus_jsonl)
        return corpus

    def search(self, query: str, top_n: int = 5) -> list[Passage]:
        """The `top_n` passages that match best, best first. Any text is a query: it is read as a list of words, of
        which the first 64 that are no stop words count. A query without such a word finds nothing."""
        words = dict.fromkeys(word for word in _WORD.findall(query.lower()) if word not in _STOP_WORDS)
        if not words:
            return []
        # In quotes a word is never an operator of FTS5's query language.
        match = " OR ".join(f'"{word}"' for word in list(words)[:_MOST_WORDS])
        return [Passage(*row) for row in self._connection().execute(_SEARCH, (match, int(top_n)))]

    @cached_property
    def doc_ids(self) -> frozenset[str]:
        return frozenset(doc_id for (doc_id,) in self._connection().execute("SELECT doc_id FROM passages"))

    def _connection(self) -> sqlite3.Connection:
        return _connect(self.index, os.getpid())

    def _record(self) -> dict[str, Any]:
        return {"index_version": INDEX_VERSION, "corpus_sha256": self.sha256, "index_sha256": sha256_of(self.index)}

    @property
    def _record_path(self) -> Path:
        return self.index.with_name(f"{self.index.name}.json")

    def _is_whole(self) -> bool:
        with suppress(OSError, ValueError):
            return bool(json.loads(self._record_path.read_bytes()) == self._record())
        return False

    def _build(self, corpus_jsonl: Path) -> None:
        with atomic_file(self.index) as temporary:
            temporary.unlink(missing_ok=True)  # left by a build that was killed
            try:
                with closing(sqlite3.connect(temporary)) as database:
                    database.execute("PRAGMA journal_mode = OFF")  # what fails here is thrown away as a whole
                    database.execute(_CREATE)
                    rows = iter_rows(corpus_jsonl, _row, what="passages", unique="doc_id")
                    database.executemany("INSERT INTO passages VALUES (?, ?, ?)", rows)
                    database.commit()
            except sqlite3.Error as error:
                raise OutputError(
                    f"cannot write the search index {self.index}: {error}", "free some space or choose another place"
                ) from error
        write_json(self._record_path, self._record())
        _connect.cache_clear()


@lru_cache(maxsize=16)
def _connect(index: Path, process: int) -> sqlite3.Connection:
    """`process` is part of the key because a connection must not be used after a fork."""
    # An index is replaced and never changed, so that no lock is needed, nor the right to write beside it.
    return sqlite3.connect(f"{index.as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)


def _row(row: Any) -> tuple[str, str, str]:
    return str(field(row, "doc_id", (int, str))), field(row, "title", str), field(row, "text", str)


def search_tool(corpus: Corpus) -> Tool:
    """The tool `search(query, top_n=5)`, with `top_n` from 1 to 20.

    It gives a JSON list of `{"doc_id", "title", "text"}`, best first. A text is cut to 500 characters, and to fewer
    when more than ten passages are asked for: all texts together have at most 5,000.
    """

    def search(query: str, top_n: int = 5) -> list[dict[str, str]]:
        longest = min(LONGEST_TEXT, LONGEST_RESULT // int(top_n))
        return [
            {"doc_id": p.doc_id, "title": _cut(p.title, LONGEST_TITLE), "text": _cut(p.text, longest)}
            for p in corpus.search(query, top_n)
        ]

    parameters = {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "top_n": {"type": "integer", "minimum": 1, "maximum": _MOST_PASSAGES, "default": 5},
        },
        "required": ["query"],
        "additionalProperties": False,
    }
    return Tool(
        "search", "search documents by the words of a query; gives the passages that match best", parameters, search
    )


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1].rstrip()}…"

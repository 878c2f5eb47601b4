"""Search over a local corpus with SQLite's full-text index (FTS5), which is built once and reused.

For English text: words are stemmed (Porter) and compared without case and accents. A query is the OR of its words,
without stop words. BM25 ranks the passages; a match in the title counts double.
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

from pydantic import BaseModel

from mentor_edge.errors import OutputError, TaskError
from mentor_edge.files import atomic_file, cache_directory, sha256_of, write_json
from mentor_edge.rows import Identifier, Text, iter_rows, parse_row
from mentor_edge.tools.types import Tool

INDEX_VERSION = 1
"""Increase it when the index of an unchanged corpus would change, so that cached indexes are rebuilt."""

LONGEST_TEXT = 500
LONGEST_TITLE = 100
LONGEST_RESULT = 5000
"""Characters that the search tool returns of one passage's text, of its title, and of all texts together."""

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
    """A piece of a corpus."""

    doc_id: str
    """Unique in the corpus."""
    title: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Passages that can be searched.

    A corpus has no open connection, so you may copy it, pickle it and use it after a fork: each process opens its own.
    """

    sha256: str
    """Hash of the corpus file."""
    index: Path
    """The SQLite file that is searched."""

    @classmethod
    def open(cls, corpus_jsonl: Path, index: Path | None = None) -> Corpus:
        """Open a corpus file, and build its index if there is no intact one.

        Each line of the file is `{"doc_id": text or whole number, "title": text, "text": text}`. The index is stored in
        `index`, or else in the cache (`mentor_edge.files.cache_directory`) under the SHA-256 of the corpus file. The
        file `<index>.json` next to it, written last, records what the index was built from and its hash. An index that
        is truncated, damaged, from other text or of another version is rebuilt; both files are read in full to find
        out. Several processes may build the same index at once.

        Raises: TaskError with file and line when the corpus is missing, empty or malformed; OutputError when the index
        cannot be written.
        """
        try:
            sha256 = sha256_of(corpus_jsonl)
        except OSError as error:
            raise TaskError(
                f"cannot read passages from {corpus_jsonl}: {error.strerror}", "give the path of a JSONL file"
            ) from error
        index = cache_directory() / "corpora" / f"{sha256}.v{INDEX_VERSION}.sqlite" if index is None else index
        corpus = cls(sha256, index.absolute())
        if not corpus._is_intact():
            corpus._build(corpus_jsonl)
        return corpus

    def search(self, query: str, top_n: int = 5) -> list[Passage]:
        """The `top_n` passages that match best, best first.

        Any text is a valid query: a list of words, of which the first 64 that are not stop words count. A query with
        stop words only matches nothing.
        """
        words = dict.fromkeys(word for word in _WORD.findall(query.lower()) if word not in _STOP_WORDS)
        if not words:
            return []
        # In quotes a word is never an operator of FTS5's query language.
        match = " OR ".join(f'"{word}"' for word in list(words)[:_MOST_WORDS])
        return [Passage(*row) for row in self._connection().execute(_SEARCH, (match, int(top_n)))]

    @cached_property
    def doc_ids(self) -> frozenset[str]:
        """The ids of all passages."""
        return frozenset(doc_id for (doc_id,) in self._connection().execute("SELECT doc_id FROM passages"))

    def _connection(self) -> sqlite3.Connection:
        return _connect(self.index, os.getpid())

    def _record(self) -> dict[str, Any]:
        return {"index_version": INDEX_VERSION, "corpus_sha256": self.sha256, "index_sha256": sha256_of(self.index)}

    @property
    def _record_path(self) -> Path:
        return self.index.with_name(f"{self.index.name}.json")

    def _is_intact(self) -> bool:
        with suppress(OSError, ValueError):
            return bool(json.loads(self._record_path.read_bytes()) == self._record())
        return False

    def _build(self, corpus_jsonl: Path) -> None:
        with atomic_file(self.index) as temporary:
            temporary.unlink(missing_ok=True)  # left by a build that was killed
            try:
                with closing(sqlite3.connect(temporary)) as database:
                    database.execute("PRAGMA journal_mode = OFF")  # a build that fails is discarded
                    database.execute(_CREATE)
                    rows = iter_rows(corpus_jsonl, _row, what="passages", unique="doc_id")
                    database.executemany("INSERT INTO passages VALUES (?, ?, ?)", rows)
                    database.commit()
            except sqlite3.Error as error:
                raise OutputError(
                    f"cannot write the search index {self.index}: {error}", "free some space or choose another path"
                ) from error
        write_json(self._record_path, self._record())
        _connect.cache_clear()


@lru_cache(maxsize=16)
def _connect(index: Path, process: int) -> sqlite3.Connection:
    """Open an index. `process` is part of the cache key because a connection must not be used after a fork."""
    # An index is replaced, never changed, so this needs neither a lock nor write access to its directory.
    return sqlite3.connect(f"{index.as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)


class _CorpusRow(BaseModel):
    doc_id: Identifier
    title: Text
    text: Text


def _row(row: Any) -> tuple[str, str, str]:
    passage = parse_row(_CorpusRow, row)
    return passage.doc_id, passage.title, passage.text


def search_tool(corpus: Corpus) -> Tool:
    """Make the tool `search(query, top_n=5)`, with `top_n` from 1 to 20.

    It returns a JSON list of `{"doc_id", "title", "text"}`, best first. Each text is cut to 500 characters, and to
    fewer if the call requests more than ten passages: all texts together have at most 5,000.
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

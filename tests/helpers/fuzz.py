"""Fuzz one of the readers of files and messages that may come from anywhere, guided by coverage.

    python tests/helpers/fuzz.py gguf -max_total_time=60

`make fuzz` runs each for a minute. An input that raises anything but our own errors, or takes too long, is written to
the current directory. Add it, made small, to `FOUND` in fuzz_targets.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as pytest does for `helpers`

with atheris.instrument_imports(include=["mentor_edge"]):
    from helpers.fuzz_targets import TARGETS, target_of

LIMITS = ("-timeout=10", "-rss_limit_mb=3000", "-max_len=4000")


def main() -> None:
    name, *options = sys.argv[1:]
    with TemporaryDirectory() as directory:
        corpus, work = Path(directory) / "corpus", Path(directory) / "work"
        corpus.mkdir()
        work.mkdir()
        for number, seed in enumerate(TARGETS[name].seeds):
            (corpus / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *LIMITS, *options, str(corpus)], target_of(name, work))
        atheris.Fuzz()


if __name__ == "__main__":
    main()

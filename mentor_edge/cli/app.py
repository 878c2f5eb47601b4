"""The `mentor-edge` program: its commands and its exit codes. Nothing heavy is imported before a command runs.

Exit codes: 0 done; 1 an error, described in one or two lines; 2 wrong usage; 3 the gate failed; 4 the gate is
inconclusive; 130 interrupted, 143 terminated (SIGTERM), 129 hung up: only what the same command resumes is left.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import NoReturn

# Before torch or llama.cpp load: two busy-waiting OpenMP threads on a shared machine run a hundred times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import typer

from mentor_edge.cli import tasks
from mentor_edge.cli.compare import compare
from mentor_edge.cli.doctor import doctor
from mentor_edge.cli.evaluate import evaluate
from mentor_edge.cli.export import ExportCommand, export
from mentor_edge.cli.fit import fit
from mentor_edge.cli.inspect import inspect
from mentor_edge.cli.quickstart import quickstart
from mentor_edge.cli.report import report
from mentor_edge.cli.run import run
from mentor_edge.cli.screen import console, print_error, print_warning
from mentor_edge.cli.stopping import Stopping
from mentor_edge.cli.verify import verify
from mentor_edge.errors import MentorEdgeError, MentorEdgeWarning, panics_as_errors

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Distil the tool use of a large teacher into a small language model, export it, and refuse to ship a file "
    "that lost the skill.",
)
for _command in (quickstart, inspect, fit, compare, report, evaluate, export, verify, run, doctor):
    app.command(cls=ExportCommand if _command is export else None)(_command)
app.add_typer(tasks.app, name="tasks")

_RESUME_OPTION = "; to resume, run the same command with --resume"
_HOW_TO_RESUME = {
    "quickstart": _RESUME_OPTION,
    "fit": _RESUME_OPTION,
    "compare": _RESUME_OPTION,
    "evaluate": "; to resume, run the same command again",
    "export": "; run the same command again: it reuses what its gate has measured",
}
_STOPPED: dict[object, str] = {130: "interrupted", 143: "terminated", 129: "hung up"}
"""130 is typer's exit code for Ctrl-C."""


def main() -> None:
    """Run the command line. Every failure is a line or two; MENTOR_EDGE_DEBUG=1 adds the traceback."""
    _open_closed_streams()
    if sys.flags.optimize >= 2:
        print_error(
            "Python has removed the docstrings (-OO, or PYTHONOPTIMIZE=2), and models read those of the tools\n"
            "unset PYTHONOPTIMIZE, or set it to 1"
        )
        sys.exit(1)
    debug = os.environ.get("MENTOR_EDGE_DEBUG") == "1"
    if not debug:
        warnings.filterwarnings("ignore")
        warnings.filterwarnings("always", category=MentorEdgeWarning)
        warnings.showwarning = print_warning
        logging.disable(logging.WARNING)
    stopping = Stopping()
    stopping.listen()
    try:
        with panics_as_errors():
            app()
    except SystemExit as end:
        _exit(stopping.exit_code or end.code)
    except Exception as error:
        if stopping.exit_code is not None:  # the signal went to the child processes, too, and one died of it
            _exit(stopping.exit_code)
        if debug:
            raise
        if isinstance(error, MentorEdgeError):
            print_error(str(error))
            sys.exit(error.exit_code)
        print_error(f"{type(error).__name__}: {error}\nset MENTOR_EDGE_DEBUG=1 to see the traceback")
        sys.exit(1)


def _open_closed_streams() -> None:
    """Open /dev/null in place of standard streams that the caller has closed (`2>&-`). Otherwise the next file gets
    their number, and what a native library prints goes into that file."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one


def _exit(code: str | int | None) -> NoReturn:
    if code in _STOPPED:
        console.print(f"{_STOPPED[code]}{_HOW_TO_RESUME.get(''.join(sys.argv[1:2]), '')}")
    sys.exit(code)

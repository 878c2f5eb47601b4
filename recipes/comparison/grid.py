"""The cells of a comparison as a grid of bases, seeds, teacher noises and methods, checked for gaps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mentor_edge.errors import RunError

from .cell import BASE, Cell, cell_name

Answers = dict[str, NDArray[np.uint8]]
"""Domain -> 0 or 1 per item: the answers of one run."""
RunsByBase = dict[str, dict[int | None, Answers]]
"""Base -> seed -> answers: the runs of one method under one noise."""


class Grid:
    """The cells by method and noise. Methods and noises keep the order of their first cells. Bases and seeds are
    sorted, so that no figure depends on the order of the cells.

    Raises: RunError if there are no cells, if two cells have the same base, method, seed and noise, if an untrained
    base has a seed, if a trained cell lacks one, or if cells have different items.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        if not cells:
            raise RunError("there are no cells to summarise")
        self.items = {domain: len(answers) for domain, answers in cells[0].right.items()}
        self.bases = sorted({cell.base for cell in cells})
        self.seeds = sorted({cell.seed for cell in cells if cell.seed is not None})
        methods = dict.fromkeys(cell.method for cell in cells)
        self.methods = [*([BASE] if BASE in methods else []), *(method for method in methods if method != BASE)]
        noises = dict.fromkeys(cell.teacher_noise for cell in cells if cell.teacher_noise is not None)
        self.noises: list[str | None] = [*noises] or [None]
        self._noises_of: dict[str, set[str | None]] = {}
        self._runs: dict[tuple[str, str | None], RunsByBase] = {}
        for cell in cells:
            self._add(cell)

    def _add(self, cell: Cell) -> None:
        if (cell.method == BASE) != (cell.seed is None) or (cell.method == BASE and cell.teacher_noise is not None):
            raise RunError(f"{cell.name}: only an untrained base has no seed, and it has no noise")
        if {domain: len(answers) for domain, answers in cell.right.items()} != self.items:
            raise RunError(
                f"{cell.name} has different items from the first cell", "evaluate all cells on the same suite"
            )
        noises = self._noises_of.setdefault(cell.method, set())
        noises.add(cell.teacher_noise)
        if None in noises and len(noises) > 1:
            raise RunError(f"{cell.method} has some cells with a teacher's noise and some without")
        by_base = self._runs.setdefault((cell.method, cell.teacher_noise), {})
        by_seed = by_base.setdefault(cell.base, {})
        if cell.seed in by_seed:
            raise RunError(f"{cell.name} appears twice")
        # Put the domains of every cell in the same order, so that sums agree to the last bit.
        by_seed[cell.seed] = {
            domain: np.frombuffer(cell.right[domain].encode(), np.uint8) - ord("0") for domain in self.items
        }

    def own_noises(self, method: str) -> list[str | None]:
        """The noises under which a method was trained; [None] if it does not use the teacher."""
        return [None] if self._noises_of[method] == {None} else list(self.noises)

    def own_noise(self, method: str, noise: str | None) -> str | None:
        """`noise`, or None if the method does not use the teacher."""
        return None if self._noises_of[method] == {None} else noise

    def runs(self, method: str, noise: str | None) -> RunsByBase:
        """The runs of a method that count under a noise."""
        return self._runs.get((method, self.own_noise(method, noise)), {})

    def missing(self) -> list[str]:
        """Names of the cells that a full grid would have and this one lacks."""
        untrained = self._runs.get((BASE, None), {})
        names = [cell_name(BASE, base) for base in self.bases if base not in untrained]
        for method in self.methods:
            for noise in self.own_noises(method) if method != BASE else []:
                runs = self.runs(method, noise)
                names.extend(
                    cell_name(method, base, seed, noise)
                    for base in self.bases
                    for seed in self.seeds
                    if seed not in runs.get(base, {})
                )
        return names


def seed_order(seed: int | None) -> int:
    """A key that sorts seeds, with the one run of an untrained base first."""
    return -1 if seed is None else seed

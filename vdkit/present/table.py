"""One table in every form that a report needs: data frame, CSV, Markdown, LaTeX, terminal.

Rows come as text that is ready to show, from any of the functions here that end in ``_rows``, so
all forms say the same to the last digit. Unrounded values are in ``runs.csv`` and `load_results`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vdkit.present import report_html
from vdkit.present.latex import latex_table
from vdkit.record.store import write_atomically

if TYPE_CHECKING:
    import pandas as pd

MISSING = "-"

_PLAIN = r"[-+]?(?:0|[1-9]\d*)(?:\.\d+)?(?:e[-+]\d+)?"
_NUMBER = re.compile(
    rf"(?P<value>{_PLAIN})(?P<mark>[†*]?)"
    rf"(?: \[(?P<low>{_PLAIN}), (?P<high>{_PLAIN})\])?(?: \((?P<remark>[^()]+)\))?"
)
_NEVER_NUMBERS = {"commit"}
"""A hash may happen to hold digits only."""


@dataclass(frozen=True)
class Table:
    """Rows of ready cells under one set of columns, the same in every form.

    Attributes:
        rows: at least one mapping of column to cell; units stand in the columns' names. ``-`` or
            None is a missing value, and so is a column that a row lacks.
        caption: what was measured and where; stands above.
        note: what the columns mean; stands below.

    Raises:
        ValueError: no rows, or rows without columns.
        TypeError: a cell that is not text.
    """

    rows: Sequence[Mapping[str, str | None]]
    caption: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        columns = dict.fromkeys(name for row in self.rows for name in row)
        if not columns:
            raise ValueError(
                f"a table needs a row and a column, got {len(self.rows)} rows without any; leave "
                "the table out, or give rows as benchmark_rows(result) makes them"
            )
        for row in self.rows:
            for name, cell in row.items():
                if cell is not None and not isinstance(cell, str):
                    raise TypeError(
                        f"cell {cell!r} of column {name!r} is {type(cell).__name__}; format it "
                        "first (vdkit.present.digits knows how many digits), or give None"
                    )
        filled = tuple({name: row.get(name) or MISSING for name in columns} for row in self.rows)
        object.__setattr__(self, "rows", filled)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self.rows[0])

    def _cells(self) -> list[list[str]]:
        return [[cell or MISSING for cell in row.values()] for row in self.rows]

    def _numeric(self) -> list[bool]:
        """By column: whether it is aligned as numbers are."""
        return [
            all(map(report_html.is_number, cells)) and any(cell != MISSING for cell in cells)
            for cells in zip(*self._cells(), strict=True)
        ]

    def frame(self) -> pd.DataFrame:
        """As numbers where every cell of a column is one: a row per row, values as shown.

        ``1.147 [1.125, 1.168]`` becomes the columns ``x``, ``x low`` and ``x high``; a †, a *
        or words in parentheses behind a number go into a column ``x mark``. Missing values are NaN;
        whole numbers are int64 if none is missing.
        """
        import pandas as pd

        made: dict[str, pd.Series] = {}
        for name, cells in zip(self.columns, zip(*self._cells(), strict=True), strict=True):
            found = [None if cell == MISSING else _NUMBER.fullmatch(cell) for cell in cells]
            there = [one for one in found if one is not None]
            if name in _NEVER_NUMBERS or not there or len(there) < sum(c != MISSING for c in cells):
                made[name] = pd.Series([math.nan if cell == MISSING else cell for cell in cells])
                continue
            made[name] = pd.to_numeric(pd.Series([one and one["value"] for one in found]))
            if any(one["low"] for one in there):
                for end in ("low", "high"):
                    made[f"{name} {end}"] = pd.to_numeric(
                        pd.Series([one and one[end] for one in found])
                    )
            marks = [one and (one["mark"] or one["remark"]) for one in found]
            if any(marks):
                made[f"{name} mark"] = pd.Series([mark or math.nan for mark in marks])
        return pd.DataFrame(made)

    def csv(self) -> str:
        """`frame` as CSV: plain numbers, an empty field for a missing value, quoted as RFC 4180."""
        return self.frame().to_csv(index=False, lineterminator="\n")

    def markdown(self) -> str:
        """Caption, table and note as Markdown that reads well in a terminal too."""
        return self._framed(markdown_table(self.rows), "  \n")

    def latex(self) -> str:
        r"""A ``table`` environment for LaTeX with ``\usepackage{booktabs}`` and nothing else."""
        return latex_table(self.columns, self._cells(), self._numeric(), self.caption, self.note)

    def text(self) -> str:
        """For a terminal: columns two spaces apart under a rule, words left, numbers right.

        Lines are as long as the rows are; nothing is wrapped.
        """
        numeric = self._numeric()
        widths = [max(map(len, cells)) for cells in zip(self.columns, *self._cells(), strict=True)]

        def line(cells: Sequence[str]) -> str:
            padded = [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(cells, widths, numeric, strict=True)
            ]
            return "  ".join(padded).rstrip()

        rule = "  ".join("-" * width for width in widths)
        return self._framed("\n".join([line(self.columns), rule, *map(line, self._cells())]), "\n")

    def _framed(self, body: str, line_break: str) -> str:
        parts = [self.caption.replace("\n", line_break), body, self.note.replace("\n", line_break)]
        return "\n\n".join(part for part in parts if part)

    def __str__(self) -> str:
        return self.text()

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        """As in a report, with the little style that a notebook lacks."""
        rows = [dict(zip(self.columns, cells, strict=True)) for cells in self._cells()]
        made = report_html.table(rows, self.caption)
        made = made.replace('class="number"', 'style="text-align: right"')
        made = made.replace('class="interval"', 'style="white-space: nowrap"')
        return made + report_html.prose(self.note)

    def write(self, folder: Path | str, name: str) -> list[Path]:
        """``name.csv``, ``name.md`` and ``name.tex`` in ``folder``, which is made if need be.

        Nothing is overwritten: if one of the three is there, none is written. Each appears under
        its name only when complete.

        Returns:
            The three paths.

        Raises:
            FileExistsError: a file is there; give another name, or remove it first.
            ValueError: ``name`` is empty or a path.
        """
        if not name or Path(name).name != name:
            raise ValueError(f"name {name!r}: give a file name without folder and ending")
        texts = {"csv": self.csv(), "md": self.markdown() + "\n", "tex": self.latex()}
        paths = {ending: Path(folder) / f"{name}.{ending}" for ending in texts}
        if taken := [str(path) for path in paths.values() if path.exists()]:
            raise FileExistsError(
                f"{', '.join(taken)} is there already and stays as it is; give another name or "
                "remove it first"
            )
        Path(folder).mkdir(parents=True, exist_ok=True)
        for ending, path in paths.items():
            write_atomically(path, texts[ending], new=True)
        return list(paths.values())


def markdown_table(rows: Sequence[Mapping[str, str | None]], right: bool = True) -> str:
    """Rows as a Markdown table, padded; ``right`` sets all columns but the first right."""
    table = Table(rows)
    grid = [
        [cell.replace("|", r"\|").replace("\n", " ") for cell in cells]
        for cells in (table.columns, *table._cells())
    ]
    widths = [max(map(len, cells)) for cells in zip(*grid, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if index == 0 or not right else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = "|".join(
        "-" * (width + 2) if index == 0 or not right else "-" * (width + 1) + ":"
        for index, width in enumerate(widths)
    )
    return "\n".join([line(grid[0]), f"|{rule}|", *map(line, grid[1:])])

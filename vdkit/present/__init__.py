"""One table of values in every form that a report needs: data frame, CSV, Markdown, LaTeX, HTML.

A cell is a `Number`, which knows the digits that it has earned, or text. Text is made of it here,
at the end, so that all forms say the same to the last digit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from textwrap import fill, wrap
from typing import TYPE_CHECKING, Any

from vdkit.record import new_paths, write_atomically
from vdkit.record.stats import Ratio, Summary, mean_half_width, summarize

if TYPE_CHECKING:
    import pandas as pd

MISSING = "-"
MOST_DECIMALS = 4
"""Of seconds that is 0.1 ms: below it lies the host's timing noise, whatever an interval says."""
DIGITS_LEGEND = (
    "Digits: down to the second one of the 95 % interval of the mean (Student's t) or ratio, "
    f"{MOST_DECIMALS} decimals at the most; three digits for a single run."
)
_SPECIAL = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}",
    "*": "{*}", '"': "''", "†": r"\dag{}", "×": r"$\times$", "µ": r"$\mu$", "μ": r"$\mu$",
    "±": r"$\pm$", "°": r"$^{\circ}$", "²": "$^{2}$", "³": "$^{3}$", "−": "$-$", "·": r"$\cdot$",
    "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "→": r"$\rightarrow$", "–": r"\textendash{}",
    "—": r"\textemdash{}", "…": r"\dots{}", "‘": "`", "’": "'", "“": "``", "”": "''", "§": r"\S{}",
})  # fmt: skip
_LEAST_WIDTH = 12
"""What a column of words keeps where a table is too wide."""
_NEGATIVE = re.compile(r"(?<![\w.)])-(?=\d)")
_LOOKS_NUMERIC = re.compile(r"[-+]?\d[\d.,]*†?( .*)?$|-$")


@dataclass(frozen=True, slots=True)
class Number:
    """A value and how much of it is shown.

    Attributes:
        value: in the column's unit.
        decimals: below 0 for tens, hundreds and so on.
        low, high: its 95 % interval, shown to the same place; None without one.
        mark: shown behind it, such as ``†`` or ``n = 1`` (in parentheses if it has a space).
        sign: show plus signs too.
    """

    value: float
    decimals: int
    low: float | None = None
    high: float | None = None
    mark: str = ""
    sign: bool = False

    def __str__(self) -> str:
        mark = f" ({self.mark})" if " " in self.mark else self.mark
        text = self._shown(self.value) + mark
        if self.low is None or self.high is None or self.low == self.high:
            return text
        return f"{text} [{self._shown(self.low)}, {self._shown(self.high)}]"

    def _shown(self, value: float) -> str:
        """To so many decimals; never a negative zero."""
        rounded = round(value, self.decimals) + 0.0
        return f"{rounded:{'+' * self.sign}.{max(0, self.decimals)}f}"


Cell = Number | str | None  # None, like a column that a row lacks, is a missing value


def number(
    value: float | None, decimals: int = 0, scale: float = 1.0, sign: bool = False
) -> Number | None:
    """``value`` times ``scale``; None if there is none."""
    return None if value is None else Number(scale * value, decimals, sign=sign)


def decimals_for(half_width: float | None, value: float = 0.0) -> int:
    """Decimals that end at the second significant digit of ``half_width``, 4 at the most; below 0
    for tens, hundreds and so on.

    ``half_width``: of a 95 % interval, in the unit of the value, 0 if all runs agree; without
    one (a single run) the ``value`` gets three significant digits.
    """
    if half_width is None:
        return 0 if value == 0 else min(MOST_DECIMALS, 2 - _exponent(value, 2))
    return MOST_DECIMALS if half_width == 0 else min(MOST_DECIMALS, 1 - _exponent(half_width, 1))


def _exponent(value: float, decimals: int) -> int:
    """Of ten, once the value is rounded: 9.99 to two digits is 10, which has one digit more."""
    return int(f"{value:.{decimals}e}".partition("e")[2])


def summary_decimals(summary: Summary, scale: float = 1.0) -> int:
    """Where the mean of these runs ends, times ``scale`` above 0: for all that is shown of them.

    However wide its interval, two digits of the mean are shown.
    """
    half, mean = mean_half_width(summary.std, summary.n), summary.mean * scale
    wanted = decimals_for(None if half is None else half * scale, mean)
    return max(wanted, min(1 - _exponent(mean, 1), MOST_DECIMALS))


def mean_of(values: Sequence[float], scale: float = 1.0) -> Number:
    """The mean of at least one run's values, times ``scale``."""
    summary = summarize(values)
    return Number(summary.mean * scale, summary_decimals(summary, scale))


def ratio_of(ratio: Ratio | None) -> Number | None:
    """A ratio to the second digit of its interval; marked where one pair gives none."""
    if ratio is None:
        return None
    if ratio.low is None or ratio.high is None:
        return Number(ratio.value, decimals_for(None, ratio.value), mark="n = 1")
    # However wide the interval, two digits of the ratio itself are shown.
    decimals = max(decimals_for((ratio.high - ratio.low) / 2), 1 - _exponent(ratio.value, 1))
    return Number(ratio.value, decimals, ratio.low, ratio.high)


def significant(value: float | None, digits: int = 3) -> Number | None:
    """So many significant digits, or every digit before the point."""
    if value is None:
        return None
    return Number(value, 0 if value == 0 else max(0, digits - 1 - _exponent(value, digits - 1)))


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of cells under one set of columns.

    Attributes:
        rows: at least one mapping of column to cell; units stand in the columns' names.
        caption: what was measured and where; stands above.
        note: what the columns mean; stands below.

    Raises:
        ValueError: no rows, or rows without columns.
        TypeError: a cell that is neither `Number`, text nor None.
    """

    rows: Sequence[Mapping[str, Cell]]
    caption: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        columns = dict.fromkeys(name for row in self.rows for name in row)
        if not columns:
            raise ValueError(
                f"a table needs a row and a column, got {len(self.rows)} rows without any; leave "
                "the table out"
            )
        for name, cell in (item for row in self.rows for item in row.items()):
            if cell is not None and not isinstance(cell, (str, Number)):
                raise TypeError(
                    f"cell {cell!r} of column {name!r} is {type(cell).__name__}; give a "
                    "vdkit.present.Number, which knows how many digits, text or None"
                )
        filled = tuple({name: row.get(name) for name in columns} for row in self.rows)
        object.__setattr__(self, "rows", filled)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self.rows[0])

    @property
    def cells(self) -> list[list[str]]:
        """Every row as text."""
        return [[_text(cell) for cell in row.values()] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """By column: whether it is set to the right, as numbers are."""
        return [
            all(map(_LOOKS_NUMERIC.match, cells)) and any(cell != MISSING for cell in cells)
            for cells in zip(*self.cells, strict=True)
        ]

    def frame(self) -> pd.DataFrame:
        """As numbers: a row per row, values as shown, NaN where one is missing.

        An interval adds the columns ``NAME low`` and ``NAME high``, a mark ``NAME mark``. Whole
        numbers are int64 if none is missing.
        """
        import pandas as pd

        made: dict[str, list[Any]] = {}
        for name in self.columns:
            cells = [None if row[name] == MISSING else row[name] for row in self.rows]
            if any(isinstance(cell, str) for cell in cells):
                made[name] = [math.nan if cell is None else str(cell) for cell in cells]
                continue
            numbers = [cell if isinstance(cell, Number) else None for cell in cells]
            made[name] = [_rounded(one, "value") for one in numbers]
            ends = ("low", "high") if any(one and one.low is not None for one in numbers) else ()
            for end in ends:
                made[f"{name} {end}"] = [_rounded(one, end) for one in numbers]
            if any(one and one.mark for one in numbers):
                made[f"{name} mark"] = [(one and one.mark) or math.nan for one in numbers]
        return pd.DataFrame(made)

    def csv(self) -> str:
        """`frame` as CSV: plain numbers, an empty field for a missing value, quoted as RFC 4180."""
        return self.frame().to_csv(index=False, lineterminator="\n")

    def markdown(self) -> str:
        """Caption, table and note as Markdown that reads well in a terminal too."""
        return self._framed(self.markdown_body(), "  \n")

    def markdown_body(self, width: int = 0) -> str:
        """The table alone, padded; the first column left, the others right.

        For a terminal of ``width`` columns words are left, and wrapped as far as need be.
        """
        right = self.numeric if width else [i > 0 for i in range(len(self.columns))]
        grid = [[cell.replace("|", r"\|") for cell in row] for row in (self.columns, *self.cells)]
        head, rows = _aligned(grid, right, width and width - 3 * len(right) - 1)
        ends = [":" if to_right else "-" for to_right in right]
        rule = "|".join("-" * (len(c) + 1) + end for c, end in zip(head[0], ends, strict=True))
        above, below = ([f"| {' | '.join(cells)} |" for cells in part] for part in (head, rows))
        return "\n".join([*above, f"|{rule}|", *below])

    def latex(self) -> str:
        r"""A ``table`` environment for LaTeX with ``\usepackage{booktabs}`` and nothing else."""
        lines = [
            r"\begin{table}",
            r"\centering",
            *([rf"\caption{{{escape(self.caption)}}}"] if self.caption else []),
            rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in self.numeric)}}}",
            r"\toprule",
            self._latex_row(self.columns),
            r"\midrule",
            *map(self._latex_row, self.cells),
            r"\bottomrule",
            r"\end{tabular}",
            *([rf"\par\smallskip{{\footnotesize {escape(self.note)}\par}}"] if self.note else []),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def _latex_row(self, cells: Sequence[str]) -> str:
        made = [
            _NEGATIVE.sub("$-$", escape(cell)) if right else escape(cell)
            for cell, right in zip(cells, self.numeric, strict=True)
        ]
        return " & ".join(made) + r" \\"

    def text(self, width: int = 0) -> str:
        """For a terminal: columns two spaces apart under a rule, words left, numbers right.

        Words are wrapped as far as ``width`` asks for it, numbers never; 0: nothing is.
        """
        room = width and width - 2 * (len(self.columns) - 1)
        head, rows = _aligned([self.columns, *self.cells], self.numeric, room)
        rule = ["-" * len(cell) for cell in head[0]]
        body = "\n".join("  ".join(cells).rstrip() for cells in (*head, rule, *rows))
        return self._framed(body, "\n", width)

    def _framed(self, body: str, line_break: str, width: int = 0) -> str:
        above, below = (filled(one, width) for one in (self.caption, self.note))
        parts = [above.replace("\n", line_break), body, below.replace("\n", line_break)]
        return "\n\n".join(part for part in parts if part)

    def __repr__(self) -> str:
        return self.text()

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        from vdkit.present.document import table_html

        return table_html(self)

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
        texts = (self.csv(), self.markdown() + "\n", self.latex())
        paths = new_paths(folder, name, ("csv", "md", "tex"))
        for path, text in zip(paths, texts, strict=True):
            write_atomically(path, text, new=True)
        return paths


def _text(cell: Cell) -> str:
    return MISSING if cell is None or cell == "" else str(cell)


def _rounded(number: Number | None, name: str) -> float | int:
    """A figure of a cell as shown, an int where no decimals are; NaN if it is missing."""
    value = None if number is None else getattr(number, name)
    if number is None or value is None:
        return math.nan
    rounded = round(value, number.decimals) + 0.0
    return rounded if number.decimals > 0 else int(rounded)


def filled(text: str, width: int, indent: int = 0) -> str:
    """Every line wrapped to ``width``, if that is not 0; what continues one begins with spaces, of
    a list 2, else ``indent``.
    """
    return "\n".join(
        line
        if not len(line) > width > 0
        else fill(
            line, width, break_long_words=False, break_on_hyphens=False,
            subsequent_indent=" " * (2 if line.startswith("- ") else indent),
        )
        for line in text.split("\n")
    )  # fmt: skip


def _aligned(
    grid: Sequence[Sequence[str]], right: Sequence[bool], room: int
) -> tuple[list[list[str]], list[list[str]]]:
    """Lines of the head and of the rows below it, padded to the widest of their column.

    Where they have less ``room`` than that, and it is not 0, the widest columns are wrapped: words,
    and the heads of numbers. A cell of several lines has them then.
    """
    if not room:
        grid = [[cell.replace("\n", " ") for cell in row] for row in grid]
    whole = list(zip(*grid, strict=True))
    widths = [max(len(line) for cell in cells for line in cell.split("\n")) for cells in whole]
    least = [
        max(map(len, [*head.split(), *(cells if to_right else [" " * _LEAST_WIDTH])]))
        for (head, *cells), to_right in zip(whole, right, strict=True)
    ]
    while sum(widths) > room > 0:
        free = [at for at, width in enumerate(widths) if width > least[at]]
        if not free:
            break
        widths[max(free, key=widths.__getitem__)] -= 1
    pad = [str.rjust if to_right else str.ljust for to_right in right]
    head, *rows = (
        [
            [f(line, width) for f, line, width in zip(pad, lines, widths, strict=True)]
            for lines in zip_longest(*map(_wrapped, row, widths), fillvalue="")
        ]
        for row in grid
    )
    return head, [line for lines in rows for line in lines]


def _wrapped(cell: str, width: int) -> list[str]:
    return [
        part for one in cell.split("\n") for part in (wrap(one, width) if one.strip() else [one])
    ]


def escape(text: str) -> str:
    """Text as LaTeX sets it: letters as UTF-8, what no plain LaTeX can set a ``?``."""
    made = re.sub(r"\s+", " ", text).translate(_SPECIAL)
    # Up to there LaTeX knows every letter. Two hyphens in a row would become a dash.
    return re.sub("[\x00-\x1f\x7f-\x9f\u0180-\U0010ffff]", "?", made).replace("--", "-{}-")

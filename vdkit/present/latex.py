r"""LaTeX without surprises: any text escaped, and a table that needs ``booktabs`` and no more.

No package for symbols, encodings or wide tables is assumed, so that a table compiles in whatever
document it is pasted into.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}",
    "*": "{*}", '"': "''", "†": r"\dag{}", "×": r"$\times$", "µ": r"$\mu$", "μ": r"$\mu$",
    "±": r"$\pm$", "°": r"$^{\circ}$", "²": "$^{2}$", "³": "$^{3}$", "−": "$-$", "·": r"$\cdot$",
    "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "→": r"$\rightarrow$", "–": r"\textendash{}",
    "—": r"\textemdash{}", "…": r"\dots{}", "‘": "`", "’": "'", "“": "``", "”": "''", "§": r"\S{}",
    "ß": r"\ss{}", "ø": r"\o{}", "Ø": r"\O{}", "æ": r"\ae{}", "Æ": r"\AE{}",
}  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030a": "r",
    "\u030c": "v", "\u0327": "c",
}  # fmt: skip
"""Combining marks that every LaTeX font encoding can set."""
_NEGATIVE = re.compile(r"(?<![\w.)])-(?=\d)")


def escape(text: str) -> str:
    """Text as LaTeX sets it; a line break becomes a space, what no plain LaTeX can set a ``?``."""
    text = re.sub(r"\s+", " ", text)
    # Two hyphens in a row would become a dash.
    return "".join(map(_character, text)).replace("--", "-{}-")


def _character(one: str) -> str:
    if one in _SPECIAL:
        return _SPECIAL[one]
    if one.isascii():
        return one if one.isprintable() else "?"
    base, *marks = list(unicodedata.normalize("NFKD", one))
    if len(marks) == 1 and marks[0] in _ACCENTS and base.isascii():
        return f"\\{_ACCENTS[marks[0]]}{{{base}}}"
    return "".join(map(_character, (base, *marks))) if base.isascii() and not marks else "?"


def latex_table(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    numeric: Sequence[bool],
    caption: str = "",
    note: str = "",
) -> str:
    """A ``table`` environment around a ``tabular``, ending in a line break.

    Args:
        columns: headers.
        cells: rows of as many cells, as text.
        numeric: by column, whether it is set to the right, with minus signs for hyphens.
        caption, note: above the table and, smaller, below it; left out if empty.
    """

    def line(row: Sequence[str]) -> str:
        made = [
            _NEGATIVE.sub("$-$", escape(cell)) if right else escape(cell)
            for cell, right in zip(row, numeric, strict=True)
        ]
        return " & ".join(made) + r" \\"

    lines = [
        r"\begin{table}",
        r"\centering",
        *([rf"\caption{{{escape(caption)}}}"] if caption else []),
        rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in numeric)}}}",
        r"\toprule",
        line(columns),
        r"\midrule",
        *map(line, cells),
        r"\bottomrule",
        r"\end{tabular}",
        *([rf"\par\smallskip{{\footnotesize {escape(note)}\par}}"] if note else []),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"

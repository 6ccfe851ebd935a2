"""What is said of a recording: a list of sections, rendered alike in a terminal, Markdown and HTML.

A section holds typed parts: tables of values, pictures that are drawn when a page needs them, and
text. Nothing here knows what a recording is.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.present import Table, filled

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

RED, PLAIN = "\x1b[1;31m", "\x1b[0m"
MARKER = "<!-- vdkit report -->"
"""In the second line of every report: what has it may be overwritten by the next one."""
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Text:
    """Paragraphs, parted by empty lines; lines that begin with ``- `` are lists.

    Attributes:
        style: ``note`` for what is smaller on a page, ``warning`` for what must not be overlooked
            (red in a terminal), ``code`` for text as it is, ``head`` for a heading in a section.
    """

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure, for pages only.

    Attributes:
        draw: makes it.
        alt, caption: for who cannot see it, and below it.
        name: of its file, without ending.
    """

    draw: Callable[[], Figure]
    alt: str
    caption: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Rows of a name and a value, or several, for pages; of several, rows that differ stand out."""

    rows: Sequence[Sequence[str]]
    heads: Sequence[str] = ()
    note: str = ""


Part = Table | Text | Picture | Facts


@dataclass(frozen=True, slots=True)
class Section:
    """Parts under a heading.

    Attributes:
        name: the anchor on a page.
        page_only: left out in a terminal and in ``table.md``.
    """

    name: str
    title: str
    parts: tuple[Part, ...]
    page_only: bool = False

    def _ipython_display_(self) -> None:
        """In a notebook: tables, text and pictures, each an output of the cell."""
        from IPython.display import Markdown, display

        for part in self.parts:
            if isinstance(part, Picture):
                display(part.draw(), Markdown(part.caption))
            else:
                display(part if isinstance(part, Table) else Markdown(_text(part)))


@dataclass(frozen=True, slots=True)
class Document:
    """Everything about one recording, or about a comparison.

    Attributes:
        title: the label.
        kicker: a short line above it.
        lead: sentences below it, on a page.
    """

    title: str
    kicker: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...]

    def __getitem__(self, name: str) -> Section:
        """The section of this name; KeyError, with those that are there, if it has none."""
        there = {section.name: section for section in self.sections}
        if name not in there:
            raise KeyError(f"no section {name!r}; there are {', '.join(there)}")
        return there[name]

    def parts(self, page: bool = False) -> Iterator[Part]:
        """All of them in order; for a ``page``, or for text."""
        for section in self.sections:
            if page or not section.page_only:
                yield from section.parts

    def tables(self) -> list[Table]:
        """The tables of the text, the main one first; what is wrong stands above each."""
        texts = [part for part in self.parts() if isinstance(part, Text)]
        failed = lines(*(part.text for part in texts if part.style == "warning"))
        tables = [part for part in self.parts() if isinstance(part, Table)]
        return [replace(table, caption=lines(failed, table.caption)) for table in tables]

    def text(self, terminal: bool = False, width: int = 0) -> str:
        """As Markdown that reads well in a ``terminal``, warnings in red there, of so many columns.

        0: lines are as long as they are.
        """
        return "\n\n".join(filter(None, (_text(part, terminal, width) for part in self.parts())))

    def markdown(self) -> str:
        """``table.md``: the title as a heading, then `text`."""
        return f"# {self.title}\n\n{self.text()}\n"

    def html(self, foot: str) -> str:
        """A self-contained page without script, in ASCII; ``foot`` is its last line."""
        sections = [(s, [_drawn(one) for one in s.parts]) for s in self.sections if s.parts]
        page = _environment().get_template("page.html")
        made = page.render(document=self, sections=sections, marker=MARKER, foot=foot)
        return made.encode("ascii", "xmlcharrefreplace").decode("ascii")

    def _repr_markdown_(self) -> str:
        return self.markdown()


def _text(part: Part, terminal: bool = False, width: int = 0) -> str:
    if isinstance(part, Table):
        above, below = (filled(one, width) for one in (part.caption, part.note))
        return "\n\n".join(filter(None, (above, part.markdown_body(width), below)))
    if not isinstance(part, Text):
        return ""
    text = part.text if part.style == "code" else filled(part.text, width)
    if part.style == "warning" and text and terminal:
        return "\n".join(f"{RED}{line}{PLAIN}" for line in text.splitlines())
    return f"## {text}" if part.style == "head" and text else text


def lines(*parts: str) -> str:
    """Those that are not empty, a line each."""
    return "\n".join(part for part in parts if part)


def section(name: str, title: str, *parts: Part | None, page_only: bool = False) -> Section:
    """A section of the parts that are there."""
    there = [part for part in parts if part is not None]
    kept = tuple(part for part in there if not isinstance(part, Text) or part.text)
    return Section(name, title, kept, page_only)


def write_pictures(document: Document, folder: Path) -> list[Path]:
    """Draw every named picture into ``folder`` as PNG; returns their paths."""
    from vdkit.record import written

    pictures = [part for part in document.parts(page=True) if isinstance(part, Picture)]
    paths = {folder / f"{part.name}.png": part for part in pictures if part.name}
    for path, part in paths.items():
        with written(path) as partial:
            part.draw().savefig(partial)
    return list(paths)


@cache
def _environment() -> Environment:
    """Text is escaped by jinja2, everywhere, so a recording may hold anything."""
    from jinja2 import DictLoader, Environment, StrictUndefined

    home = files("vdkit.present")
    texts = {name: (home / name).read_text("utf-8") for name in ("page.html", "page.css")}
    made = Environment(
        loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    # Control characters, which HTML forbids, become U+FFFD.
    made.finalize = lambda text: _CONTROL.sub("\ufffd", text) if type(text) is str else text
    made.filters |= {"paragraphs": _paragraphs, "pieces": _pieces}
    return made


def _paragraphs(text: str) -> list[tuple[list[str], list[str]]]:
    """(lines, items of a list) of each paragraph."""
    made = []
    for part in filter(None, (part.strip("\n") for part in text.split("\n\n"))):
        items = [line[2:] for line in part.split("\n") if line.startswith("- ")]
        made.append(([line for line in part.split("\n") if not line.startswith("- ")], items))
    return made


def _pieces(cell: str) -> tuple[int, list[str]]:
    """Leading spaces of a cell, and the rest parted at its interval, which must not break."""
    inner = cell.lstrip(" ")
    return len(cell) - len(inner), re.split(r"(\[[^\]]*, [^\]]*\])", inner)


def _drawn(part: Any) -> tuple[str, Any]:
    """What the template calls a part, and the part, its picture drawn."""
    if isinstance(part, Picture):
        data, width, height = _png(part.draw())
        return "picture", {"part": part, "data": data, "width": width, "height": height}
    return type(part).__name__.lower(), part


def _png(figure: Figure) -> tuple[str, int, int]:
    """A figure as base64 of a small PNG, and its size in pixels."""
    from PIL import Image

    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    image = Image.open(drawn).convert("RGB")
    image.quantize(192, dither=Image.Dither.NONE).save(packed, format="png", optimize=True)
    data = base64.b64encode(min(drawn.getvalue(), packed.getvalue(), key=len)).decode()
    return data, *image.size


def table_html(table: Table) -> str:
    """A table as in a report, with the little style that a notebook lacks."""
    module: Any = _environment().get_template("page.html").make_module({"sections": None})
    made = str(module.table(table))
    made = made.replace('class="number"', 'style="text-align: right"')
    return made.replace('class="interval"', 'style="white-space: nowrap"')

"""What is said of a recording: a list of sections, rendered alike in a terminal, Markdown and HTML.

A section holds typed parts: tables of values, pictures that are drawn when a page needs them, and
text. Nothing here knows what a recording is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vdkit.present.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RED, PLAIN = "\x1b[1;31m", "\x1b[0m"


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
                display(part if isinstance(part, Table) else Markdown(_text(part, terminal=False)))


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
        failed = "\n".join(
            part.text for part in self.parts() if isinstance(part, Text) and part.style == "warning"
        )
        return [
            replace(table, caption="\n".join(filter(None, (failed, table.caption))))
            for table in self.parts()
            if isinstance(table, Table)
        ]

    def text(self, terminal: bool = False) -> str:
        """As Markdown that reads well in a terminal, warnings in red there."""
        return "\n\n".join(filter(None, (_text(part, terminal) for part in self.parts())))

    def markdown(self) -> str:
        """``table.md``: the title as a heading, then `text`."""
        return f"# {self.title}\n\n{self.text()}\n"

    def html(self, foot: str) -> str:
        """A self-contained page without script, in ASCII; ``foot`` is its last line."""
        from vdkit.present.page import page

        return page(self, foot)

    def _repr_markdown_(self) -> str:
        return self.markdown()


def _text(part: Part, terminal: bool) -> str:
    if isinstance(part, Table):
        return "\n\n".join(filter(None, (part.caption, part.markdown_body(), part.note)))
    if isinstance(part, Text):
        if part.style == "warning" and part.text and terminal:
            return "\n".join(f"{RED}{line}{PLAIN}" for line in part.text.splitlines())
        return part.text
    return ""


def lines(*parts: str) -> str:
    """Those that are not empty, a line each."""
    return "\n".join(part for part in parts if part)


def section(name: str, title: str, *parts: Part | None, page_only: bool = False) -> Section:
    """A section of the parts that are there."""
    there = tuple(
        part for part in parts if part is not None and (not isinstance(part, Text) or part.text)
    )
    return Section(name, title, there, page_only)


def write_pictures(document: Document, folder: Path) -> list[Path]:
    """Draw every named picture into ``folder`` as PNG; returns their paths."""
    from vdkit.record.store import written

    paths = []
    for part in document.parts(page=True):
        if isinstance(part, Picture) and part.name:
            path = folder / f"{part.name}.png"
            with written(path) as partial:
                part.draw().savefig(partial)
            paths.append(path)
    return paths

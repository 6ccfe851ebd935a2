"""A document as one self-contained HTML page, and a table as a notebook shows it.

Text is escaped by jinja2, everywhere, so a recording may hold anything. No torch.
"""

from __future__ import annotations

import base64
import io
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from vdkit.present.document import Document, Facts, Picture, Text
from vdkit.present.table import Table

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

MARKER = "<!-- vdkit report -->"
"""In the second line of every report: what has it may be overwritten by the next one."""
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@cache
def _environment() -> Environment:
    from jinja2 import DictLoader, Environment, StrictUndefined

    home = files("vdkit.present")
    texts = {name: (home / name).read_text("utf-8") for name in ("page.html", "page.css")}
    made = Environment(
        loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.finalize = _clean
    made.filters["paragraphs"] = _paragraphs
    made.filters["pieces"] = _pieces
    return made


def _clean(value: Any) -> Any:
    """Control characters, which HTML forbids, become U+FFFD."""
    return _CONTROL.sub("\ufffd", value) if type(value) is str else value


def _paragraphs(text: str) -> list[tuple[list[str], list[str]]]:
    """(lines, items of a list) of each paragraph."""
    parts = [part.strip("\n").split("\n") for part in text.split("\n\n") if part.strip("\n")]
    return [
        (
            [line for line in part if not line.startswith("- ")],
            [line[2:] for line in part if line.startswith("- ")],
        )
        for part in parts
    ]


def _pieces(cell: str) -> tuple[int, list[str]]:
    """Leading spaces of a cell, and the rest parted at its interval, which must not break."""
    inner = cell.lstrip(" ")
    return len(cell) - len(inner), re.split(r"(\[[^\]]*, [^\]]*\])", inner)


def page(document: Document, foot: str) -> str:
    """The whole document, in ASCII."""
    sections = [one for one in document.sections if one.parts]
    made = (
        _environment()
        .get_template("page.html")
        .render(
            document=document,
            sections=[(one, [_drawn(part) for part in one.parts]) for one in sections],
            marker=MARKER,
            foot=foot,
        )
    )
    return made.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _drawn(part: Any) -> tuple[str, Any]:
    """What the template calls a part, and the part, its picture drawn."""
    if isinstance(part, Picture):
        data, width, height = _png(part.draw())
        return "picture", {"part": part, "data": data, "width": width, "height": height}
    names = {Table: "table", Text: "text", Facts: "facts"}
    return names[type(part)], part


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

"""Pieces of a self-contained HTML page: escaped text, tables, pictures as data URIs. No torch.

Everything that is given as text is escaped here and nowhere else, so a record may hold anything.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from vdkit.present.report_style import STYLESHEET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKER = "<!-- vdkit report -->"
"""In the second line of every report: what has it may be overwritten by the next one."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Nothing is loaded and nothing runs, whatever a browser finds in the text."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_NUMBER = re.compile(r"[-+]?\d[\d.,]*†?( .*)?$|-$")
_NO_BREAK = re.compile(r"\[([^\]]*), ([^\]]*)\]")


def escape(text: object) -> str:
    """As text of an element or a quoted attribute; control characters become U+FFFD."""
    return html.escape(_CONTROL.sub("\ufffd", str(text)), quote=True)


def is_number(cell: str) -> bool:
    """Whether a cell is set right: a number, with what follows it, or ``-`` for a missing one."""
    return _NUMBER.match(cell) is not None


def prose(text: str, css: str = "") -> str:
    """Paragraphs, parted by empty lines; lines that begin with ``- `` become lists."""
    made = []
    for part in filter(None, (part.strip("\n") for part in text.split("\n\n"))):
        lines, items = [], []
        for line in part.split("\n"):
            if line.startswith("- "):
                items.append(f"<li>{escape(line[2:])}</li>")
            else:
                lines.append(escape(line))
        if lines:
            made.append(f"<p{_css(css)}>{'<br>'.join(lines)}</p>")
        if items:
            made.append(f"<ul{_css(css)}>{''.join(items)}</ul>")
    return "\n".join(made)


def box(text: str) -> str:
    """`prose` that must not be overlooked."""
    return f'<div class="warning">{prose(text)}</div>' if text else ""


def table(rows: Sequence[Mapping[str, str]], caption: str = "") -> str:
    """Rows with the keys of the first as header; columns of numbers are set right.

    A table without rows is no table: the answer is empty.
    """
    if not rows:
        return ""
    columns = list(rows[0])
    right = {name: all(is_number(row[name]) for row in rows) for name in columns[1:]}

    def cells(values: Iterable[str], tag: str) -> str:
        return "".join(
            f"<{tag}{_css('number' if right.get(name) else '')}>{_cell(value)}</{tag}>"
            for name, value in zip(columns, values, strict=True)
        )

    head = f"<thead><tr>{cells(columns, 'th')}</tr></thead>"
    body = "\n".join(f"<tr>{cells(row.values(), 'td')}</tr>" for row in rows)
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    sizes = {"wide": len(columns) > 9, "long": len(rows) > 14}
    classes = " ".join(name for name, is_so in sizes.items() if is_so)
    return (
        f'<div class="scroll"><table{_css(classes)}>{above}{head}\n<tbody>{body}</tbody></table>'
        "</div>"
    )


def _cell(text: str) -> str:
    """Escaped; an interval stays in one line, and leading spaces indent."""
    inner = text.lstrip(" ")
    indent = "&nbsp;" * (len(text) - len(inner))
    return indent + _NO_BREAK.sub(
        lambda found: f'<span class="interval">{found.group()}</span>', escape(inner)
    )


def facts(rows: Sequence[Sequence[str]], heads: Sequence[str] = ()) -> str:
    """A name and a value, or several, a row; of several, rows that differ are shaded."""

    def row(cells: Sequence[str]) -> str:
        css = _css("differs" if len(set(cells[1:])) > 1 else "")
        return f"<tr{css}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"

    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    above = f"<thead><tr>{head}</tr></thead>" if heads else ""
    body = "\n".join(row(cells) for cells in rows)
    return f'<div class="scroll"><table class="facts">{above}<tbody>{body}</tbody></table></div>'


def picture(figure: Figure, alt: str, caption: str) -> str:
    """A figure as PNG within the page; ``alt`` for who cannot see it."""
    from PIL import Image

    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    image = Image.open(drawn).convert("RGB")
    image.quantize(192, dither=Image.Dither.NONE).save(packed, format="png", optimize=True)
    data = base64.b64encode(min(drawn.getvalue(), packed.getvalue(), key=len)).decode()
    width, height = image.size
    return (
        f'<figure><img alt="{escape(alt)}" width="{width}" height="{height}" '
        f'src="data:image/png;base64,{data}">\n'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def heading(text: str) -> str:
    """Of a part of a section; empty for empty text."""
    return f"<h3>{escape(text)}</h3>" if text else ""


def pre(text: str) -> str:
    """Text as it is, such as a command line."""
    return f"<pre>{escape(text)}</pre>"


def section(name: str, title: str, *parts: str) -> str:
    """A part of the page under a heading; empty without ``parts``."""
    inner = "\n".join(part for part in parts if part)
    if not inner:
        return ""
    return f'<section id="{escape(name)}">\n<h2>{escape(title)}</h2>\n{inner}\n</section>'


def page(title: str, kicker: str, lead: str, sections: Sequence[str], foot: str) -> str:
    """The whole document, in ASCII.

    Args:
        title: as text.
        kicker: a short line above it, as text.
        lead: HTML below it.
        sections: of `section`; empty ones are left out.
        foot: the last line, as text.
    """
    parts = [part for part in sections if part]
    heads = [re.search(r'<section id="([^"]*)">\n<h2>([^<]*)</h2>', part) for part in parts]
    links = "".join(f'<a href="#{head[1]}">{head[2]}</a>' for head in heads if head)
    text = f"""<!DOCTYPE html>
{MARKER}
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLESHEET}</style>
</head>
<body>
<header>
<p class="kicker">{escape(kicker)}</p>
<h1>{escape(title)}</h1>
{lead}
<nav>{links}</nav>
</header>
<main>
{chr(10).join(parts)}
</main>
<footer>{escape(foot)}</footer>
</body>
</html>
"""
    return text.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _css(name: str) -> str:
    return f' class="{name}"' if name else ""

"""Write down what the commands that read recordings print: ``python -m tests.goldens.make``.

Only the command line is called, so the goldens outlive any change of the modules behind it. One
text file per recorded folder, and a few for commands that read several. Two things are not kept:
pixels of pictures (instead: size, texts, axes and marks of each figure) and HTML tags of reports
(instead: their text, tables and classes). A diff of a golden is a change that a user sees: read it
before committing it.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import io
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.transforms import Bbox

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
FOLDERS = sorted(path.name for path in (ROOT / "results").glob("2*") if path.is_dir())
LISTED = "results/202611*"
"""What the tables over all recordings hold: later recordings change their own golden alone."""
ONE_DAY = "results/20261120*"
QUICK_BYTES = 200_000
"""Of a trace: larger ones take seconds to read, and the report of their folder shows them."""
MONEY = ("--usd-per-hour", "3.36", "--energy")
FORMATS = ("text", "markdown", "latex", "csv")


def _match(pattern: str) -> str:
    """The one recording that ``pattern`` names, as given on a command line."""
    (found,) = ROOT.glob(f"results/{pattern}")
    return found.relative_to(ROOT).as_posix()


# ------------------------------------------------------------------ what a command prints


class _Page(HTMLParser):
    """A report as lines of text: a row of a table is a line, ``[class]`` stands before its text."""

    BLOCKS = re.compile(
        "title|h[1-3]|p|li|tr|caption|figcaption|footer|pre|section|div|nav|header|main|table|"
        "figure|ul|body|br"
    )

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.line = ""

    def end(self) -> None:
        if self.line.strip(" |"):
            self.lines.append(self.line.rstrip(" "))
        self.line = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if self.BLOCKS.fullmatch(tag):
            self.end()
        if tag == "img":
            source = given.pop("src")
            kind = source.partition(";")[0] if source.startswith("data:") else source
            self.line += f"[picture {kind} {' '.join(f'{n}={v}' for n, v in given.items())}]"
            self.end()
        elif tag == "a":
            self.line += f" <{given['href']}> "
        elif tag in ("td", "th"):
            self.line += ">| " if given.get("class") == "number" else " | "
        elif tag in ("h1", "h2", "h3"):
            self.line += "#" * int(tag[1]) + " "
        elif tag in ("li", "caption", "title", "footer"):
            self.line += {"li": "- "}.get(tag, f"({tag}) ")
        elif tag == "section":
            self.line += f"==== #{given['id']}"
            self.end()
        elif tag != "style":
            seen = given.get("class", "")
            if seen not in ("", "interval", "scroll"):
                self.line += f"[{seen}] "

    def handle_endtag(self, tag: str) -> None:
        if self.BLOCKS.fullmatch(tag):
            self.end()

    def handle_data(self, data: str) -> None:
        *whole, rest = data.replace("\xa0", "~").split("\n")
        for one in whole:
            self.line += one
            self.end()
        self.line += rest


def report_text(page: str) -> str:
    """The lines of a report, without its style sheet and the version that made it."""
    reader = _Page()
    reader.feed(re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL))
    reader.close()
    reader.end()
    return re.sub(r"(Made by vdkit report) \S+", r"\1 VERSION", "\n".join(reader.lines))


def report_head(page: str) -> str:
    """The head of a report as it is: what it may load, and how it looks."""
    (head,) = re.findall(r"<head>\n(.*?)</head>", page, flags=re.DOTALL)
    return html.unescape(head)


def _number(value: float) -> str:
    return f"{value:.6g}"


def _extent(box: Bbox) -> str:
    return ", ".join(map(_number, box.extents)) if box.width >= 0 else "empty"


def _pixels(figure: Figure) -> tuple[int, int]:
    width, height = figure.get_size_inches() * figure.dpi
    return int(width), int(height)


def figure_text(figure: Figure) -> str:
    """What can be read in a figure: its size, and of each axes the texts, limits and marks."""
    from matplotlib.ticker import FixedFormatter, StrMethodFormatter

    lines = ["figure {}x{}".format(*_pixels(figure))]

    def say(name: str, texts: list[str]) -> None:
        shown = [text for text in texts if text]
        if shown:
            lines.append(f"  {name}: {' / '.join(shown)}".replace("\n", " \\n "))

    def legend(held: Legend, name: str) -> None:
        title = held.get_title().get_text()
        said = [text.get_text() for text in held.get_texts()]
        say(name, [f"({title})" if title else "", *said])

    say("title", [figure.get_suptitle(), figure.get_supxlabel(), figure.get_supylabel()])
    loose = [text for text in figure.texts if text.get_text() != figure.get_suptitle()]
    say("texts", [text.get_text() for text in loose])
    for shared in figure.legends:
        legend(shared, "legend")
    for ax in figure.axes:
        lines.append(f"  axes{'' if ax.axison else ' (no frame)'}")
        say("  title", [ax.get_title(where) for where in ("left", "center", "right")])
        for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
            start, stop = axis.get_view_interval()
            span = f"{_number(start)} to {_number(stop)}, {axis.get_scale()}"
            lines.append(f"    {name}: {axis.get_label_text()!r} {span}")
            form = axis.get_major_formatter()
            if isinstance(form, FixedFormatter):
                say(f"  {name} ticks", [str(text) for text in form.seq])
            elif isinstance(form, StrMethodFormatter):
                say(f"  {name} ticks", [form.fmt])
        say("  texts", [text.get_text() for text in ax.texts])
        if (held := ax.get_legend()) is not None:
            legend(held, "  legend")
        kinds = ("lines", "patches", "collections", "images", "tables")
        marks = {kind: len(getattr(ax, kind)) for kind in kinds}
        said = [f"{count} {kind}" for kind, count in marks.items() if count]
        lines.append(f"    marks: {', '.join(said) or 'none'}; data {_extent(ax.dataLim)}")
    return "\n".join(lines)


@contextlib.contextmanager
def figures_kept() -> Iterator[list[str]]:
    """Within it a saved figure is told, not drawn: a blank picture of its size is written."""
    from matplotlib.figure import Figure
    from PIL import Image

    kept: list[str] = []

    def savefig(self: Figure, target: Any, **options: Any) -> None:
        kept.append(figure_text(self))
        Image.new("L", _pixels(self)).save(target, format="png")

    def quantize(self: Image.Image, *given: Any, **options: Any) -> Image.Image:
        return self

    with (
        mock.patch.object(Figure, "savefig", savefig),
        mock.patch.object(Image.Image, "quantize", quantize),  # slow, and blank is blank
    ):
        yield kept


def run(arguments: Sequence[str], out: Path | None = None) -> tuple[str, str]:
    """One command, in this process and in the repository: what it printed, and its ``--out``."""
    from vdkit.__main__ import main

    printed, complained = io.StringIO(), io.StringIO()
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        with (
            warnings.catch_warnings(),
            mock.patch.dict(os.environ, LINES="24", COLUMNS="80" if "--help" in arguments else "0"),
            mock.patch.object(os, "get_terminal_size", side_effect=OSError),  # nothing is wrapped
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(complained),
        ):
            warnings.simplefilter("ignore")  # the same filters as a script and as a test
            warnings.simplefilter("always", UserWarning)
            status: object
            try:
                status = main(arguments)
            except SystemExit as left:
                status = left.code
    finally:
        os.chdir(before)
    told = printed.getvalue().rstrip("\n")
    if complained.getvalue():
        told += f"\n(standard error) {complained.getvalue().rstrip()}"
    if status != 0:
        told += f"\n(exit status {status})"
    written = ""
    if out is not None:
        if out.is_file():
            written = out.read_bytes().decode("utf-8", "replace")
            out.unlink()
        told = told.replace(str(out), out.name)
    return told.strip("\n"), written


def _broken(told: str) -> str:
    return "\n".join(
        re.sub(r',(?="[^"]*":)', ",\n", line) if line.startswith("{") else line
        for line in told.split("\n")
    )


class Golden:
    """The text of one file: commands and what each printed."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def add(self, command: Sequence[str], *told: str) -> None:
        """What ``command`` printed and made."""
        self.parts.append("\n".join([f"$ vdkit {' '.join(command)}", *filter(None, told), ""]))

    def say(self, *command: str) -> None:
        """A command that prints text."""
        self.add(command, run(command)[0])

    def say_json(self, *command: str) -> None:
        """A command that prints a line of JSON, broken before each key; no number is touched."""
        self.add(command, _broken(run(command)[0]))

    def draw(self, *command: str) -> None:
        """A command that draws a timeline; of what it prints, the last line."""
        with figures_kept() as figures, tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "timeline.png"
            told, _ = run([*command, "--timeline", str(out)], out)
        last = told if "\n(exit status" in told else told.rpartition("\n")[2]
        self.add([*command, "--timeline", "timeline.png"], last, *figures)

    def report(self, *command: str, part: Callable[[str], str] | None = None) -> None:
        """A command that writes an HTML report; of its page ``part``, or the text and figures."""
        with figures_kept() as figures, tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "report.html"
            told, page = run(["report", *command, "--out", str(out)], out)
        told = re.sub(r"\(\d+ kB\)", "(SIZE)", told)
        made = [part(page)] if part else [report_text(page), *figures]
        self.add(["report", *command], told, *made)

    def export(self, *command: str) -> None:
        """JSON as of `say_json`, and the CSV file of everything: its first lines and checksum."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "all.csv"
            told, data = run([*command, "--json", "--csv", str(out)], out)
        head = ""
        if data:
            lines = data.split("\n")
            digest = hashlib.sha256(data.encode()).hexdigest()
            head = "\n".join([*lines[:3], f"... {len(lines) - 1} lines, SHA-256 {digest}"])
        self.add([*command, "--json", "--csv", "all.csv"], _broken(told), head)

    def text(self) -> str:
        """The file: UTF-8, ``\\n``, nothing of this machine."""
        made = "\n".join(self.parts)
        assert str(ROOT) not in made, "a path of this machine was printed"
        return "".join(f"{line.rstrip()}\n" for line in made.split("\n")).rstrip("\n") + "\n"


# ------------------------------------------------------------------ which commands


def folder_golden(name: str) -> str:
    """Every command that reads one recorded folder; those that refuse it say so."""
    golden, where = Golden(), f"results/{name}"
    golden.say("show", where)
    golden.say("show", where, *MONEY)
    for form in FORMATS:
        golden.say("show", where, "--format", form)
    golden.say("show", where, "--format", "csv", *MONEY)
    golden.draw("show", where, "--zoom", "4", "--modes", "sync,async")
    golden.report(where, *MONEY)
    golden.say("recommend", where)
    golden.say_json("recommend", where, "--usd-per-hour", "3.36", "--json")
    golden.say("results", where, "--runs")
    golden.export("results", where)
    home = ROOT / where
    if (home / "sweep.json").is_file():
        golden.say("results", where, "--cells")
        golden.say("recommend", where, "--pinned-mb", "12", "--ring-slots", "1,2,3,4,6")
        golden.say("recommend", where, "--frames", "321", "--storage-mb-s", "90", "--ttff-s", "1")
    for file in sorted(home.glob("result_*.json"))[:4]:  # of a sweep: four cells
        golden.say("show", f"{where}/{file.name}")
    if (home / "aa.json").is_file():
        for other in ("b", "slow"):
            pair = (f"{where}/result_a.json", f"{where}/result_{other}.json")
            golden.say("compare", *pair, "--paired", "--fail-above", "2%")
    for file in sorted(home.glob("trace_*.json.gz")):
        if file.stat().st_size < QUICK_BYTES:
            golden.say("analyze", f"{where}/{file.name}")
    return golden.text()


def results_golden() -> str:
    """All recordings in one table; its other forms of one day."""
    golden = Golden()
    golden.say("results", LISTED)
    golden.say("results", LISTED, "--modes", "async", "--cells", "--format", "csv", *MONEY)
    for form in FORMATS:
        golden.say("results", ONE_DAY, "--format", form)
    golden.say("results", ONE_DAY, *MONEY)
    golden.say("results", "results/197*")
    return golden.text()


def compare_golden() -> str:
    """Pairs: of two sessions, dtypes, machines, commits, sizes, variants, and of one recording."""
    main, again = _match("*c942496_aws-float16"), _match("*587491a_aws-float16")
    other_dtype, size = _match("*c942496_aws-bfloat16"), _match("*b9e0415_aws-720x1280")
    checked, unchecked = _match("*fast-checked-2"), _match("*fast-unchecked-1")
    length = _match("*length-161-frames")
    plain = _match("*variants-480p-float16/result_diffusers.json")
    fast = _match("*variants-480p-float16/result_fast.json")
    golden = Golden()
    for pair in (
        (again, main),
        (again, main, "--across"),
        (main, other_dtype, "--across"),
        (main, size, "--across"),
        (main, size),
        (length, unchecked, "--across"),
        (unchecked, checked),
        (plain, fast),
        (plain, fast, "--across", "--metrics", "latency_s,energy_j"),
        (main, main, "--mode-a", "sync", "--mode-b", "async"),
    ):
        golden.say("compare", *pair)
    for pair in (
        (again, main, "--across"),
        (unchecked, checked),
        (main, main, "--mode-a", "sync", "--mode-b", "async"),
    ):
        golden.say("compare", *pair, *MONEY)
        golden.say_json("compare", *pair, "--json", *MONEY)
    golden.say("compare", main, main, "--mode-a", "async", "--mode-b", "sync", "--fail-above", "2%")
    golden.report(again, main, "--across")
    golden.report(unchecked, checked, *MONEY)
    golden.report(main, size)
    golden.say("recommend", main, _match("*aws-chunk-2"), _match("*aws-chunk-4"))
    golden.say("recommend", *(_match(f"*{name}") for name in ("aws-disk", "aws-chunk-2")))
    return golden.text()


def analyze_golden() -> str:
    """The traces of data/."""
    golden = Golden()
    for file in sorted((ROOT / "data").glob("*.json.gz")):
        golden.say_json("analyze", f"data/{file.name}", "--json")
    return golden.text()


def report_golden() -> str:
    """Reports without prices, one of a kind; a whole timeline; the head, which all share."""
    golden = Golden()
    main = _match("*c942496_aws-float16")
    golden.report(main)
    golden.report(_match("*release-vae"))
    golden.report(_match("*fast-checked-profile"))
    golden.report(main, part=report_head)
    golden.draw("show", main)
    return golden.text()


GOLDENS: dict[str, Callable[[], str]] = {
    **{name: partial(folder_golden, name) for name in FOLDERS},
    "results": results_golden,
    "compare": compare_golden,
    "analyze": analyze_golden,
    "report": report_golden,
}
"""How each file is made, by its name without ``.txt``."""


def golden_path(name: str) -> Path:
    """Where the golden ``name`` lies."""
    return HERE / f"{name}.txt"


def write(names: list[str]) -> None:
    """Make the goldens ``names`` (all, if none are given) anew."""
    unknown = sorted(set(names) - set(GOLDENS))
    if unknown:
        raise SystemExit(f"no golden {', '.join(unknown)}; there are {', '.join(GOLDENS)}")
    for name in names or GOLDENS:
        golden_path(name).write_text(GOLDENS[name](), encoding="utf-8", newline="\n")
    if not names:
        for file in HERE.glob("*.txt"):
            if file.stem not in GOLDENS:
                file.unlink()


if __name__ == "__main__":
    write(sys.argv[1:])

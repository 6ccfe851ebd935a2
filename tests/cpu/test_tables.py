"""One table, five forms: the same numbers, valid in each, and no digit that was not measured."""

import io
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from IPython.lib.pretty import pretty

from vdkit import compare_results, document_of, read_recording, read_sweep
from vdkit.__main__ import main
from vdkit.present import (
    Number,
    Table,
    decimals_for,
    escape,
    mean_of,
    ratio_of,
    significant,
    summary_decimals,
)
from vdkit.present.comparison import comparison_table
from vdkit.present.document import Document, Facts, Picture, Section, Text, section
from vdkit.present.documents import benchmark_table, breakdown_table, variant_table
from vdkit.present.results_list import results_table
from vdkit.present.sweep_document import sweep_document
from vdkit.record.stats import Ratio, mean_half_width, summarize

RESULTS = Path(__file__).parents[2] / "results"
MAIN = next(RESULTS.glob("*c942496_aws-float16"))
PROFILE = next(RESULTS.glob("*2ad74eb_aws-profile"))
SWEEP = next(RESULTS.glob("*sweep-14-threads"))
VARIANTS = next(RESULTS.glob("*90fbdee_variants-480p-float16"))
AA = next(RESULTS.glob("*aa-async"))
ROWS = [
    {
        "mode": "sync",
        "mean s": Number(4.185, 3),
        "n": Number(10, 0),
        "sync / mode": Number(1, 0),
        "error %": Number(-0.5, 2),
    },
    {
        "mode": "a & b",
        "mean s": Number(3.6493, 4),
        "n": Number(10, 0),
        "sync / mode": Number(1.147, 3, 1.125, 1.168),
        "error %": None,
    },
]
NUMBER = r"(?<![\w.])-?\d+(?:\.\d+)?"


@pytest.fixture(scope="module")
def result():
    return read_recording(MAIN)


@pytest.fixture(scope="module")
def table(result):
    return benchmark_table(result)


def numbers(text):
    return [float(one) for one in re.findall(NUMBER, text)]


def body_of(form, table):
    """The lines of the rows, without header, caption and note."""
    lines = getattr(table, form)().splitlines()
    rule = {"markdown": "|--", "latex": r"\midrule", "text": "---", "csv": "mode,"}[form]
    start = next(i for i, line in enumerate(lines) if line.startswith(rule)) + 1
    return lines[start : start + len(table.rows)]


class TestFiveForms:
    @pytest.mark.parametrize("form", ["csv", "markdown", "latex", "text"])
    def test_the_same_numbers_in_every_form(self, form):
        table = Table(ROWS, "what", "why")
        frame = table.frame()
        for line, (_, row) in zip(body_of(form, table), frame.iterrows(), strict=True):
            expected = [v for v in row if isinstance(v, float | int) and not math.isnan(v)]
            if form == "latex":
                line = line.replace("$-$", "-").replace("{[}", "[").replace("{]}", "]")
            found = numbers(line)
            # Ends of an interval follow its value in the frame, but stand beside it elsewhere.
            assert sorted(found) == sorted(map(float, expected)), form

    def test_of_a_recorded_benchmark(self, table, result):
        frame = table.frame()
        means = [arm.latency.mean for arm in result.arms.values()]
        np.testing.assert_allclose(frame["mean s"], means, atol=5e-3)
        assert frame["n"].dtype == np.int64 and list(frame["n"]) == [10] * 4
        speedup = result.speedup("async")
        one = frame.iloc[2]
        np.testing.assert_allclose(
            [one["sync / mode"], one["sync / mode low"], one["sync / mode high"]],
            [speedup.value, speedup.low, speedup.high],
            atol=5e-4,
        )
        for form in ("markdown", "text"):
            for cells, line in zip(table.cells, body_of(form, table), strict=True):
                assert all(cell in line for cell in cells)

    def test_caption_above_and_note_below(self):
        text = Table(ROWS, "what\nwhere", "why").text()
        assert text.startswith("what\nwhere\n\nmode ") and text.endswith("\n\nwhy")
        assert "|" not in text and len({len(line) for line in text.split("\n\n")[1][:2]}) == 1
        assert Table(ROWS, "what\nwhere").markdown().startswith("what  \nwhere\n\n| mode")

    def test_numbers_stand_right_in_a_terminal(self):
        head, rule, first, second = Table(ROWS).text().splitlines()
        assert rule.split("  ")[0] == "-" * len("a & b") and first.startswith("sync   ")
        cells = ((head, "mean s"), (first, "4.185"), (second, "3.6493"))
        assert len({line.index(cell) + len(cell) for line, cell in cells}) == 1

    def test_what_is_too_wide_is_wrapped_but_for_numbers(self):
        long = "one two three four five six"
        rows = [{"what": long, "of all, percent": Number(1.147, 3, 1.125, 1.168), "as": "word"}]
        rows.append({"what": "short", "of all, percent": Number(2.0, 3, 1.9, 2.1), "as": long})
        table = Table([*rows, {"what": "a\nb"}], long * 3)
        document = Document("", "", (), (section("a", "", table),))
        for text in (table.text(60), document.text(width=60)):
            assert max(map(len, text.splitlines())) <= 60 and "2.000 [1.900, 2.100]" in text
            *_, last, end = (line.strip("| ") for line in text.splitlines())
            assert last.startswith("a ") and end == "b" and set(long.split()) <= set(text.split())
        assert "a b" in table.text() and long in table.text()
        assert "2.000 [1.900, 2.100]" in table.text(10)

    def test_words_without_a_head(self):
        head, rule, row = Table([{"": "rank 0", "ms": Number(2.0, 3)}]).text().splitlines()
        assert head.split() == ["ms"] and rule.split()[0] == "------" and row.split()[-1] == "2.000"

    def test_bars_and_line_breaks_stay_in_their_cell(self):
        cell = Table([{"a": "x|y", "b": "two\nlines"}]).markdown_body().splitlines()[2]
        assert cell.count("|") - cell.count(r"\|") == 3 and "two lines" in cell

    def test_in_a_notebook(self):
        table = Table([{"a": "<b>", "x": Number(1.147, 3, 1.125, 1.168)}], "c & d", "<script>")
        made = table._repr_html_()
        assert "<script>" not in made and "&lt;script&gt;" in made and "c &amp; d" in made
        assert "<b>" not in made and 'style="text-align: right"' in made
        assert table._repr_markdown_() == table.markdown()
        assert pretty(table) == table.text()

    def test_a_section_in_a_notebook(self, monkeypatch):
        shown = []
        monkeypatch.setattr("IPython.display.display", lambda *what: shown.extend(what))
        table, figure = Table(ROWS), object()
        parts = (table, Text("words"), Picture(lambda: figure, "alt", "caption"))
        document = Document("title", "", (), (Section("results", "Results", parts),))
        document["results"]._ipython_display_()
        assert shown[0] is table and shown[2] is figure
        assert [shown[1].data, shown[3].data] == ["words", "caption"]
        with pytest.raises(KeyError, match="no section 'stalls'; there are results"):
            document["stalls"]


class TestFrame:
    def test_an_interval_is_three_columns(self):
        frame = Table(ROWS).frame()
        assert list(frame.columns) == [
            "mode", "mean s", "n", "sync / mode", "sync / mode low", "sync / mode high", "error %",
        ]  # fmt: skip
        assert list(frame["sync / mode"]) == [1, 1.147] and frame["sync / mode high"][1] == 1.168
        assert math.isnan(frame["sync / mode low"][0])

    def test_missing_values_are_nan(self):
        rows = [
            {"mode": "a", "x s": None, "y": None},
            {"mode": "b", "x s": Number(3, 1), "z": "word"},
        ]
        frame = Table(rows).frame()
        assert math.isnan(frame["x s"][0]) and frame["x s"][1] == 3
        assert frame["y"].isna().all() and pd.isna(frame["z"][0]) and frame["z"][1] == "word"
        assert Table(rows).csv() == "mode,x s,y,z\na,,,\nb,3.0,,word\n"

    def test_text_stays_text(self):
        cells = {"size": "480x832", "throttled": "5 of 10", "commit": "5874911", "id": "007"}
        row = Table([cells]).frame().iloc[0]
        assert list(row) == list(cells.values())
        mixed = Table([{"m": Number(1.5, 1)}, {"m": "does not fit"}]).frame()
        assert list(mixed["m"]) == ["1.5", "does not fit"]

    def test_marks_are_kept_beside_the_number(self):
        rows = [
            {"x s": Number(3.65, 2, mark="†"), "r": Number(1.0897, 2, mark="n = 1")},
            {"x s": Number(4, 0), "r": None},
        ]
        table = Table(rows)
        frame = table.frame()
        assert table.cells[0] == ["3.65†", "1.09 (n = 1)"]
        assert list(frame["x s"]) == [3.65, 4] and frame["x s mark"][0] == "†"
        assert pd.isna(frame["x s mark"][1])
        assert frame["r"][0] == 1.09 and frame["r mark"][0] == "n = 1"

    def test_values_are_as_they_are_shown(self):
        """Tens and signs, in text and frame."""
        rows = [{"a": Number(2512.3, -1), "b": Number(4.951, 2, 4.5, 5.414, sign=True)}]
        assert Table(rows).cells == [["2510", "+4.95 [+4.50, +5.41]"]]
        row = Table(rows).frame().iloc[0]
        assert list(row) == [2510, 4.95, 4.5, 5.41]
        assert str(Number(-0.001, 2, sign=True)) == "+0.00"

    def test_csv_comes_back_through_pandas(self, table):
        rows = [{"a": 'say "hi", you', "x s": Number(1, 1)}, {"a": "two\nlines", "x s": None}]
        awkward = Table(rows)
        assert '"say ""hi"", you"' in awkward.csv()
        for one in (table, awkward, Table(ROWS)):
            back = pd.read_csv(io.StringIO(one.csv()))
            pd.testing.assert_frame_equal(back, one.frame(), check_dtype=False)


class TestLatex:
    def test_every_special_character_is_escaped(self):
        made = escape("&%$#_{}~^\\†[]<>×µ| --")
        assert made == (
            r"\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}\dag{}{[}{]}"
            r"\textless{}\textgreater{}$\times$$\mu$\textbar{} -{}-"
        )
        assert escape("é Läufe") == "é Läufe"
        assert escape("漢\x07 \n x") == "?? x" and escape("* a").startswith("{*}")

    @pytest.mark.parametrize("char", [*map(chr, range(0x20, 0x7F)), *"†×µ±≤≥→–—…‘’“”²³"])
    def test_only_ascii_comes_out(self, char):
        made = escape(f"a{char}b")
        assert made.isascii() and made[0] == "a" and made[-1] == "b"

    def test_needs_nothing_but_booktabs(self, table):
        made = table.latex()
        assert made.isascii() and made.startswith("\\begin{table}\n")
        assert made.endswith("\\end{table}\n")
        assert r"\begin{tabular}{l" in made and made.count(r"\begin") == made.count(r"\end") == 2
        assert all(rf"\{rule}rule" in made for rule in ("top", "mid", "bottom"))
        known = {
            "begin", "end", "centering", "caption", "toprule", "midrule", "bottomrule", "par",
            "smallskip", "footnotesize", "dag", "textless", "textgreater",
        }  # fmt: skip
        assert set(re.findall(r"\\([a-z]+)", made)) <= known
        bare = re.sub(r"\\[{}]", "", made)
        assert bare.count("{") == bare.count("}")
        lines = made.splitlines()
        rows = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
        assert len(rows) == 4 and all(row.endswith(r" \\") for row in rows)
        columns = len(re.search(r"tabular}\{([lr]+)\}", made)[1])
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}

    def test_alignment_and_minus(self):
        made = Table(ROWS).latex()
        assert r"\begin{tabular}{lrrrr}" in made and "$-$0.50" in made and r"a \& b" in made
        assert r"\caption" not in made and r"\footnotesize" not in made


class TestWrite:
    def test_three_files_and_none_overwritten(self, tmp_path, table):
        paths = table.write(tmp_path / "new", "one")
        assert [path.name for path in paths] == ["one.csv", "one.md", "one.tex"]
        assert sorted(tmp_path.joinpath("new").iterdir()) == paths
        assert paths[0].read_text() == table.csv() and paths[2].read_text() == table.latex()
        paths[0].unlink()
        with pytest.raises(FileExistsError, match="another name or remove it"):
            Table(ROWS).write(tmp_path / "new", "one")
        assert not paths[0].exists() and paths[1].read_text() == table.markdown() + "\n"

    @pytest.mark.parametrize("name", ["", "../x", "a/b"])
    def test_a_name_is_not_a_path(self, tmp_path, name):
        with pytest.raises(ValueError, match="without folder and ending"):
            Table(ROWS).write(tmp_path, name)


@pytest.mark.parametrize("rows", [[], [{}]])
def test_an_empty_table_names_the_remedy(rows):
    with pytest.raises(ValueError, match="leave the table out"):
        Table(rows)


def test_a_cell_without_digits_names_the_remedy():
    with pytest.raises(TypeError, match=r"cell 1.5 of column 'x' is float; give a .*Number"):
        Table([{"x": 1.5}])


class TestDigits:
    @pytest.mark.parametrize(
        ("half", "decimals"),
        [(0.057, 3), (0.0007, 4), (1e-9, 4), (0.16, 2), (3.2, 1), (50, 0), (500, -1), (0.0996, 2)],
    )
    def test_the_last_digit_is_the_second_of_the_half_width(self, half, decimals):
        assert decimals_for(half) == decimals

    @pytest.mark.parametrize(
        ("value", "text"),
        [(14.4811, "14.5"), (0.9999, "1.00"), (0.03456, "0.0346"), (0.0004567, "0.0005"),
         (2512.3, "2510"), (0, "0"), (9.996, "10.0")],
    )  # fmt: skip
    def test_three_digits_without_an_interval(self, value, text):
        assert str(Number(value, decimals_for(None, value))) == text

    def test_the_interval_ends_at_the_same_place(self):
        def told(value, low, high):
            return str(ratio_of(Ratio(value, low, high, 10)))

        assert told(1.14683, 1.12472, 1.16825) == "1.147 [1.125, 1.168]"
        assert told(4.7453, 4.536, 4.954) == "4.75 [4.54, 4.95]"
        assert told(1234.5, 700, 1800) == "1230 [700, 1800]"
        assert told(1.0, 1.0, 1.0) == "1.0000"
        assert str(Number(-0.00001, 3)) == "0.000"

    def test_ratios(self):
        assert ratio_of(None) is None
        assert str(ratio_of(Ratio(1.0897, None, None, 1))) == "1.09 (n = 1)"
        assert str(ratio_of(Ratio(1.3904, 1.3838, 1.3994, 4))) == "1.3904 [1.3838, 1.3994]"

    @pytest.mark.parametrize(
        ("value", "text"), [(0.012345, "0.01235"), (1.39742, "1.397"), (12345.6, "12346"), (0, "0")]
    )
    def test_significant_digits(self, value, text):
        assert str(significant(value, 4)) == text and significant(None) is None

    def test_half_width_of_a_mean_is_students(self):
        assert mean_half_width(3.0, 1) is None
        assert mean_half_width(1.0, 2) == pytest.approx(12.706205 / math.sqrt(2))
        assert mean_half_width(1.0, 10) == pytest.approx(2.262157 / math.sqrt(10))
        for n, t in ((22, 2.07961), (31, 2.04227), (101, 1.98397)):
            assert mean_half_width(math.sqrt(n), n) == pytest.approx(t, rel=1e-5)

    def test_covers_the_mean_as_often_as_it_says(self):
        random = np.random.default_rng(1)
        draws = random.normal(5, 2, (4000, 4))
        halves = [mean_half_width(float(np.std(one, ddof=1)), 4) for one in draws]
        assert 0.94 < np.mean(np.abs(draws.mean(axis=1) - 5) <= halves) < 0.96

    def test_a_mean_scales_with_its_unit(self):
        values = [4.1, 4.2, 4.3]
        assert str(mean_of(values)) == "4.20" and str(mean_of(values, 1000)) == "4200"
        assert str(mean_of([4.2])) == "4.20" and summary_decimals(summarize(values), 1e-3) == 4

    def test_all_figures_of_a_row_end_at_one_place(self, table):
        wide, narrow = table.rows[0], table.rows[2]
        for row, places in ((wide, 2), (narrow, 4)):
            for name in ("mean s", "median s", "P99 s†", "min s", "max s"):
                assert len(str(row[name]).partition(".")[2]) == places, name

    def test_one_run_has_three_digits(self):
        (folder,) = RESULTS.glob("*ef89707_aws-641-frames")
        row = benchmark_table(read_recording(folder)).rows[1]
        assert str(row["mean s"]) == "14.5" and row["std s"] is None
        assert str(benchmark_table(read_recording(folder)).rows[2]["sync / mode"]).endswith("1)")


def test_units_are_in_the_headers(table):
    """Seconds, megabytes or gigabytes, but for what has no unit."""
    without = {"n", "RTF", "sync / mode", "sync / mode low", "sync / mode high"}
    frame = table.frame()
    numeric = [name for name in frame.columns if pd.api.types.is_numeric_dtype(frame[name])]
    assert len(numeric) == 15
    for name in set(numeric) - without:
        assert name.rstrip("†").endswith((" s", " MB", " GB")), name


class TestDocument:
    MADE = Document(
        "one",
        "kind",
        ("lead",),
        (
            section("a", "A", Text("wrong", "warning"), Table(ROWS, "what", "why"), Text("")),
            section("b", "B", Facts([("x", "1")]), Text("hidden"), page_only=True),
        ),
    )

    def test_text_has_what_is_for_text(self):
        text = self.MADE.text()
        assert text.startswith("wrong\n\nwhat\n\n| mode ") and text.endswith("why")
        assert "hidden" not in text and "lead" not in text and "\x1b" not in text
        assert self.MADE.text(terminal=True).startswith("\x1b[1;31mwrong\x1b[0m\n")
        assert self.MADE.markdown() == f"# one\n\n{text}\n" == self.MADE._repr_markdown_()

    def test_what_is_wrong_stands_above_every_table(self):
        (table,) = self.MADE.tables()
        assert table.caption == "wrong\nwhat" and table.rows == Table(ROWS).rows

    def test_empty_parts_are_left_out(self):
        assert [len(one.parts) for one in self.MADE.sections] == [2, 2]
        assert len(list(self.MADE.parts(page=True))) == 4


class TestEveryKindOfRecord:
    def test_as_tables(self, result):
        listed = [(MAIN / "result.json", result)]
        made = [
            breakdown_table(result),
            comparison_table(compare_results(result, result, modes=[("sync", "async")])),
            variant_table(read_recording(VARIANTS)),
            sweep_document(read_sweep(SWEEP)).tables()[0],
            results_table(listed),
            results_table(listed, runs=True),
            *document_of(read_recording(AA)).tables(),
        ]
        for table in made:
            assert table.caption and len(table.frame()) == len(table.rows)
            assert table.latex().isascii() and table.csv() and table.text() and table.markdown()
        shown_alone = [str(row["mean s"]) for row in benchmark_table(result).rows]
        assert [str(row["mean s"]) for row in made[4].rows] == shown_alone, "the same digits"

    @pytest.mark.parametrize("record", [MAIN, PROFILE, SWEEP, VARIANTS], ids=lambda path: path.name)
    def test_show_prints_any_form(self, record, capsys):
        first = {}
        for form in ("text", "markdown", "latex", "csv"):
            assert main(["show", str(record), "--format", form]) == 0
            first[form] = capsys.readouterr().out
        back = pd.read_csv(io.StringIO(first["csv"]))
        assert len(back) >= 3 and first["latex"].startswith(r"\begin{table}")
        assert "|--" in first["markdown"] and "|--" not in first["text"]

    def test_show_prints_tables_or_draws(self, tmp_path, capsys):
        command = ["show", str(MAIN), "--format", "csv", "--timeline", "x.png"]
        assert main(command) == 2
        assert "leave out --timeline" in capsys.readouterr().err

    def test_results_print_any_form(self, capsys):
        where = ["results", str(MAIN)]
        assert main([*where, "--format", "csv"]) == 0
        back = pd.read_csv(io.StringIO(capsys.readouterr().out))
        assert list(back["mode"]) == ["diffusers", "sync", "async", "compute_only"]
        assert main([*where, "--format", "latex"]) == 0
        assert capsys.readouterr().out.startswith(r"\begin{table}")

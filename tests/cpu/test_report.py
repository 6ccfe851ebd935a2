"""``vdkit report``: what the page holds, that it loads and runs nothing, and what is refused."""

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.helpers import summed_up
from vdkit import compare_results, document_of, read_recording
from vdkit.__main__ import main
from vdkit.present import Number, Table
from vdkit.present.columns import Asked
from vdkit.present.comparison import comparison_table
from vdkit.present.document import MARKER, Document, Facts, Text, section
from vdkit.present.documents import benchmark_table, families_table, source_of, variant_table
from vdkit.record.results import read_families

RESULTS = Path(__file__).parents[2] / "results"
BENCH = next(RESULTS.glob("*c942496_aws-float16"))
OTHER = next(RESULTS.glob("*587491a_aws-float16"))
PROFILE = next(RESULTS.glob("*90fbdee_fast-profile"))
VARIANTS = next(RESULTS.glob("*90fbdee_variants-480p-float16"))
AA = next(RESULTS.glob("*aa-async"))
SWEEP = next(RESULTS.glob("*sweep-cpu"))
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and tables of a page; its tags must be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.tables, self.open, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    @property
    def text(self):
        return "".join(self.words)

    def holds(self, table):
        """Whether a table has these columns and cells."""
        wanted = [table.columns, *table.cells]
        return wanted in [
            [[cell.replace("\xa0", " ") for cell in row] for row in one] for one in self.tables
        ]


def check(text, sentences=3):
    """What holds for every report; the page."""
    page = Page(text)
    assert text.isascii() and text.splitlines()[1] == MARKER
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    images = [value for tag, name, value in page.attributes if tag == "img" and name == "src"]
    assert images and len(images) == page.tags.count("img")
    for image in images:
        head, data = image.split(",", 1)
        assert head == "data:image/png;base64"
        assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("href", "src", "srcset", "action"):
            assert value.startswith("data:" if tag == "img" else "#"), (tag, value[:60])
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    ids = [value for _, name, value in page.attributes if name == "id"]
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert len(set(ids)) == len(ids) and links == [f"#{one}" for one in ids]
    assert all(value for tag, name, value in page.attributes if (tag, name) == ("img", "alt"))
    assert page.tags.count("h1") == 1
    lead = page.tags[page.tags.index("h1") + 2 :][:sentences]
    assert lead == ["p"] * sentences
    return page


def made(tmp_path, *arguments):
    out = tmp_path / "report.html"
    assert main(["report", *map(str, arguments), "--out", str(out)]) == 0
    return out.read_text()


def changed(tmp_path, name="other.json", source=BENCH, latency=1.0, **changes):
    """A recorded benchmark with some fields and all its latencies changed."""
    data = json.loads((source / "result.json").read_text()) | changes
    for run in data["runs"]:
        run["latency_s"] *= latency
    (tmp_path / name).write_text(json.dumps(summed_up(data)))
    return tmp_path / name


def test_a_benchmark(tmp_path, capsys):
    text = made(tmp_path, BENCH)
    said = capsys.readouterr().out
    assert str(tmp_path / "report.html") in said and f"{len(text) / 1e3:.0f} kB" in said
    page, result = check(text), read_recording(BENCH)
    assert page.holds(benchmark_table(result))
    assert page.text.count(result.label) and "sync / async is 1.146 [1.121, 1.173]" in page.text
    assert "async is 0.01 % above the compute floor of 3.6489 s" in page.text
    assert "25 of 40 timed runs had a throttle reason set" in page.text
    assert f"git checkout {result.provenance.git_commit}\n{result.command}" in page.text
    assert result.workload.weights_sha256 in page.text and result.provenance.driver in page.text
    predicted = next(one for one in page.tables if "predicted s" in one[0])
    assert [row[0] for row in predicted[1:]] == [row[0] for row in page.tables[0][1:]]
    assert all(abs(float(row[-1])) < 1 for row in predicted[1:])
    assert len(text) < 500_000
    assert made(tmp_path, BENCH / "result.json") == text  # and replaces the earlier report


def test_money_and_energy(tmp_path):
    page = check(made(tmp_path, BENCH, "--usd-per-hour", "3.36", "--energy"))
    assert page.holds(benchmark_table(read_recording(BENCH), Asked(3.36, energy=True)))
    assert "Price: $3.36 per hour" in page.text


def test_a_profile(tmp_path):
    text = made(tmp_path, PROFILE)
    page, recording = check(text), read_recording(PROFILE)
    document = document_of(recording, source=source_of(PROFILE))
    tables = document.tables()
    assert len(tables) >= 3 and all(page.holds(one) for one in tables)
    assert page.tags.count("img") == 5 and len(text) < 2_000_000


def test_a_profile_without_what_lies_beside_it(tmp_path):
    (tmp_path / "profile.json").write_bytes((PROFILE / "profile.json").read_bytes())
    page = check(made(tmp_path, tmp_path))
    assert page.tags.count("img") == 4 and "No nvml.csv lies beside the record" in page.text


def test_variants(tmp_path):
    page, recording = check(made(tmp_path, VARIANTS)), read_recording(VARIANTS)
    assert page.holds(variant_table(recording)) and page.holds(families_table(recording))
    assert page.tags.count("img") == 1 + len(recording.benchmarks)
    assert "diffusers / fast is 3.091" in page.text
    hashes = {row[0]: row[1] for row in page.tables[-1]}
    assert hashes["label"] == "variants-480p-float16"
    assert hashes["frames of compiled, SHA-256"].count("; ") == 1
    assert len(hashes["SHA-256 of result_fast.json"]) == 64
    assert "FRAMES OF THE MODES OF compiled ARE NOT IDENTICAL" in page.text


def test_an_aa_control(tmp_path):
    page = check(made(tmp_path, AA))
    assert all(page.holds(one) for one in document_of(read_recording(AA)).tables())
    assert page.tags.count("img") == 1
    assert "paired, 1 false calls in 40 splits, and what was planted found in 40" in page.text
    hashes = {row[0]: row[1] for row in page.tables[-1]}
    assert len(hashes["SHA-256 of result_slow.json"]) == 64


def test_a_sweep(tmp_path):
    assert check(made(tmp_path, SWEEP), sentences=1).tables


def test_a_profiles_timed_runs_are_compared_too(tmp_path):
    page = check(made(tmp_path, PROFILE, VARIANTS / "result_fast.json"), sentences=2)
    assert any("B / A" in one[0] for one in page.tables)
    assert "Timeline of A" in page.text


def test_families_are_read_as_they_were_written(tmp_path):
    shares = read_recording(VARIANTS).families
    lines = (VARIANTS / "families.csv").read_text().splitlines()[1:]
    written = [
        f'{variant},"{one.family.name}",{one.family.kernels},{one.family.seconds!r},'
        f"{one.ms_per_latent_frame!r},{one.family.percent!r}"
        for variant, families in shares.items()
        for one in families
    ]
    assert written == lines and len(lines) > 10
    (tmp_path / "families.csv").write_text("variant,family,kernels\nfast,other,many\n")
    with pytest.raises(ValueError, match=r"families\.csv is not a table of kernel families"):
        read_families(tmp_path / "families.csv")


def test_two_runs_compared(tmp_path):
    slower = changed(tmp_path, label="slower", latency=1.25)
    page = check(made(tmp_path, BENCH, slower), sentences=2)
    a, b = read_recording(BENCH), read_recording(slower)
    assert page.holds(comparison_table(compare_results(a, b)))
    assert page.holds(benchmark_table(a)) and page.holds(benchmark_table(b))
    assert "async: slower, B / A 1.250" in page.text and "COMPARED ACROSS" not in page.text


def test_what_differs_is_stated_above_the_verdicts(tmp_path):
    page = check(made(tmp_path, OTHER, BENCH), sentences=2)
    assert "COMPARED ACROSS" in page.text and any("B / A" in one[0] for one in page.tables)
    assert "device_uuid GPU-e7c560dc" in page.text
    assert "THEY DIFFER IN MORE THAN CODE" in page.text


def test_other_media_are_compared_only_across(tmp_path, capsys):
    longer = next(RESULTS.glob("*ee32141_length-321-frames"))
    pair = ["report", str(BENCH), str(longer), "--out", str(tmp_path / "r.html")]
    assert main(pair) == 2
    assert "other media: frames 161 against 321" in capsys.readouterr().err
    assert main([*pair, "--across"]) == 0
    assert "frames 161 against 321" in check((tmp_path / "r.html").read_text(), 2).text


def test_nothing_in_a_record_becomes_markup(tmp_path):
    evil = "</style><script>alert(1)</script>\"'&<img src=http://x onerror=y>"
    evil += " \x00\x1b $\\frac$ \u2028\u00e9"
    data = json.loads((BENCH / "result.json").read_text())
    data |= {"label": evil, "command": evil}
    data["workload"] |= {"notes": [evil], "decoder": evil, "source": evil, "latents": evil}
    data["provenance"] |= {"device": evil, "cpu": evil, "git_commit": evil, "driver": evil}
    data["sink"] |= {"kind": evil}
    (tmp_path / "evil.json").write_text(json.dumps(data))
    for arguments in ([tmp_path / "evil.json"], [BENCH, tmp_path / "evil.json"]):
        text = made(tmp_path, *arguments)
        page = check(text, 3 if len(arguments) == 1 else 2)
        assert "<script" not in text and "&lt;script&gt;" in text
        assert page.text.count("<script>alert(1)</script>") > 5


def test_a_record_with_less_in_it(tmp_path):
    data = json.loads((BENCH / "result.json").read_text())
    data["modes"] = {"async": data["modes"]["async"]}
    data["runs"] = [run for run in data["runs"] if run["mode"] == "async"][:3]
    data |= {"baseline": "async", "frames_identical": None, "command": None}
    data["sink"]["throttle_mb_per_s"] = 100.0
    (tmp_path / "less.json").write_text(json.dumps(summed_up(data)))
    page = check(made(tmp_path, tmp_path / "less.json"))
    assert "not in this record, whose modes are async" in page.text
    assert "not predicted: " in page.text and "throttled" in page.text
    assert "No command line is recorded" in page.text


def test_frames_that_differ_are_said(tmp_path):
    modes = json.loads((BENCH / "result.json").read_text())["modes"]
    modes["async"]["frame_sha256"] = "0" * 64
    page = check(made(tmp_path, changed(tmp_path, frames_identical=False, modes=modes)))
    assert "FRAMES OF THE MODES ARE NOT IDENTICAL" in page.text
    assert "The modes gave different frames." in page.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([BENCH, SWEEP], "a sweep is no side of a comparison"),
        ([RESULTS], "no result at"),
        ([RESULTS / "nothing"], "no result at"),
        ([BENCH, BENCH], "hold the same runs"),
        ([BENCH, VARIANTS], "no mode in common"),
        ([BENCH, OTHER, BENCH], "3 recordings; give one, or two"),
        ([BENCH, "--across"], "--across is for a comparison"),
        ([BENCH, "--usd-per-hour", "0"], "the price is 0"),
        ([BENCH / "runs.csv"], "is not JSON"),
    ],
)
def test_what_there_is_no_report_of(tmp_path, capsys, arguments, words):
    out = tmp_path / "report.html"
    assert main(["report", *map(str, arguments), "--out", str(out)]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["show", "show --format csv", "report"])
def test_a_profile_that_lacks_something_is_refused(tmp_path, capsys, command):
    data = json.loads((PROFILE / "profile.json").read_text())
    del data["modes"]["async"]["analysis"]["windows"]["run"]["stall_s"]["drain"]
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(data))
    name, *options = command.split()
    out = ["--out", str(tmp_path / "r.html")] if name == "report" else []
    assert main([name, str(file), *options, *out]) == 2
    error = capsys.readouterr().err
    assert str(file) in error and "window 'run' has no 'drain' among its stalls" in error
    assert list(tmp_path.iterdir()) == [file]


def test_other_files_are_left_alone(tmp_path, capsys):
    page = tmp_path / "mine.html"
    page.write_text("<!DOCTYPE html><p>mine")
    (tmp_path / "link.html").symlink_to(page)
    (tmp_path / "folder.html").mkdir()
    for name, words in (
        ("mine.html", "no report of vdkit; name a new file or remove it"),
        ("link.html", "no report of vdkit"),
        ("folder.html", "is a folder"),
        ("report.pdf", "end the name in .html"),
        ("none/report.html", "there is no folder"),
    ):
        assert main(["report", str(BENCH), "--out", str(tmp_path / name)]) == 2
        assert words in capsys.readouterr().err
    assert page.read_text() == "<!DOCTYPE html><p>mine"
    assert len(list(tmp_path.iterdir())) == 3


def test_neither_torch_nor_a_display(tmp_path):
    code = (
        "import sys; from vdkit.__main__ import main; "
        f"assert main(['report', {str(BENCH)!r}, '--out', {str(tmp_path / 'r.html')!r}]) == 0; "
        "assert not {'torch', 'diffusers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def page_of(*parts):
    return Document("t", "k", (), (section("a", "A", *parts),)).html("foot")


def test_pieces():
    text = page_of(Text("a\nb\n\n- c\n- <d>"), Text("<\x07&\">'", "note"), Text(""))
    assert "<p>a<br>b</p>\n<ul><li>c</li><li>&lt;d&gt;</li></ul>" in text
    assert '<p class="note">&lt;&#65533;&amp;&#34;&gt;&#39;</p>' in text
    rows = [
        {"a": "x", "b": Number(1.5, 1, 1, 2), "c": "587491a4"},
        {"a": None, "b": None, "c": "1"},
    ]
    one = page_of(Table(rows))
    assert re.findall(r'class="number">([^<]*)', one) == ["b", "1.5 ", "-"]
    assert '<span class="interval">[1.0, 2.0]</span>' in one
    assert page_of(Facts([("a", "1", "2"), ("b", "1", "1")])).count('class="differs"') == 1
    assert '<div class="warning">' in page_of(Text("no", "warning"))

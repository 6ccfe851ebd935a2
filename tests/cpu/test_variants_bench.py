"""Variants side by side: the plan, the record, the table, kernel families, the command."""

import csv
import json

import pytest
import torch
from vdkit.present.variants_table import (
    families_csv,
    plot_families,
    variant_rows,
    variants_frame,
    variants_text,
    write_families,
)
from vdkit.record.old_variants import (
    alone,
    alone_bytes,
    ms_per_latent_frame,
    read_variants,
    variant_file,
    write_variants,
)

from tests import timelines
from tests.cpu.test_benchmark import RESULTS
from tests.helpers import NearestDecoder, latents_for
from tools.readme import recorded_folders
from vdkit import load_results, read_result
from vdkit.__main__ import main
from vdkit.cli.options import VARIANTS as NAMED
from vdkit.measure.plans import run_variants
from vdkit.models.loading import VARIANTS
from vdkit.present.style import FAMILY_COLORS
from vdkit.record.runs import SinkInfo
from vdkit.sinks.spec import SinkSpec
from vdkit.trace.figures import steady_families

pytestmark = pytest.mark.usefixtures("one_thread")

NULL = SinkSpec("null")
QUICK = ["bench", "--device", "cpu", "--latents", "random:9x16x16", "--runs", "2", "--warmup", "0",
         "--sink", "null"]  # fmt: skip


class Plain(NearestDecoder):
    """Can do all; is prepared in a moment."""

    variant = "plain"

    def __init__(self, **options):
        super().__init__(**options)
        self.prepared = []

    def prepare(self, height, width, chunk_size):
        self.prepared.append((height, width, chunk_size))

    def decode_video(self, latents, before_frame):
        state = self.begin(latents)
        frames = []
        for index in range(latents.shape[2]):
            before_frame(index)
            frames.append(self.decode_chunk(state, index, index + 1))
        return torch.cat(frames, 2)

    def to_numpy(self, frames):
        return (frames[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1).float().numpy()


class Chunked(NearestDecoder):
    """No decode_video; says something of itself."""

    variant = "chunked"
    notes = ("without its kernels",)


def compare(variants=(("plain", Plain), ("chunked", Chunked)), **options):
    options = {
        "sink_info": SinkInfo(kind="null", storage=None),
        "modes": ("diffusers", "sync", "async", "compute"),
        "runs": 4, "warmup": 1, "progress": False,
    } | options  # fmt: skip
    factory = options.pop("sink_factory", NULL.fresh)
    return run_variants(variants, lambda decoder: latents_for(decoder, 9), factory, **options)


@pytest.fixture(scope="module")
def measured():
    return compare(exact=Plain)


@pytest.fixture(scope="module")
def made(measured):
    return measured.comparison


class TestRun:
    def test_variants_and_modes_take_turns(self):
        labels, said = [], []

        def factory(label):
            labels.append(label)
            return NULL.fresh(label)

        compare(
            modes=("sync", "diffusers"), runs=2, warmup=0, sink_factory=factory, say=said.append
        )
        there = ["plain-sync", "plain-diffusers", "chunked-sync"]
        assert labels == [f"{one}-000" for one in there] + [f"{one}-001" for one in there[::-1]]
        assert said[0].startswith("set-up of plain: ") and said[1].startswith("set-up of chunked: ")
        assert said[2].startswith("chunked: mode diffusers is skipped") and len(said) == 3

    def test_each_variant_is_a_record_of_its_own(self, made):
        assert list(made.results) == ["plain", "chunked"] and made.index.baseline == "plain"
        plain, chunked = made.results.values()
        assert list(plain.modes) == ["diffusers", "sync", "async", "compute"]
        assert list(chunked.modes) == ["sync", "async", "compute"]
        assert made.index.skipped == {"chunked": ("diffusers",)}
        assert (plain.workload.variant, chunked.workload.variant) == ("plain", "chunked")
        assert chunked.workload.notes == ("without its kernels",)
        assert plain.workload.latents_sha256 == chunked.workload.latents_sha256
        rounds = [[run.round for run in one.arms["sync"].timed] for one in (plain, chunked)]
        assert rounds == [[0, 1, 2, 3]] * 2
        assert plain.setup_s >= 0 and plain.other_bytes is None  # no device memory here
        assert chunked.baseline == "sync"

    def test_every_decoder_is_prepared_once_for_its_chunks(self):
        decoder = Plain()
        compare([("plain", lambda: decoder)], modes=("sync",), runs=1)
        assert decoder.prepared == [(3, 5, 1)]

    def test_frames_are_compared_with_float32(self, made):
        assert made.index.psnr_db == {"plain": None, "chunked": None}  # equal
        half = compare([("half", lambda: Plain(dtype=torch.bfloat16))], exact=Plain, runs=1)
        assert half.comparison.index.psnr_latent_frames == 5
        assert 30 < half.comparison.index.psnr_db["half"] < 70

    def test_what_fails_afterwards_does_not_lose_the_runs(self):
        def too_large():
            raise torch.OutOfMemoryError("out of memory\nwith details")

        said = []
        done = compare(exact=too_large, runs=1, modes=("sync",), say=said.append)
        assert done.comparison.index.psnr_db == {}
        assert said[-1] == "frames are not compared with float32: out of memory"

    @pytest.mark.parametrize(
        ("variants", "options", "message"),
        [
            ([], {}, "variants are missing"),
            ([("a", Plain)] * 2, {}, "variants a, a: name each once"),
            ([("a", Plain)], {"modes": ("turbo",)}, "modes turbo: use any of"),
            ([("a", Chunked)], {"modes": ("diffusers",)}, "'a' decodes by chunk only; add sync"),
            ([("a", lambda: Plain(error=ValueError("no"), fail_at=1))], {}, "variant 'a': no"),
        ],
    )
    def test_bad_plans(self, variants, options, message):
        with pytest.raises(ValueError, match=message):
            compare(variants, **options)


class TestFigures:
    def test_written_and_read_again(self, made, tmp_path):
        write_variants(made, tmp_path)
        again = read_variants(tmp_path)
        assert again == read_variants(tmp_path / "variants.json") and again.index == made.index
        assert variants_text(again) == variants_text(made)
        assert read_result(tmp_path / variant_file("chunked")) == again.results["chunked"]
        with pytest.raises(FileExistsError, match="append-only"):
            write_variants(made, tmp_path)

    def test_ratios_are_paired_by_round(self, made):
        ratio = made.ratio(("plain", "sync"), ("chunked", "async"))
        means = [made.results[v].arms[m].latency.mean
                 for v, m in (("plain", "sync"), ("chunked", "async"))]  # fmt: skip
        assert ratio.value == pytest.approx(means[0] / means[1]) and ratio.pairs == 4
        assert made.ratio(("plain", "sync"), ("chunked", "diffusers")) is None

    @pytest.mark.parametrize(("chunks", "expected"), [(12, 7.0), (4, 7.0), (2, 7.0), (1, None)])
    def test_ms_per_latent_frame_is_of_steady_chunks(self, made, chunks, expected):
        """The first chunks are slow, the short last one fast: neither counts."""
        result = made.results["plain"]
        ends, now = [], 0
        for index in range(chunks):
            now += 50_000 if index < min(5, chunks // 2) else 7_000
            ends.append(now)
        records = [timelines.chunk(i, (end - 5000, end)) for i, end in enumerate(ends)]
        run = timelines.run("compute", records, now)
        runs = tuple(one for one in result.runs if one.mode != "compute")
        assert ms_per_latent_frame(result.model_copy(update={"runs": (*runs, run)})) == (
            None if expected is None else pytest.approx(expected)
        )

    def test_a_short_last_chunk_does_not_count(self, made):
        result = made.results["plain"]
        two = result.model_copy(update={"config": result.config.__class__(chunk_size=2)})
        assert ms_per_latent_frame(two) is None  # all its chunks hold one latent frame

    def test_memory_alone(self, made):
        result = made.results["plain"]
        assert alone_bytes(result, "sync") is None
        mode = result.arms["sync"].model_copy(update={"vram_peak_bytes": 700})
        held = result.model_copy(update={"other_bytes": 200, "modes": {"sync": mode}})
        assert alone_bytes(held, "sync") == 500
        again = alone(held)
        assert again.modes["sync"].vram_peak_bytes == 500 and alone(again) == again

    def test_the_table_has_a_row_for_every_variant_and_mode(self, made):
        rows = variant_rows(made)
        assert [(row["variant"], row["mode"].split()[0]) for row in rows] == [
            *(("plain", mode) for mode in ("diffusers", "sync", "async", "compute")),
            *(("chunked", mode) for mode in ("sync", "async", "compute")),
        ]
        assert {row["plain / variant"] for row in rows[:4]} == {"1"}
        assert all("[" in row["plain / variant"] for row in rows[4:])
        assert [row["ms per latent frame"] == "-" for row in rows] == [
            True, True, True, False, True, True, False,
        ]  # fmt: skip

    def test_below_the_table_stands_what_else_was_found(self, made):
        text = variants_text(made)
        for words in (
            "set-up (load and prepare, outside all runs): plain 0.0 s, chunked 0.0 s",
            "sync / async: plain ", "- plain, mode diffusers / chunked, async: ",
            "- plain: frames of its modes: identical, byte for byte",
            "(PSNR, latent frames 0 to 4): plain equal, chunked equal",
            "chunked: mode diffusers was skipped", "- chunked: without its kernels",
        ):  # fmt: skip
            assert words in text, words

    def test_the_runs_of_all_variants_as_one_frame(self, made):
        frame = variants_frame(made)
        assert list(frame["variant"].unique()) == ["plain", "chunked"]
        assert len(frame) == sum(len(result.runs) for result in made.results.values())

    def test_old_records_are_of_diffusers(self):
        old = read_result(next(RESULTS.glob("*c942496_aws-float16")))
        assert (old.workload.variant, old.workload.notes) == ("diffusers", ())
        assert old.setup_s is None and old.other_bytes is None


def steady_timeline():
    """12 chunks of 100 us: two kernels of 60 and 20 us each; the first chunks are slower."""
    kernels, records, now = [], [], 0
    for index in range(12):
        slow = 3 if index < 5 else 1
        kernels += [(now, now + 60 * slow, now), (now + 60 * slow, now + 80 * slow, now + 10)]
        records.append(timelines.chunk(index, (now, now + 80 * slow)))
        now += 100 * slow
    made = timelines.timeline(kernels, recorded=timelines.run("compute", records, now))
    made.names = ["cudnn_fprop", "triton_poi_fused_silu"]
    made.gpu.name[:] = [0, 1] * 12
    made.gpu.chunk[:] = [index for index in range(12) for _ in range(2)]
    return made


class TestFamilies:
    def test_per_latent_frame_over_the_steady_window(self):
        one, other = steady_families(steady_timeline())
        assert (one.family.name, other.family.name) == ("convolution", "elementwise")
        assert one.family.kernels == other.family.kernels == 6  # chunks 5 to 10
        assert one.ms_per_latent_frame == pytest.approx(0.06)
        assert other.ms_per_latent_frame == pytest.approx(0.02)
        assert one.family.percent == pytest.approx(75)

    def test_a_run_without_a_steady_window_has_none(self):
        assert steady_families(timelines.timeline([(0, 5, 0)])) == ()

    def test_csv_and_picture(self, tmp_path):
        shares = steady_families(steady_timeline())
        families = {"diffusers": shares, "fast": shares[:1]}
        table, picture = write_families(families, tmp_path, "what and where")
        rows = list(csv.DictReader(table.open()))
        assert table.read_text() == families_csv(families)
        assert [(row["variant"], row["family"], row["kernels"]) for row in rows] == [
            ("diffusers", "convolution", "6"), ("diffusers", "elementwise", "6"),
            ("fast", "convolution", "6"),
        ]  # fmt: skip
        assert float(rows[0]["ms_per_latent_frame"]) == pytest.approx(0.06)
        assert picture.stat().st_size > 10_000
        (ax,) = plot_families(families).axes
        assert [label.get_text() for label in ax.get_yticklabels()] == ["diffusers", "fast"]
        assert {"0.06", "0.02", "0.08"} <= {text.get_text() for text in ax.texts}

    def test_every_family_has_a_color(self):
        from vdkit.trace.figures import FAMILIES

        assert set(FAMILY_COLORS) == {name for name, _ in FAMILIES} | {"other"}

    def test_a_cpu_has_none(self, measured):
        assert measured.families == {} and measured.why_no_families == "a CPU has no kernels"


class TestCommand:
    def test_records_shows_and_lists(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("vdkit.models.variants.CompiledWanDecoder.default_backend", "eager")
        arguments = ["--variants", "all", "--modes", "diffusers,async,compute"]
        assert main([*QUICK, *arguments, "--out", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        (home,) = tmp_path.iterdir()
        assert sorted(path.name for path in home.iterdir()) == [
            *sorted(variant_file(name) for name in VARIANTS), "runs.csv", "table.md",
            "variants.json",
        ]  # fmt: skip
        answer = json.loads(out.splitlines()[-1])
        assert answer["folder"] == str(home) and list(answer["variants"]) == list(VARIANTS)
        assert "no kernel families: a CPU has no kernels" in out
        assert out.count("set-up of ") == 4
        assert main(["show", str(home)]) == 0
        shown = capsys.readouterr().out.strip()
        assert shown in out and shown in (home / "table.md").read_text()
        assert main(["results", str(tmp_path)]) == 0
        listed = capsys.readouterr().out
        assert all(f": {name} " in listed for name in VARIANTS)
        assert set(load_results(tmp_path)["variant"]) == set(VARIANTS)
        made = read_variants(home)
        assert all(one.workload.decoder == "tiny-wan" for one in made.results.values())
        assert all(psnr is None or psnr > 80 for psnr in made.index.psnr_db.values())

    def test_one_variant_by_name(self, tmp_path, capsys):
        arguments = ["--variant", "fast", "--modes", "async", "--out", str(tmp_path)]
        assert main([*QUICK, *arguments]) == 0
        out = capsys.readouterr().out
        assert "set-up of fast: " in out and "tiny-wan (fast) in float32" in out
        (home,) = tmp_path.iterdir()
        result = read_result(home)
        assert result.workload.variant == "fast" and result.setup_s > 0

    @pytest.mark.parametrize("command", ["bench", "profile"])
    def test_what_a_variant_cannot_run_is_left_out(self, tmp_path, capsys, command):
        quick = [command, "--device", "cpu", "--latents", "random:5x16x16", "--runs", "1"]
        asked = ["--variant", "fast", "--modes", "diffusers,async", "--sink", "null"]
        assert main([*quick, *asked, "--out", str(tmp_path)]) == 0
        assert "fast: mode diffusers is skipped, it decodes by chunk" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--variants", "fast,turbo"], "variants 'turbo': use any of diffusers, channels_last"),
            (["--variants", "fast", "--variant", "fast"], "exclude each other"),
            (["--variants", "fast,fast"], "variants fast, fast: name each once"),
            (["--variant", "turbo"], "variant 'turbo' is unknown; use one of diffusers"),
            (["--variants", "fast", "--modes", "diffusers"], "'fast' decodes by chunk only"),
            (["--variants", "all", "--modes", "diffusers"], "decodes by chunk only, --modes asks"),
            (["--variant", "compiled", "--modes", "diffusers"], "'compiled' decodes by chunk"),
            (["--variants", "fast,"], "a name is missing in --variants 'fast,'"),
        ],
    )
    def test_bad_input(self, tmp_path, capsys, arguments, message):
        assert main([*QUICK, *arguments, "--out", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err and not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (
                torch.OutOfMemoryError("CUDA out of memory. Tried"),
                "'fast' does not fit into memory",
            ),
            (RuntimeError("no kernel\nfor it"), "variant 'fast' cannot be had: no kernel; take"),
        ],
    )
    def test_a_variant_that_cannot_be_had(self, tmp_path, capsys, monkeypatch, error, message):
        def refuse(self, vae, name):
            raise error

        monkeypatch.setattr("vdkit.models.fast.decoder.FastWanDecoder.__init__", refuse)
        for flag, names in (("--variants", "diffusers,fast"), ("--variant", "fast")):
            assert main([*QUICK, flag, names, "--modes", "sync", "--out", str(tmp_path)]) == 2
            assert message in capsys.readouterr().err and not list(tmp_path.iterdir())

    def test_readme_keeps_to_benchmarks_of_one_decoder(self, made, tmp_path):
        home = tmp_path / "results" / "20990101T000000Z_cpu_abc_variants"
        home.mkdir(parents=True)
        write_variants(made, home)
        assert recorded_folders(tmp_path) == []

    def test_the_names_are_the_loaders(self):
        assert ",".join(VARIANTS) == NAMED

"""Variants side by side: the plan, the record, the table, kernel families, the command."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import timelines
from tests.helpers import NearestDecoder, latents_for
from vdkit import document_of, load_results, read_recording
from vdkit.__main__ import main
from vdkit.cli.options import VARIANTS as NAMED
from vdkit.measure.plans import run_variants
from vdkit.models.loading import VARIANTS
from vdkit.present.studies import families_table, variant_table
from vdkit.present.study_charts import plot_families
from vdkit.present.style import FAMILY_COLORS
from vdkit.present.table import Table
from vdkit.record.recording import write_recording
from vdkit.record.results import runs_frame
from vdkit.record.runs import SinkInfo
from vdkit.sinks.spec import SinkSpec
from vdkit.trace.figures import FAMILIES, steady_families

pytestmark = pytest.mark.usefixtures("one_thread")

NULL = SinkSpec("null")
RESULTS = Path(__file__).parents[2] / "results"
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
        "modes": ("diffusers", "sync", "async", "compute_only"),
        "runs": 4, "warmup": 1, "progress": False,
    } | options  # fmt: skip
    factory = options.pop("sink_factory", NULL.fresh)
    return run_variants(variants, lambda decoder: latents_for(decoder, 9), factory, **options)


@pytest.fixture(scope="module")
def made():
    return compare(exact=Plain)


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
        assert said[2].startswith("chunked: mode diffusers is skipped") and len(said) == 4

    def test_arms_are_variant_and_mode(self, made):
        assert made.kind == "variants" and made.variants == ["plain", "chunked"]
        assert made.baseline == "plain/sync"
        plain, chunked = (made.of_variant(name) for name in made.variants)
        assert list(plain.arms) == ["diffusers", "sync", "async", "compute_only"]
        assert list(chunked.arms) == ["sync", "async", "compute_only"]
        assert made.skipped == {"chunked": ("diffusers",)}
        assert (plain.workload.variant, chunked.workload.variant) == ("plain", "chunked")
        assert chunked.workload.notes == ("without its kernels",)
        assert plain.workload.latents_sha256 == chunked.workload.latents_sha256
        rounds = [[run.round for run in one.arms["sync"].timed] for one in (plain, chunked)]
        assert rounds == [[0, 1, 2, 3]] * 2
        assert plain.base.setup_s >= 0 and plain.base.other_bytes is None  # no device memory here
        assert chunked.baseline == "sync" and chunked.kind == "bench"

    def test_every_decoder_is_prepared_once_for_its_chunks(self):
        decoder = Plain()
        compare([("plain", lambda: decoder)], modes=("sync",), runs=1)
        assert decoder.prepared == [(3, 5, 1)]

    def test_frames_are_compared_with_float32(self, made):
        assert made.psnr_db == {"plain": None, "chunked": None}  # equal
        half = compare([("half", lambda: Plain(dtype=torch.bfloat16))], exact=Plain, runs=1)
        assert half.psnr_latent_frames == 5
        assert 30 < half.psnr_db["half"] < 70

    def test_what_fails_afterwards_does_not_lose_the_runs(self):
        def too_large():
            raise torch.OutOfMemoryError("out of memory\nwith details")

        said = []
        done = compare(exact=too_large, runs=1, modes=("sync",), say=said.append)
        assert done.psnr_db == {}
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
        write_recording(made, tmp_path)
        again = read_recording(tmp_path)
        assert again == read_recording(tmp_path / "recording.json")
        assert document_of(again).text() == document_of(made).text()
        assert list(again.arms) == list(made.arms) and again.psnr_db == made.psnr_db
        with pytest.raises(FileExistsError, match="append-only"):
            write_recording(made, tmp_path)

    def test_ratios_are_paired_by_round(self, made):
        ratio = made.ratio("plain/sync", "chunked/async")
        pairs = zip(made.arms["plain/sync"].timed, made.arms["chunked/async"].timed, strict=True)
        logs = [math.log(a.latency_s / b.latency_s) for a, b in pairs]
        assert ratio.value == pytest.approx(math.exp(sum(logs) / 4)) and ratio.pairs == 4
        assert made.ratio("plain/sync", "chunked/diffusers") is None

    @pytest.mark.parametrize(("chunks", "expected"), [(12, 7.0), (4, 7.0), (2, 7.0), (1, None)])
    def test_ms_per_latent_frame_is_of_steady_chunks(self, made, chunks, expected):
        """The first chunks are slow, the short last one fast: neither counts."""
        arm = made.arms["plain/compute_only"]
        ends, now = [], 0
        for index in range(chunks):
            now += 50_000 if index < min(5, chunks // 2) else 7_000
            ends.append(now)
        records = [timelines.chunk(i, (end - 5000, end)) for i, end in enumerate(ends)]
        run = timelines.run("compute_only", records, now)
        made_of = arm.model_copy(update={"runs": (run,)})
        assert made_of.latent_frame_ms == ([] if expected is None else [pytest.approx(expected)])

    def test_a_short_last_chunk_does_not_count(self, made):
        arm = made.arms["plain/compute_only"]
        two = arm.model_copy(update={"config": replace(arm.config, chunk_size=2)})
        assert two.latent_frame_ms == []  # all its chunks hold one latent frame

    def test_memory_alone(self, made):
        arm = made.arms["plain/sync"]
        assert arm.vram_peak_bytes is None
        runs = tuple(run.model_copy(update={"vram_peak_bytes": 700}) for run in arm.runs)
        held = arm.model_copy(update={"runs": runs, "other_bytes": 200})
        assert held.vram_peak_bytes == 500
        table = variant_table(made.model_copy(update={"arms": {**made.arms, "plain/sync": held}}))
        assert table.rows[1]["peak VRAM GB"].value == 500 / 1e9
        assert "Peak VRAM: without what other variants hold." in table.note

    def test_the_table_has_a_row_for_every_variant_and_mode(self, made):
        rows = variant_table(made).rows
        assert [(row["variant"], row["mode"].split()[0]) for row in rows] == [
            *(("plain", mode) for mode in ("diffusers", "sync", "async", "compute")),
            *(("chunked", mode) for mode in ("sync", "async", "compute")),
        ]
        assert {str(row["plain / variant"]) for row in rows[:4]} == {"1"}
        for row, name in zip(rows[4:], ("sync", "async", "compute_only"), strict=True):
            ratio = made.ratio(f"plain/{name}", f"chunked/{name}")
            assert row["plain / variant"].value == ratio.value
            assert row["plain / variant"].low == ratio.low
        assert [row["ms per latent frame"] is None for row in rows] == [
            True, True, True, False, True, True, False,
        ]  # fmt: skip

    def test_below_the_table_stands_what_else_was_found(self, made):
        text = document_of(made).text()
        for words in (
            "set-up (load and prepare, outside all runs): plain 0.0 s, chunked 0.0 s",
            "sync / async: plain ", "- plain, mode diffusers / chunked, async: ",
            "- plain: frames of its modes: identical, byte for byte",
            "(PSNR, latent frames 0 to 4): plain equal, chunked equal",
            "chunked: mode diffusers was skipped", "- chunked: without its kernels",
        ):  # fmt: skip
            assert words in text, words

    def test_the_runs_of_all_variants_as_one_frame(self, made):
        frame = runs_frame(made)
        assert list(frame["arm"].unique()) == list(made.arms)
        assert len(frame) == sum(len(arm.runs) for arm in made.arms.values())

    def test_old_records_are_of_diffusers(self):
        old = read_recording(next(RESULTS.glob("*c942496_aws-float16")))
        assert (old.workload.variant, old.workload.notes) == ("diffusers", ())
        assert old.base.setup_s is None and old.base.other_bytes is None


def steady_timeline():
    """12 chunks of 100 us: two kernels of 60 and 20 us each; the first chunks are slower."""
    kernels, records, now = [], [], 0
    for index in range(12):
        slow = 3 if index < 5 else 1
        kernels += [(now, now + 60 * slow, now), (now + 60 * slow, now + 80 * slow, now + 10)]
        records.append(timelines.chunk(index, (now, now + 80 * slow)))
        now += 100 * slow
    made = timelines.timeline(kernels, recorded=timelines.run("compute_only", records, now))
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

    def test_table_and_picture(self, made):
        shares = steady_families(steady_timeline())
        profiled = made.model_copy(update={"families": {"diffusers": shares, "fast": shares[:1]}})
        table = families_table(profiled)
        rows = [(row["variant"], row["family"], str(row["kernels"])) for row in table.rows]
        assert rows == [
            ("diffusers", "convolution", "6"), ("diffusers", "elementwise", "6"),
            ("fast", "convolution", "6"),
        ]  # fmt: skip
        assert table.rows[0]["ms per latent frame"].value == pytest.approx(0.06)
        on_page = [one for one in document_of(profiled).parts(page=True) if isinstance(one, Table)]
        assert table in on_page
        (ax,) = plot_families(profiled.families).axes
        assert [label.get_text() for label in ax.get_yticklabels()] == ["diffusers", "fast"]
        assert {"0.06", "0.02", "0.08"} <= {text.get_text() for text in ax.texts}

    def test_one_variant_is_one_thin_bar(self):
        shares = steady_families(steady_timeline())
        one, four = (plot_families({str(n): shares for n in range(count)}) for count in (1, 4))
        assert one.get_figheight() < 1.6 and four.get_figheight() < one.get_figheight() + 1.2

    def test_every_family_has_a_color(self):
        assert set(FAMILY_COLORS) == {name for name, _ in FAMILIES} | {"other"}

    def test_a_cpu_has_none(self):
        said = []
        made = compare(runs=1, modes=("sync",), say=said.append)
        assert made.families == {} and said[-1] == "no kernel families: a CPU has no kernels"
        assert "No kernel families are recorded." in document_of(made).html("foot")


class TestCommand:
    def test_records_shows_and_lists(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("vdkit.models.variants.CompiledWanDecoder.default_backend", "eager")
        arguments = ["--variants", "all", "--modes", "diffusers,async,compute"]
        assert main([*QUICK, *arguments, "--out", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        (home,) = tmp_path.iterdir()
        there = {path.name for path in home.iterdir()}
        assert {"recording.json", "runs.csv", "table.md"} <= there
        answer = json.loads(out.splitlines()[-1])
        made = read_recording(home)
        assert answer["folder"] == str(home) and list(answer["arms"]) == list(made.arms)
        assert made.variants == list(VARIANTS)
        assert "no kernel families: a CPU has no kernels" in out
        assert out.count("set-up of ") == 4
        assert main(["show", str(home)]) == 0
        shown = capsys.readouterr().out.strip()
        assert shown in out and shown in (home / "table.md").read_text()
        assert main(["results", str(tmp_path)]) == 0
        listed = capsys.readouterr().out
        assert all(f" {name} " in listed for name in VARIANTS)
        assert set(load_results(tmp_path)["variant"]) == set(VARIANTS)
        assert all(arm.workload.decoder == "tiny-wan" for arm in made.arms.values())
        assert all(psnr is None or psnr > 80 for psnr in made.psnr_db.values())

    def test_one_variant_by_name(self, tmp_path, capsys):
        arguments = ["--variant", "fast", "--modes", "async", "--out", str(tmp_path)]
        assert main([*QUICK, *arguments]) == 0
        out = capsys.readouterr().out
        assert "set-up of fast: " in out and "tiny-wan (fast) in float32" in out
        (home,) = tmp_path.iterdir()
        result = read_recording(home)
        assert result.workload.variant == "fast" and result.base.setup_s > 0

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

    def test_the_names_are_the_loaders(self):
        assert ",".join(VARIANTS) == NAMED

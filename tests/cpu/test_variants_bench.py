"""Variants side by side: the plan, the recording, the table, kernel families, the command."""

import csv
import io
import json
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from scipy.stats import gmean

from tests import timelines
from tests.cpu.test_benchmark import RESULTS
from tests.helpers import NearestDecoder, latents_for
from vdkit import document_of, load_results, read_recording
from vdkit.__main__ import main
from vdkit.decode.job import DecodeOutOfMemory
from vdkit.measure.plans import run_variants
from vdkit.models import VARIANTS
from vdkit.present.charts import plot_families
from vdkit.present.document import write_pictures
from vdkit.present.documents import families_table, variant_lines, variant_table
from vdkit.present.style import FAMILY_COLORS
from vdkit.record.recording import write_recording
from vdkit.record.results import runs_frame
from vdkit.record.runs import SinkInfo
from vdkit.sinks import SinkSpec
from vdkit.trace import FAMILIES
from vdkit.trace.figures import steady_families

pytestmark = pytest.mark.usefixtures("one_thread")

NULL = SinkSpec("null")
QUICK = ["bench", "--device", "cpu", "--latents", "random:5x16x16", "--runs", "1", "--warmup", "0",
         "--sink", "null"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def no_collection():
    """It takes a tenth of a second before every run, and only matters to their times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vdkit.measure.study.gc.collect", lambda *generation: 0)
        yield


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
def said():
    """What the user was told while `made` was measured."""
    return []


@pytest.fixture(scope="module")
def made(said):
    return compare(exact=Plain, say=said.append)


def with_arm(recording, name, **changed):
    """The recording with one arm changed."""
    arm = recording.arms[name].model_copy(update=changed)
    return recording.model_copy(update={"arms": recording.arms | {name: arm}})


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
        assert said[2].startswith("chunked: mode diffusers is skipped")
        assert said[3:] == ["no kernel families: a CPU has no kernels"]

    def test_every_variant_has_arms_of_its_own(self, made):
        assert (made.kind, made.baseline) == ("variants", "plain/sync")
        assert list(made.benchmarks) == ["plain", "chunked"]
        plain, chunked = made.benchmarks.values()
        assert list(plain.arms) == ["diffusers", "sync", "async", "compute_only"]
        assert list(chunked.arms) == ["sync", "async", "compute_only"]
        assert list(made.arms) == [f"plain/{m}" for m in plain.arms] + [
            f"chunked/{mode}" for mode in chunked.arms
        ]
        assert made.skipped == {"chunked": ("diffusers",)}
        assert (plain.workload.variant, chunked.workload.variant) == ("plain", "chunked")
        assert chunked.workload.notes == ("without its kernels",)
        assert plain.workload.latents_sha256 == chunked.workload.latents_sha256
        for arm in made.arms.values():
            assert [run.round for run in arm.timed] == [0, 1, 2, 3] and len(arm.runs) == 5
            assert arm.setup_s >= 0 and arm.other_bytes is None  # no device memory here
        assert chunked.baseline == "sync" and made.frames_identical is True

    def test_the_baseline_is_a_mode_of_the_first(self):
        chosen = {"modes": ("sync", "async"), "runs": 1, "warmup": 0, "baseline": "async"}
        one = compare(**chosen)
        assert one.baseline == "plain/async" and one.benchmarks["chunked"].baseline == "async"
        skipped = chosen | {"modes": ("diffusers", "async"), "baseline": "diffusers"}
        one = compare([("chunked", Chunked), ("plain", Plain)], **skipped)
        assert one.baseline == "chunked/async"

    def test_every_decoder_is_prepared_once_for_its_chunks(self):
        decoder = Plain()
        compare([("plain", lambda: decoder)], modes=("sync",), runs=1)
        assert decoder.prepared == [(3, 5, 1)]

    def test_frames_are_compared_with_float32(self, made):
        assert made.psnr_db == {"plain": None, "chunked": None}  # equal
        half = compare([("half", lambda: Plain(dtype=torch.bfloat16))], exact=Plain, runs=1)
        assert half.psnr_latent_frames == 5 and 30 < half.psnr_db["half"] < 70

    def test_what_fails_afterwards_does_not_lose_the_runs(self):
        def too_large():
            raise torch.OutOfMemoryError("out of memory\nwith details")

        said = []
        done = compare(exact=too_large, runs=1, modes=("sync",), say=said.append)
        assert done.psnr_db == {} and len(done.base.timed) == 1
        assert said[-1] == "frames are not compared with float32: out of memory"

    def test_whatever_a_variant_does_is_guarded_in_its_name(self):
        entered = []

        @contextmanager
        def guard(name):
            entered.append(name)
            yield

        compare(guard=guard, runs=1, warmup=0, modes=("sync", "async"))
        # Loaded, then its first run of each mode.
        assert entered == ["plain", "chunked", "plain", "plain", "chunked", "chunked"]

    @pytest.mark.parametrize(
        ("variants", "options", "message"),
        [
            ([], {}, "variants are missing"),
            ([("a", Plain)] * 2, {}, "variants a, a: name each once"),
            ([("a/b", Plain)], {}, "variant 'a/b': give a name without a slash"),
            ([("a", Plain)], {"modes": ("turbo",)}, "modes turbo: use any of"),
            ([("a", Plain)], {"runs": 0}, "runs is 0"),
            ([("a", Chunked)], {"modes": ("diffusers",)}, "'a' decodes by chunk only; add sync"),
            ([("a", lambda: Plain(error=ValueError("no"), fail_at=1))], {}, "variant 'a': no"),
        ],
    )
    def test_bad_plans(self, variants, options, message):
        with pytest.raises(ValueError, match=message):
            compare(variants, **options)

    def test_memory_that_runs_out_names_the_variant(self):
        error = torch.OutOfMemoryError("out of memory")
        with pytest.raises(DecodeOutOfMemory, match="variant 'a': "):
            compare([("a", lambda: Plain(error=error, fail_at=1))], modes=("sync",))


class TestFigures:
    def test_written_and_read_again(self, made, tmp_path):
        whole = made.model_copy(update={"families": {"plain": steady_families(steady_timeline())}})
        write_recording(whole, tmp_path)
        again = read_recording(tmp_path)
        assert again == read_recording(tmp_path / "recording.json")
        assert again.model_dump_json() == whole.model_dump_json()
        assert again.families == whole.families and again.families["plain"]
        assert document_of(again).markdown() == document_of(whole).markdown()
        with pytest.raises(FileExistsError, match="append-only"):
            write_recording(whole, tmp_path)

    def test_ratios_are_paired_by_round(self, made):
        ratio = made.ratio("plain/sync", "chunked/async")
        over, under = made.arms["plain/sync"], made.arms["chunked/async"]
        by_round = [a / b for a, b in zip(over.latencies, under.latencies, strict=True)]
        assert ratio.value == pytest.approx(gmean(by_round)) and ratio.pairs == 4
        assert ratio.low < ratio.value < ratio.high
        assert made.ratio("plain/sync", "chunked/diffusers") is None

    @pytest.mark.parametrize(("chunks", "expected"), [(12, [7.0]), (4, [7.0]), (2, [7.0]), (1, [])])
    def test_ms_per_latent_frame_is_of_steady_chunks(self, made, chunks, expected):
        """The first chunks are slow, and do not count."""
        ends, now = [], 0
        for index in range(chunks):
            now += 50_000 if index < min(5, chunks // 2) else 7_000
            ends.append(now)
        records = [timelines.chunk(i, (end - 5000, end)) for i, end in enumerate(ends)]
        run = timelines.run("compute_only", records, now)
        arm = made.arms["plain/compute_only"].model_copy(update={"runs": (run,)})
        assert arm.latent_frame_ms == pytest.approx(expected)

    def test_a_short_last_chunk_does_not_count(self, made):
        arm = made.arms["plain/compute_only"]
        two = arm.model_copy(update={"config": replace(arm.config, chunk_size=2)})
        assert two.latent_frame_ms == []  # all its chunks hold one latent frame

    def test_memory_is_of_each_alone(self, made):
        arm = made.arms["chunked/sync"]
        assert arm.vram_peak_bytes is None and "peak VRAM GB" not in variant_table(made).columns
        runs = [run.model_copy(update={"vram_peak_bytes": 7 * 10**8}) for run in arm.runs]
        held = with_arm(made, "chunked/sync", runs=tuple(runs), other_bytes=2 * 10**8)
        assert held.arms["chunked/sync"].vram_peak_bytes == 5 * 10**8
        table = variant_table(held)
        assert [str(row["peak VRAM GB"]) for row in table.rows if row["peak VRAM GB"]] == ["0.50"]
        assert "Peak VRAM: without what other variants hold." in table.note

    def test_the_table_has_a_row_for_every_variant_and_mode(self, made):
        rows = variant_table(made).rows
        assert [(row["variant"], row["mode"].partition(" (")[0]) for row in rows] == [
            *(("plain", mode) for mode in ("diffusers", "sync", "async", "compute only")),
            *(("chunked", mode) for mode in ("sync", "async", "compute only")),
        ]
        assert {str(row["plain / variant"]) for row in rows[:4]} == {"1"}
        for row, mode in zip(rows[4:], ("sync", "async", "compute_only"), strict=True):
            ratio = made.ratio(f"plain/{mode}", f"chunked/{mode}")
            shown = row["plain / variant"]
            assert (shown.value, shown.low, shown.high) == (ratio.value, ratio.low, ratio.high)
        for row, arm in zip(rows, made.arms.values(), strict=True):
            frame_ms = row["ms per latent frame"]
            assert (frame_ms is not None) == (arm.mode == "compute_only")
            assert frame_ms is None or frame_ms.value == pytest.approx(fmean(arm.latent_frame_ms))

    def test_below_the_table_stands_what_else_was_found(self, made):
        text = document_of(made).text()
        assert all(f"- {line}" in text for line in variant_lines(made))
        for words in (
            "set-up (load and prepare, outside all runs): plain 0.0 s, chunked 0.0 s",
            "sync / async: plain ", "- plain, mode diffusers / chunked, async: ",
            "- plain: frames of its modes: identical, byte for byte",
            "(PSNR, latent frames 0 to 4): plain equal, chunked equal",
            "chunked: mode diffusers was skipped", "- chunked: without its kernels",
        ):  # fmt: skip
            assert words in text, words

    def test_frames_of_a_variant_that_differ_are_named(self, made):
        odd = with_arm(made, "plain/diffusers", frame_sha256="0" * 64)
        same = made.arms["plain/sync"].frame_sha256[:8]
        assert odd.frames_identical is False
        assert (
            "plain: frames of sync, async: identical, byte for byte; those of mode diffusers are "
            f"NOT (00000000 against {same})"
        ) in variant_lines(odd)
        odd = with_arm(made, "chunked/async", frame_sha256="0" * 64)
        assert "chunked: frames of its modes: NOT IDENTICAL" in variant_lines(odd)

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

    def test_table_and_pictures(self, made, tmp_path):
        shares = steady_families(steady_timeline())
        families = {"plain": shares, "chunked": shares[:1]}
        whole = made.model_copy(update={"families": families})
        rows = list(csv.DictReader(io.StringIO(families_table(whole).csv())))
        assert [(row["variant"], row["family"], row["kernels"]) for row in rows] == [
            ("plain", "convolution", "6"), ("plain", "elementwise", "6"),
            ("chunked", "convolution", "6"),
        ]  # fmt: skip
        assert float(rows[0]["ms per latent frame"]) == 0.06
        assert float(rows[0]["% of kernel time"]) == 75
        written = write_pictures(document_of(whole), tmp_path)
        assert [path.name for path in written] == [
            "families.png", "timeline_plain.png", "timeline_chunked.png",
        ]  # fmt: skip
        assert all(path.stat().st_size > 10_000 for path in written)
        (ax,) = plot_families(families).axes
        assert [label.get_text() for label in ax.get_yticklabels()] == ["plain", "chunked"]
        assert {"0.06", "0.02", "0.08"} <= {text.get_text() for text in ax.texts}

    def test_every_family_has_a_color(self):
        assert set(FAMILY_COLORS) == {name for name, _ in FAMILIES} | {"other"}

    def test_a_cpu_has_none(self, made, said):
        assert made.families == {} and "no kernel families: a CPU has no kernels" in said


class TestCommand:
    def test_records_shows_and_lists(self, tmp_path, capsys, monkeypatch):
        # That takes many seconds; test_variants.py looks at compiled steps.
        monkeypatch.setattr("torch.compile", lambda step, **options: step)
        arguments = ["--variants", "all", "--modes", "diffusers,async,compute"]
        assert main([*QUICK, *arguments, "--out", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        (home,) = tmp_path.iterdir()
        assert sorted(path.name for path in home.iterdir()) == [
            "SHA256SUMS", "recording.json", "runs.csv", "table.md",
            *sorted(f"timeline_{name}.png" for name in VARIANTS),
        ]  # fmt: skip
        made = read_recording(home)
        assert list(made.benchmarks) == list(VARIANTS)
        assert made.skipped == {"compiled": ("diffusers",), "fast": ("diffusers",)}
        assert all(arm.workload.decoder == "tiny-wan" for arm in made.arms.values())
        assert all(psnr is None or psnr > 80 for psnr in made.psnr_db.values())
        answer = json.loads(out.splitlines()[-1])
        assert answer["folder"] == str(home) and list(answer["arms"]) == list(made.arms)
        assert "no kernel families: a CPU has no kernels" in out
        assert out.count("set-up of ") == 4
        assert main(["show", str(home)]) == 0
        shown = capsys.readouterr().out.strip()
        assert shown in out and shown in (home / "table.md").read_text()
        assert main(["results", str(tmp_path)]) == 0
        listed = capsys.readouterr().out
        assert all(f" {name} " in listed for name in VARIANTS)
        assert set(load_results(tmp_path)["variant"]) == set(VARIANTS)

    def test_one_variant_by_name_leaves_out_what_it_cannot_run(self, tmp_path, capsys):
        arguments = ["--variant", "fast", "--modes", "diffusers,async", "--out", str(tmp_path)]
        assert main([*QUICK, *arguments]) == 0
        out = capsys.readouterr().out
        assert "set-up of fast: " in out and "tiny-wan (fast) in float32" in out
        assert "fast: mode diffusers is skipped, it decodes by chunk" in out
        (home,) = tmp_path.iterdir()
        made = read_recording(home)
        assert made.workload.variant == "fast" and made.base.setup_s > 0
        assert list(made.arms) == ["async"]

    def test_a_profile_leaves_it_out_too(self, tmp_path, capsys, monkeypatch):
        def stop(*_, modes, **__):
            raise ValueError(f"far enough: {modes}")

        monkeypatch.setattr("vdkit.measure.profiler.run_profile", stop)
        quick = ["profile", "--device", "cpu", "--latents", "random:5x16x16", "--sink", "null"]
        asked = ["--variant", "fast", "--modes", "diffusers,async", "--out", str(tmp_path)]
        assert main([*quick, *asked]) == 2
        printed = capsys.readouterr()
        assert "fast: mode diffusers is skipped, it decodes by chunk only" in printed.out
        assert "far enough: ['async']" in printed.err

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
            (["--variants", "fast,"], "variants '': use any of diffusers"),
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
        def refuse(self, vae, name, **options):
            raise error

        monkeypatch.setattr("vdkit.models.fast.decoder.FastWanDecoder.__init__", refuse)
        for flag, names in (("--variants", "diffusers,fast"), ("--variant", "fast")):
            assert main([*QUICK, flag, names, "--modes", "sync", "--out", str(tmp_path)]) == 2
            assert message in capsys.readouterr().err and not list(tmp_path.iterdir())

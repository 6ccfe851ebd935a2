"""Ablations: every primitive off in turn, in turns, the same frames, and an honest picture."""

import random
from contextlib import contextmanager

import matplotlib.pyplot as plt
import pytest
from scipy.stats import gmean

from tests.helpers import Collect, NearestDecoder, latents_for
from vdkit.decode.chunks import PRIMITIVES, ChunkRecord, DecodeConfig
from vdkit.measure.plans import (
    ALL_ON,
    NONE,
    NONE_UINT8,
    ONE_SLOT,
    ablation_settings,
    run_ablation,
    run_benchmark,
)
from vdkit.present.charts import plot_ablation
from vdkit.present.documents import ablation_table, decision_of, document_of
from vdkit.present.stages import chunk_life_table, chunk_life_words
from vdkit.present.words import overlap_words
from vdkit.record.runs import SinkInfo
from vdkit.record.stats import TOO_FEW
from vdkit.trace import balancing_mb_per_s, chunk_steps

pytestmark = pytest.mark.usefixtures("one_thread")
SINK = SinkInfo(kind="collect", storage=None)
SAME = ("no pinned memory", "no copy stream")


@contextmanager
def collected(label):
    yield Collect()


def ablated(decoder=None, sink=collected, **options):
    decoder = decoder or NearestDecoder()
    given = {"sink_info": SINK, "runs": 3, "progress": False}
    return run_ablation(decoder, latents_for(decoder, frames=9), sink, **given | options)


@pytest.fixture(scope="module")
def ablation():
    return ablated()


@pytest.mark.parametrize("on_gpu", [False, True])
def test_each_setting_lacks_one_thing(on_gpu):
    settings = ablation_settings(DecodeConfig(chunk_size=2, slots=3), on_gpu)
    assert next(iter(settings)) == ALL_ON and settings[NONE]["mode"] == "sync"
    assert settings[ONE_SLOT]["config"] == DecodeConfig(chunk_size=2, slots=1)
    for field, words in PRIMITIVES.items():
        config = settings[f"no {words}"]["config"]
        assert [f for f in PRIMITIVES if not getattr(config, f)] == [field]
        assert (config.chunk_size, config.slots) == (2, 3)
    assert settings[NONE_UINT8]["mode"] == "sync"
    on = [name for name, one in settings.items() if one["config"].sync_uint8_on_gpu]
    assert on == [NONE_UINT8]
    same = [name for name, one in settings.items() if one["same_code"]]
    assert same == ([] if on_gpu else list(SAME))


def test_settings_without_something_to_take_away():
    with pytest.raises(ValueError, match="off already: copy stream"):
        ablation_settings(DecodeConfig(copy_stream=False), True)
    with pytest.raises(ValueError, match="slots is 1; use 2"):
        ablation_settings(DecodeConfig(slots=1), True)


def test_runs_go_forwards_and_backwards():
    order = []

    @contextmanager
    def noted(label):
        order.append(label)
        yield Collect()

    made = ablated(sink=noted, runs=2, only=[ONE_SLOT])
    assert list(made.arms) == [ALL_ON, ONE_SLOT]
    assert order == ["all-on-000", "one-slot-000", "one-slot-001", "all-on-001"]
    assert [run.round for run in made.arms[ONE_SLOT].runs] == [0, 1]


def test_what_it_gives(ablation):
    assert ablation.frames_identical is True and ablation.kind == "ablation"
    base = ablation.arms[ALL_ON]
    assert ablation.baseline == ALL_ON and decision_of(ablation, ALL_ON) is None
    for name, arm in ablation.arms.items():
        assert len(arm.runs) == arm.latency.n == 3 and not any(run.warmup for run in arm.runs)
        assert arm.typical() in arm.runs
        if name != ALL_ON:
            ratio = decision_of(ablation, name).ratio
            rounds = [b / a for a, b in zip(base.latencies, arm.latencies, strict=True)]
            assert ratio.pairs == 3 and ratio.value == pytest.approx(gmean(rounds))
    assert {ablation.arms[name].mode for name in (NONE, NONE_UINT8)} == {"sync"}
    d2h = {name: arm.d2h_bytes for name, arm in ablation.arms.items()}
    assert d2h["no uint8 on the GPU"] == d2h[NONE] == 4 * d2h[ALL_ON]  # float32 instead of uint8
    assert d2h[NONE_UINT8] == d2h[ALL_ON]
    with pytest.raises(ValueError, match="frozen"):
        ablation.label = "another"


def test_frames_that_differ_are_seen():
    class Moody(NearestDecoder):
        def decode_chunk(self, state, start, stop):
            return super().decode_chunk(state, start, stop) * random.random()

    assert ablated(Moody(), runs=1).frames_identical is False
    assert ablated(runs=1, only=[]).frames_identical is None


def test_bad_plans():
    with pytest.raises(ValueError, match="runs is 0"):
        ablated(runs=0)
    with pytest.raises(ValueError, match="no setting magic; use any of all on"):
        ablated(only=["magic"])


def test_the_writer_thread_and_the_second_slot_are_what_a_slow_sink_needs():
    """Without either, writing a chunk and decoding the next cannot overlap."""

    @contextmanager
    def slow(label):
        yield Collect(write_s=0.01)

    made = ablated(NearestDecoder(delay_s=0.01), slow, only=["no writer thread", ONE_SLOT])
    assert all(overlaps(run) for run in made.arms[ALL_ON].runs)
    for name in ("no writer thread", ONE_SLOT):
        assert not any(overlaps(run) for run in made.arms[name].runs)


def overlaps(run):
    """Whether any chunk was written while the next one was decoded."""
    return any(
        chunk.write_start_s < later.decode_done_s and later.decode_start_s < chunk.write_done_s
        for chunk, later in zip(run.chunks, run.chunks[1:], strict=False)
    )


def lasting(ablation, runs=8, **percent):
    """The ablation with other latencies: so many % more than "all on", ``one_slot`` for "one slot".

    Every second round is 1 % faster in all arms; a ``wavering`` arm is not faster or slower.
    """
    arms = {}
    for name, arm in ablation.arms.items():
        more = percent.get(name.replace(" ", "_"), 0)
        made = []
        for number in range(runs):
            drift = 1 - 0.01 * (number % 2)
            here = (-1) ** (number // 2) if more == "wavering" else more
            latency_s = 4 * drift * (1 + here / 100)
            update = {"round": number, "latency_s": latency_s}
            made.append(arm.runs[0].model_copy(update=update))
        arms[name] = arm.model_copy(update={"runs": tuple(made)})
    return ablation.model_copy(update={"arms": arms})


def reads(ablation):
    return {row["setting"]: row["reads as"] for row in ablation_table(ablation).rows}


@pytest.fixture(scope="module")
def clear(ablation):
    """One of each verdict."""
    return lasting(
        ablation, one_slot=30, no_writer_thread="wavering", no_copy_stream=30,
        no_pinned_memory="wavering", no_uint8_on_the_GPU=-20,
        **{"none_(sync)": 50, "none_(sync),_uint8_on_the_GPU": 20},
    )  # fmt: skip


def test_rows_and_words_say_only_what_was_seen(clear):
    found = reads(clear)
    assert found[ALL_ON] is None and found[ONE_SLOT] == "slower"
    assert found["no writer thread"] == "no difference seen"
    assert found["no uint8 on the GPU"] == "faster"
    assert [found[name] for name in SAME] == ["same code here: noise"] * 2
    row = next(row for row in ablation_table(clear).rows if row["setting"] == ONE_SLOT)
    assert row["/ all on"].value == pytest.approx(1.3) and str(row["ms more"]) == "+1194.0"


def test_overlap_is_told_from_the_conversion(clear):
    """Sync takes 1.5 of all on, and 1.2 with the conversion on the GPU: 1.25 times 1.2."""
    words = overlap_words(clear.arms, ALL_ON)
    assert "Of none (sync) / all on, 1.2500 is the conversion to uint8 on the GPU" in words
    assert "1.2000 is overlap (none (sync), uint8 on the GPU / all on)." in words
    arms = {name: arm for name, arm in clear.arms.items() if name != NONE_UINT8}
    assert overlap_words(arms, ALL_ON) == ""


def test_few_rounds_call_nothing(ablation):
    found = reads(ablation)
    assert found[ONE_SLOT] == found[NONE] == TOO_FEW
    made = ablated(runs=1, only=[ONE_SLOT])
    assert not decision_of(made, ONE_SLOT).called
    assert str(ablation_table(made).rows[1]["/ all on"]).endswith("(n = 1)")
    plot_ablation({"one": made}).canvas.draw()


def test_the_document_has_table_words_and_picture(clear):
    document = document_of(clear)
    text, page = document.text(), document.html("foot")
    assert "| setting" in text and "| one slot" in text and "is overlap" in text
    assert page.count("<img ") == 1 and document.lead[1] in text


def test_the_picture_has_a_bar_and_every_round(ablation):
    fewer = ablation.model_copy(
        update={"arms": {n: a for n, a in ablation.arms.items() if n in (ALL_ON, NONE)}}
    )
    figure = plot_ablation({"fast": ablation, "slow": fewer})
    figure.canvas.draw()
    assert not plt.get_fignums()
    left, right = figure.axes
    assert len(left.patches) == 7 and len(right.patches) == 1
    assert sum(len(dots.get_offsets()) for dots in left.collections) == 7 * 3
    assert [text.get_text() for text in right.texts].count("not run") == 6
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "same code on a CPU" in labels
    for text in (*left.texts, *right.texts):  # no number leaves the picture
        assert text.get_window_extent().x1 <= text.axes.get_window_extent().x1 + 1


def test_the_same_code_is_drawn_as_noise(clear):
    (ax,) = plot_ablation({"one": clear}).axes
    names = [label.get_text() for label in ax.get_yticklabels()]
    colors = {name: bar.get_facecolor() for name, bar in zip(names, ax.patches, strict=True)}
    assert colors["no copy stream"] == colors["no writer thread"] != colors[ONE_SLOT]


def test_panels_share_their_axis(clear, ablation):
    left, right = plot_ablation({"one": clear, "other": lasting(ablation, one_slot=300)}).axes
    assert left.get_xlim() == right.get_xlim() and left.get_xlim()[1] > 300


@pytest.fixture(scope="module")
def bench():
    decoder = NearestDecoder(delay_s=0.005)
    return run_benchmark(
        decoder, latents_for(decoder, frames=9), collected, sink_info=SINK,
        modes=("sync", "async", "compute_only"), runs=1, warmup=0, progress=False,
    )  # fmt: skip


def test_steps_are_those_of_the_record(bench):
    run = bench.arms["async"].typical()
    steps = {step.name: step for step in chunk_steps(run, 3)}
    assert list(steps) == ["slot wait", "launch", "decode", "copy", "write"]
    assert steps["write"].stop_s == run.chunks[3].write_done_s
    assert [step.name for step in chunk_steps(bench.arms["sync"].typical(), 3)][-2:] == [
        "convert", "write",
    ]  # fmt: skip
    for index in (-1, 9):
        with pytest.raises(ValueError, match=f"chunk {index} is not among the 9"):
            chunk_steps(run, index)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_chunks_life(bench, mode):
    rows = chunk_life_table(bench.arms[mode].typical(), 3, on_gpu=True).rows
    launch = next(row for row in rows if row[f"{mode}, chunk 3"] == "launch")
    assert str(launch["from ms"]) == "0.00" and "decode itself" not in launch["waits for"]
    assert {row["where"] for row in rows} >= {"caller", "compute stream"}
    on_cpu = chunk_life_table(bench.arms[mode].typical(), 3, False).rows
    assert "stream" not in {row["where"] for row in on_cpu}
    with pytest.raises(ValueError, match="mode 'compute_only' has no"):
        chunk_life_table(bench.arms["compute_only"].typical(), 3, False)


def made_run(bench, mode, chunks):
    return bench.arms[mode].typical().model_copy(update={"chunks": tuple(chunks)})


def record(index, decode, write, frames=4):
    start = 4 * index
    return ChunkRecord(
        index=index, latent_start=index, latent_stop=index + 1, frame_start=start,
        frame_stop=start + frames, decode_start_s=decode[0], decode_done_s=decode[1],
        copy_start_s=write[0], copy_done_s=write[0], write_start_s=write[0], write_done_s=write[1],
    )  # fmt: skip


def test_hidden_time_is_what_lies_under_another_decode(bench):
    chunks = [record(0, (0.0, 1.0), (1.0, 2.0)), record(1, (1.25, 3.0), (3.0, 3.5))]
    words = chunk_life_words(made_run(bench, "sync", chunks), 0)
    assert "Of the 1000.00 ms after its decode, 750.00 ms lie under" in words
    assert "latent frame 0 became pixel frames 0 to 3." in words
    with pytest.raises(ValueError, match="chunk 2 is not"):
        chunk_life_words(made_run(bench, "sync", chunks), 2)


def test_the_balancing_speed_writes_a_chunk_while_one_is_decoded(bench):
    chunks = [record(0, (0.0, 9.0), (9.0, 9.1), frames=1)]
    chunks += [record(i, (10.0 * i, 10.0 * i + 0.5), (10.0 * i + 1, 10.0 * i + 2)) for i in (1, 2)]
    run = made_run(bench, "sync", chunks)
    assert balancing_mb_per_s(run, 1_000_000) == pytest.approx(4 * 1.0 / 0.5)
    with pytest.raises(ValueError, match="a single chunk"):
        balancing_mb_per_s(made_run(bench, "sync", chunks[:1]), 1_000_000)

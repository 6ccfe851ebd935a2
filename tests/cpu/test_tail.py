"""The whole tail: every moment of a run has one part, and what none covers is named."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.cpu.test_predict import random_config, random_costs, video
from tests.helpers import Collect, NearestDecoder, SaysParts, latents_for
from tests.timelines import chunk, run
from vdkit.decode import engines, job
from vdkit.decode.chunks import DecodeConfig
from vdkit.decode.paths import PATHS
from vdkit.measure.study import as_run
from vdkit.predict import predict
from vdkit.present.documents import document_of
from vdkit.present.tail import LOOKS, plot_tail, tail_table
from vdkit.record.results import read_recording
from vdkit.trace.tail import PARTS, REST, has_parts, tail_of

RESULTS = Path(__file__).parents[2] / "results"
INLINE = DecodeConfig(writer_thread=False, slots=3)


class Clock:
    """Stands still but for what is scripted."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        for module in (job, engines):
            monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def spend(self, seconds):
        self.now += seconds


class Whole(NearestDecoder):
    """A video at once, too."""

    def decode_chunk(self, state, start, stop):
        self.clock.spend(2.0)
        return super().decode_chunk(state, start, stop)

    def decode_video(self, latents, before_frame):
        first = super().decode_chunk(latents, 0, 1)
        return torch.cat([first, self.decode_chunk(latents, 1, latents.shape[2])], 2)

    def to_numpy(self, frames):
        self.clock.spend(0.5)
        return frames[0].permute(1, 2, 3, 0).clamp(0, 1).numpy()


def seconds(tail):
    return {part: ns / 1e9 for part, ns in tail.items() if ns}


def adds_up(done, config):
    tail = tail_of(done, config)
    assert list(tail) == list(PARTS) and sum(tail.values()) == round(done.latency_s * 1e9)
    return tail


@pytest.mark.parametrize(
    ("mode", "config"),
    [("sync", DecodeConfig()), ("async", DecodeConfig()), ("async", INLINE),
     ("diffusers", DecodeConfig()), ("compute_only", DecodeConfig())],
    ids=["sync", "async", "inline", "diffusers", "compute_only"],
)  # fmt: skip
def test_nothing_is_unaccounted_for_on_a_scripted_clock(mode, config, monkeypatch):
    clock, decoder = Clock(monkeypatch), Whole()
    decoder.clock = clock
    sink = SaysParts(0.25, 0.125, 1.0, 0.0625, clock.spend, encoders=7.0)
    latents = latents_for(decoder, frames=4)
    done = PATHS[mode](decoder, latents, sink, config=config, progress=False)
    for read in (done, as_run(done, 0)):
        tail = seconds(adds_up(read, config))
        assert REST not in tail
    assert "between" not in tail  # the clock stands still there
    calls = 1 if mode == "diffusers" else 4
    both = {"encode": 0.25, "mux": 0.125, "encoder full": 1.0}  # in every write, and as it closes
    expected = {part: (calls + 1) * each for part, each in both.items()}
    expected |= {"hand over": calls * 0.0625, "close": 0.0625}
    if mode == "compute_only":
        assert tail == {"decode": 8.0} and done.encoders_s is None and not has_parts(done)
        return
    assert done.encoders_s == 7.0 and has_parts(done)
    if config.writer_thread and mode == "async":  # two threads move the clock
        assert {part: tail[part] for part in expected if part != "hand over"} == {
            part: s for part, s in expected.items() if part != "hand over"
        }
        return
    convert = {"convert": 0.5} if mode == "diffusers" else {}
    assert tail == expected | {"decode": 2.0 * calls} | convert


def test_a_threaded_run_by_hand():
    """us: open 0-50, chunk 0 launched 100-150 and decoded 120-400, and so on to a gap of 7."""
    chunks = [
        chunk(0, (120, 400), (100, 150), slot=0, wait=(80, 90), copy=(410, 450), write=(460, 700)),
        chunk(1, (400, 900), (150, 170), slot=1, copy=(900, 960), write=(970, 1000)),
    ]
    chunks[0].begun_s, chunks[0].encode_s, chunks[0].full_s = 70e-6, 100e-6, 40e-6
    made = run("async", chunks, 1107)
    closing = {"sink_open_start_s": 10e-6, "sink_open_s": 50e-6, "sink_close_s": 100e-6}
    made = made.model_copy(update=closing | {"sink_close_parts": {"full": 60e-6}})
    tail = adds_up(made, DecodeConfig())
    assert {part: ns // 1000 for part, ns in tail.items() if ns} == {
        "setup": 20, "open": 50, "slot wait": 10, "launch": 40, "decode": 280 + 200, "queue": 10,
        "copy": 40 + 60, "wait": 10 + 10, "hand over": 100 + 30, "encode": 100,
        "encoder full": 40 + 60, "close": 40, REST: 7,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("mode", ["async", "sync", "compute_only", "diffusers"])
def test_nothing_is_unaccounted_for_in_a_modelled_run(mode, seed):
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    costs = random_costs(rng, cuda=bool(rng.random() < 0.8))
    done = predict(costs, video(), config, mode).run
    assert abs(adds_up(done, config)[REST]) <= len(done.chunks)  # ns, where a write has parts


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_real_run_is_accounted_for(mode):
    sink = SaysParts(0.002, 0.001, 0.001, 0.001)
    latents = torch.zeros(1, 4, 9, 4, 4)
    done = PATHS[mode](NearestDecoder(delay_s=0.004), latents, sink, progress=False)
    tail = adds_up(done, done.config)
    assert 0 <= tail[REST] < 0.25 * sum(tail.values())
    print(mode, 100 * tail[REST] / sum(tail.values()), "% unaccounted for")


def test_the_table_and_the_waterfall(tmp_path):
    made = {
        mode: PATHS[mode](NearestDecoder(), torch.zeros(1, 4, 5, 4, 4), sink, progress=False)
        for mode, sink in (("sync", SaysParts(0.002, 0.001)), ("async", Collect()))
    }
    table = tail_table(made)
    parts = [row["ms"] for row in table.rows]
    assert parts[-2:] == [REST, "sum"] and "encode" in parts and "encoder full" not in parts
    assert table.rows[-1]["sync"].value == pytest.approx(1e3 * made["sync"].latency_s, abs=1e-4)
    assert "encode: on the thread" in table.note and "encoder full" not in table.note
    many = tail_table({f"{name} as a long name has it, {n}": one for name, one in made.items()
                       for n in range(2)})  # fmt: skip
    assert len(many.rows) == 4 and many.columns[1:] == parts  # turned around, to be narrower
    figure = plot_tail(made)
    drawn = {row["what"]: row["value"] for row in figure.vdkit_data if row["row"] == "sync"}
    assert drawn["encode"] == pytest.approx(10 + 2, rel=0.01) and LOOKS.keys() == PARTS.keys()
    assert f" % {REST}" in figure.axes[0].get_xlabel()


def test_a_document_has_it_where_a_sink_said_what_it_was_at():
    recorded = read_recording(next(RESULTS.glob("*c942496_aws-float16")))
    assert "tail" not in [one.name for one in document_of(recorded).sections]
    parts = {"sink_close_parts": {"encode": 0.0, "mux": 0.0}}
    arms = {
        name: arm.model_copy(update={"runs": tuple(r.model_copy(update=parts) for r in arm.runs)})
        for name, arm in recorded.arms.items()
    }
    made = recorded.model_copy(update={"arms": arms})
    section = document_of(made)["tail"]
    table, picture = section.parts
    assert "to the closed file" in table.text()
    assert len({row["row"] for row in picture.draw().vdkit_data}) == len(recorded.arms)

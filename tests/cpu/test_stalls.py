"""Stall causes on timelines made by hand: one for each cause, and the edges between them."""

import numpy as np
import pytest

import vdkit.trace as intervals
from tests.timelines import adds_up, chunk, ms, run, timeline
from vdkit.decode.chunks import DecodeConfig
from vdkit.trace.stalls import CAUSES, stalls_from_records, stalls_of


def window(start, stop):
    return start * 1000, stop * 1000


def from_trace(made, start, stop):
    stalls = stalls_of(made, window(start, stop))
    assert adds_up(stalls) and set(stalls.by_cause_ns) == set(CAUSES)
    assert stalls.resolution == "kernel"
    return ms(stalls)


def from_records(recorded, config=DecodeConfig(), start=None, stop=None):
    limits = None if start is None else window(start, stop)
    stalls = stalls_from_records(recorded, config, limits)
    assert adds_up(stalls) and stalls.resolution == "chunk"
    return ms(stalls)


# One gap for each cause, seen from the trace and from the records.


def launch_late():
    chunks = [chunk(0, (0, 1000), (0, 900)), chunk(1, (1500, 2500), (1000, 1600))]
    kernels = [(0, 1000, 0), (1500, 2500, 1495)]
    return timeline(kernels, recorded=run("compute", chunks, 2500)), {"launch late": 500}


def synchronous_copy():
    chunks = [
        chunk(0, (0, 1000), (0, 100), copy=(1000, 1400), convert=(1400, 1410), write=(1410, 1420)),
        chunk(1, (1450, 2500), (1420, 1500), copy=(2500, 2600), convert=(2600, 2610)),
    ]
    made = timeline(
        [(0, 1000, 0), (1450, 2500, 1445)], [(1000, 1400, 7), (2500, 2600, 7)],
        recorded=run("sync", chunks, 2700),
    )  # fmt: skip
    return made, {"synchronous copy": 400, "host work": 20, "launch late": 30}


def slot_held_by_copy():
    chunks = [
        chunk(0, (0, 1000), (0, 100), slot=0, copy=(1000, 1800), write=(1800, 1801)),
        chunk(1, (1830, 2500), (1801, 1900), slot=0, wait=(100, 1801), copy=(2500, 2600)),
    ]
    made = timeline(
        [(0, 1000, 0), (1830, 2500, 1825)], [(1000, 1800), (2500, 2600)],
        recorded=run("async", chunks, 2700), config=DecodeConfig(slots=1),
    )  # fmt: skip
    return made, {"slot held by copy": 800, "slot held by sink": 1, "launch late": 29}


def slot_held_by_sink():
    chunks = [
        chunk(0, (0, 1000), (0, 100), slot=0, copy=(1000, 1100), write=(1100, 3000)),
        chunk(1, (3020, 4000), (3000, 3100), slot=0, wait=(100, 3000), copy=(4000, 4100)),
    ]
    made = timeline(
        [(0, 1000, 0), (3020, 4000, 3015)], [(1000, 1100), (4000, 4100)],
        recorded=run("async", chunks, 4200), config=DecodeConfig(slots=1),
    )  # fmt: skip
    return made, {"slot held by copy": 100, "slot held by sink": 1900, "launch late": 20}


def encoder_full():
    """As above, but the sink waited for an encoder most of the write."""
    made, expected = slot_held_by_sink()
    made.run.chunks[0].encode_s, made.run.chunks[0].full_s = 100e-6, 900e-6
    return made, {"encoder full" if c == "slot held by sink" else c: s for c, s in expected.items()}


def host_work():
    chunks = [
        chunk(0, (0, 1000), (0, 100), copy=(1000, 1001), convert=(1001, 1500), write=(1500, 1900)),
        chunk(1, (2000, 2500), (2000, 2100), copy=(2500, 2600), convert=(2600, 2610)),
    ]
    made = timeline(
        [(0, 1000, 0), (2000, 2500, 1995)], [(1000, 1001, 7), (2500, 2600, 7)],
        recorded=run("sync", chunks, 2700),
    )  # fmt: skip
    return made, {"synchronous copy": 1, "host work": 999}


BY_HAND = [
    launch_late,
    synchronous_copy,
    slot_held_by_copy,
    slot_held_by_sink,
    encoder_full,
    host_work,
]


@pytest.mark.parametrize("case", BY_HAND, ids=lambda case: case.__name__)
@pytest.mark.parametrize("resolution", ["trace", "records"])
def test_each_cause_between_two_chunks(case, resolution):
    made, expected = case()
    start, stop = 0, made.run.chunks[1].decode_done_s * 1e6
    if resolution == "trace":
        found = from_trace(made, start, int(stop))
        # a launch call's start is where the host's work ends and the launch begins
        assert sum(found.values()) == sum(expected.values())
        assert max(found, key=found.get) == max(expected, key=expected.get)
        assert found.get("unknown") is None
    else:
        found = from_records(made.run, made.config, start, int(stop))
        assert found == expected


def test_a_slot_is_held_by_the_sink_if_encoders_took_half_of_the_write_or_less():
    made, expected = slot_held_by_sink()
    made.run.chunks[0].encode_s, made.run.chunks[0].mux_s = 950e-6, 900e-6
    assert from_records(made.run, made.config, 0, 4000) == expected


def test_device_copies_and_memsets_are_no_compute():
    made = timeline([(0, 100, 0), (200, 300, 50)], inner=[(100, 150), (150, 195, "memset")])
    assert from_trace(made, 0, 300) == {"device copy": 100}


def test_a_queued_kernel_behind_a_copy_on_another_stream_and_behind_nothing():
    copy = timeline([(0, 100, 0), (300, 400, 50)], [(100, 295)], [])
    assert from_trace(copy, 0, 400) == {"slot held by copy": 200}
    nothing = timeline([(0, 100, 0), (300, 400, 50)])
    assert from_trace(nothing, 0, 400) == {"unknown": 200}


def test_another_programs_trace_launches_inside_operators_and_works_outside():
    made = timeline([(0, 100, 0), (500, 600, 490)], ops=[(0, 50), (300, 495)])
    assert from_trace(made, 0, 600) == {"host work": 200, "launch late": 200}


def test_where_another_programs_trace_holds_no_host_event_nothing_is_known():
    """No operator before the first and after the last of the launching thread, or none at all."""
    kernels = [(0, 100, 0), (500, 600, 490), (900, 1000, 890)]
    late = {"launch late": 20}
    assert from_trace(timeline(kernels), 0, 1000) == {**late, "unknown": 680}
    made = timeline(kernels, ops=[(300, 495)])
    assert from_trace(made, 0, 1000) == {"unknown": 200 + 290, "launch late": 210}
    made.ops = {2: made.ops[1]}  # operators of a thread that launches nothing
    assert from_trace(made, 0, 1000) == {**late, "unknown": 680}
    made = timeline([(0, 100, 0), (500, 600, None)], ops=[(0, 50), (300, 495), (600, 700)])
    assert from_trace(made, 0, 600) == {"unknown": 400}  # its launch is not in the trace


def test_every_launching_thread_counts():
    """As in training, where autograd launches from a thread of its own."""
    made = timeline([(0, 100, 0), (500, 600, 490)], ops=[(0, 50), (495, 500)])
    made.calls.lane[1] = 2
    made.ops[2] = (np.array([400_000]), np.array([495_000]))
    assert from_trace(made, 0, 600) == {"host work": 300, "launch late": 100}


def test_short_gaps_are_summed_and_have_no_cause():
    made = timeline([(0, 100, 0), (120, 200, 0), (205, 300, 0)])
    stalls = stalls_of(made, window(0, 300))
    assert ms(stalls) == {"short": 25} and not stalls.gaps
    longer = timeline([(0, 100, 0), (121, 200, 0)])
    assert from_trace(longer, 0, 200) == {"unknown": 21}  # one ns above 20 us is a stall


def test_fill_and_drain_at_the_edges_of_the_run():
    chunks = [chunk(0, (100, 200), (40, 90)), chunk(1, (200, 300), (90, 95))]
    recorded = run("compute", chunks, 1000)
    assert from_records(recorded) == {"fill": 60, "drain": 700}
    made = timeline([(100, 200, 50), (200, 300, 60)], recorded=recorded)
    assert from_trace(made, 0, 1000) == {"fill": 100, "drain": 700}


def test_drain_says_what_the_host_was_at():
    chunks = [chunk(0, (0, 100), copy=(100, 400), convert=(400, 700), write=(700, 900))]
    stalls = stalls_from_records(run("sync", chunks, 1000), DecodeConfig(), window(0, 1000))
    assert adds_up(stalls) and ms(stalls) == {"drain": 900}
    assert {k: v // 1000 for k, v in stalls.drain_ns.items()} == {
        "synchronous copy": 300,
        "host work": 600,
    }


def test_gaps_and_events_that_cross_the_window():
    made = timeline([(0, 100, 0), (300, 400, 295), (600, 700, 595)], ops=[(0, 5), (595, 600)])
    # from the middle of the first gap to the middle of the last: both are clipped
    stalls = stalls_of(made, window(200, 500))
    assert adds_up(stalls) and stalls.busy_ns == 100_000
    assert [(gap.start_ns, gap.stop_ns) for gap in stalls.gaps] == [
        window(200, 300),
        window(400, 500),
    ]
    assert ms(stalls) == {"host work": 200 - 5, "launch late": 5}
    # a window inside a kernel is busy, one inside a gap is idle
    assert stalls_of(made, window(20, 60)).busy_ns == 40_000
    inside = stalls_of(made, window(150, 250))
    assert inside.busy_ns == 0 and ms(inside) == {"host work": 100}
    # what sticks 15 us into the window counts as short
    assert ms(stalls_of(made, window(385, 415))) == {"short": 15}


def test_overlapping_kernels_on_several_streams_are_busy_once():
    made = timeline([(0, 100, 0), (50, 200, 0, 8), (150, 160, 0, 13), (300, 400, 100, 8)])
    stalls = stalls_of(made, window(0, 400))
    assert stalls.busy_ns == 300_000 and len(stalls.gaps) == 1


def test_an_inline_writer_and_pageable_memory():
    chunks = [
        chunk(0, (0, 100), (0, 50), slot=0, copy=(100, 300)),
        chunk(1, (400, 500), (390, 450), slot=1, wait=(380, 380), copy=(500, 600)),
    ]
    pageable = DecodeConfig(pinned_memory=False)
    assert from_records(run("async", chunks, 700), pageable, 0, 500) == {
        "synchronous copy": 200,
        "host work": 90,
        "launch late": 10,
    }
    chunks[0].write_start_s, chunks[0].write_done_s = 310e-6, 380e-6
    inline = DecodeConfig(writer_thread=False)
    found = from_records(run("async", chunks, 700), inline, 0, 500)
    assert found == {"synchronous copy": 200, "host work": 90, "launch late": 10}
    one_stream = DecodeConfig(copy_stream=False)
    found = from_records(run("async", chunks, 700), one_stream, 0, 500)
    assert found["synchronous copy"] == 200


@pytest.mark.parametrize("seed", range(20))
def test_random_timelines_add_up_exactly(seed):
    random = np.random.default_rng(seed)
    starts = np.cumsum(random.integers(1, 200, 60))
    kernels = [
        (int(s), int(s + random.integers(1, 150)), int(s - random.integers(1, 60)), 7 + int(s) % 2)
        for s in starts
    ]
    copies = [(int(s), int(s) + 30) for s in random.integers(0, starts[-1], 5)]
    made = timeline(kernels, copies, [(int(starts[3]), int(starts[3]) + 90)])
    for _ in range(5):
        low, high = sorted(random.integers(-100, starts[-1] + 300, 2).tolist())
        stalls = stalls_of(made, window(low, high + 1))
        assert adds_up(stalls)
        union = np.zeros(high + 1 - low, bool)  # brute force, us by us
        for start, stop, *_ in kernels:
            union[max(start - low, 0) : max(stop - low, 0)] = True
        assert stalls.busy_ns == union.sum() * 1000


def test_intervals():
    a = intervals.union(np.array([5, 0, 3, 9]), np.array([8, 3, 4, 9]))
    assert [x.tolist() for x in a] == [[0, 5], [4, 8]]
    assert intervals.length(a) == 7
    assert [x.tolist() for x in intervals.gaps(a, (-2, 10))] == [[-2, 4, 8], [0, 5, 10]]
    nothing = intervals.merged([(3, 3)])
    assert [x.tolist() for x in nothing] == [[], []] and intervals.length(nothing) == 0
    assert [x.tolist() for x in intervals.gaps(nothing, (1, 2))] == [[1], [2]]

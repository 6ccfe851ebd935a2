"""Advice: the smallest setting that is as good as the best, why, and what to buy next."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from vdkit.__main__ import main
from vdkit.decode.chunks import DecodeConfig
from vdkit.decode.media import MediaInfo
from vdkit.predict import Cost, StageCosts, Storage
from vdkit.predict.advise import Limits, recommend
from vdkit.predict.recurrence import predict
from vdkit.present.sweep_document import advice_document, advice_line, advice_record

INFO = MediaInfo(161, 480, 832, Fraction(16))
PER_CHUNK_S = 0.09
BASE = StageCosts(
    decode=Cost(0.01, 0.02),
    copy=Cost(1e-5, 3e-5),
    write=Cost(1e-4, 2e-4),
    vram_bytes=((4, 4_000_000_000), (16, 10_000_000_000)),
)
RESULTS = Path(__file__).parents[2] / "results"
RECORDED = [str(next(RESULTS.glob(f"*{end}"))) for end in ("c942496_aws-float16", "aws-chunk-2")]


def latency(costs, chunk, slots):
    return predict(costs, INFO, DecodeConfig(chunk, slots)).run.latency_s


@pytest.mark.parametrize("mb_per_s", [None, 400, 100, 55, 40])
def test_nothing_smaller_is_within_one_percent_of_the_best(mb_per_s):
    costs = BASE if mb_per_s is None else replace(BASE, storage=Storage(mb_per_s))
    advice = recommend(costs, info=INFO)
    every = {(c, s): latency(costs, c, s) for c in (1, 2, 4) for s in (1, 2, 3, 4)}
    best = min(every.values())
    assert advice.best_latency_s == best and len(advice.candidates) == 12
    chosen = advice.config.chunk_size, advice.config.slots
    assert every[chosen] <= 1.01 * best
    assert all(every[one] > 1.01 * best for one in every if one < chosen)


def test_storage_bound():
    advice = recommend(replace(BASE, storage=Storage(40)), info=INFO)
    assert (advice.bound, advice.config.chunk_size, advice.config.slots) == ("storage", 1, 2)
    assert advice.reason.startswith(
        "storage-bound: 40 MB/s holds every setting at 4.91 s or more; "
    )
    assert "more slots do not help, a faster disk does (x 2: " in advice.reason
    first, first_s = next(iter(advice.what_if.items()))
    assert first == "storage"
    doubled = predict(replace(BASE, write=BASE.write.times(0.5), storage=Storage(80)), INFO,
                      advice.config)  # fmt: skip
    assert first_s == doubled.run.latency_s
    latency_s = advice.prediction.run.latency_s
    assert advice.gain_percent(first) == pytest.approx(100 * (1 - first_s / latency_s))


def test_decoder_bound():
    advice = recommend(BASE, info=INFO)
    assert advice.bound == "decoder" and next(iter(advice.what_if)) == "decoder"
    assert advice.gain_percent("decoder") == pytest.approx(50, abs=1)
    assert "a faster decoder does" in advice.reason


def test_copy_bound():
    advice = recommend(replace(BASE, copy=Cost(0.05, 0.05)), info=INFO)
    assert advice.bound == "PCIe" and "a faster link to the host does" in advice.reason


def test_on_a_cpu_the_launch_is_the_decode():
    costs = StageCosts(decode=Cost(0.1), launch=Cost(0.1), pageable_copy=Cost(1e-4), cuda=False)
    assert recommend(costs, info=INFO).gain_percent("decoder") == pytest.approx(50, abs=1)


def test_what_slots_would_bring_is_said_where_limits_forbid_them():
    costs = replace(BASE, storage=Storage(55))
    advice = recommend(costs, Limits(pinned_bytes=5e6), info=INFO)
    assert (advice.config.slots, advice.bound) == (1, None)
    assert "overlap only in part" in advice.reason
    assert "more slots would bring" in advice.reason and "but are not allowed" in advice.reason


def test_limits_hold():
    frame = INFO.frame_bytes
    advice = recommend(BASE, Limits(vram_bytes=5e9, pinned_bytes=2 * 4 * frame), info=INFO)
    run = advice.prediction.run
    assert run.vram_peak_bytes <= 5e9 and run.pinned_bytes <= 8 * frame
    over = {(c.run.config.chunk_size, c.run.config.slots): o for c, o in advice.candidates}
    assert over[1, 2] == () and over[1, 3] == ("pinned_bytes",)
    assert over[4, 4] == ("vram_bytes", "pinned_bytes")
    table = advice_document(advice).text()
    assert table.count("recommended") == 1 and "over: VRAM, pinned memory" in table
    assert advice_line(advice).startswith("chunk 1, 2 slots: ")
    assert json.loads(json.dumps(advice_record(advice)))["pinned_bytes"] == run.pinned_bytes


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(vram_bytes=1e9), r"VRAM is at least 4 GB \(the limit is 1 GB\); loosen one"),
        (Limits(pinned_bytes=1e6), r"pinned memory is at least 4.79 MB \(the limit is 1 MB\)"),
        (Limits(ttff_s=0.001), r"time to the first frame is at least 0.03\d* s"),
    ],
)
def test_limits_that_nothing_keeps(limits, message):
    with pytest.raises(ValueError, match=message):
        recommend(BASE, limits, info=INFO)


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["vram_bytes", "pinned_bytes", "ttff_s"])
def test_bad_limits(name, bad):
    with pytest.raises(ValueError, match=f"limit {name} is {bad}"):
        Limits(**{name: bad})


def test_unknown_vram_cannot_be_limited():
    with pytest.raises(ValueError, match="VRAM is limited, but these costs do not know it"):
        recommend(replace(BASE, vram_bytes=()), Limits(vram_bytes=1e9), info=INFO)


def test_nothing_to_choose_from():
    with pytest.raises(ValueError, match="nothing to choose from"):
        recommend(BASE, info=INFO, chunks=())


def test_the_command(capsys):
    assert main(["recommend", *RECORDED, "--storage-mb-s", "40", "--usd-per-hour", "3.36"]) == 0
    out = capsys.readouterr().out
    answer = json.loads(out.splitlines()[-1])
    assert answer["bound"] == "storage" and answer["reason"] in out and "USD / video h" in out
    assert main(["recommend", *RECORDED, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bound"] == "decoder"
    assert main(["recommend", RECORDED[1]]) == 0
    out = capsys.readouterr().out
    assert "fitted at chunk size 2 of" in out and "| 1     |" not in out and "throttle" in out
    assert main(["recommend", RECORDED[1], "--chunks", "1,2"]) == 0
    out = capsys.readouterr().out  # VRAM is known at one chunk size only
    assert " - |" in out and "chunk size 1 is beyond the measured ones" in out
    assert main(["recommend", *RECORDED]) == 0
    assert "fitted from runs of 2 machines" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "no result at absent"),
        ([*RECORDED, "--chunks", "x"], "--chunks 'x': 'x' is no number"),
        ([*RECORDED, "--ring-slots", "0"], "slots is 0; use 1 to 16"),
        ([*RECORDED, "--burst-mb", "5"], "--burst-mb is the cache of a storage; give its"),
        ([*RECORDED, "--storage-mb-s", "-5"], "storage speed is -5.0 MB/s; give one above 0"),
        ([*RECORDED, "--pinned-mb", "1"], "no setting keeps the limits; pinned memory is at least"),
        ([*RECORDED, "--pinned-mb", "-1"], "--pinned-mb is -1; give 0 or more"),
        ([*RECORDED, "--storage-mb-s", "1e-300"], "storage speed is 1e-300 MB/s"),
        ([str(next(RESULTS.glob("*_sweep-sync-16-threads")))], "has no cell of mode async"),
        ([*RECORDED, "--frames", "160"], "use 157 or 161"),
    ],
)
def test_bad_input(arguments, message, capsys):
    assert main(["recommend", *arguments]) == 2
    assert message in capsys.readouterr().err

"""Encoders in the pipeline model: fitted, predicted at other numbers, and advised on."""

import json
from dataclasses import replace

import pytest

from tests.cpu.test_predict import ONE, load, of_runs
from vdkit.__main__ import main
from vdkit.measure.study import as_run
from vdkit.predict import Cost, StageCosts, predict, video_info
from vdkit.predict.advise import recommend
from vdkit.predict.encoding import Encoding
from vdkit.predict.fit import CostBook, Decoding, encoders_of, fit_costs, fit_evidence
from vdkit.present.sweep_document import advice_document, advice_record
from vdkit.record.recording import write_recording
from vdkit.record.runs import SinkInfo

OLD = load(ONE)
INFO = video_info(OLD)
STAYS, GROWS = 0.004, 0.006
TOOK = {count: STAYS + GROWS * count for count in (1, 2, 4, 8)}
COSTS = StageCosts(
    decode=Cost(1e-3, 6e-3, 7e-3), copy=Cost(1e-5, 2e-5), pageable_copy=Cost(1e-4, 1e-4),
    convert=Cost(1e-3, 5e-4), write=Cost(1e-5, 1e-4), open=Cost(0.01), close=Cost(0.02),
    encoding=Encoding(1, tuple(TOOK.items()), mux_s=1e-5, behind=12),
)  # fmt: skip
PRESETS = ("veryfast", "medium")


def recorded(count, preset="veryfast", modes=("sync", "async"), costs=COSTS):
    """What the model itself makes of so many encoders, as a recording; medium: twice the work."""
    own = costs.of_encoders(count)
    own = own if preset == "veryfast" else own.times(2, "encoding")
    runs = {mode: as_run(predict(own, INFO, OLD.config, mode).run, 0) for mode in modes}
    options = {"preset": preset} | ({"encoders": count} if count > 1 else {})
    told = {"kind": "mp4", "storage": "tmpfs", "encoder": f"x264 {preset}, {count} encoders"}
    sink = SinkInfo(**told, options=options)
    made = of_runs(OLD, runs, OLD.config)
    arms = {
        n: arm.model_copy(update={"sink": sink, "profile": None}) for n, arm in made.arms.items()
    }
    return made.model_copy(update={"arms": arms, "label": f"{count} {preset}"})


@pytest.mark.parametrize("preset", PRESETS)
def test_two_numbers_of_encoders_predict_the_others(preset):
    made = {count: recorded(count, preset) for count in TOOK}
    factor = 1 if preset == "veryfast" else 2
    assert [encoders_of(one.arms["async"]) for one in made.values()] == list(TOOK)
    for known in ((2, 4), (1, 8)):
        costs = fit_costs(*(made[count] for count in known))
        assert costs.encoding.encoders == known[0] and costs.encoding.words == f"x264 {preset}"
        for count, one in made.items():
            own = costs.of_encoders(count)
            assert own.encoding.frame_s == pytest.approx(factor * TOOK[count], rel=1e-6)
            for mode, arm in one.arms.items():
                if count == 1 and 1 not in known:
                    continue  # what it has still to encode at the close is not known
                found = predict(own, INFO, arm.config, mode).run
                assert found.latency_s == pytest.approx(arm.latencies[0], rel=1e-3)
    assert fit_evidence(costs, made[1], made[8]).error_percent < 0.1


def test_what_one_number_of_encoders_does_not_tell():
    costs = fit_costs(recorded(4))
    assert costs.of_encoders(4).encoding.knows(4) and not costs.encoding.knows(2)
    with pytest.raises(
        ValueError, match=r"2 encoders side by side .* only of 4: record it, or fit"
    ):
        costs.of_encoders(2)
    with pytest.raises(ValueError, match="0 encoders on segments of 16 frames cannot be"):
        Encoding(0, ((0, 1.0),))
    assert replace(COSTS, encoding=None).of_encoders(4).encoding is None


def test_sinks_that_differ_in_more_are_not_mixed():
    with pytest.raises(ValueError, match=r"sink's options is {'preset': 'medium'} in '2 medium'"):
        fit_costs(recorded(4), recorded(2, "medium"))
    plain = recorded(2)
    runs = {n: a.runs[0].model_copy(update={"sink_close_parts": {}}) for n, a in plain.arms.items()}
    silent = plain.model_copy(update={"arms": {
        n: a.model_copy(update={"runs": (runs[n],)}) for n, a in plain.arms.items()}})  # fmt: skip
    with pytest.raises(
        ValueError, match=r"sink.s options is \{.preset.: .veryfast., .encoders.: 2\}"
    ):
        fit_costs(recorded(4), silent)


def test_encoders_that_a_line_below_zero_would_need_are_kept_at_zero():
    grows = Encoding(8, ((2, 1.0), (4, 3.0)))
    assert grows.frame_s == pytest.approx(8 * 14 / 20)  # through 0
    assert Encoding(8, ((2, 3.0), (4, 1.0))).frame_s == pytest.approx(2.0)  # their mean


def test_slots_wait_for_encoders():
    slow = predict(COSTS.of_encoders(2).times(5, "encoding"), INFO, OLD.config).stalls.by_cause_ns
    assert slow["encoder full"] > 10 * slow["slot held by sink"]


def test_the_book_keeps_every_number_of_encoders():
    book = CostBook()
    for count in (2, 4):
        assert book.add(recorded(count), "here", sink="mp4")
    load = OLD.workload
    key = Decoding("here", load.decoder, load.variant, load.dtype, load.height, load.width, "mp4")
    known = book.lookup(key).costs
    assert known.encoding.encoders == 4 and known.encoding.knows(8)
    half = book.lookup(replace(key, height=load.height // 2)).costs.encoding
    assert half.frame_s == pytest.approx(known.encoding.frame_s / 2)
    assert book.lookup(replace(key, sink="null")).costs.encoding is None


@pytest.mark.parametrize("cores", [0, 8])
def test_the_smallest_number_of_encoders_that_is_as_good_as_the_best(cores):
    """A frame comes every 6 ms; of 1 to 8 encoders each takes 10, 8, 7 and 6.5 of them a frame."""
    costs = replace(COSTS, encoding=replace(COSTS.encoding, words="veryfast", cores=cores))
    advice = recommend(costs, info=INFO, slots=(2, 3))
    best = {n: min(predict(costs.of_encoders(n), INFO, replace(OLD.config, chunk_size=c, slots=s))
                   .run.latency_s for c in (1, 2, 4) for s in (2, 3)) for n in TOOK}  # fmt: skip
    assert advice.best_by_encoders == best
    near = [n for n in TOOK if best[n] <= 1.01 * min(best.values())]
    assert advice.encoding.encoders == near[0]
    words = advice_document(advice).text()
    on = "8 cores" if cores else "Here"
    assert f"{on}: {near[0]} encoders veryfast; by number of encoders 1: " in words
    assert advice_record(advice)["encoders"] == near[0]


def test_encoder_bound():
    for count, factor in ((1, 3), (4, 5)):
        only = Encoding(count, ((count, factor * TOOK[count]),))
        advice = recommend(replace(COSTS, encoding=only), info=INFO)
        assert advice.bound == "encoder" and next(iter(advice.what_if)) == "encoder"
        assert "encoder-bound" in advice.reason and "a faster encoder does (x 2: " in advice.reason
    assert recommend(COSTS.times(0.1, "encoding"), info=INFO).bound == "decoder"


def test_the_command_says_how_many_and_what_nvenc_took(tmp_path, capsys):
    folders = []
    for number, one in enumerate((recorded(2), recorded(4), recorded(1, "medium"))):
        folders.append(tmp_path / str(number))
        if number == 2:  # as if it had been
            nvenc = one.sink.model_copy(update={"encoder": "NVENC H.264 p4 cq 18"})
            arms = {n: a.model_copy(update={"sink": nvenc}) for n, a in one.arms.items()}
            one = one.model_copy(update={"arms": arms})
        folders[-1].mkdir()
        write_recording(one, folders[-1])
    assert main(["recommend", *map(str, folders)]) == 0
    out = capsys.readouterr().out
    assert f"{OLD.provenance.host_cores} cores: " in out and " encoders x264 veryfast; by" in out
    assert "Measured with NVENC H.264 p4 cq 18, chunk 1, 2 slots: " in out
    assert json.loads(out.splitlines()[-1])["encoders"] in (4, 8)

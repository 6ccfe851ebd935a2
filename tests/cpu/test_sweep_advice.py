"""A sweep from Python in one call, and what it recommends at any storage speed and price."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers import NearestDecoder, latents_for
from vdkit.measure.sweep import sweep_grid
from vdkit.predict import Storage, video_info
from vdkit.predict.advise import Limits, recommend, recommend_from, storage_sensitivity
from vdkit.predict.grid import read_sweep
from vdkit.present.charts import plot_predictions, plot_sensitivity
from vdkit.present.columns import ENERGY, Asked
from vdkit.present.sweep_document import saving_line, sweep_table
from vdkit.record.recording import saving_usd
from vdkit.record.runs import SinkInfo
from vdkit.sinks import SinkSpec

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def recorded():
    return read_sweep(RESULTS / "20261121T114058Z_nvidia-h200_6a035e9_sweep-14-threads")


NULL = SinkSpec("null").fresh


def nearest():
    decoder = NearestDecoder(delay_s=0.002)
    return decoder, latents_for(decoder, frames=5, height=8, width=8)


def test_a_sweep_in_one_call(tmp_path):
    sweep = sweep_grid(
        *nearest(), NULL, tmp_path, speeds=(None, 5.0), chunks=(1, 2), slots=(1, 2), runs=1,
        label="mine", progress=False,
    )  # fmt: skip
    assert not sweep.left and len(sweep.results) == 2 * 2 + 2 * 2 * 2
    assert {cell.mb_per_s for cell in sweep.results} == {None, 5.0}
    for cell, result in sweep.results.items():
        assert result.sink == SinkInfo(kind="null", storage=None, throttle_mb_per_s=cell.mb_per_s)
    again = read_sweep(sweep.folder)
    assert sweep.folder.parent == tmp_path and again.plan.label == "mine"
    assert again.results == sweep.results and again.predictions == sweep.predictions
    assert sweep.predictions.measured_before == 0  # what it predicts it had not seen


def test_a_sweep_needs_full_speed(tmp_path):
    with pytest.raises(ValueError, match="speeds has no None: add full speed"):
        sweep_grid(*nearest(), NULL, tmp_path, speeds=(5.0,), progress=False)
    assert not list(tmp_path.iterdir())


def test_the_advice_is_the_models(recorded):
    costs, limits = recorded.predictions.costs, Limits(vram_bytes=8e9, pinned_bytes=20e6)
    info = video_info(next(iter(recorded.results.values())))
    grid = {"info": info, "chunks": (1, 2, 4), "slots": (1, 2, 3, 4)}
    free = recommend_from(recorded)
    assert free == recommend(costs, **grid, evidence=recorded.evidence())
    held = recommend_from(recorded, limits, 100.0)
    costs = replace(costs, storage=Storage(100.0))
    assert held == recommend(costs, limits, **grid, evidence=recorded.evidence())
    assert (free.config.chunk_size, held.config.chunk_size) == (4, 2)


def off_by(sweep, percent):
    """The sweep as if its tested cells had taken so much longer than was predicted."""
    scale = 1 + percent / 100
    results = dict(sweep.results)
    for cell in sweep.errors():
        arm, measured = sweep.results[cell].base, sweep.predicted(cell).latency_s * scale
        factor = measured / arm.latency.mean
        runs = tuple(r.model_copy(update={"latency_s": r.latency_s * factor}) for r in arm.runs)
        made = {cell.mode: arm.model_copy(update={"runs": runs})}
        results[cell] = sweep.results[cell].model_copy(update={"arms": made})
    return replace(sweep, results=results)


def test_advice_claims_no_more_than_the_model_can_tell(recorded):
    """Predicted 1 / 1.25 of what was measured: 20 % off, so 20 % apart is not told apart."""
    sure, off = recommend_from(recorded), recommend_from(off_by(recorded, 25.0))
    assert sure.margin_percent == 1.0 and recorded.evidence().tested
    assert 0 < recorded.evidence().error_percent < 1
    assert not any("cannot tell" in remark for remark in sure.remarks)
    assert off.margin_percent == pytest.approx(20.0)
    said = "the model cannot tell settings apart that differ by less than 20 %."
    assert off.remarks[0].endswith(said)
    runs = [one.run for one, _ in off.candidates]
    latency = {(run.config.chunk_size, run.config.slots): run.latency_s for run in runs}
    within = [one for one, latency_s in latency.items() if latency_s <= 1.2 * off.best_latency_s]
    assert (off.config.chunk_size, off.config.slots) == min(within) == (1, 1)
    assert (sure.config.chunk_size, sure.config.slots) == (4, 2)


def test_a_disturbed_machine_is_said(recorded):
    cell, result = next(iter(recorded.results.items()))
    arm = result.base
    runs = tuple(
        run.model_copy(update={"latency_s": run.latency_s * (1.6 if run.round == 0 else 1)})
        for run in arm.runs
    )
    arms = {cell.mode: arm.model_copy(update={"runs": runs})}
    changed = result.model_copy(update={"arms": arms})
    evidence = replace(recorded, results=recorded.results | {cell: changed}).evidence()
    ((name, ratio),) = evidence.disturbed
    assert name == cell.words and ratio == pytest.approx(1.6, rel=0.05)
    quiet = recorded.evidence()
    assert quiet.disturbed == () and quiet.runs == 2 * 60
    assert quiet.throttled_runs == sum(one.base.throttled_runs for one in recorded.results.values())
    info, costs = video_info(result), recorded.predictions.costs
    remarks = recommend(costs, info=info, evidence=evidence).remarks
    assert "runs of one setting differ by more than half in 1 case (at the most 1.6 x" in remarks[0]
    assert f"throttled in {quiet.throttled_runs} of 120 runs" in remarks[1]
    calm = replace(quiet, throttled_runs=0)
    assert recommend(costs, info=info, evidence=calm).remarks == ()


def test_untested_costs_answer_for_what_they_were_fitted_from(recorded):
    fitted = {cell: recorded.results[cell] for cell in recorded.plan.fit_cells}
    evidence = replace(recorded, results=fitted).evidence()
    assert not evidence.tested and 0 < evidence.error_percent < 1
    assert evidence.runs == 2 * len(fitted)


def test_no_advice_without_costs(recorded):
    for sweep in (
        replace(recorded, predictions=None),
        replace(recorded, results={c: r for c, r in recorded.results.items() if c.mode == "sync"}),
    ):
        with pytest.raises(ValueError, match="has no fitted costs of mode async; sweep async"):
            recommend_from(sweep)


def test_slow_storage_decides_and_fast_storage_does_not(recorded):
    points = storage_sensitivity(recorded)
    speeds = [one.mb_per_s for one in points]
    assert speeds == sorted(speeds)
    latencies = [one.advice.prediction.run.latency_s for one in points]
    assert latencies == sorted(latencies, reverse=True)
    for one, latency_s in zip(points, latencies, strict=True):
        assert one.storage_s * one.mb_per_s == pytest.approx(161 * 480 * 832 * 3 / 1e6)
        assert latency_s > one.storage_s and one.sync_s > latency_s
    assert latencies[0] < 1.01 * points[0].storage_s and points[0].advice.bound == "storage"
    assert latencies[-1] > 4 * points[-1].storage_s and points[-1].advice.bound == "decoder"


def test_sensitivity_keeps_limits_and_given_speeds(recorded):
    points = storage_sensitivity(recorded, [50.0, 400.0], Limits(vram_bytes=5e9))
    assert [one.mb_per_s for one in points] == [50.0, 400.0]
    assert {one.advice.config.chunk_size for one in points} == {1}


def test_the_strip_names_the_settings(recorded):
    points = storage_sensitivity(recorded)
    figure = plot_sensitivity({"here": recorded, "there": recorded})
    curves, strip = figure.axes[:2]
    assert len(figure.axes) == 4 and curves.get_title(loc="left") == "here"
    named = [text.get_text() for text in strip.texts]
    assert named == ["chunk 1\n2 slots", "chunk 2\n2 slots", "chunk 4\n2 slots"]
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in strip.patches]
    assert [left for left, _ in bars[1:]] == pytest.approx([right for _, right in bars[:-1]])
    assert (bars[0][0], bars[-1][1]) == pytest.approx((points[0].mb_per_s, points[-1].mb_per_s))
    line = {one.get_label(): one for one in curves.lines}["async, as recommended"]
    assert list(line.get_ydata()) == [one.advice.prediction.run.latency_s for one in points]


def test_a_sweep_without_sync_has_one_line_less(recorded):
    results = {cell: one for cell, one in recorded.results.items() if cell.mode == "async"}
    sweep = replace(recorded, results=results)
    points = storage_sensitivity(sweep, [50.0, 100.0])
    assert [one.sync_s for one in points] == [None, None]
    assert len(plot_sensitivity({"here": sweep}).axes[0].lines) == 2
    with pytest.raises(ValueError, match="has no cell of mode sync; sweep sync and async"):
        saving_line(sweep, Limits(), 50.0, 3.36)


def test_the_title_of_predictions_fits(recorded):
    figure = plot_predictions(recorded)
    figure.canvas.draw()
    title = figure.get_suptitle()
    assert "worst" in title and len(title.splitlines()) == 3
    extent = figure._suptitle.get_window_extent()
    assert extent.x1 <= figure.bbox.x1


def test_money_of_a_sweep(recorded):
    table = sweep_table(recorded, Asked(3.36, energy=True), slots=2)
    frame = table.frame()
    assert list(zip(frame["mode"], frame["chunk"], frame["slots"].fillna(0), strict=True)) == [
        *(("sync", chunk, 0) for chunk in (1, 2, 4)),
        *(("async", chunk, 2) for chunk in (1, 2, 4)),
    ]
    assert (frame[ENERGY] > 0).all() and "$3.36 per hour" in table.caption
    assert "† a run had a throttle reason set." in table.note
    (point,) = storage_sensitivity(recorded, [100.0])
    run = point.advice.prediction.run
    saved = saving_usd(point.sync_s / run.info.seconds, run.latency_s / run.info.seconds, 3.36)
    assert f"predicted to save ${saved:.0f} in 1,000 hours" in saving_line(
        recorded, Limits(), 100.0, 3.36
    )
    with pytest.raises(ValueError, match="the price is 0"):
        saving_line(recorded, Limits(), 100.0, 0.0)

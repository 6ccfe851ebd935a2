"""Sweeps: what is in the grid, what survives an interruption, what is predicted before it runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.helpers import NearestDecoder, latents_for
from vdkit.__main__ import main
from vdkit.measure.study import Bench
from vdkit.measure.sweep import plan_cells, run_sweep, start_sweep
from vdkit.predict.grid import Cell, median_and_worst, predict_cells, read_sweep
from vdkit.present.charts import plot_heatmap, plot_predictions
from vdkit.present.sweep_document import cell_records, sweep_document
from vdkit.record import Locked
from vdkit.record.results import load_results, read_recording
from vdkit.sinks import SinkSpec

MODES, CHUNKS, SLOTS, SPEEDS = ("sync", "async"), (1, 2), (1, 2), (None, 8.0)


def make_bench(frames=5, delay_s=0.01, decoder=None):
    decoder = decoder or NearestDecoder(delay_s=delay_s)
    return Bench(
        decoder, latents_for(decoder, frames=frames, height=12, width=20), SinkSpec("null").fresh
    )


def begin(bench, out, chunks=CHUNKS, modes=MODES, slots=SLOTS, speeds=SPEEDS, runs=2):
    return start_sweep(bench, out, modes, chunks, slots, speeds, runs=runs)


def test_the_grid_has_every_setting_once():
    fit, rest = plan_cells(("sync", "async", "compute_only", "diffusers"), (1, 2, 4), (1, 2, 3),
                           (None, 100.0), 41)  # fmt: skip
    keys = [cell.key for cell in (*fit, *rest)]
    assert len(set(keys)) == len(keys) == 3 * 2 + 3 * 3 * 2 + 3 + 2
    assert {cell.key for cell in fit} == {
        *(f"sync_chunk{size}" for size in (1, 2, 4)),
        *(f"async_chunk{size}_slots2" for size in (1, 2, 4)),
        *(f"compute_only_chunk{size}" for size in (1, 2, 4)),
        "diffusers_chunk1",
    }
    assert "diffusers_chunk1_100MBs" in keys and "async_chunk4_slots3_100MBs" in keys


def test_fit_cells_are_few_at_full_speed_and_near_two_slots():
    fit, rest = plan_cells(("async",), (1, 2, 3, 4, 6, 8), (4, 3), (40.0,), 41)
    assert sorted(cell.chunk_size for cell in fit) == [1, 4, 8]
    assert {cell.slots for cell in fit} == {3} and {cell.mb_per_s for cell in fit} == {None}
    assert len(rest) == 6 * 2 and all(cell.mb_per_s == 40 for cell in rest)


def test_the_order_is_random_and_repeats():
    grid = (("async",), (1, 2, 4), (1, 2, 3, 4), (None, 400.0, 100.0), 41)
    one, again, other = (plan_cells(*grid, seed=seed)[1] for seed in (0, 0, 1))
    assert one == again != other and set(one) == set(other)
    assert list(one) != sorted(one, key=lambda cell: cell.key)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"modes": ()}, "modes is empty"),
        ({"chunks": (1, 1)}, "chunks has a value twice: 1, 1"),
        ({"modes": ("fast",)}, "modes fast: use any of diffusers, sync"),
        ({"modes": ("diffusers",)}, "mode diffusers alone has no chunks"),
        ({"chunks": (0,)}, "chunk_size is 0; use 1 or more"),
        ({"chunks": (9,)}, "chunk size 9: the video has 9 latent frames"),
        ({"slots": (0,)}, "slots is 0; use 1 to 16"),
        ({"slots": (17,)}, "slots is 17"),
        ({"speeds": (-1.0,)}, "storage speed is -1.0 MB/s"),
        ({"speeds": (1e-300,)}, "storage speed is 1e-300 MB/s; give one above 0, from 1e-06"),
        ({"speeds": (float("nan"),)}, "storage speed is nan MB/s"),
    ],
)
def test_bad_grids(given, message):
    grid = {"modes": MODES, "chunks": CHUNKS, "slots": SLOTS, "speeds": SPEEDS} | given
    with pytest.raises(ValueError, match=message):
        plan_cells(**grid, latent_frames=9)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    bench = make_bench()
    folder = begin(bench, tmp_path_factory.mktemp("sweep"))
    seen = []
    sweep = run_sweep(
        folder, bench, progress=False,
        report=lambda now, cell: seen.append((cell, now.predictions is not None)),
    )  # fmt: skip
    return sweep, seen


def test_everything_is_measured_and_predicted_beforehand(finished):
    sweep, seen = finished
    assert not sweep.left and not sweep.unfit and len(sweep.results) == 12
    assert [cell for cell, _ in seen] == list(sweep.plan.all_cells)
    fit = len(sweep.plan.fit_cells)
    assert [predicted for _, predicted in seen] == [False] * fit + [True] * (len(seen) - fit)
    assert set(sweep.errors()) == set(sweep.plan.cells)
    written = (sweep.folder / "predictions.json").stat().st_mtime_ns
    for cell in sweep.plan.cells:
        assert (sweep.folder / f"cell_{cell.key}.json").stat().st_mtime_ns > written
    assert set(sweep.predictions.fitted_from) == set(sweep.plan.fit_cells)


def test_a_cell_is_an_ordinary_record(finished):
    sweep, _ = finished
    frame = load_results(sweep.folder)
    assert len(frame) == 12 * 2 and set(frame["mode"]) == {"sync", "async"}
    assert set(frame["kind"]) == {"cell"} and not frame["warmup"].any()
    for cell, result in sweep.results.items():
        assert list(result.arms) == [cell.mode] and [r.round for r in result.base.runs] == [0, 1]
    hashes = {result.arms[cell.mode].frame_sha256 for cell, result in sweep.results.items()}
    assert len(hashes) == 1 and None not in hashes
    slow = [cell for cell in sweep.results if cell.mb_per_s == 8 and cell.mode == "sync"]
    for cell in slow:  # a throttled cell really was: its frames' bytes over 8 MB/s, at the least
        work = sweep.plan.workload
        frame_bytes = work.frames * work.height * work.width * 3
        assert sweep.results[cell].base.latency.mean > frame_bytes / 8e6


def test_frames_are_hashed_once_for_each_mode_chunk_size_and_slots(tmp_path):
    bench = make_bench(delay_s=0)
    hashed, real = [], bench.hashed
    bench.hashed = lambda *given: hashed.append(given) or real(*given)
    folder = begin(bench, tmp_path, speeds=(None, 1e6), runs=1)
    sweep = run_sweep(folder, bench, progress=False)
    settings = [(mode, config.chunk_size, config.slots) for mode, config in hashed]
    assert len(settings) == len(set(settings)) == 2 + 2 * 2
    assert len(sweep.results) == 12
    assert {one.base.frame_sha256 for one in sweep.results.values()} == {
        real(*hashed[0]).frame_sha256
    }


RESULTS = Path(__file__).parents[2] / "results"
RECORDED = {  # label to cells, median and worst error, %, as when they were recorded
    "sweep-14-threads": (60, 0.0914, 1.5290, "sync_chunk2_400MBs"),
    "sweep-cpu": (48, 0.7547, 4.3206, "async_chunk2_slots1_0.5MBs"),
    "sweep-sync-16-threads": (12, 1.6410, 3.8887, "sync_chunk4_400MBs"),
}


@pytest.mark.parametrize("label", RECORDED)
def test_recorded_sweeps_read_as_ever(label):
    (folder,) = RESULTS.glob(f"*_{label}")
    sweep = read_sweep(folder)
    median, worst, where = median_and_worst(sweep.errors())
    found = (len(sweep.results), round(median, 4), round(worst, 4), where.key)
    assert found == RECORDED[label] and not sweep.left and not sweep.unfit
    again = predict_cells(sweep)
    for one, stored in zip(again.cells, sweep.predictions.cells, strict=True):
        assert one.cell == stored.cell
        assert one.latency_s == pytest.approx(stored.latency_s, rel=1e-9)
        assert one.vram_peak_bytes == stored.vram_peak_bytes


def test_a_sweep_from_before_compute_was_called_compute_only(tmp_path):
    bench = make_bench(delay_s=0)
    folder = begin(bench, tmp_path, chunks=(1,), modes=("sync", "compute_only"), speeds=(None,))
    sweep = run_sweep(folder, bench, progress=False)
    for path in folder.glob("*compute_only*.json"):
        path.rename(folder / path.name.replace("cell_", "result_").replace("_only", ""))
    for name in ("sweep.json", "predictions.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace('"compute_only"', '"compute"'))
    assert read_sweep(folder) == sweep


def test_predictions_made_after_the_measurement_are_no_test(finished, tmp_path):
    sweep, _ = finished
    assert sweep.predictions.measured_before == 0
    for path in sweep.folder.glob("*.json"):
        if path.name != "predictions.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    lost = read_sweep(tmp_path)
    assert (
        f"predictions.json is missing; vdkit sweep --resume {tmp_path}"
        in sweep_document(lost).text()
    )
    again = run_sweep(tmp_path, make_bench(), progress=False)
    assert again.predictions.cells == sweep.predictions.cells
    assert again.predictions.measured_before == len(sweep.plan.cells)
    assert "NOT A TEST: the predictions were made when 8 of these" in sweep_document(again).text()


def test_reading_it_again_gives_the_same(finished):
    sweep, _ = finished
    again = read_sweep(sweep.folder)
    assert again == sweep
    error = sweep.errors()
    median, worst, where = median_and_worst(error)
    assert abs(error[where]) == worst >= median >= 0


def test_predictions_are_the_models_own(finished):
    from vdkit.predict import Storage, predict, video_info
    from vdkit.predict.fit import fit_costs

    sweep, _ = finished
    costs = fit_costs(*(sweep.results[cell] for cell in sweep.predictions.fitted_from))
    cell = Cell(mode="async", chunk_size=2, slots=1, mb_per_s=8.0)
    held = replace(costs, storage=Storage(8.0))
    made = predict(held, video_info(sweep.results[cell]), sweep.results[cell].config)
    assert sweep.predicted(cell).latency_s == made.run.latency_s
    expected = 100 * (made.run.latency_s / sweep.results[cell].base.latency.mean - 1)
    assert sweep.error_percent(cell) == pytest.approx(expected)


def test_table_and_pictures(finished):
    sweep, _ = finished
    text = sweep_document(sweep).text()
    assert text.count("  fit") >= 4 and "8 cells predicted from 4: median error" in text
    frame = pd.DataFrame(cell_records(sweep))
    assert len(frame) == 12 and set(frame["outcome"]) == {"measured"}
    row = frame[(frame["mode"] == "async") & (frame["slots"] == 1) & frame["sink_mb_per_s"].isna()]
    assert row["error_percent"].notna().all()
    heat, scatter = plot_heatmap(sweep), plot_predictions(sweep)
    assert len([ax for ax in heat.axes if ax.images]) == 2  # a panel per sink speed
    shown = [text.get_text() for ax in heat.axes for text in ax.texts]
    cell = Cell(mode="sync", chunk_size=1)
    assert (
        f"{sweep.results[cell].base.latency.mean:#.3g}".rstrip(".") in shown
        and shown.count("fit") == 4
    )
    assert len(scatter.axes) == 2


def test_a_finished_cell_is_never_run_twice(tmp_path):
    bench = make_bench(delay_s=0)
    folder = begin(bench, tmp_path, modes=("async",), speeds=(None,))

    def stop_after_two(sweep, cell):
        if len(sweep.results) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(folder, bench, progress=False, report=stop_after_two)
    before = {path: path.read_bytes() for path in folder.glob("*.json")}
    assert len(read_sweep(folder).results) == 2 and len(read_sweep(folder).left) == 2
    ran = []
    run_sweep(folder, bench, progress=False, report=lambda sweep, cell: ran.append(cell))
    assert len(ran) == 2 and not read_sweep(folder).left
    assert {path: path.read_bytes() for path in before} == before
    ran.clear()
    run_sweep(folder, bench, progress=False, report=lambda sweep, cell: ran.append(cell))
    assert ran == []


def test_an_interrupted_cell_leaves_nothing(tmp_path):
    bench = make_bench(delay_s=0)
    folder = begin(bench, tmp_path, modes=("async",), speeds=(None,))
    real, calls = bench.run, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 4:  # the second run of the second cell
            raise KeyboardInterrupt
        return real(*arguments)

    bench.run = interrupted
    with pytest.raises(KeyboardInterrupt):
        run_sweep(folder, bench, progress=False)
    sweep = read_sweep(folder)
    assert len(sweep.results) == 1
    assert {path.name for path in folder.iterdir()} == {
        "sweep.json",
        f"cell_{next(iter(sweep.results)).key}.json",
    }


class Hungry(NearestDecoder):
    """Cannot have the memory for chunks of more than one latent frame."""

    error = None

    def decode_chunk(self, state, start, stop):
        if stop - start > 1:
            raise self.error
        return super().decode_chunk(state, start, stop)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_cell_that_does_not_fit_is_recorded_and_the_rest_runs(tmp_path, error):
    decoder = Hungry()
    decoder.error = error
    bench = make_bench(decoder=decoder)
    folder = begin(bench, tmp_path, speeds=(None,), runs=1)
    sweep = run_sweep(folder, bench, progress=False)
    assert {cell.chunk_size for cell in sweep.unfit} == {2} and len(sweep.unfit) == 3
    assert {cell.chunk_size for cell in sweep.results} == {1} and not sweep.left
    assert all(sweep.unfit.values())
    text = sweep_document(sweep).text()
    assert text.count("does not fit") >= 6
    assert "does\nnot fit" in [t.get_text() for ax in plot_heatmap(sweep).axes for t in ax.texts]
    again = []
    run_sweep(folder, bench, progress=False, report=lambda _, cell: again.append(cell))
    assert again == []


def test_host_memory_is_asked_for_before_it_is_gone(tmp_path, monkeypatch):
    bench = make_bench(delay_s=0)
    bench.decoder.working_bytes = lambda size, height, width: size * 10**9
    monkeypatch.setattr("vdkit.measure.sweep.available_bytes", lambda: 1.5e9)
    folder = begin(bench, tmp_path, speeds=(None,), runs=1)
    sweep = run_sweep(folder, bench, progress=False)
    assert {cell.chunk_size for cell in sweep.unfit} == {2}
    assert "needs about 2.0 GB, 1.5 GB are available" in next(iter(sweep.unfit.values()))


def test_other_errors_are_no_lack_of_memory(tmp_path):
    decoder = Hungry()
    decoder.error = RuntimeError("the decoder failed")
    bench = make_bench(decoder=decoder)
    folder = begin(bench, tmp_path, speeds=(None,), runs=1)
    with pytest.raises(RuntimeError, match="the decoder failed"):
        run_sweep(folder, bench, progress=False)


def test_two_sweeps_into_one_folder(tmp_path):
    bench = make_bench(delay_s=0)
    folder = begin(bench, tmp_path, chunks=(1,), speeds=(None,), runs=1)

    def second(sweep, cell):
        with pytest.raises(Locked, match="another process is sweeping into"):
            run_sweep(folder, bench, progress=False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(folder, bench, progress=False, report=second)
    run_sweep(folder, bench, progress=False)  # the lock is gone with its holder


def test_another_video_cannot_go_on_with_it(tmp_path):
    folder = begin(make_bench(delay_s=0), tmp_path)
    with pytest.raises(ValueError, match=r"cannot be resumed: latents_sha256 was .*latent_frames"):
        run_sweep(folder, make_bench(frames=6), progress=False)


def test_a_file_of_another_cell_is_noticed(finished, tmp_path):
    sweep, _ = finished
    for path in sweep.folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    wrong = tmp_path / "cell_sync_chunk2.json"
    wrong.write_bytes((tmp_path / "cell_sync_chunk1.json").read_bytes())
    with pytest.raises(ValueError, match="holds sync, chunk 1, full speed, not sync, chunk 2"):
        read_sweep(tmp_path)


def test_a_damaged_file_of_a_sweep_stops_nothing_else(finished, tmp_path, capsys):
    sweep, _ = finished
    home = tmp_path / "sweep"
    shutil.copytree(sweep.folder, home)
    bad = home / "cell_sync_chunk2_8MBs.json"
    bad.write_text(bad.read_text()[:500])
    for command, shown in (
        ("results", "11 cells measured"),
        ("show", "11 of 12"),
        ("recommend", "slots"),
    ):
        assert main([command, str(tmp_path if command == "results" else home)]) == 0
        said = capsys.readouterr()
        assert shown in said.out and said.err.count(str(bad)) == 1
    with pytest.raises(ValueError, match=bad.name):  # one that is resumed has to be whole
        read_sweep(home)
    shutil.copytree(sweep.folder, tmp_path / "whole")
    (home / "sweep.json").write_text("{}")
    assert main(["results", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "12 cells measured" in said.out and f"{home}/sweep.json is not a vdkit" in said.err
    assert main(["show", str(home)]) == 2


TINY = ("--decoder", "tiny-wan", "--latents", "random:5x32x32", "--chunks", "1", "--ring-slots",
        "1", "--speeds", "full,5", "--runs", "1", "--sink", "null")  # fmt: skip


def test_the_command(tmp_path, capsys):
    assert main(["sweep", *TINY, "--out", str(tmp_path), "--label", "small"]) == 0
    out = capsys.readouterr().out
    answer = json.loads(out.splitlines()[-1])
    folder = Path(answer["folder"])
    assert folder.name.endswith("_small") and answer["measured"] == 4 and answer["predicted"] == 2
    for name in ("table.md", "cells.csv", "heatmap.png", "scatter.png", "predictions.json"):
        assert (folder / name).stat().st_size > 100
    assert "sync, chunk 1, full speed: " in out and "2 cells predicted from 2" in out
    kept = {path: path.read_bytes() for path in folder.glob("*.json")}
    assert main(["sweep", "--resume", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == 4
    assert {path: path.read_bytes() for path in kept} == kept
    assert main(["show", str(folder)]) == 0
    assert "2 cells predicted from 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chunks", "1,x"], "--chunks '1,x': 'x' is no number; give numbers, separated by"),
        (["--speeds", "fast"], "'fast' is no number; give numbers or full, separated by commas"),
        (["--ring-slots", "0"], "slots is 0; use 1 to 16"),
        (["--chunks", "3"], "chunk size 3: the video has 2 latent frames"),
        (["--runs", "0"], "runs is 0; use 1 or more"),
        (["--modes", "fast"], "modes fast: use any of"),
        (["--resume", "absent"], "no result at absent"),
    ],
)
def test_bad_input(arguments, message, tmp_path, capsys):
    given = [*TINY, "--out", str(tmp_path), *arguments]
    assert main(["sweep", *(arguments if "--resume" in arguments else given)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_ctrl_c_keeps_finished_cells_and_says_how_to_go_on(tmp_path):
    """The real signal to the real command."""
    command = [sys.executable, "-m", "vdkit", "sweep", *TINY, "--out", str(tmp_path)]
    command[command.index("full,5")] = "full,0.01"  # the throttled cells would last for minutes
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=environment) as process:  # fmt: skip
        for line in process.stdout:
            if " 2 of 4" in line:
                break
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    (folder,) = tmp_path.iterdir()
    assert f"finished cells are kept, go on with: vdkit sweep --resume {folder}" in error
    sweep = read_sweep(folder)
    assert len(sweep.results) == 2 == len(sweep.left)
    for path in folder.glob("cell_*.json"):
        read_recording(path)


def test_decoders_are_prepared_for_every_chunk_size_outside_the_runs(tmp_path):
    class Prepared(NearestDecoder):
        variant = "prepared"
        asked = ()

        def prepare(self, height, width, chunk_size):
            self.asked += ((height, width, chunk_size),)

        def decode_chunk(self, state, start, stop):
            assert stop - start in {size for *_, size in self.asked} | {1}
            return super().decode_chunk(state, start, stop)

    bench = make_bench(decoder=Prepared())
    folder = begin(bench, tmp_path, chunks=(1, 2), modes=("sync",), speeds=(None,), runs=1)
    sweep = run_sweep(folder, bench, progress=False)
    assert sorted(set(bench.decoder.asked)) == [(12, 20, 1), (12, 20, 2)]
    assert {one.workload.variant for one in sweep.results.values()} == {"prepared"}
    assert all(one.base.setup_s >= 0 for one in sweep.results.values())

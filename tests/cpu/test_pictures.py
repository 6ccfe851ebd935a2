"""Pictures of recordings: bars where the events are, scales that compare, and saved with data."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from vdkit import plot_timeline, read_sweep, save_figure
from vdkit.present.charts import plot_heatmap
from vdkit.present.timeline import plot_overlap, steady_window
from vdkit.record.results import read_recording

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def recording():
    return read_recording(next(RESULTS.glob("*c942496_aws-float16")))


@pytest.fixture(scope="module")
def pair(recording):
    return {mode: recording.arms[mode].typical() for mode in ("sync", "async")}


def bars(ax):
    """[n, 2]: left and right of the bars of every lane, and that they are not moved to pixels."""
    (found,) = [one for one in ax.collections if len(one.get_paths()) > 8]
    assert found.get_snap() is False
    corners = np.array([path.vertices for path in found.get_paths()])
    return np.stack([corners[..., 0].min(axis=1), corners[..., 0].max(axis=1)], axis=1)


def test_a_bar_lies_where_the_record_says(pair):
    figure = plot_timeline(pair)
    for ax, run in zip(figure.axes, pair.values(), strict=True):
        chunks = [(chunk.decode_start_s, chunk.decode_done_s) for chunk in run.chunks]
        np.testing.assert_allclose(bars(ax)[: len(chunks)], chunks)
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert not plt.get_fignums()


def test_a_recording_names_itself(recording, pair):
    whole = plot_timeline(recording)
    assert len(whole.axes) == len(recording.arms)
    title = "aws-float16: wan2.1 in float16, 161 frames of 480x832, NVIDIA H200. Chunk 1, 2 slots"
    for figure in (
        whole,
        plot_timeline(pair, steady_window(pair["async"], 4), title=recording),
        plot_overlap(pair, recording.config, recording),
    ):
        assert figure.get_suptitle() == title
    assert plot_timeline(pair).get_suptitle() == ""


def test_panels_that_are_compared_share_their_axes(recording, pair):
    figure = plot_overlap(pair, recording.config)
    (whole, zoom), (below, zoom_below) = np.array(figure.axes).reshape(2, 2)
    assert whole.get_shared_x_axes().joined(whole, below)
    assert zoom.get_xlim() == zoom_below.get_xlim() and zoom.get_xlim()[0] == 0


def test_a_heat_map_is_as_wide_as_its_columns_need():
    one, other = (
        read_sweep(next(RESULTS.glob(f"*{name}")))
        for name in ("sweep-14-threads", "sweep-sync-16-threads")
    )
    small, wide = plot_heatmap(other), plot_heatmap(one)
    assert small.get_figwidth() < wide.get_figwidth() and small.get_figheight() < 3


def test_a_figure_is_saved_in_every_form_with_its_data(pair, tmp_path):
    figure = plot_timeline(pair)
    paths = save_figure(figure, tmp_path / "new", "lanes")
    assert [path.name for path in paths] == [f"lanes.{end}" for end in ("png", "svg", "pdf", "csv")]
    starts = [path.read_bytes()[:5] for path in paths[:3]]
    assert starts[0].endswith(b"PNG\r") and starts[1] == b"<?xml" and starts[2] == b"%PDF-"
    frame = pd.read_csv(paths[3])
    mine = frame[(frame["run"] == "async") & (frame["lane"] == "compute")]
    np.testing.assert_array_equal(
        mine["start_s"], [chunk.decode_start_s for chunk in pair["async"].chunks]
    )
    with pytest.raises(FileExistsError, match="is there already and stays as it is"):
        save_figure(figure, tmp_path / "new", "lanes")
    (tmp_path / "other.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"other\.csv"):
        save_figure(figure, tmp_path, "other")
    assert not (tmp_path / "other.png").exists()
    for name in ("", "a/b"):
        with pytest.raises(ValueError, match="give a file name without folder"):
            save_figure(figure, tmp_path, name)


def test_a_figure_without_data_names_the_remedy(tmp_path):
    figure, _ = plt.subplots()
    plt.close(figure)
    with pytest.raises(ValueError, match="use its savefig"):
        save_figure(figure, tmp_path, "plain")
    assert not any(tmp_path.iterdir())

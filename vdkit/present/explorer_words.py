"""The explorer's sentences: how a run differs from its prediction, and one run from another."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vdkit.decode.chunks import PRIMITIVES
from vdkit.measure.forecast import MODES, Forecast, Setting
from vdkit.present.digits import ratio_words
from vdkit.present.report_html import escape

if TYPE_CHECKING:
    from pathlib import Path

    from vdkit.decode.chunks import DecodeConfig, DecodeResult
    from vdkit.measure.records import BenchmarkResult, Run
    from vdkit.present.explorer_session import SessionRun

_STEPS = ("decode", "copy", "convert", "write")


def difference_words(forecast: Forecast, result: BenchmarkResult) -> str:
    """How the measured runs differ from the prediction, in two sentences."""
    said = []
    for mode in MODES:
        made, run = forecast.predictions[mode].run, result.typical(mode)
        mean_s = result.modes[mode].latency_s.mean
        ratio = mean_s / made.latency_s
        words = f"{mode} took {_seconds(mean_s)}, {_against(ratio, 'predicted')}"
        step, more_s = _largest_step(made, run)
        if abs(ratio - 1) >= 0.005 and abs(more_s) >= 0.0005:
            words += f" (most of it: {step}, {1e3 * more_s:+.0f} ms)"
        said.append(words)
    speedup = result.modes["async"].speedup
    assert speedup is not None
    predicted = (
        forecast.predictions["sync"].run.latency_s / forecast.predictions["async"].run.latency_s
    )
    return f"{said[0]}; {said[1]}. sync / async: {ratio_words(speedup)}, predicted {predicted:.3g}."


def _largest_step(made: DecodeResult, run: Run) -> tuple[str, float]:
    """The step whose sum over all chunks differs most, and by how many seconds."""
    changes = {step: _sum_s(run, step) - _sum_s(made, step) for step in _STEPS if _sum_s(run, step)}
    return max(changes.items(), key=lambda one: abs(one[1]), default=("", 0.0))


def _sum_s(run: Run | DecodeResult, step: str) -> float:
    spans = ((getattr(c, f"{step}_start_s"), getattr(c, f"{step}_done_s")) for c in run.chunks)
    return sum(done - start for start, done in spans if start is not None and done is not None)


def pair_words(a: SessionRun, b: SessionRun) -> str:
    """Run B against run A, in a sentence for each path."""
    said = []
    for mode in MODES:
        before, after = (one.result.modes[mode].latency_s.mean for one in (a, b))
        said.append(f"{mode} took {_seconds(after)}, {_against(after / before, _seconds(before))}")
    same = a.setting.info() == b.setting.info()
    note = "" if same else " They are not the same video."
    return f"Run {b.number} against run {a.number}: {'; '.join(said)}.{note}"


def _against(ratio: float, what: str) -> str:
    """How a duration compares with another one, ``what``: 3.1 % longer than it, 2.1 times it."""
    if abs(ratio - 1) < 0.0005:
        return f"as {what}"
    if ratio >= 2:
        return f"{ratio:.1f} times as long as {what}"
    return f"{abs(ratio - 1):.1%} {'longer' if ratio > 1 else 'shorter'} than {what}".replace(
        "%", " %"
    )


def _seconds(value: float) -> str:
    return f"{value:.3f} s"


def ring_words(config: DecodeConfig) -> str:
    """``chunk 1, 2 slots``."""
    return f"chunk {config.chunk_size}, {config.slots} slot{'s' * (config.slots > 1)}"


def setting_words(setting: Setting) -> str:
    """The knobs of a setting, short enough for a menu."""
    config, decoding = setting.config, setting.decoding
    off = [words for name, words in PRIMITIVES.items() if not getattr(config, name)]
    held = "" if setting.mb_per_s is None else f" at {setting.mb_per_s:g} MB/s"
    return (
        f"{decoding.decoder} ({decoding.variant}), {setting.latent_frames} x "
        f"{decoding.height}x{decoding.width}, {ring_words(config)}, "
        f"{decoding.sink}{held}" + (f", without {', '.join(off)}" if off else "")
    )


def exported_words(run: SessionRun, written: Sequence[Path]) -> str:
    """Which run was exported, and where its files are."""
    names = ", ".join(path.name for path in written)
    return f"Run {run.number}, written into {written[0].parent}: {names}"


def bench_command(setting: Setting, rounds: int, folder: str = "") -> str:
    """The command line that measures a setting again."""
    decoding, config, info = setting.decoding, setting.config, setting.info()
    words = ["vdkit", "bench", "--decoder", decoding.decoder, "--variant", decoding.variant]
    words += ["--dtype", decoding.dtype, "--modes", ",".join(MODES), "--runs", str(rounds)]
    words += ["--latents", f"random:{info.frames}x{info.height}x{info.width}"]
    words += ["--chunk", str(config.chunk_size), "--slots", str(config.slots)]
    words += ["--sink", f"{decoding.sink}:{folder}" if folder else decoding.sink]
    if setting.mb_per_s is not None:
        words += ["--throttle-mb-s", f"{setting.mb_per_s:g}"]
    off = [name for name in PRIMITIVES if not getattr(config, name)]
    return shlex.join([*words, *(f"--no-{name.replace('_', '-')}" for name in off)])


def remarks_html(remarks: Sequence[str], warning: bool = False) -> str:
    """Sentences under the picture; red if they say what went wrong."""
    kind = " vdkit-warning" if warning else ""
    lines = "".join(f"<div>{escape(line)}</div>" for line in remarks)
    return f"<div class='vdkit-remarks{kind}'>{lines}</div>"

"""README's figures come from recorded runs: ``make readme`` writes them, a test compares them.

README has a short block; all tables are on the page `vdkit.present.recorded_page`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vdkit.measure.folders import write_atomically
from vdkit.measure.records import read_result
from vdkit.measure.stats import paired_ratio
from vdkit.present.plots import plot_timeline, steady_window
from vdkit.present.readme_variants import fast_lines, fastest_words
from vdkit.present.recorded_page import MAIN, PICTURE, main_lines, recorded_page

BEGIN = "<!-- recorded: written by `make readme` -->"
END = "<!-- end of recorded -->"
PAGE = "results/README.md"


def recorded_block(root: Path) -> str:
    """The generated part of README, from ``root/results``."""
    result = read_result(root / "results" / MAIN)
    overlap = paired_ratio(result.latencies("sync"), result.latencies("async"))
    return "\n".join(
        [
            BEGIN,
            *main_lines(root, "results/"),
            "",
            f"Between the fastest runs sync / async is {fastest_words(result, overlap)}: in sync "
            "some conversions on the host stall, and async has none.",
            "",
            *fast_lines(root, "results/"),
            "",
            f"All recorded tables and pictures: [{PAGE}]({PAGE}).",
            END,
        ]
    )


def with_block(readme: str, block: str) -> str:
    """README with its generated part replaced; ValueError unless each marker is there once."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"README needs the markers {BEGIN!r} and {END!r}, once each")
    before, rest = readme.split(BEGIN)
    return before + block + rest.split(END)[1]


def main(path: Path) -> None:
    """Rewrite ``path`` and the page of results, and draw the picture beside the recorded run."""
    root = path.resolve().parent
    write_atomically(path, with_block(path.read_text(), recorded_block(root)))
    write_atomically(root / PAGE, recorded_page(root))
    result = read_result(root / "results" / MAIN)
    runs = {
        mode: min(result.timed(mode), key=lambda run: run.latency_s) for mode in ("sync", "async")
    }
    work = result.workload
    figure = plot_timeline(
        runs,
        steady_window(runs["async"], 4),
        title=f"Fastest runs on {result.provenance.device}: {work.decoder} in {work.dtype}, "
        f"{work.height}x{work.width}, middle of the run",
    )
    figure.savefig(root / "results" / MAIN / PICTURE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

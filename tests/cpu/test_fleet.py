"""Decodes that share a machine: nothing is used twice, alone nothing changes, more is no slower."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.cpu.test_predict import RESULTS, random_config, random_costs, recorded, video
from vdkit.__main__ import main
from vdkit.decode.chunks import DecodeConfig, plan_chunks
from vdkit.predict import Cost, Pipeline, StageCosts, plan_of, predict, video_info
from vdkit.predict.encoding import Encoding
from vdkit.predict.fit import encoders_of, fit_costs
from vdkit.predict.fleet import Hosts, fleet
from vdkit.predict.shared import SHARED, Clock
from vdkit.present.charts import plot_fleet
from vdkit.present.fleet import fleet_document, knee_words
from vdkit.record.results import find_recordings

PLENTY = dict.fromkeys(SHARED, 1e9)
FRAME_MB = video().frame_bytes / 1e6


class Watched(Clock):
    """Sees that nothing begins in the past, and that nothing is used more than there is."""

    def _at(self, at_s, what):
        assert at_s >= self.now_s - 1e-9
        super()._at(at_s, what)

    def _share(self):
        super()._share()
        full = set()
        for name, most in self.capacity.items():
            used = sum(work.wants.get(name, 0.0) * work.speed for work in self._going)
            assert used <= most * (1 + 1e-9), name
            full |= {name} if used >= most * (1 - 1e-9) else set()
        for work in self._going:  # nobody waits for what is free
            assert 0 < work.speed <= 1 and (work.speed == 1 or full & work.wants.keys())


def together(costs, capacity, config=DecodeConfig(), mode="async", starts=(0.0,), info=video()):
    """Decodes on one clock; s that each takes."""
    clock, chunks = Watched(capacity), plan_chunks(9, config.chunk_size)
    made = [Pipeline(costs, config, chunks, info, mode, clock=clock) for _ in starts]
    for one, at_s in zip(made, starts, strict=True):
        one.start(at_s)
    clock.run()
    return [one.ended.at_s - at_s for one, at_s in zip(made, starts, strict=True)]


def shared_costs(rng):
    """Any costs; of what encodes the cores are known."""
    costs = random_costs(rng)
    if costs.encoding is not None:
        costs = replace(costs, encoding=replace(costs.encoding, cores=int(rng.integers(1, 9))))
    return costs


def scarce(rng):
    """About what two of `random_costs` want."""
    usual = {"cores": 2.0, "storage": 4 * FRAME_MB, "memory": 0.01, "PCIe": 0.01}
    return {name: much * float(rng.exponential()) + 1e-3 for name, much in usual.items()}


@pytest.mark.parametrize("mode", ["async", "sync", "compute_only"])
@pytest.mark.parametrize("seed", range(20))
def test_any_decodes_keep_to_what_there_is(mode, seed):
    rng = np.random.default_rng(seed)
    costs, config, starts = shared_costs(rng), random_config(rng), tuple(rng.random(4))
    alone = predict(costs, video(), config, mode).run.latency_s
    took = together(costs, scarce(rng), config, mode, starts)  # watched
    assert min(took) >= alone - 1e-9
    free = together(costs, PLENTY, config, mode, starts)
    assert free == pytest.approx([alone] * 4, abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_more_of_anything_is_never_slower_for_decodes_in_step(seed):
    rng = np.random.default_rng(seed)
    costs, config, capacity = shared_costs(rng), random_config(rng), scarce(rng)
    slow = together(costs, capacity, config, starts=(0.0,) * 3)
    for name in capacity:
        fast = together(costs, capacity | {name: 2 * capacity[name]}, config, starts=(0.0,) * 3)
        assert max(fast) <= max(slow) + 1e-6, name


def test_two_on_storage_that_carries_one_get_half_of_it_each():
    costs = StageCosts(decode=Cost(1e-3), write=Cost(0, 0.01))
    carries = {"storage": FRAME_MB / 0.01}
    (one,), two = together(costs, carries), together(costs, carries, starts=(0.0, 0.0))
    assert one == pytest.approx(0.33, rel=0.01) and two == pytest.approx([2 * one] * 2, rel=0.01)
    apart = together(costs, carries, starts=(0.0, one / 2))
    assert apart == pytest.approx([1.5 * one] * 2, rel=0.02)  # each alone for half of its frames


def test_encoders_share_the_cores():
    """Four encoders that would fill four cores each of eight: together they take twice as long."""
    side = Encoding(4, ((4, 1.0),), segment=4, cores=16)
    costs = StageCosts(decode=Cost(1e-3), encoding=side)
    assert side.core_s == 4
    (full,), (half,) = (together(costs, {"cores": cores}) for cores in (16.0, 8.0))
    two = together(costs, {"cores": 16.0}, starts=(0.0, 0.0))
    assert full == pytest.approx(predict(costs, video()).run.latency_s)
    assert half == pytest.approx(2 * full, rel=0.1) and two == pytest.approx([half] * 2)
    assert replace(side, measured=((2, 1.0), (16, 2.0))).core_s == 2  # where few threads idle
    for unknown in (replace(side, cores=0), replace(side, encoders=1, measured=((1, 1.0),))):
        with pytest.raises(ValueError, match="of the cores is not known: give a recording of 2"):
            together(replace(costs, encoding=unknown), {"cores": 8.0})
        together(replace(costs, encoding=unknown), {"storage": 8.0})


BENCHES = {
    f"{path.parent.name} {name}": one
    for path, found in find_recordings(RESULTS, lambda error: None)
    if found.kind in ("bench", "variants")
    for name, one in found.benchmarks.items()
    if any(arm.mode in ("sync", "async") for arm in one.arms.values())
    and one.sink.throttle_mb_per_s is None
}


@pytest.mark.parametrize("bench", BENCHES.values(), ids=BENCHES)
def test_one_alone_is_predicted_as_ever(bench):
    for name, arm in bench.arms.items():
        if arm.mode == "diffusers":
            continue
        costs = fit_costs(bench.model_copy(update={"arms": {name: arm}, "baseline": name}))
        costs = replace(costs, convert=costs.convert or Cost(), write=costs.write or Cost())
        own, plan = costs.of_encoders(encoders_of(arm)), plan_of([arm], arm.config.chunk_size)
        expected = predict(own, video_info(arm), arm.config, arm.mode, plan=plan).run
        clock = Watched({name: much for name, much in PLENTY.items() if name != "cores"})
        one = Pipeline(own, arm.config, plan, video_info(arm), arm.mode, clock=clock)
        run = one.run()
        assert run.latency_s == pytest.approx(expected.latency_s, abs=1e-6)
        assert recorded(run) == pytest.approx(recorded(expected), abs=1e-6)


# Many GPUs.

(FAST_NAME,) = (name for name in BENCHES if "h100" in name and "480p-float16 fast" in name)
(FILE_NAME,) = (name.strip() for name in BENCHES if "file-grain" in name)
FAST, FILE = BENCHES[FAST_NAME], BENCHES[f"{FILE_NAME} "]
VIDEO_MB = video_info(FAST).frames * video_info(FAST).frame_bytes / 1e6
GIVEN = {"cores": 0.05, "storage_mb_per_s": 100.0, "memory_gb_per_s": 0.4, "pcie_gb_per_s": 0.1,
         "shared_storage_mb_per_s": 500.0}  # fmt: skip


def many(hosts, *gpus, bench=FAST, **given):
    arm = bench.arms["async"]
    costs = fit_costs(bench).of_encoders(encoders_of(arm))
    plan = plan_of([arm], arm.config.chunk_size)
    return fleet(costs, video_info(arm), hosts, gpus, config=arm.config, plan=plan, **given)


def test_with_enough_of_all_so_many_gpus_give_so_many_times_one():
    made = many(Hosts(8, **dict.fromkeys(GIVEN, 1e9)), 1, 2, 8, 64, 1000)
    alone = predict(fit_costs(FAST), video_info(FAST), FAST.arms["async"].config).run.latency_s
    assert made.alone_s == pytest.approx(alone)
    for one in made.points:
        assert one.per_hour == pytest.approx(3600 * one.gpus / alone)
        assert one.efficiency_percent == pytest.approx(100) and one.limit == "GPUs"
    assert [one.hosts for one in made.points] == [1, 1, 1, 8, 125]
    assert made.wanted["storage"] == pytest.approx(VIDEO_MB)
    assert made.wanted["PCIe"] == pytest.approx(VIDEO_MB / 1e3)
    assert set(made.knees) == {"shared storage"} and "of all hosts" in knee_words(made)


def test_storage_that_carries_one_gives_two_half_each():
    alone_s = many(Hosts(cores=1e9), 1).alone_s
    made = many(Hosts(storage_mb_per_s=VIDEO_MB / alone_s), 1, 2, 8)
    assert made.knees == {"storage": pytest.approx(1)}
    _, two, eight = made.points
    assert two.limit == eight.limit == "storage" and two.used_percent["storage"] > 99.9
    assert (two.per_hour, eight.per_hour) == pytest.approx((3600 / alone_s,) * 2, rel=1e-3)


@pytest.mark.parametrize("gpus", [1, 3, 8, 20])
@pytest.mark.parametrize("name", GIVEN)
def test_more_of_a_resource_is_never_slower_and_never_beyond_it(name, gpus):
    before = 0.0
    for factor in (0.1, 0.5, 1, 2, 10):
        made = many(Hosts(8, **{name: GIVEN[name] * factor}), gpus)
        (one,) = made.points
        hosts, has = made.hosts.each(gpus)
        (what,) = has
        assert one.per_hour * made.wanted[what] <= 3600 * hosts * has[what] * 1.005
        assert one.per_hour >= before * (1 - 1e-3)
        before = one.per_hour
    knee = made.knees.get(what, 1e9) * (1 if what == "shared storage" else hosts)
    assert gpus > 0.8 * knee or one.per_hour == pytest.approx(3600 * gpus / made.alone_s, rel=0.02)


def test_encoders_of_eight_gpus_use_up_32_cores():
    made = many(Hosts(8, cores=32), 4, 8, 64, bench=FILE, stored=0.1)
    assert 7 < made.knees["cores"] < 7.5
    assert [one.limit for one in made.points] == ["GPUs", "cores", "cores"]
    words = fleet_document(made).text()
    assert words.startswith("SIMULATED, not measured") and "8 GPUs; 32 cores:" in words
    assert "The knee is at 7.20 GPUs of a host: there cores are used up. Buy that first" in words
    figure = plot_fleet(made)
    assert "Simulated, not measured" in figure.get_suptitle()
    assert len(figure.axes) == 2 and [row["gpus"] for row in figure.vdkit_data] == [4, 8, 64]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("--gpus 0 --cores 3", "0 GPUs decode nothing; give 1 or more"),
        ("--gpus 2", "say what --gpus share, e.g. --cores 32; of --cores, "),
        ("--gpus 2 --cores -1", "cores is -1.0; give a number above 0"),
        ("--gpus 2 --cores nan", "cores is nan"),
        ("--cores 3", "--cores is for --gpus; say how many"),
        ("--gpus 2,x --cores 3", "'x' is no number"),
        ("--gpus 2 --storage-mb-s 9 --burst-mb 3", "--burst-mb is of one decode"),
        ("--gpus 2 --cores 3 --picture a.gif", "--picture 'a.gif': end the name in .png"),
        ("--gpus 2 --cores 3 --variant slow", "has no variant 'slow', but one alone: leave out"),
    ],
)
def test_what_cannot_be_asked(given, says, capsys):
    assert main(["recommend", str(RESULTS / FILE_NAME), *given.split()]) == 2
    assert says in capsys.readouterr().err


def test_the_command(tmp_path, capsys):
    folder, variant = FAST_NAME.split()
    asked = ["--variant", variant, "--gpus", "8,1", "--storage-mb-s", "1000"]
    picture = ["--picture", str(tmp_path / "many.png")]
    assert main(["recommend", str(RESULTS / folder), *asked, *picture]) == 0
    out = capsys.readouterr().out
    assert "| 8    |     1 |" in out and (tmp_path / "many.png").stat().st_size > 10_000
    points = json.loads(out.splitlines()[-1])["fleet"]["points"]
    assert [one["gpus"] for one in points] == [1, 8] and points[1]["limit"] == "storage"
    assert main(["recommend", str(RESULTS / folder), "--variant", "slow"]) == 2
    assert "has no variant 'slow', but diffusers, channels_last, " in capsys.readouterr().err
    old = str(*RESULTS.glob("*_aws-mp4"))
    for limited, says in (("--cores", "of the cores"), ("--storage-mb-s", "how large the files")):
        assert main(["recommend", old, "--gpus", "2", limited, "8"]) == 2
        assert says in capsys.readouterr().err
    with pytest.raises(ValueError, match="these costs are of a CPU"):
        fleet(StageCosts(decode=Cost(1), cuda=False), video(), Hosts(), plan=())

"""How convolutions are cut: legal everywhere, tuned within a budget, kept, and checked."""

import json
import multiprocessing
from dataclasses import replace

import pytest
import torch

from tests.cpu.test_wan_fast import frames_of, noise, random_vae
from vdkit import NullSink, decode_async, load_decoder
from vdkit.measure.study import Bench
from vdkit.models.fast import PlainPasses
from vdkit.models.fast import checked as home
from vdkit.models.fast.checked import CheckedFastDecoder
from vdkit.models.fast.tiles import Choices, Gpu, Resources, Shape, candidates, split, usual
from vdkit.models.wan import WanDecoder
from vdkit.sinks import SinkSpec

HOPPER = Gpu("Hopper", (9, 0), 232448)
BLACKWELL = Gpu("RTX", (12, 0), 101376)
AMPERE = Gpu("Ampere", (8, 6), 101376)
WIDE = Shape(1024, 1024, 1024, (3, 3, 3), False, "as", 4, (88, 160), "float16")
SHAPES = [
    WIDE,
    replace(WIDE, channels=256, columns=256, out=256, epilogue="asn"),
    replace(WIDE, channels=96, columns=96, out=96),
    replace(WIDE, channels=192, columns=192, out=192, kernel=(1, 2, 2), enlarging=True),
    replace(WIDE, kernel=(1, 2, 2), enlarging=True),
    replace(WIDE, channels=384, columns=384, out=384),
    replace(WIDE, channels=384, columns=768, out=384, kernel=(3, 1, 1)),
    replace(WIDE, channels=96, columns=16, out=3, epilogue="p"),
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("columns", "parts"),
    [(16, (16, 0)), (48, (32, 16)), (96, (64, 32)), (128, (128, 0)), (192, (128, 64)),
     (112, (16, 0)), (256, (128, 0)), (384, (128, 0)), (768, (128, 0)), (1024, (128, 0))],
)  # fmt: skip
def test_columns_are_cut_into_powers_of_two(columns, parts):
    assert split(columns) == parts and columns % sum(parts) == 0


@pytest.mark.parametrize("gpu", [HOPPER, BLACKWELL, AMPERE], ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_candidate_covers_the_shape_once(shape, gpu):
    found = candidates(shape, gpu)
    assert found[0] == usual(shape, gpu) and len(found) <= 30
    for tiles in found:
        columns = shape.out if shape.columns == 2 * shape.out else shape.columns
        assert columns % (tiles.wide + tiles.narrow) == 0
        assert shape.channels % tiles.depth == 0 and tiles.depth >= 16
        assert shape.frames % tiles.frames == 0
        assert all(n & (n - 1) == 0 for n in (tiles.rows, tiles.depth, tiles.wide, tiles.narrow))


def tuned(choices, shapes, seconds=None, budget_s=60.0, clock=lambda: 0.0, spilled=0):
    """What was timed, when the compiler lets all pass; the last candidate is the fastest."""
    timed = []

    def compiled(shape, which):
        return {tiles: Resources(50_000, 128, spilled) for tiles in which}

    def measured(shape, tiles):
        timed.append((shape, tiles))
        return 1.0 / len(timed)

    list(choices.tune(shapes, compiled, seconds or measured, budget_s, clock))
    return timed


def test_the_fastest_is_taken_and_kept():
    choices = Choices(BLACKWELL, "code")
    assert choices.open([WIDE], "auto") == [WIDE]
    timed = tuned(choices, [WIDE])
    assert [tiles for _, tiles in timed] == candidates(WIDE, BLACKWELL)
    assert choices.of(WIDE) == timed[-1][1] != usual(WIDE, BLACKWELL)
    later = Choices(BLACKWELL, "code")
    assert later.open([WIDE], "auto") == [] and later.of(WIDE) == timed[-1][1]
    assert later.open([WIDE], "force") == []  # once a process
    assert Choices(BLACKWELL, "code").open([WIDE], "force") == [WIDE]
    off = Choices(BLACKWELL, "code")
    assert off.open([WIDE], "off") == [] and off.of(WIDE) == usual(WIDE, BLACKWELL)


@pytest.mark.parametrize(
    "other",
    [Choices(replace(BLACKWELL, name="another"), "code"), Choices(BLACKWELL, "other kernels")],
)
def test_what_was_chosen_elsewhere_is_not_taken(other):
    tuned(Choices(BLACKWELL, "code"), [WIDE])
    assert other.open([WIDE], "auto") == [WIDE]
    assert Choices(BLACKWELL, "code").open([replace(WIDE, dtype="bfloat16")], "auto")


@pytest.mark.parametrize("wrong", ["not JSON", "[]", "{}", "copied", "illegal", "more"])
def test_a_cache_that_is_none_is_made_anew(tmp_path, wrong):
    tuned(Choices(BLACKWELL, "code"), [WIDE])
    (file,) = (tmp_path / "cache/vdkit/tiles").iterdir()
    held = json.loads(file.read_text())
    if wrong == "copied":  # of another GPU, under this one's name
        held["key"]["gpu"][0] = "another"
    elif wrong == "illegal":
        held["tiles"]["depth"] = 48
    elif wrong == "more":
        held["tiles"]["unknown"] = 1
    changed = wrong in ("copied", "illegal", "more")
    file.write_text(json.dumps(held) if changed else wrong)
    choices = Choices(BLACKWELL, "code")
    assert choices.open([WIDE], "auto") == [WIDE]
    tuned(choices, [WIDE])
    assert Choices(BLACKWELL, "code").open([WIDE], "auto") == []


def test_a_folder_that_takes_nothing_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file, where the folder would be")
    choices = Choices(BLACKWELL, "code")
    timed = tuned(choices, choices.open([WIDE], "auto"))
    assert choices.of(WIDE) == timed[-1][1]


def _tune(shapes):
    tuned(Choices(BLACKWELL, "code"), shapes)


def test_two_processes_may_tune_at_once(tmp_path):
    """Each writes a whole file under one name; whichever was last holds."""
    shapes = [replace(WIDE, frames=frames) for frames in (2, 4, 6, 8)]
    fork = multiprocessing.get_context("fork")
    several = [fork.Process(target=_tune, args=(shapes,)) for _ in range(4)]
    for one in several:
        one.start()
    for one in several:
        one.join(60)
        assert one.exitcode == 0
    later = Choices(BLACKWELL, "code")
    assert later.open(shapes, "auto") == [] and set(later.taken) == set(shapes)
    assert len(list((tmp_path / "cache/vdkit/tiles").iterdir())) == len(shapes)


def test_tuning_ends_when_its_time_is_up():
    moments = iter(range(0, 1000, 10))
    shapes = [replace(WIDE, frames=frames) for frames in (2, 4, 6, 8)]
    choices = Choices(BLACKWELL, "code")
    timed = tuned(choices, shapes, clock=lambda: next(moments))
    assert {shape for shape, _ in timed} == {shapes[0]}
    assert len(timed) < len(candidates(WIDE, BLACKWELL))
    assert choices.of(shapes[0]) == timed[-1][1]
    assert choices.of(shapes[1]) == usual(shapes[1], BLACKWELL)


def test_what_does_not_fit_or_spills_is_not_run():
    ran, least = [], candidates(WIDE, BLACKWELL)[3]

    def compiled(shape, which):
        takes = {tiles: Resources(50_000, 255, 64) for tiles in which}
        return takes | {which[1]: Resources(1 << 20, 128, 0), least: Resources(50_000, 128, 0)}

    def seconds(shape, tiles):
        ran.append(tiles)
        return 1.0

    choices = Choices(BLACKWELL, "code")
    list(choices.tune([WIDE], compiled, seconds))
    assert ran == [usual(WIDE, BLACKWELL), least]


def test_only_what_no_table_knows_is_tuned():
    z16, small = replace(WIDE, channels=192, columns=192, out=192), replace(WIDE, size=(2, 3))
    new = replace(WIDE, channels=640, columns=640, out=640)
    shapes, largest_first = [z16, WIDE, small, new], [WIDE, new, z16]
    assert Choices(HOPPER, "").open(shapes, "auto") == [new]
    assert Choices(BLACKWELL, "").open(shapes, "auto") == largest_first
    assert Choices(HOPPER, "").open(shapes, "force") == largest_first


class Planted(PlainPasses):
    """Passes that stand for kernels; ``wrong`` ones miss a column."""

    def __init__(self, wrong, gpu=HOPPER):
        self.wrong, self.choices, self.plans = wrong, Choices(gpu, ""), 0

    def convolve(self, call):
        super().convolve(call)
        if self.wrong and call.summed is not None:
            call.summed.inner()[..., 0] = 0

    def planning(self):
        self.plans += 1
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error): ...
    def build(self): ...
    def tune(self, plan, tune): ...


def checked(wrong, channels=16, gpu=HOPPER):
    vae = random_vae(channels)
    stock, decoder = WanDecoder(vae, "stock"), CheckedFastDecoder(vae, "made")
    fast = decoder._runs
    fast.kernels = fast._passes = Planted(wrong, gpu)
    fast.release_vae = lambda: None  # they read the weights where they are
    return stock, decoder


@pytest.mark.parametrize("channels", [16, 48])
def test_right_frames_stay_fast(channels, recwarn):
    _, decoder = checked(False, channels)
    decoder.prepare(2, 3, 1)
    assert decoder.variant == "fast" and not any("not used" in str(w.message) for w in recwarn)


def test_what_does_not_compile_is_replaced(monkeypatch):
    stock, decoder = checked(False)

    def build(passes):
        raise RuntimeError("a pass of the compiler\nplanted")

    monkeypatch.setattr(Planted, "build", build)
    monkeypatch.setattr("vdkit.models.fast.checked.EXACT", ("diffusers",))
    with pytest.warns(UserWarning, match="fast is not used: its kernels do not compile: planted"):
        decoder.prepare(2, 3, 1)
    latents = noise(stock, 3, 2, 3)
    assert decoder.variant == "diffusers" and "planted" in decoder.notes[0]
    assert torch.equal(frames_of(decoder, latents, 1), frames_of(stock, latents, 1))


@pytest.mark.parametrize("channels", [16, 48])
def test_wrong_frames_are_never_shown(channels, monkeypatch):
    monkeypatch.setattr(home, "EXACT", ("diffusers", "channels_last"))
    stock, decoder = checked(True, channels)
    latents = noise(stock, 3, 2, 3)
    with pytest.warns(UserWarning, match=r"fast is not used: its frames are wrong here: .* dB"):
        decoder.prepare(2, 3, 1)
    assert decoder.variant in ("diffusers", "channels_last")
    assert torch.equal(frames_of(decoder, latents, 1), frames_of(stock, latents, 1))
    assert "90 asked" in decoder.notes[0] and decoder.variant in decoder.notes[0]
    decoder.prepare(2, 3, 2)  # stays what it is
    assert decoder.variant != "fast"


def test_the_record_says_that_another_decoder_ran(monkeypatch):
    monkeypatch.setattr(home, "EXACT", ("channels_last",))
    stock, decoder = checked(True)
    bench = Bench(decoder, noise(stock, 3, 2, 3), SinkSpec("null").fresh)
    assert bench.workload.variant == "fast"
    with pytest.warns(UserWarning, match="fast is not used"):
        bench.prepare(1)
    assert bench.workload.variant == "channels_last"
    assert "fast is not used" in bench.workload.notes[0]


def test_an_older_gpu_takes_the_faster(monkeypatch):
    monkeypatch.setattr(home, "EXACT", ("diffusers",))
    for own, runs in ((2.0, "diffusers"), (0.5, "fast")):
        _, decoder = checked(False, gpu=AMPERE)
        took = {"fast": own, "diffusers": 1.0}
        monkeypatch.setattr(home, "_seconds", lambda one, *_, took=took: took[one.variant])
        if runs == "fast":
            decoder.prepare(2, 3, 1)
        else:
            with pytest.warns(UserWarning, match="2000.0 ms a chunk, slower; diffusers runs"):
                decoder.prepare(2, 3, 1)
        assert decoder.variant == runs


def test_what_has_passed_is_not_checked_again(monkeypatch):
    _, decoder = checked(False)
    decodes, decode = [], home._last_chunk

    def counted(one, latents, *more):
        decodes.append(latents.shape)
        return decode(one, latents, *more)

    monkeypatch.setattr(home, "_last_chunk", counted)
    for chunk_size, more in ((1, 3), (1, 0), (2, 3), (1, 0)):
        before = len(decodes)
        decoder.prepare(2, 3, chunk_size)
        assert len(decodes) - before == more


def test_without_memory_for_diffusers_it_is_checked_smaller(monkeypatch):
    _, decoder = checked(False)
    sizes, decode = [], home._last_chunk

    def refusing(one, latents, *more):
        sizes.append(tuple(latents.shape[-2:]))
        if isinstance(one, WanDecoder) and latents.shape[-2] > 4:
            raise torch.OutOfMemoryError("made up")
        return decode(one, latents, *more)

    monkeypatch.setattr(home, "_last_chunk", refusing)
    decoder.prepare(8, 6, 1)
    assert sizes[:2] == [(8, 6), (4, 3)] and decoder.variant == "fast"
    assert decoder._runs.kernels.plans == 2  # what it keeps is for the size asked for


def test_loaded_by_name_it_is_checked():
    decoder = load_decoder("tiny-wan", "cpu", variant="fast")
    assert isinstance(decoder, CheckedFastDecoder)
    done = decode_async(decoder, torch.zeros(1, 16, 2, 2, 3), NullSink(), progress=False)
    assert done.info.frames == 5

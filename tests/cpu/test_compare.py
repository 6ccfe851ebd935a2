"""Two recordings against each other: exact small cases, fair chances, refusals, exit status."""

import json
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from vdkit import compare_results, read_recording
from vdkit.__main__ import main
from vdkit.present.columns import Asked
from vdkit.present.comparison import comparison_document, comparison_table
from vdkit.record.stats import (
    CALL_BELOW_P,
    LESS,
    MORE,
    NO_DIFFERENCE,
    TOO_FEW,
    decide,
    geometric_ratio,
    permutation_p,
    runs_needed,
    smallest_p,
    wilson,
)

RESULTS = Path(__file__).parents[2] / "results"
FOLDER = next(RESULTS.glob("*c942496_aws-float16"))
OTHER = next(RESULTS.glob("*587491a_aws-float16"))
FULL = read_recording(FOLDER)


def with_runs(result, change):
    """The recording with the runs of every arm changed."""
    arms = {
        name: arm.model_copy(update={"runs": tuple(map(change, arm.runs))})
        for name, arm in result.arms.items()
    }
    return result.model_copy(update={"arms": arms})


def in_one_chunk(run):
    """Nothing here reads chunks."""
    whole = replace(run.chunks[0], frame_stop=FULL.workload.frames, d2h_bytes=run.d2h_bytes)
    return run.model_copy(update={"chunks": (whole,)})


BASE = with_runs(FULL, in_one_chunk)


def recording(factor=1.0, rounds=None, seed=0, scatter=0.01, modes=("sync", "async"), **changes):
    """The recorded benchmark with drawn latencies, 10 runs or ``rounds``; changes by part."""
    random = np.random.default_rng(seed)
    of_arms = {part: changes.pop(part) for part in ("workload", "sink") if part in changes}
    arms = {}
    for mode in modes:
        arm = BASE.arms[mode]
        runs = []
        for number in range(10) if rounds is None else rounds:
            latency = factor * 4 * math.exp(scatter * random.standard_normal())
            update = {"round": number, "latency_s": latency, "ttff_s": latency / 50}
            runs.append(arm.timed[0].model_copy(update={**update, "throttled": False}))
        parts = {
            part: getattr(arm, part).model_copy(update=values) for part, values in of_arms.items()
        }
        arms[mode] = arm.model_copy(update={"runs": tuple(runs), **parts})
    base = BASE.baseline if BASE.baseline in modes else modes[0]
    update = {"arms": arms, "baseline": base}
    for part, values in changes.items():
        update[part] = (
            values if isinstance(values, str) else getattr(BASE, part).model_copy(update=values)
        )
    return BASE.model_copy(update=update)


def with_config(result, **config):
    """The recording with another configuration of every arm."""
    arms = {
        name: arm.model_copy(update={"config": replace(arm.config, **config)})
        for name, arm in result.arms.items()
    }
    return result.model_copy(update={"arms": arms})


def text_of(comparison, asked=Asked()):
    return comparison_table(comparison, asked).markdown()


def written(folder, name, result):
    path = folder / name
    path.write_text(result.model_dump_json())
    return str(path)


def test_paired_p_by_hand():
    # Differences 1, 2, 3: of the 8 sign flips only +++ and --- have a sum as far out as 6.
    assert permutation_p([5, 5, 5], [6, 7, 8], paired=True) == 2 / 8
    # Differences 1, 2, -3: the sum is 0, and every flip is at least that far out.
    assert permutation_p([5, 5, 5], [6, 7, 2], paired=True) == 1
    # Differences 1, 1, -1: sum 1; all 8 sums are odd, so at least 1 in size.
    assert permutation_p([5, 5, 5], [6, 6, 4], paired=True) == 1
    # Differences 2, 3, -1: sum 4; flips with sums 6, 4, -4 and -6.
    assert permutation_p([5, 5, 5], [7, 8, 4], paired=True) == 4 / 8


def test_unpaired_p_by_hand():
    # Of 20 ways to label 1 to 6, only {1, 2, 3} and {4, 5, 6} are as far apart.
    assert permutation_p([1, 2, 3], [4, 5, 6]) == 2 / 20
    # {1, 2, 4}: sums 6, 7, 14 and 15 are as far out as 7.
    assert permutation_p([1, 2, 4], [3, 5, 6]) == 4 / 20
    # One against three: 4 labelings, and no other puts 1 so far away.
    assert permutation_p([1], [5, 6, 7]) == 1 / 4
    assert permutation_p([1, 9], [4, 6]) == 1


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("n", [2, 10, 40])
def test_equal_values_are_no_difference_and_constant_ones_that_differ_are(paired, n):
    assert permutation_p([0.1] * n, [0.1] * n, paired=paired) == 1
    p = permutation_p([0.1] * n, [0.3] * n, paired=paired)
    assert p == smallest_p(n, n, paired) or (n > 2 and p < 0.003)


@pytest.mark.parametrize("paired", [True, False])
def test_p_does_not_depend_on_unit_or_side(paired):
    random = np.random.default_rng(1)
    a, b = random.normal(3.6, 0.1, 8), random.normal(3.65, 0.1, 8)
    p = permutation_p(a, b, paired=paired)
    assert permutation_p(b, a, paired=paired) == p
    assert permutation_p(1e9 * a, 1e9 * b, paired=paired) == p
    assert permutation_p(a + 7, b + 7, paired=paired) == p


@pytest.mark.parametrize(("n", "paired"), [(6, True), (20, True), (6, False), (20, False)])
def test_p_is_uniform_without_a_difference(n, paired):
    random = np.random.default_rng(2)
    values = random.normal(5, 1, (400, 2, n))
    below = sum(permutation_p(a, b, paired=paired) <= 0.05 for a, b in values)
    # Exact p come in steps of 2 / 2**6 paired, which lowers the share; 20 +- 3 times 4.4.
    assert 3 <= below <= 33


def test_random_and_exact_agree():
    random = np.random.default_rng(3)
    a, b = random.normal(0, 1, 9), random.normal(0.7, 1, 9)
    sums = []
    for flips in range(2**9):
        signs = [1 if flips >> i & 1 else -1 for i in range(9)]
        sums.append(abs(float(np.dot(signs, b - a))))
    observed = abs(float((b - a).sum()))
    assert permutation_p(a, b, paired=True) == np.mean(np.array(sums) >= observed - 1e-12)
    # 48,620 relabelings are drawn from, so p scatters: 4 standard errors of 10,000 draws.
    import itertools

    pooled = np.concatenate([a, b])
    picks = np.array(list(itertools.combinations(range(18), 9)))
    apart = np.abs(2 * pooled[picks].sum(axis=1) - pooled.sum())
    exact = np.mean(apart >= apart[0] - 1e-12)
    drawn = permutation_p(a, b)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 10_000))
    assert drawn == permutation_p(a, b) != permutation_p(a, b, seed=1)


@pytest.mark.parametrize(
    ("a", "b", "paired", "message"),
    [
        ([], [1], False, "0 and 1"),
        ([1, 2], [1], True, "pairs are needed, got 2 and 1"),
        ([1, math.nan], [1, 2], False, "finite"),
    ],
)
def test_no_p_of_nonsense(a, b, paired, message):
    with pytest.raises(ValueError, match=message):
        permutation_p(a, b, paired=paired)


def test_unpaired_ratio():
    random = np.random.default_rng(4)
    a, b = random.normal(10, 1, 12), random.normal(11, 1, 30)
    ratio = geometric_ratio(b, a, paired=False)
    found = stats.ttest_ind(np.log(b), np.log(a), equal_var=False).confidence_interval()
    assert (ratio.low, ratio.high) == pytest.approx((math.exp(found.low), math.exp(found.high)))
    assert ratio.value == pytest.approx(stats.gmean(b) / stats.gmean(a)) and ratio.pairs == 0
    even = geometric_ratio([4, 4], [2, 2, 2], paired=False)
    assert even.low == even.high == pytest.approx(2)
    assert geometric_ratio([3], [2, 2], paired=False).low is None
    with pytest.raises(ValueError, match="above 0, got 0"):
        geometric_ratio([1, 2], [0, 1], paired=False)
    with pytest.raises(ValueError, match="both sides"):
        geometric_ratio([], [1], paired=False)


def coverage(paired, n, stalls=0.0):
    """Share of 2,000 recordings whose interval holds the ratio: 1.1, times what stalls add to a.

    A run's latency is lognormal, 2 % by itself and 3 % by its round; pairs have a round in common.
    """
    random = np.random.default_rng(8)
    rounds = 0.03 * random.standard_normal((2, 2000, n))
    own = 0.02 * random.standard_normal((2, 2000, n))
    doubled = random.random((2000, n)) < stalls
    a = np.exp(rounds[0] + own[0] + math.log(1.1) + math.log(2) * doubled)
    b = np.exp(rounds[0 if paired else 1] + own[1])
    found = [geometric_ratio(*one, paired=paired) for one in zip(a, b, strict=True)]
    return np.mean([one.low <= 1.1 * 2**stalls <= one.high for one in found])


@pytest.mark.parametrize("n", [2, 4, 10])
def test_intervals_cover_what_they_say(n):
    assert 0.935 < coverage(True, n) < 0.965
    # Two runs against two: Welch's degrees of freedom are a guess, on the wide side.
    assert 0.935 < coverage(False, n) < (0.985 if n == 2 else 0.97)


@pytest.mark.parametrize(("n", "percent"), [(2, 82), (4, 42), (10, 65), (40, 92)])
def test_rare_stalls_cost_the_interval_its_coverage(n, percent):
    """As `Ratio` says: runs of one side double with probability 0.1."""
    assert 100 * coverage(True, n, 0.1) == pytest.approx(percent, abs=4)


def test_one_stalled_run_of_ten_widens_the_interval_around_the_truth():
    b = np.exp(0.01 * np.random.default_rng(9).standard_normal(10))
    a = 1.1 * b
    a[3] *= 2
    ratio = geometric_ratio(a, b)
    assert ratio.low < 1.1 < 1.1 * 2**0.1 < ratio.high and ratio.high / ratio.low > 1.3


def test_what_pairs_share_does_not_widen_the_paired_interval():
    drift = np.linspace(1, 2, 10)
    b, a = 1.01 * drift, drift
    assert geometric_ratio(b, a).high - geometric_ratio(b, a).low < 1e-9
    assert decide(a, b, paired=True).verdict == MORE
    assert decide(a, b, paired=False).verdict == NO_DIFFERENCE


def test_fewest_runs_that_can_be_called():
    assert runs_needed(paired=False) == 5 and runs_needed(paired=True) == 8
    assert decide([1.0] * 4, [2.0] * 4, paired=False).verdict == TOO_FEW
    assert decide([1.0] * 5, [2.0] * 5, paired=False).verdict == MORE
    assert decide([2.0] * 7, [1.0] * 7, paired=True).verdict == TOO_FEW
    assert decide([2.0] * 8, [1.0] * 8, paired=True).verdict == LESS
    assert decide([1.0], [2.0] * 200, paired=False).verdict == TOO_FEW


def test_a_value_of_zero_has_no_ratio_but_a_verdict():
    decision = decide([0] * 10, [9e6] * 10, paired=False)
    assert decision.ratio is None and decision.verdict == MORE
    assert decide([9e6] * 10, [0] * 10, paired=True).verdict == LESS


@pytest.mark.parametrize("paired", [True, False])
def test_a_difference_that_hangs_on_one_value_is_not_called(paired):
    """59 of 60 values lie 1 % apart, which p sees, one 20 % the other way: the interval does."""
    a, b = [100.0] * 60, [101.0] * 59 + [80.0]
    for one, other in ((a, b), (b, a)):
        decision = decide(one, other, paired=paired)
        assert decision.p < CALL_BELOW_P
        assert decision.ratio.low < 1 < decision.ratio.high
        assert decision.verdict == NO_DIFFERENCE


@pytest.mark.parametrize("paired", [True, False])
def test_false_calls_are_rare_and_real_shifts_are_found(paired):
    random = np.random.default_rng(5)
    noise = random.normal(1, 0.01, (100, 2, 10))
    false = sum(decide(a, b, paired=paired).called for a, b in noise)
    found = sum(decide(a, 1.03 * b, paired=paired).verdict == MORE for a, b in noise)
    assert false <= 5 and found >= 95


def test_wilson():
    share = wilson(0, 40)
    z2 = 1.959963984540054**2
    assert (share.low, share.high) == (0, pytest.approx(z2 / (40 + z2)))
    assert wilson(40, 40).low == pytest.approx(40 / (40 + z2)) and wilson(40, 40).high == 1
    half = wilson(20, 40)
    assert half.low + half.high == pytest.approx(1)
    for count, n in ((-1, 4), (5, 4), (0, 0)):
        with pytest.raises(ValueError, match="is no share"):
            wilson(count, n)


def verdicts(comparison):
    return {(row.mode_b, row.metric): row.verdict for row in comparison.rows}


def test_words_fit_the_metric_and_the_direction():
    a = recording()
    assert set(verdicts(compare_results(a, recording(seed=9))).values()) == {NO_DIFFERENCE}
    slower = verdicts(compare_results(a, recording(1.05, seed=9)))
    assert slower["async", "latency_s"] == slower["sync", "ttff_s"] == "slower"
    faster = verdicts(compare_results(recording(1.05, seed=9), a))
    assert faster["async", "latency_s"] == "faster"
    within = verdicts(compare_results(BASE, BASE, modes=[("sync", "async")]))
    assert within["async", "latency_s"] == "faster"
    assert within["async", "pinned_bytes"] == "more" and within["async", "energy_j"] == "less"


def test_energy_is_the_counters_difference_and_needs_all_runs():
    (row,) = compare_results(BASE, BASE, modes=[("sync", "async")], metrics=["energy_j"]).rows
    timed = BASE.arms["async"].timed
    joules = [run.gpu_after.energy_j - run.gpu_before.energy_j for run in timed]
    assert row.mean_b == pytest.approx(np.mean(joules))
    lacks = with_runs(
        recording(modes=("async",)),
        lambda run: run.model_copy(update={"gpu_after": None}) if run.round == 0 else run,
    )
    other = recording(seed=1, modes=("async",))
    left_out = compare_results(other, lacks).left_out
    assert ("energy_j", "async", "not recorded in every run") in left_out
    with pytest.raises(ValueError, match=r"energy_j \(not recorded in every run\); leave it out"):
        compare_results(other, lacks, metrics=["energy_j"])


def test_rounds_pair_up_whatever_their_order():
    a = recording(modes=("async",))
    arm = a.arms["async"]
    runs = tuple(
        run.model_copy(update={"latency_s": 1.001 * run.latency_s}) for run in reversed(arm.runs)
    )
    b = a.model_copy(update={"arms": {"async": arm.model_copy(update={"runs": runs})}})
    latency = compare_results(a, b, paired=True).rows[0]
    assert latency.verdict == "slower" and latency.decision.p == 2 / 2**10
    assert compare_results(a, b).rows[0].verdict == NO_DIFFERENCE  # and not paired by default


@pytest.mark.parametrize(
    ("rounds", "message"),
    [
        (range(8), "B lacks 8, 9"),
        (range(2, 12), r"A lacks 10, 11; B lacks 0, 1"),
    ],
)
def test_rounds_that_do_not_pair_up_are_named(rounds, message):
    with pytest.raises(ValueError, match=message):
        compare_results(recording(), recording(seed=1, rounds=rounds), paired=True)
    assert compare_results(recording(), recording(seed=1, rounds=rounds)).rows


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("provenance", "device", "NVIDIA H100"),
        ("provenance", "device_uuid", "GPU-0"),
        ("provenance", "vram_bytes", 1),
        ("provenance", "cpu", "another"),
        ("provenance", "host_cores", 3),
        ("workload", "decoder", "other"),
        ("workload", "dtype", "bfloat16"),
        ("workload", "weights_sha256", "b" * 64),
        ("workload", "latents_sha256", "c" * 64),
    ],
)
def test_what_else_a_ratio_is_of_is_stated(part, field, value):
    a, b = recording(), recording(seed=1, **{part: {field: value}})
    comparison = compare_results(a, b)
    assert [one.name for one in comparison.stated] == [field]
    text = text_of(comparison)
    assert "COMPARED ACROSS" in text and "Both ran" not in text
    was = str(getattr(getattr(a, part), field))[:12]
    assert f"- {field} {was}" in text and f"against {str(value)[:12]}" in text
    assert comparison.rows, "and not refused"


@pytest.mark.parametrize(("field", "value"), [("frames", 157), ("height", 8), ("width", 8)])
def test_other_media_are_refused_unless_across(field, value):
    a, b = recording(), recording(seed=1, workload={field: value})
    with pytest.raises(ValueError, match=f"other media: {field} .* against {value}.*--across"):
        compare_results(a, b)
    comparison = compare_results(a, b, across=True)
    assert [one.name for one in comparison.stated] == [field]
    assert f"- {field} " in text_of(comparison)


def test_all_of_it_is_named_at_once():
    b = recording(
        seed=1, provenance={"device": "cpu", "host_cores": 2}, workload={"dtype": "float32"}
    )
    stated = "; ".join(map(str, compare_results(recording(), b).stated))
    assert re.search(r"device NVIDIA H200 against cpu; host_cores 16 .*; dtype", stated)


def test_another_chunk_size_is_compared_and_listed():
    comparison = compare_results(recording(), with_config(recording(seed=1), chunk_size=2))
    assert comparison.stated == () and "chunk_size 1 against 2" in text_of(comparison)


def with_frames(result, mode, sha256):
    changed = result.arms[mode].model_copy(update={"frame_sha256": sha256})
    return result.model_copy(update={"arms": {**result.arms, mode: changed}})


def test_frames_that_differ_are_stated_where_both_are_known():
    a, b = recording(), with_frames(recording(seed=1), "async", "d" * 64)
    (stated,) = map(str, compare_results(a, b).stated)
    assert re.fullmatch(r"frame_sha256 of async \w{12} against dddddddddddd", stated)
    assert compare_results(a, b, modes=["sync"]).stated == ()
    assert compare_results(a, with_frames(b, "async", None)).stated == ()
    (stated,) = compare_results(a, b, modes=[("sync", "async")]).stated
    assert stated.name == "frame_sha256 of sync and async"


def test_diffusers_frames_at_larger_chunks_need_not_be_those_of_async():
    one = with_config(recording(modes=("diffusers", "async")), chunk_size=2)
    one = with_frames(one, "diffusers", "e" * 64)
    assert compare_results(one, one, modes=[("diffusers", "async")]).stated == ()


def test_what_is_usually_compared_is_allowed_and_listed():
    b = recording(
        seed=1,
        provenance={"git_dirty": True, "cuda": "12.9", "packages": {"torch": "2.9"}},
        workload={"fps": 24.0},
        sink={"kind": "null", "throttle_mb_per_s": 100.0},
        baseline="async",
    )
    b = with_config(b, chunk_size=4, copy_stream=False)
    comparison = compare_results(recording(), b)
    names = [one.name for one in comparison.differences]
    for name in ("git_dirty", "cuda", "torch", "fps", "chunk_size", "copy_stream", "sink kind",
                 "sink throttle_mb_per_s", "baseline"):  # fmt: skip
        assert name in names
    assert comparison.stated == () and "slots" not in names
    text = text_of(comparison)
    assert "chunk_size 1 against 4" in text and "torch 2.11.0 against 2.9" in text
    assert "B ran code with uncommitted changes" in text


def test_a_run_against_itself_says_nothing(capsys):
    with pytest.raises(ValueError, match="say nothing; give two recordings, or two modes"):
        compare_results(BASE, BASE)
    with pytest.raises(ValueError, match="say nothing"):
        compare_results(BASE, BASE.model_copy(deep=True), modes=[("sync", "sync")])
    assert main(["compare", str(FOLDER), str(FOLDER / "result.json")]) == 2
    assert "--mode-a and --mode-b" in capsys.readouterr().err
    within = compare_results(BASE, BASE, modes=[("sync", "async")])
    assert within.paired and within.rows[0].decision.ratio.pairs == 10
    assert not compare_results(BASE, BASE, modes=[("sync", "async")], paired=False).paired


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": ["turbo"]}, "mode turbo is not in both recordings: A has sync, async"),
        ({"modes": []}, "name at least one"),
        ({"modes": ["sync", "sync"]}, "each once"),
        ({"metrics": ["speed"]}, "metric speed: use any of latency_s, ttff_s"),
        ({"metrics": []}, "metric is missing"),
        ({"modes": [("sync", "turbo")]}, r"mode sync \(A\) and turbo \(B\)"),
    ],
)
def test_wrong_questions(options, message):
    with pytest.raises(ValueError, match=message):
        compare_results(recording(), recording(seed=1), **options)


def test_no_mode_in_common():
    with pytest.raises(ValueError, match="A has sync; B has async; name one of each"):
        compare_results(recording(modes=("sync",)), recording(modes=("async",)))


def test_throttled_runs_are_counted_and_marked():
    b = with_runs(
        recording(seed=1),
        lambda run: run.model_copy(update={"throttled": run.mode == "async" and run.round < 3}),
    )
    comparison = compare_results(recording(), b)
    for row in comparison_table(comparison).rows:
        assert row["throttled A"] == "0 of 10"
        assert row["throttled B"] == ("3 of 10†" if "async" in row["mode"] else "0 of 10")
    assert "† Runs with a throttle reason" in text_of(comparison)
    assert "throttle" not in text_of(compare_results(recording(), recording(seed=1)))


def test_two_sessions_carry_a_caution():
    apart = text_of(compare_results(recording(), recording(seed=1)))
    assert "Not paired: what only the hour changed" in apart
    assert "called different from themselves at another time" in apart
    within = text_of(compare_results(BASE, BASE, modes=[("sync", "async")]))
    assert "the hour" not in within and "Paired: round i" in within


def test_arms_of_any_study_are_compared_by_name():
    """Also where several have one mode, as in an A/A control."""
    control = read_recording(next(RESULTS.glob("*aa-async")))
    made = compare_results(control, control, modes=[("a", "slow")], metrics=["latency_s"])
    (row,) = made.rows
    assert (row.mode_a, row.mode_b, row.verdict) == ("a", "slow", "slower")
    assert row.mean_b == pytest.approx(control.arms["slow"].latency.mean)
    assert comparison_table(made).rows[0]["mode"] == "A a, B slow"


def test_the_document_has_both_recordings():
    document = comparison_document(compare_results(BASE, recording(1.05, seed=9)))
    assert document.text() == text_of(compare_results(BASE, recording(1.05, seed=9))).replace(
        "  \n", "\n"
    )
    assert "async: slower, B / A " in document.lead[0]
    names = [one.name for one in document.sections]
    assert names == [
        "comparison", "results-A", "timeline-A", "results-B", "timeline-B", "provenance",
        "reproduce",
    ]  # fmt: skip
    within = comparison_document(compare_results(BASE, BASE, modes=[("sync", "async")]))
    assert [one.name for one in within.sections] == ["comparison", "provenance", "reproduce"]


def test_the_table_says_how_many_false_calls_to_expect():
    comparison = compare_results(recording(), recording(seed=1))
    assert comparison.tests == len(comparison.rows) == 9  # pinned memory is 0 in sync
    each = Counter(row.metric for row in comparison.rows)
    assert (each["latency_s"], each["ttff_s"]) == (2, 2)
    expected = 2 * 3 / 36 + 2 * 7 / 36 + 5 * CALL_BELOW_P
    assert comparison.expected_false_calls == pytest.approx(expected)
    text = text_of(comparison)
    assert "9 tests at 1 %" in text and f"about {expected:.2f} false calls" in text
    assert "(latency 3 of 36, TTFF 7 of 36), and 1 % of the rest" in text
    paired = compare_results(recording(), recording(seed=1), paired=True)
    assert paired.expected_false_calls == pytest.approx(9 * CALL_BELOW_P)
    assert "up to 0.09 false calls by chance." in text_of(paired)
    assert "pinned_bytes of sync (0 in every run)" in text
    few = compare_results(recording(rounds=range(3)), recording(seed=1, rounds=range(3)))
    assert few.tests == 0 and TOO_FEW in text_of(few)
    assert "at least 5 runs of each side" in text_of(few)


@pytest.mark.parametrize(
    ("factor", "limit", "status"),
    [(1.05, "2%", 1), (1.05, "2", 1), (1.05, "10%", 0), (0.95, "0", 0), (1.0, "0%", 0)],
)
def test_the_gate(factor, limit, status, tmp_path, capsys):
    a = written(tmp_path, "before.json", recording())
    b = written(tmp_path, "after.json", recording(factor, seed=9))
    assert main(["compare", a, b, "--fail-above", limit]) == status
    out, err = capsys.readouterr()
    assert ("latency_s of async is slower: +" in err) == (status == 1)
    assert json.loads(out.splitlines()[-1])["tests"] == 9


def test_more_of_what_was_none_fails_any_gate(capsys):
    gate = ["compare", str(FOLDER), str(FOLDER), "--mode-a", "sync", "--mode-b", "async"]
    assert main([*gate, "--metrics", "pinned_bytes", "--fail-above", "500"]) == 1
    assert "pinned_bytes of async against sync is more: from 0" in capsys.readouterr().err


def test_a_gate_that_cannot_fail_is_refused(tmp_path, capsys):
    a = written(tmp_path, "a.json", recording(rounds=range(3)))
    b = written(tmp_path, "b.json", recording(2.0, seed=1, rounds=range(3)))
    assert main(["compare", a, b]) == 0
    assert main(["compare", a, b, "--fail-above", "2%"]) == 2
    error = capsys.readouterr().err
    assert "can never fail here: 3 runs" in error and "at least 5 of each side" in error
    assert main(["compare", a, b, "--fail-above", "2%", "--paired"]) == 2
    assert "record at least 8 pairs" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["-1", "two", "nan", "inf", "%", "2%%"])
def test_wrong_limits(given, capsys):
    assert main(["compare", str(FOLDER), str(OTHER), f"--fail-above={given}"]) == 2
    assert f"--fail-above is {given!r}; give 0 or more percent" in capsys.readouterr().err


def test_recorded_results_of_two_gpus_are_stated(capsys):
    assert main(["compare", str(OTHER), str(FOLDER), "--modes", "async,compute_only"]) == 0
    out = capsys.readouterr().out
    assert "COMPARED ACROSS" in out and "device_uuid GPU-e7c560dc" in out
    assert "sync (chunked)" not in out.replace("async", "")


def test_json_only(tmp_path, capsys):
    a = written(tmp_path, "a.json", recording())
    b = written(tmp_path, "b.json", recording(1.05, seed=9, provenance={"driver": "1.0"}))
    assert main(["compare", a, b, "--json", "--metrics", "latency_s, ttff_s"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    whole = json.loads(line)
    assert [row["verdict"] for row in whole["rows"]] == ["slower"] * 4
    assert whole["rows"][0]["ratio"]["low"] > 1 and whole["across"] == []
    assert {"name": "driver", "a": "580.159.04", "b": "1.0"} in whole["differences"]


def test_half_a_mode_pair_and_no_file(capsys, tmp_path):
    assert main(["compare", str(FOLDER), str(FOLDER), "--mode-a", "sync"]) == 2
    assert "belong together; give both" in capsys.readouterr().err
    both = ["--mode-a", "sync", "--mode-b", "async", "--modes", "sync"]
    assert main(["compare", str(FOLDER), str(FOLDER), *both]) == 2
    assert "runs against themselves say nothing" in capsys.readouterr().err
    assert main(["compare", str(FOLDER), str(tmp_path / "no")]) == 2
    assert "no result at" in capsys.readouterr().err


def test_money_and_energy_stand_in_the_rows_of_the_latency():
    """An hour of B's video at 3.36 dollars: 3.36 x mean / seconds of video."""
    result = FULL
    comparison = compare_results(result, result, modes=[("sync", "async")])
    latency, *others = comparison_table(comparison, Asked(3.36, energy=True)).rows
    mean, seconds = result.arms["async"].latency.mean, result.workload.seconds
    assert latency["B: USD / video h"].value == pytest.approx(3.36 * mean / seconds)
    joules = [
        run.gpu_after.energy_j - run.gpu_before.energy_j for run in result.arms["async"].timed
    ]
    expected = sum(joules) / len(joules) / seconds
    assert latency["B: J / video s"].value == pytest.approx(expected)
    assert {row["B: USD / video h"] for row in others} == {None}
    text = text_of(comparison, Asked(3.36))
    assert "Price: $3.36 per hour" in text and "against A" in text
    assert "USD" not in text_of(comparison)

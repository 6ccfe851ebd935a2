"""Perceptual measures on CUDA are those of a CPU, and the same each time."""

import numpy as np
import pytest

from tests.cpu.test_perception import flickering
from tests.cpu.test_quality import noisy, panning
from vdkit.measure.perception import clip_features, stlpips, temporal_stlpips
from vdkit.models.perception import PerceptualNetwork


@pytest.mark.parametrize("damage", [noisy, flickering])
def test_cuda_scores_as_a_cpu(damage, device):
    clip = panning(9, height=64, width=96)
    other = damage(clip)
    network, reference = PerceptualNetwork(device), PerceptualNetwork()
    for measure in (stlpips, temporal_stlpips):
        found = measure(clip, other, network).per_frame
        np.testing.assert_array_equal(measure(clip, other, network).per_frame, found)
        expected = measure(clip, other, reference).per_frame
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)
    expected = clip_features(other, reference)
    np.testing.assert_allclose(clip_features(other, network), expected, atol=1e-5)

"""A training step of a structure as a CUDA graph is the step."""

from functools import partial

import pytest
import torch

from data.structures import train
from data.structures.recipe import STRUCTURES, make


@pytest.mark.parametrize("name", STRUCTURES)
def test_captured_steps_are_steps(name, device):
    """Losses and gradients, of sizes in turn; the noise is drawn anew by the step's seed."""
    models = [make(name).to(device).train() for _ in range(2)]
    steps = []
    for model, graphs in zip(models, (False, True), strict=True):
        optimizer = torch.optim.AdamW(model.parameters())
        steps.append(train.Step(partial(train.losses, model), optimizer, graphs))
    generator = torch.Generator(device).manual_seed(0)
    for seed, frames in enumerate((17, 17, 1, 33, 17)):
        video = 2 * torch.rand(1, 3, frames, 32, 48, device=device, generator=generator) - 1
        found = []
        for model, step in zip(models, steps, strict=True):
            torch.manual_seed(seed)
            of = {key: float(loss) for key, loss in step(video).items()}
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            found.append((of, torch.cat([one.float().flatten() for one in gradients])))
        (launched, expected), (captured, got) = found
        assert captured == pytest.approx(launched, rel=1e-3)
        assert float((got - expected).norm() / expected.norm()) < 0.02

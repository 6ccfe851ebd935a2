"""The network of stLPIPS: pictures as points, whose distances are near to what people see.

Shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022): AlexNet whose first convolution has stride 1,
all subsampling by a blur after reflection, and weights of channels (of data/stlpips/README.md).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from vdkit.decode.engines import on_device
from vdkit.models.latents import open_safetensors
from vdkit.models.loading import shipped

_PADDING = (2, 2, 1, 1, 1)  # of the convolutions


class PerceptualNetwork:
    """Embeds pictures, in float32 without TF32, by deterministic algorithms, on a CPU or CUDA."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        with open_safetensors(shipped("stlpips") / "alex.safetensors") as file:
            names = file.keys()
            self._weights = {name: file.get_tensor(name).to(self.device).float() for name in names}
        edge = torch.tensor([0.25, 0.5, 0.25], device=self.device)
        self._kernel = torch.outer(edge, edge)[None, None]

    @torch.inference_mode()
    def __call__(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Embeddings by five layers, float32 [N, C, h, w], of uint8 RGB [N, H, W, 3].

        stLPIPS is their squared distance, over C summed, over h and w averaged, summed over layers.
        """
        known, found = self._weights, []
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with on_device(self.device), exact:
            x = frames.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            x = (x - known["scaling.shift"]) / known["scaling.scale"]
            for i, padding in enumerate(_PADDING):
                if i in (1, 2):
                    x = self._halved(F.max_pool2d(x, 3, 1))
                weight, bias = known[f"convolution{i}.weight"], known[f"convolution{i}.bias"]
                x = F.conv2d(x, weight, bias, padding=padding)
                x = (x if i else self._halved(x)).relu()
                unit = x / (x.norm(dim=1, keepdim=True) + 1e-10)
                found.append(unit * known[f"head{i}"].sqrt().view(-1, 1, 1))
        return found

    def _halved(self, x: torch.Tensor) -> torch.Tensor:
        kernel = self._kernel.expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (2, 2, 2, 2), "reflect"), kernel, stride=2, groups=x.shape[1])

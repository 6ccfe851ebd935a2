"""What the compiler says of the fast decoder's kernels for a GPU that need not be here.

``python tools/compile_fast.py 12.0 wan2.1 60x104 float16`` compiles every kernel of a video of such
latents, a chunk of one latent frame, for that compute capability and prints JSON: shared memory,
registers of a thread and bytes of its stack, where spilled registers go. Needs Triton.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import triton
from diffusers import AutoencoderKLWan
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from vdkit.models.fast import Network, Pixels, Space, Work
from vdkit.models.fast.kernels import KernelPasses, Launch
from vdkit.models.fast.tiles import Gpu
from vdkit.models.loading import ARCHITECTURES

SHARED_BYTES = {"8.0": 166912, "8.6": 101376, "8.9": 101376, "9.0": 232448, "12.0": 101376}
"""That a program may have, by compute capability (CUDA C++ Programming Guide, less 1 KB)."""
_TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.int64: "i64"}
_KEPT = ("C", "N", "KT", "KY", "KX", "BM", "K", "N1", "N2", "TT", "num_warps", "num_stages")
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def planned(
    capability: str, source: str, size: tuple[int, int], dtype: torch.dtype
) -> tuple[str, list[Launch]]:
    """Triton and a hash of the kernels' code, and every kernel of a video, on no device."""
    meta, whole = torch.device("meta"), dict[Any, Launch]()
    with meta:
        vae = AutoencoderKLWan(**ARCHITECTURES[source])
    vae.to(dtype)
    network = Network(vae.decoder)
    major, minor = map(int, capability.split("."))
    gpu = Gpu(f"compute capability {capability}", (major, minor), SHARED_BYTES[capability])
    passes, factor = KernelPasses(gpu, network.convolutions()), vae.config.scale_factor_spatial
    for start in (0, 1):
        frames, space = 4 if start else 1, Space(meta, dtype)
        height, width = (side * factor for side in size)
        shapes = {dtype: (1, 3, frames, height, width), torch.uint8: (frames, height, width, 3)}
        work = Work(passes, space, start, 1, 0, 1)
        for kind, shape in shapes.items():
            pixels = Pixels(torch.empty(shape, dtype=kind, device=meta), vae.config.patch_size or 1)
            with torch.inference_mode(), passes.planning() as plan:
                ring = space.ring(network.conv_in, work, size)
                network.run(work, ring, pixels, start == 0)
            whole |= plan.launches
    return passes.choices.code, list(whole.values())


def compiled(launch: Launch, capability: str) -> dict[str, Any]:
    """How it is cut, and what it takes."""
    names, args, given = launch.kernel.arg_names, launch.args, launch.options
    types = {name: _type(arg) for name, arg in zip(names, args, strict=False)}
    constants = {name: given[name] for name in names[len(args) :]}
    aligned = [index for index, arg in enumerate(args) if isinstance(arg, torch.Tensor)]
    made = triton.compile(
        ASTSource(
            launch.kernel, types | dict.fromkeys(constants, "constexpr"), constants,
            {(index,): [["tt.divisibility", 16]] for index in aligned},
        ),
        target=GPUTarget("cuda", int(capability.replace(".", "")), 32),
        options={k: v for k, v in given.items() if k not in names and v is not None},
    )  # fmt: skip
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(made.asm["cubin"])
        cubin.flush()
        words = [_TOOLS / "cuobjdump", "--dump-resource-usage", cubin.name]
        told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    takes = {
        name: int(re.search(rf"{word}:(\d+)", told)[1])  # type: ignore[index]
        for name, word in (("registers", "REG"), ("stack_bytes", "STACK"))
    }
    steps = [name for name in ("ENLARGE", "AROUND", "SUMMED", "NORMED", "TAIL") if given.get(name)]
    return {
        "kernel": launch.kernel.__name__,
        **{name: given[name] for name in _KEPT if name in given},
        "steps": " ".join(steps).lower(), "shared_bytes": made.metadata.shared, **takes,
    }  # fmt: skip


def _type(arg: Any) -> str:
    if isinstance(arg, TensorDescriptor):
        return f"tensordesc<{_TYPES[arg.base.dtype]}{list(arg.block_shape)}>"
    return f"*{_TYPES[arg.dtype]}" if isinstance(arg, torch.Tensor) else "i32"


def main(capability: str, source: str, size: str, dtype: str) -> None:
    """Print one line of JSON a kernel."""
    height, width = map(int, size.split("x"))
    code, launches = planned(capability, source, (height, width), getattr(torch, dtype))
    head = {"capability": capability, "decoder": source, "latents": size, "dtype": dtype}
    print(json.dumps(head | {"code": code}))
    with ThreadPoolExecutor() as pool:
        for row in pool.map(lambda one: compiled(one, capability), launches):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

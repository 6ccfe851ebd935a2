"""Where weights come from: names, local folders in diffusers' layout, hub ids; safetensors only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

TINY_WAN = Path(__file__).parents[2] / "data" / "tiny-wan"
"""The trained miniature that a clone of vdkit holds; see the model card in it."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_PICKLE = "is a pickle, which can run code when read; convert it to safetensors first"
_BEGINNINGS = (
    (rb"\Z", "is empty"),
    (rb"version https://git-lfs", "is a Git LFS pointer; fetch the file itself: git lfs pull"),
    (rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|!--)", "is a web page; download the file itself"),
    (rb"PK\x03\x04.{26,99}data\.pkl", _PICKLE),
    (rb"\x80[\x02-\x05](?!.{6}\{)", _PICKLE),
    (rb".{8}[^{]", "is no safetensors file"),
)
"""What a file is that is not safetensors, by its first bytes: 8 of a length, then a brace."""


def find_source(source: str | Path, kind: str, names: Iterable[str]) -> Path | str:
    """The local folder, or the hub id, that ``source`` means; ``tiny-wan`` is a folder too.

    Args:
        kind: what is looked for, for messages: ``decoder`` or ``pipeline``.
        names: the words that are allowed beside folders and hub ids, for messages.

    Raises:
        ValueError: a pickle, or neither name, folder nor hub id.
        FileNotFoundError: a path that does not exist, or a vdkit without its data.
    """
    name, path = str(source), Path(source)
    if name == TINY_WAN.name:
        if not TINY_WAN.is_dir():
            raise FileNotFoundError(
                f"tiny-wan is missing at {TINY_WAN}: it comes with a clone of vdkit; install from "
                "one with pip install -e ."
            )
        return TINY_WAN
    if path.suffix in _PICKLES:
        raise ValueError(
            f"{path} is a pickle, which can run code when read; convert it to safetensors first"
        )
    if name and path.is_dir():
        return path
    if name.startswith((".", "/", "~")) and not path.exists():
        raise FileNotFoundError(f"{kind} folder {name!r} does not exist")
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(
            f"{kind} source {name!r} is unknown; use {', '.join(names)}, a folder in diffusers' "
            "layout, or a hub id owner/name"
        )
    return name


def read_class(file: Path) -> str | None:
    """``_class_name`` of a configuration in diffusers' layout.

    Raises:
        ValueError: no JSON, or no object in it.
    """
    try:
        return json.loads(file.read_text()).get("_class_name")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{file} is not a JSON configuration: {error}") from error


def check_weights(folder: Path) -> None:
    """That a component's folder has safetensors and that they can be opened.

    Raises:
        ValueError: only pickles, or a damaged file.
        FileNotFoundError: no weights.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [entry.name for entry in folder.iterdir() if entry.suffix in _PICKLES]
        if pickles:
            raise ValueError(
                f"{folder} holds weights only as a pickle ({pickles[0]}), which is refused; "
                "convert it to safetensors"
            )
        raise FileNotFoundError(f"{folder} holds no *.safetensors weights")
    for file in files:
        with open_safetensors(file):
            pass


@contextmanager
def open_safetensors(file: Path) -> Iterator[Any]:
    """A safetensors file, opened; ValueError for a damaged one and another kind, which it names."""
    try:
        with safe_open(file, "pt") as opened:
            yield opened
    except SafetensorError as error:
        with file.open("rb") as opened:
            head = opened.read(200)
        found = (kind for begin, kind in _BEGINNINGS if re.match(begin, head, re.DOTALL | re.I))
        raise ValueError(f"{file} {next(found, f'is damaged or cut short: {error}')}") from error


@contextmanager
def hub(source: Path | str, what: str, file: str) -> Iterator[bool]:
    """Whether the ``what`` of a hub id can be had from the cache only; False for a folder.

    The hub is asked for ``file`` once; huggingface_hub would ask six times, in 24 s, for each file.
    FileNotFoundError if what is loaded inside is not there; it says whether the hub answered.
    """
    if isinstance(source, Path):
        yield False
        return
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError

    silent: Exception | None = None
    try:
        get_hf_file_metadata(hf_hub_url(source, file))
    except (HfHubHTTPError, FileMetadataError, ValueError):
        pass  # an answer, or no id: loading says so
    except Exception as error:  # of whichever HTTP library huggingface_hub uses
        silent = error
    try:
        yield silent is not None
    except OSError as error:
        why: Exception | str = error
        if silent is not None:
            why = (
                f"{constants.ENDPOINT} cannot be reached ({silent}), the cache at "
                f"{constants.HF_HUB_CACHE} does not hold it whole; give a folder in diffusers' "
                "layout, or load it once with a network"
            )
        raise FileNotFoundError(
            f"{source!r} is no local folder, and the hub gave no Wan {what}: {why}"
        ) from error


@contextmanager
def loading_bars(shown: bool) -> Iterator[None]:
    """The bars of diffusers and transformers while weights load; restored on leaving."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    homes = (diffusers_logging, transformers_logging)
    hidden = [home for home in homes if home.is_progress_bar_enabled() and not shown]
    for home in hidden:
        home.disable_progress_bar()
    try:
        yield
    finally:
        for home in hidden:
            home.enable_progress_bar()

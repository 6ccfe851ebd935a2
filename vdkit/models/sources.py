"""Where weights come from: names, local folders in diffusers' layout, hub ids; safetensors only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

TINY_WAN = Path(__file__).parents[2] / "data" / "tiny-wan"
"""The trained miniature that a clone of vdkit holds; see the model card in it."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


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
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(
                f"{file} cannot be read, it is damaged or cut short: {error}"
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

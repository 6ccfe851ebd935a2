"""Many videos over many workers: what is to be made; `driver` hands it to `worker`."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError, field_validator

from vdkit.decode.chunks import exact_fps
from vdkit.record.runs import Record
from vdkit.sinks import SINKS


class Video(Record):
    """One line of a manifest.

    Attributes:
        latents: a safetensors file, or what else `vdkit.load_latents` takes.
        out: the file to make, in the folder of the fan-out; its ending may be left out.
        fps, seed: None: those of all.
    """

    latents: str
    out: str
    fps: float | str | None = None
    seed: int | None = None

    @field_validator("out")
    @classmethod
    def _inside(cls, value: str) -> str:
        if Path(value).is_absolute() or ".." in Path(value).parts or not Path(value).name:
            raise ValueError(f"{value!r} is no name in the folder of the fan-out")
        return value

    @field_validator("fps")
    @classmethod
    def _rate(cls, value: float | str | None) -> float | str | None:
        if value is not None:
            exact_fps(value)
        return value


def read_manifest(path: Path, kind: str) -> list[Video]:
    """What is to be made, ``out`` with its ending.

    Args:
        path: JSON lines of `Video`, whose files lie where the manifest does; or a folder, of which
            every .safetensors file is decoded into a file of its name.
        kind: the sink's, which decides on the ending.

    Raises:
        FileNotFoundError, ValueError: there is nothing to make, or a line is wrong, which is named.
    """
    if not path.exists():
        raise FileNotFoundError(f"no manifest {str(path)!r}; give JSON lines or a folder")
    if path.is_dir():
        files = sorted(path.absolute().glob("*.safetensors"))
        lines = {str(one): Video(latents=str(one), out=one.stem) for one in files}
    else:
        texts = path.read_text(encoding="utf-8").splitlines()
        lines = {f"{path}:{n}": _parsed(f"{path}:{n}", t) for n, t in enumerate(texts, 1) if t}
    if not lines:
        raise ValueError(f"{path} names no video; give a line for each, or .safetensors files")
    return _checked(lines, path.parent, kind)


def _parsed(where: str, text: str) -> Video:
    try:
        return Video.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        form = 'write {"latents": FILE, "out": NAME}, with "fps" and "seed" if they differ'
        raise ValueError(f"{where}: {name and f'{name}: '}{first['msg']}; {form}") from None


def _checked(lines: dict[str, Video], home: Path, kind: str) -> list[Video]:
    """With whole paths and names, each of which is there once."""
    ending, first, made = SINKS[kind][1], dict[str, str](), []
    for where, video in lines.items():
        suffix = Path(video.out).suffix
        if suffix != ending and suffix in {one for _, one in SINKS.values() if one}:
            raise ValueError(f"{where}: out {video.out!r} does not end in {ending!r} of {kind}")
        out = str(Path(video.out.removesuffix(ending) + ending))
        if (there := first.setdefault(out, where)) != where:
            raise ValueError(f"{where}: out {video.out!r} is that of {there} too; name each once")
        drawn = video.latents.startswith(("random:", "clips:"))
        latents = video.latents if drawn else str((home / video.latents).absolute())
        made.append(video.model_copy(update={"out": out, "latents": latents}))
    return made

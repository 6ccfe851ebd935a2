"""Many videos over many workers: what is to be made; `driver` hands it to `worker`."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from vdkit.decode.chunks import exact_fps
from vdkit.record.runs import Record
from vdkit.sinks import SINKS


class Video(Record):
    """One line of a manifest.

    Attributes:
        latents: a safetensors file, or what else `vdkit.load_latents` takes.
        out: the file to make, in the folder of the fan-out; its ending may be left out.
        fps, seed: None: that of all.
    """

    latents: str
    out: str
    fps: float | str | None = None
    seed: int | None = None

    @property
    def drawn(self) -> bool:
        """From no file."""
        return self.latents.startswith(("random:", "clips:"))


def read_manifest(path: Path, kind: str, seed: int = 0) -> list[Video]:
    """What is to be made, ``out`` with its ending, and files with their whole path.

    Args:
        path: JSON lines of `Video`, whose files lie where the manifest does; or a folder, of which
            every .safetensors file is decoded into a file of its name.
        kind: the sink's, which decides on the ending.
        seed: of those that name none.

    Raises:
        ValueError: there is nothing to make, or a line is wrong, which is named.
    """
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        lines = {str(one): Video(latents=one.name, out=one.stem) for one in files}
        home = path
    else:
        try:
            texts = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            good = "give JSON lines, or a folder of .safetensors files"
            raise ValueError(f"manifest {str(path)!r} cannot be read ({why}); {good}") from error
        lines = {f"{path}:{n}": _parsed(f"{path}:{n}", t) for n, t in enumerate(texts, 1) if t}
        home = path.parent
    if not lines:
        raise ValueError(f"{path} names no video; give a line for each, or .safetensors files")
    ending, first, made = SINKS[kind][1], dict[str, str](), []
    holds: dict[str, str] = {}
    for where, video in lines.items():
        out = Path(video.out.removesuffix(ending) + ending)
        if out.is_absolute() or ".." in out.parts or not Path(video.out).name:
            raise ValueError(f"{where}: out {video.out!r} is no name in the folder of the fan-out")
        suffix = Path(video.out).suffix
        if suffix != ending and suffix in {one for _, one in SINKS.values() if one}:
            raise ValueError(f"{where}: out {video.out!r} does not end in {ending!r} of {kind}")
        if (there := first.setdefault(str(out), where)) != where:
            raise ValueError(f"{where}: out {video.out!r} is that of {there} too; name each once")
        homes = list(map(str, out.parents))
        for nested in (*(first.get(one) for one in homes), holds.get(str(out))):
            if nested:
                wrong = f"out {video.out!r} and that of {nested}: one would hold the other"
                raise ValueError(f"{where}: {wrong}")
        holds |= dict.fromkeys(homes, where)
        try:
            exact_fps(16 if video.fps is None else video.fps)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        latents = video.latents if video.drawn else str((home / video.latents).absolute())
        drawn = seed if video.seed is None else video.seed
        own = {"out": str(out), "latents": latents, "seed": drawn}
        made.append(video.model_copy(update=own))
    return made


def _parsed(where: str, text: str) -> Video:
    try:
        return Video.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        wrong = ": ".join([where, *map(str, first["loc"]), first["msg"]])
        form = '{"latents": FILE, "out": NAME}, with "fps" and "seed" if they differ'
        raise ValueError(f"{wrong}; write {form}") from None

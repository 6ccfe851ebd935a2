"""The command that looks at the machine alone."""

from __future__ import annotations

import argparse
import os
import shutil
import sysconfig
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli import columns, command, print_json
from vdkit.models import BY_CHUNK_ONLY, VARIANTS
from vdkit.present.instruments import doctor_table

if TYPE_CHECKING:
    from vdkit.record.runs import Finding


@command("out json")
def run_doctor(options: argparse.Namespace) -> int:
    """is this machine ready? GPU, driver, PCIe, versions, storage, decoders, in a minute at most

    Each line is ok, a note, or wrong with what to do; the exit status is 1 if one is wrong. It
    copies, multiplies, profiles, encodes and writes a little, and leaves nothing.
    """
    findings = examined(options.out)
    wrong = sum(one.state == "wrong" for one in findings)
    if options.json:
        print_json({"wrong": wrong, "findings": findings})
    else:
        print(doctor_table(findings).text(columns()))
    return 1 if wrong else 0


def examined(results: Path) -> list[Finding]:
    """`vdkit.measure.doctor.examine` of this machine, and which decoders run on it."""
    from vdkit.measure.doctor import examine

    variants = {name: partial(_variant, name) for name in VARIANTS}
    return examine(results, more={"decoders": {"known faults": _faults, **variants}})


def _faults(machine: Any) -> dict[str, Any]:
    import torch

    from vdkit.measure.doctor import told
    from vdkit.models.wan import known_faults

    cudnn = torch.backends.cudnn.version() if machine.device.type == "cuda" else None
    kinds = (torch.float16, torch.bfloat16)
    found = dict.fromkeys(f for kind in kinds for f in known_faults(torch.__version__, cudnn, kind))
    return told("; ".join(found) or "none of these versions", (found, "wrong", ""))


def _variant(name: str, machine: Any) -> dict[str, Any]:
    """Whether it runs, and how: by what it needs, not by running it."""
    import torch

    import vdkit.models.wan  # or says why not  # noqa: F401
    from vdkit.measure.doctor import told
    from vdkit.models.fast import why_plain

    on_gpu, needs = machine.device.type == "cuda", {"compiled": {"CXX": "g++"}}.get(name, {})
    plain = why_plain(machine.device, torch.float16, [16]) if name == "fast" else None
    if on_gpu and name in BY_CHUNK_ONLY and not plain:  # Triton compiles its launchers
        needs["CC"] = "gcc" if shutil.which("gcc") else "clang"
    programs = [os.environ.get(variable) or usual for variable, usual in needs.items()]
    lacks = [one for one in programs if shutil.which(one) is None]
    header = Path(sysconfig.get_config_var("INCLUDEPY") or "") / "Python.h"
    lacks += [str(header)] * (bool(needs) and not header.is_file())
    said = f"runs in plain torch: {plain}" if plain else "runs"
    return told(
        f"does not run without {', '.join(lacks)}" if lacks else said,
        (lacks, "note", "install that, or take another variant"),
        (plain, "note", "variant compiled is faster here" if on_gpu else ""),
    )

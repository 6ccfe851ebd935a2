"""The house: imports point down, and what must open anywhere loads neither torch nor a GPU."""

import ast
import importlib.util
import pydoc
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import vdkit

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vdkit"

GROUND = {"decode"}
SECOND = {"sinks", "models", "trace", "record"} | GROUND
THIRD = {"measure", "predict"} | SECOND
# What each part may import besides itself, the standard library and (below) other packages.
MAY_IMPORT = {
    "decode": set(),
    "sinks": GROUND,
    "models": GROUND,
    "trace": GROUND | {"record"},
    "record": GROUND | {"trace"},
    "predict": GROUND | {"trace", "record"},
    "measure": SECOND - {"models"} | {"predict"},  # it is handed decoders
    "present": GROUND | {"models", "trace", "record", "predict"},  # of models types alone
    "explorer": THIRD | {"present"},
    "scale": SECOND - {"models", "trace"} | {"measure"},  # it is handed decoders
    "cli": THIRD | {"present", "explorer", "scale"},
    "__main__": {"cli", "record"},
    "__init__": set(),
}
DECODE_PACKAGES = {"torch", "numpy", "tqdm", "triton"}
"""numpy only as a type, tqdm only for the bar, Triton as torch for CUDA brings it."""


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.stat().st_size]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    part = part_of(path)
    for name in imports(path):
        words = name.split(".")
        if words[0] == "vdkit":
            target = words[1] if len(words) > 1 else ""
            if target in MAY_IMPORT:
                assert target == part or target in MAY_IMPORT[part], f"{part} imports {name}"
        elif part == "decode":
            allowed = words[0] in DECODE_PACKAGES or words[0] in sys.stdlib_module_names
            assert allowed, f"decode imports {name}"


def test_the_check_would_notice():
    assert "models" not in MAY_IMPORT["measure"] and "measure" not in MAY_IMPORT["predict"]
    assert {part_of(path) for path in MODULES} == set(MAY_IMPORT)
    found = list(imports(PACKAGE / "measure" / "study.py"))
    assert "vdkit.decode.paths.PATHS" in found


def test_a_module_is_read_in_one_sitting():
    lengths = {str(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: lines for path, lines in lengths.items() if not 1 <= lines <= 600} == {}


def test_no_two_classes_share_a_name():
    trees = (ast.parse(path.read_text()) for path in MODULES)
    names = Counter(
        node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)
    )
    assert [name for name, times in names.items() if times > 1] == []


def loaded_after(statement):
    code = f"{statement}; import sys; print(' '.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def modules_of(*parts):
    """An import of every module of these parts."""
    paths = (path for path in MODULES if part_of(path) in parts)
    return "import " + ", ".join(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in paths
    )


HEAVY = {"torch", "diffusers", "pynvml", "triton", "IPython", "ray"}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import vdkit", {"torch", "matplotlib", "numpy", "pandas", "diffusers", "pydantic"}),
        ("import vdkit.__main__", {"torch", "matplotlib", "numpy", "pandas", "pydantic"}),
        (modules_of("record", "trace"), HEAVY | {"matplotlib", "pandas"}),
        (modules_of("predict"), HEAVY | {"matplotlib", "pandas"}),
        (modules_of("present"), HEAVY | {"pandas"}),
        (modules_of("cli"), HEAVY | {"matplotlib", "pandas"}),
        (modules_of("scale", "measure"), {"ray", "diffusers"}),
        ("import vdkit.present.documents, vdkit.present.comparison", {"matplotlib", "jinja2"}),
        ("import tools.readme", HEAVY | {"pandas"}),
        ("import vdkit.measure.nvml, vdkit.measure.quality", {"torch", "pynvml", "cv2", "skimage"}),
        ("import vdkit; vdkit.read_trace, vdkit.analyze", {"torch", "matplotlib", "pydantic"}),
        ("import vdkit; vdkit.read_recording, vdkit.plot_timeline, vdkit.DecodeConfig", {"torch"}),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_light_imports(statement, absent):
    assert not loaded_after(statement) & absent


def test_every_public_name_resolves():
    assert len(vdkit.__all__) <= 40
    for name in vdkit.__all__:
        assert getattr(vdkit, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'decode_fast'; it offers"):
        _ = vdkit.decode_fast


MOVED = {
    "decode.chunks": "ChunkRecord DecodeResult",
    "trace.files": "write_trace",
    "models.latents": "latents_metadata",
    "sinks": "ThrottledSink",
    "trace": "balancing_mb_per_s chunk_steps",
    "trace.stalls": "stalls_from_records",
    "record.recording": "saving_usd usd_per_video_hour",
    "record.stats": "permutation_p",
    "measure.nvml": "NvmlSampler",
    "measure.profiler": "count_flops measure_ceiling",
    "measure.quality": "psnr_db ssim",
    "predict.advise": "recommend storage_sensitivity",
    "predict": "Cost StageCosts Storage predict",
    "present.comparison": "comparison_table",
    "present.documents": "benchmark_table breakdown_table variant_table",
    "present.charts": "plot_ablation plot_families plot_headroom plot_heatmap plot_hiding "
    "plot_predictions plot_rounds plot_sensitivity",
    "present.results_list": "results_table",
    "present.stages": "plot_denoising plot_frames plot_stages plot_vram stage_rows stages_table "
    "vram_points vram_words",
    "present.sweep_document": "sweep_table",
    "present": "Table",
    "present.timeline": "plot_latencies plot_nvml plot_overlap plot_utilization plot_waterfall",
}
"""Module to names that were public in the version before."""


def test_a_name_that_moved_says_where_it_is():
    homes = {name: home for home, names in MOVED.items() for name in names.split()}
    there = {name: f"vdkit.{home}.{name}" for name, home in homes.items()} | vdkit._REPLACED
    assert not there.keys() & set(vdkit.__all__)
    for name, place in there.items():
        assert pydoc.locate(place) is not None, place
        if name != "predict":  # which is a package too, and imported by now
            with pytest.raises(AttributeError, match=f"vdkit.{name} .*{re.escape(place)}$"):
                getattr(vdkit, name)
    with pytest.raises(ImportError, match=r"psnr_db moved to vdkit\.measure\.quality\.psnr_db"):
        exec("from vdkit import psnr_db")
    assert not hasattr(vdkit, "read_result")


def test_predict_is_the_package():
    code = "import vdkit\ntry: vdkit.predict\nexcept AttributeError as error: print(error)\n"
    code += "from vdkit import predict; print(predict.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "vdkit.predict is a package: write import vdkit.predict; the function is "
        "vdkit.predict.predict", "vdkit.predict",
    ]  # fmt: skip


def test_environment_names_no_package_of_its_own():
    """environment.yml installs what pyproject.toml says, and nothing else; torch has G7e's code."""
    text = (ROOT / "environment.yml").read_text()
    (version, cuda), told = re.findall(r"torch (\S+) is the wheel of CUDA (\S+),", text)[0], text
    assert f"torch=={version}\n" in (ROOT / "constraints.txt").read_text()
    table = Path(importlib.util.find_spec("torch").origin).parent / "cuda" / "__init__.py"
    named = dict(re.findall(r'"(\d+\.\d)": {\s+"x86_64": {([\d, ]+)}', table.read_text()))
    codes = [f"{int(code) // 10}.{int(code) % 10}" for code in named[cuda].split(", ")]
    assert codes[-1] == "12.0" and f"{', '.join(codes[:-1])} and 12.0" in told.replace("\n# ", " ")
    lines = text.splitlines()
    entries = [line.strip(" -") for line in lines if line.strip().startswith("- ")]
    assert [e.split("=")[0] for e in entries] == [
        "conda-forge",
        "python",
        "pip",
        "pip:",
        "c constraints.txt",
        "e .",
    ]


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    names = {re.split(r"[<>=\[]", entry)[0].lower() for entry in wanted}
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in pins if "==" in line}
    assert names <= pinned, names - pinned


def test_an_install_brings_what_the_code_opens():
    """Every file of the miniature but what only its making needs, and what pages are made of."""
    made = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    globs = [glob for globs in made["data-files"].values() for glob in globs]
    brought = {path for glob in globs for path in ROOT.glob(glob)}
    folder = ROOT / "data" / "tiny-wan"
    opened = {path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json")}
    left = {folder / "metrics.json", *(folder / "training").iterdir()}
    assert opened - left <= brought
    assert set((ROOT / "data" / "stlpips").iterdir()) - brought == {
        ROOT / "data" / "stlpips" / "convert.py"
    }
    assert set((ROOT / "data" / "latents").iterdir()) <= brought
    pages = {f"present/{name}" for name in made["package-data"]["vdkit.present"]}
    assert pages == {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.*")
        if path.suffix in (".html", ".css")
    }

"""The house: imports point down, and what must open anywhere loads neither torch nor a GPU."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vdkit"

# What each part may import besides itself, the standard library and (below) other packages.
MAY_IMPORT = {
    "decode": set(),
    "sinks": {"decode"},
    "memory_sink": {"decode"},
    "sink_spec": {"decode", "sinks"},
    "models": {"decode"},
    "measure": {"decode"},
    "present": {"decode", "measure"},
    "demo": {"decode", "measure", "models", "present", "sinks", "sink_spec"},
    "local_workshop": {"decode", "measure", "models", "present", "sinks", "sink_spec"},
    "cli": {"decode", "measure", "models", "present", "sinks", "sink_spec", "demo"},
    "__main__": {"cli", "measure"},
}
DECODE_PACKAGES = {"torch", "numpy", "tqdm"}  # numpy only as a type, tqdm only for the bar


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


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
    assert "models" not in MAY_IMPORT["measure"] and "sinks" not in MAY_IMPORT["measure"]
    found = list(imports(PACKAGE / "measure" / "bench.py"))
    assert "vdkit.decode.pipelined.decode_async" in found


def loaded_after(statement):
    code = f"{statement}; import sys; print(' '.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "import vdkit",
            {"torch", "matplotlib", "numpy", "pandas", "scipy", "diffusers", "pydantic"},
        ),
        ("import vdkit.measure.stats, vdkit.measure.records", {"torch", "matplotlib", "scipy"}),
        ("import vdkit.present.plots, vdkit.present.tables", {"torch", "diffusers"}),
        (
            "import vdkit.present.table, vdkit.present.tables, vdkit.present.latex, "
            "vdkit.present.digits, vdkit.present.profile_report",
            {"torch", "matplotlib", "pandas", "diffusers"},
        ),
        ("import vdkit.__main__", {"torch", "matplotlib", "numpy"}),
        (
            "import vdkit.measure.trace_reader, vdkit.measure.figures, vdkit.measure.export",
            {"torch", "matplotlib", "pandas", "diffusers"},
        ),
        (
            "import vdkit.measure.sampler, vdkit.measure.profile_records",
            {"torch", "matplotlib", "pandas", "diffusers", "pynvml"},
        ),
        (
            "import vdkit.present.charts, vdkit.present.profile_tables",
            {"torch", "diffusers", "pandas"},
        ),
        (
            "import vdkit.measure.predict, vdkit.measure.fit",
            {"torch", "matplotlib", "pandas", "pydantic"},
        ),
        (
            "import vdkit.measure.money, vdkit.cli.money",
            {"torch", "matplotlib", "numpy", "pandas", "pydantic"},
        ),
        ("import vdkit.measure.results, vdkit.present.results_table", {"torch", "matplotlib"}),
        ("import vdkit.memory_sink, vdkit.measure.vram", {"torch", "matplotlib", "pandas"}),
        ("import vdkit.present.stages", {"torch", "matplotlib", "pandas", "diffusers"}),
        (
            "import vdkit.present.stages_chart, vdkit.present.vram_chart",
            {"torch", "pandas", "diffusers"},
        ),
        ("import vdkit.present.money_cells", {"torch", "matplotlib", "pandas", "pynvml"}),
        (
            "import vdkit.measure.compare, vdkit.present.compare_tables, vdkit.cli.compare",
            {"torch", "matplotlib", "pandas", "diffusers"},
        ),
        (
            "import vdkit.measure.splits, vdkit.present.control_report, vdkit.cli.aa, "
            "vdkit.present.recorded_page",
            {"torch", "pandas", "diffusers"},
        ),
        (
            "import vdkit.measure.variant_records, vdkit.present.variants_table, "
            "vdkit.present.readme_variants",
            {"torch", "matplotlib", "pandas", "diffusers"},
        ),
        (
            "import vdkit.present.report_html, vdkit.present.report_words, "
            "vdkit.present.report_pair, vdkit.cli.report",
            {"torch", "matplotlib", "pandas", "diffusers"},
        ),
        (
            "import vdkit.present.ablation_report, vdkit.present.chunk_life, "
            "vdkit.present.published_table",
            {"torch", "pandas", "diffusers"},
        ),
        ("import vdkit.measure.published, vdkit.measure.steps", {"torch", "numpy", "pydantic"}),
        ("import vdkit.present.report, vdkit.present.report_parts", {"torch", "diffusers"}),
        (
            "import vdkit.measure.headroom, vdkit.measure.sweep_advice",
            {"torch", "matplotlib", "pandas", "diffusers", "pydantic"},
        ),
        (
            "import vdkit.present.headroom_charts, vdkit.present.sweep_charts",
            {"torch", "pandas", "diffusers"},
        ),
        ("import vdkit.cli.decoders, vdkit.cli.variants", {"torch", "numpy", "diffusers"}),
        ("import vdkit.measure.quality", {"torch", "matplotlib", "cv2", "skimage"}),
        ("import vdkit; vdkit.read_trace, vdkit.analyze", {"torch", "matplotlib", "pydantic"}),
        (
            "import vdkit; vdkit.read_result, vdkit.plot_timeline, vdkit.DecodeConfig",
            {"torch", "scipy"},
        ),
    ],
)
def test_light_imports(statement, absent):
    assert not loaded_after(statement) & absent


def test_every_public_name_resolves():
    import vdkit

    for name in vdkit.__all__:
        assert getattr(vdkit, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'decode_fast'; it offers"):
        _ = vdkit.decode_fast


def test_environment_names_no_package_of_its_own():
    """environment.yml installs what pyproject.toml says, and nothing else."""
    lines = (ROOT / "environment.yml").read_text().splitlines()
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
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.split(r"[<>=\[]", entry)[0].lower() for entry in wanted}
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in pins if "==" in line}
    assert names <= pinned, names - pinned

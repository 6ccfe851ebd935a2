"""Planted bugs, each of which the tests that it names must notice: ``make mutants``.

Every ``NAME.patch`` here says in its first lines what the bug is, then ``# killed by:`` and tests.
They have to pass without the patch, and each of them to fail an assertion with it; anything else is
a failure of this program. All of it happens in a copy of the work tree, so that no bug can stay in
the work tree, however this ends. Names as arguments: only these.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TIMEOUT_S = 120
KILLED_BY = "# killed by: "
RESULT = re.compile(r"^(\S+?::.+?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b", re.MULTILINE)
ASSERTED = re.compile(r"^FAILED (\S+?::.+?) - (?:assert|AssertionError|Failed)\b", re.MULTILINE)


def copy_tree(to: Path) -> None:
    """What git knows, or would add, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def outcomes(tests: list[str], tree: Path) -> dict[str, str]:
    """Each test's outcome in ``tree``, ``ASSERTED`` if an assertion failed; missing if none."""
    if not tests:
        return {}
    # No bytecode: a patched file can have the size and the second of the one before it.
    paths = [str(tree), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-vv", "-rf", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=tree, env=os.environ | settings, capture_output=True, text=True,
            timeout=TIMEOUT_S * len(tests),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {}
    found: dict[str, str] = {}
    for name, outcome in RESULT.findall(done.stdout):
        found.setdefault(name, outcome)
    if not found:  # a test that is not there, a module that cannot be imported
        print((done.stdout + done.stderr)[-2000:], file=sys.stderr)
    return found | dict.fromkeys(ASSERTED.findall(done.stdout), "ASSERTED")


def apply(patch: Path, tree: Path, *options: str) -> bool:
    command = ["git", "apply", *options, str(patch)]
    # Not as a part of a repository that the temporary folder may lie in.
    alone = os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)}
    return subprocess.run(command, cwd=tree, env=alone, capture_output=True).returncode == 0


def judge(patch: Path, tests: list[str], before: dict[str, str], tree: Path) -> str:
    """What is to be said of one mutant; "killed" and "needs a GPU" are well."""
    if not tests:
        return f"names no test (a line that begins with {KILLED_BY!r})"
    healthy = {test: before.get(test, "did not run") for test in tests}
    if set(healthy.values()) == {"SKIPPED"} and all("/gpu/" in test for test in tests):
        return "needs a GPU"
    if bad := [f"{test} {how}" for test, how in healthy.items() if how != "PASSED"]:
        return f"without the bug: {', '.join(bad)}"
    if not apply(patch, tree):
        return "does not apply"
    after = outcomes(tests, tree)
    apply(patch, tree, "--reverse")
    how = {test: after.get(test, "did not run") for test in tests}
    if bad := [f"{test} {how}" for test, how in how.items() if how != "ASSERTED"]:
        return ("SURVIVED: " if "PASSED" in how.values() else "broken: ") + ", ".join(bad)
    return "killed"


def main(names: list[str]) -> int:
    patches = [HERE / f"{name}.patch" for name in names] or sorted(HERE.glob("*.patch"))
    tests = {
        patch: [
            line.removeprefix(KILLED_BY).strip()
            for line in patch.read_text().splitlines()
            if line.startswith(KILLED_BY)
        ]
        for patch in patches
    }
    width = max(len(patch.stem) for patch in patches)
    well = True
    with tempfile.TemporaryDirectory(prefix="vdkit-mutants-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        print(f"{len(patches)} mutants; first their tests without them", flush=True)
        before = outcomes(sorted({test for named in tests.values() for test in named}), tree)
        if not before:  # one that is not there stops all: each mutant's by themselves
            before = {k: v for named in tests.values() for k, v in outcomes(named, tree).items()}
        for patch in patches:
            start_s = time.monotonic()
            verdict = judge(patch, tests[patch], before, tree)
            well &= verdict in ("killed", "needs a GPU")
            by = dict.fromkeys(test.partition("[")[0].rpartition("/")[2] for test in tests[patch])
            said = f"killed by {', '.join(by)}" if verdict == "killed" else verdict
            print(f"{patch.stem:{width}}  {time.monotonic() - start_s:4.1f} s  {said}", flush=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

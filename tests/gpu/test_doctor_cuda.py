"""`vdkit doctor` at a real GPU: every line is there, and none fails by our own fault."""

from vdkit.cli.machine import examined
from vdkit.measure.doctor import CHECKS


def test_every_line_is_there(tmp_path):
    findings = {one.name: one for one in examined(tmp_path)}
    assert list(findings)[:-5] == [name for those in CHECKS.values() for name in those]
    assert not [one for one in findings.values() if "Error" in one.value]
    ours = {"GPU", "matrix rate", "to the host", "CUPTI", "torch", "results", "fast"}
    assert {name for name in ours if findings[name].state == "wrong"} == set(), findings
    assert findings["to the host"].figures["pinned_gb_s"] > 1
    assert findings["matrix rate"].figures["tflop_per_s"] > 1
    assert not list(tmp_path.iterdir())

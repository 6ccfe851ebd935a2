"""The rules of the Chrome JSON trace format that Perfetto's importer relies on, as a check.

Perfetto's Python package does not bring its trace processor along, so the rules are written down
here: https://perfetto.dev/docs/getting-started/other-formats and the Trace Event Format document.
"""

import gzip
import json


def load(path):
    with gzip.open(path, "rt") as file:
        return json.load(file)


def problems(trace):
    """Everything that Perfetto would refuse, drop or hide; empty for a valid trace."""
    found = []
    slices, named, tracks = {}, set(), set()
    for number, event in enumerate(trace["traceEvents"]):
        phase = event.get("ph")
        if phase == "M":
            if not isinstance(event.get("args"), dict) or "name" not in event:
                found.append(f"event {number}: metadata without args")
            if event["name"] == "thread_name":
                named.add((event["pid"], event["tid"]))
            continue
        if phase not in ("X", "C"):
            found.append(f"event {number}: phase {phase!r}")
            continue
        if not all(isinstance(event.get(key), int) for key in ("pid", "tid")):
            found.append(f"event {number}: pid or tid is no integer")
        if not isinstance(event.get("ts"), int | float) or event["ts"] < 0:
            found.append(f"event {number}: ts {event.get('ts')!r}")
        if not isinstance(event.get("name"), str) or not event["name"]:
            found.append(f"event {number}: no name")
        if phase == "C":
            values = event.get("args", {})
            if not values or not all(isinstance(v, int | float) for v in values.values()):
                found.append(f"event {number}: counter without numbers")
            continue
        if not isinstance(event.get("dur"), int | float) or event["dur"] < 0:
            found.append(f"event {number}: dur {event.get('dur')!r}")
            continue
        if not isinstance(event.get("args", {}).get("chunk"), int):
            found.append(f"event {number}: no chunk")
        track = (event["pid"], event["tid"])
        tracks.add(track)
        start = round(event["ts"] * 1000)
        slices.setdefault(track, []).append((start, start + round(event["dur"] * 1000)))
    found += [f"track {track} has no name" for track in tracks - named]
    for track, spans in slices.items():
        open_until = []
        for start, stop in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_until and open_until[-1] <= start:
                open_until.pop()
            if open_until and stop > open_until[-1]:
                found.append(f"track {track}: a slice at {start} ns overlaps without nesting")
            open_until.append(stop)
    return found

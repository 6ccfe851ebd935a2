"""What is said of many GPUs, simulated: a row for each number of them, and what to buy."""

from __future__ import annotations

from vdkit.predict.fleet import Fleet
from vdkit.predict.shared import SHARED
from vdkit.present import Number, Table, significant
from vdkit.present.document import Document, Text, section

_OF_ALL = "shared storage"


def knee_words(made: Fleet) -> str:
    """Where the knee is, what makes it, and what twice as much of that would do."""
    if not made.knees:
        return "No knee: nothing that they share is used up. Buy GPUs."
    whose = {name: "all hosts" if name == _OF_ALL else "a host" for name in made.knees}
    (first, knee), *rest = made.knees.items()
    then = "".join(f" Next is {name}, at {significant(at)} of {whose[name]}." for name, at in rest)
    return (
        f"The knee is at {significant(knee)} GPUs of {whose[first]}: there {first} "
        f"{'are' if first == 'cores' else 'is'} used up. Buy that first: twice as much carries "
        f"{significant(2 * knee)}.{then}"
    )


def fleet_document(made: Fleet) -> Document:
    """A row per number of GPUs, the knee, and what a video was taken to want."""
    whole = made.info.kind.whole
    rows = [
        {
            "GPUs": Number(one.gpus, 0),
            "hosts": Number(one.hosts, 0),
            f"{whole}s / h": significant(one.per_hour, 4),
            "efficiency %": Number(one.efficiency_percent, 1),
            "limited by": one.limit,
            **{f"{name} %": Number(used, 1) for name, used in one.used_percent.items()},
        }
        for one in made.points
    ]
    has = [
        f"{much:g} cores" if name == "cores" else f"{name} of {much:g} {SHARED[name]}"
        for name, much in made.hosts.each(1)[1].items()
    ]
    wants = [
        f"{much:.3g} {'core-seconds' if name == 'cores' else f'{SHARED[name][:2]} of {name}'}"
        for name, much in made.wanted.items() if name != _OF_ALL or "storage" not in made.wanted
    ]  # fmt: skip
    caption = (
        "SIMULATED, not measured, from the costs of one GPU; mode async. Hosts of "
        f"{made.hosts.gpus} GPUs; {', '.join(has)}:"
    )
    note = (
        f"Each GPU decodes one {whole} after the other. Efficiency: of as many times what one GPU "
        "gives on such a host. %: share of a resource that is in use, over time. Of a host with "
        "more than 8 GPUs 8 are simulated with their share of it, of several hosts one."
    )
    assumed = f"Alone a {whole} takes {', '.join([f'{made.alone_s:.3g} s', *wants])}."
    if "cores" in made.wanted:
        assumed += " Core-seconds are not recorded: a thread at work was taken to fill a core, an "
        assumed += "encoder its share of the cores that it was measured on."
    knee = knee_words(made)
    parts = Table(rows, caption, note), Text(knee), Text(assumed)
    return Document("GPUs", "Simulated · mode async", (knee,), (section("fleet", "GPUs", *parts),))

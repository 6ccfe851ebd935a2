"""The options for money and energy that every command with a table of latencies shares."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

PRICE = "--usd-per-hour"


def add_money(command: argparse.ArgumentParser) -> None:
    """``--usd-per-hour`` and ``--energy``; `money` reads them."""
    command.add_argument(
        PRICE,
        type=float,
        metavar="PRICE",
        help="price of an hour of the machine, US dollars: adds what an hour of video costs and "
        "what 1,000 hours save against the baseline; never recorded",
    )
    command.add_argument(
        "--energy",
        action="store_true",
        help="add joules per second of video, from the NVML energy counter around each run",
    )


def money(options: argparse.Namespace) -> dict[str, Any]:
    """``usd_per_hour`` and ``energy`` for what makes tables; ValueError for an unusable price.

    Call it before anything is loaded or measured.
    """
    from vdkit.record.money import check_price

    price = options.usd_per_hour
    return {
        "usd_per_hour": None if price is None else check_price(price),
        "energy": options.energy,
    }


def without_price(arguments: Sequence[str]) -> list[str]:
    """A command line as it is recorded: without the price, which says nothing about the runs.

    As argparse has it, the option may be cut short and joined to its value with ``=``.
    """
    kept, skip = [], False
    for argument in arguments:
        name, joined, _ = argument.partition("=")
        if skip:
            skip = False
        elif len(name) > 2 and PRICE.startswith(name):
            skip = not joined
        else:
            kept.append(argument)
    return kept

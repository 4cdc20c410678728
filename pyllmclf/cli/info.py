"""``pyllmclf info``: shows versions, devices and backends."""

from __future__ import annotations

from .options import Debug, Json, print_json


def info(as_json: Json = False, debug: Debug = False) -> None:
    """Show versions, devices, and which implementation of each op runs."""
    from .. import environment

    if as_json:
        print_json(environment.config())
    else:
        environment.show_config()

"""``mlcflow cache``: what is kept of earlier compilations."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from mlcflow import config
from mlcflow.errors import MlcflowError
from mlcflow.tools.options import json_option


@click.command(name="cache")
@click.option("--clear", is_flag=True, help="Remove all compiled programs.")
@json_option
def command(clear: bool, as_json: bool) -> None:
    """Show where compiled programs are kept, how many, how large; or remove them.

    MLCFLOW_CACHE_DIR names the directory; if it is empty, none are kept.
    """
    from mlcflow.runtime import cache, object_code

    path = config.from_environment().cache_dir
    report: dict[str, Any] = {"directory": str(path) if path else None, "problem": None}
    if path is None:
        report["problem"] = "switched off: MLCFLOW_CACHE_DIR is empty"
    elif not cache.is_supported():
        report["problem"] = "switched off: this system does not tell whose a file is"
    elif not object_code.is_available():
        report["problem"] = "switched off: it needs Linux, and pip install 'mlcflow[cache]'"
    if path is not None and cache.is_supported():
        store = cache.Cache(path)
        report |= {"entries": [], "bytes": 0, "limit": store.limit}
        try:
            if clear:
                report["removed"] = store.clear()
            entries = store.entries()
        except cache.Refused as error:
            raise MlcflowError(f"the cache is not used: {error}") from error
        report["entries"] = [vars(entry) for entry in entries]
        report["bytes"] = sum(entry.size for entry in entries)
    click.echo(json.dumps(report, indent=2) if as_json else _text(report))


def _text(report: dict[str, Any]) -> str:
    lines = [report["directory"] or "no directory"]
    if "removed" in report:
        lines.append(f"  removed {report['removed']} programs")
    if "entries" in report:
        entries, size, limit = report["entries"], report["bytes"] / 1e6, report["limit"] / 1e6
        lines.append(f"  {len(entries)} compiled programs, {size:.1f} MB of at most {limit:.0f} MB")
        for entry in reversed(entries[-10:]):
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["used"]))
            lines.append(f"  {entry['key'][:16]}  {entry['size'] / 1e3:9.1f} kB  used {used}")
        if len(entries) > 10:
            lines.append("  ...")
    if report["problem"]:
        lines.append(f"  {report['problem']}")
    return "\n".join(lines)

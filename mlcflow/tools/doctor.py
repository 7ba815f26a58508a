"""``mlcflow doctor``: what is installed, what the machine has, and whether compiling works."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mlcflow import __version__
from mlcflow.tools.options import json_option

if TYPE_CHECKING:
    from mlcflow.check.packages import Package
    from mlcflow.check.plugins import State
    from mlcflow.target import Target


@click.command(name="doctor")
@json_option
def command(as_json: bool) -> None:
    """Show versions and the machine, what is missing, and test that compiling works.

    Exits with 1 when a needed package is missing or of another version, when a plug-in does
    not load, or when the test fails.
    """
    from mlcflow.check.packages import packages
    from mlcflow.check.plugins import check_plugins

    found = packages()
    needed = [package for package in found if not package.extra]
    # Without one of them, nothing can be measured or tested.
    target = _host() if all(package.installed for package in needed) else None
    plugins = check_plugins(load=target is not None)
    tests = _self_tests(target) if target else []
    healthy = bool(tests) and all(p.fits for p in needed) and all(t["works"] for t in tests)
    healthy = healthy and not any(plugin.problem for plugin in plugins)
    if as_json:
        report = {
            "mlcflow": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": [asdict(p) | {"fits": p.fits, "command": p.command} for p in found],
            "plugins": [asdict(plugin) for plugin in plugins],
            "target": asdict(target) if target else None,
            "self_test": tests,
            "healthy": healthy,
        }
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(_text(found, plugins, target, tests, healthy))
    if not healthy:
        raise click.exceptions.Exit(1)


def _host() -> Target:
    from mlcflow.target import Target

    return Target.host()


def _self_tests(target: Target) -> list[dict[str, Any]]:
    from mlcflow.check.self_test import self_test
    from mlcflow.gpu.driver import has_driver
    from mlcflow.pipelines import PIPELINES
    from mlcflow.target import Target

    tests = []
    for pipeline in PIPELINES:
        begin, problem = time.perf_counter(), ""
        try:
            if pipeline == "cuda":
                if not has_driver():  # nothing is wrong with a machine that has no GPU
                    continue
                target = Target.host_gpu()
            self_test(pipeline, target)
        except Exception as error:  # whatever is wrong, the rest of the report is wanted
            problem = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - begin
        tests.append(
            {"pipeline": pipeline, "works": not problem, "seconds": seconds, "problem": problem}
        )
    return tests


def _text(
    found: list[Package],
    plugins: list[State],
    target: Target | None,
    tests: list[dict[str, Any]],
    healthy: bool,
) -> str:
    lines = [
        f"mlcflow {__version__}, Python {platform.python_version()}, {platform.platform()}",
        "",
        "packages",
        *(f"  {package.name:<15s} {_state(package)}" for package in found),
    ]
    lines += ["", "plug-ins", *map(_plugin, plugins), *([] if plugins else ["  none"])]
    if target:
        lines += [
            "",
            "machine",
            *(f"  {name:<15s} {value}" for name, value in _machine(target).items()),
            "",
            "compiling and running a linear layer",
            *(f"  {test['pipeline']:<15s} {_outcome(test)}" for test in tests),
        ]
    return "\n".join([*lines, "", "all is well" if healthy else "something is wrong: see above"])


def _state(package: Package) -> str:
    needed = f"for mlcflow[{package.extra}]" if package.extra else "needed"
    if package.installed is None:
        return f"missing, {needed}: {package.command}"
    if not package.fits:
        return f"{package.installed}, but {needed} is {package.wanted}: {package.command}"
    return f"{package.installed:<15s} {package.extra and needed}".rstrip()


def _plugin(plugin: State) -> str:
    line = f"  {plugin.kind:<15s} {plugin.name:<15s} {plugin.package}"
    return f"{line}\n    {plugin.problem}" if plugin.problem else line


def _machine(target: Target) -> dict[str, str]:
    l1, l2, l3 = (f"{size >> 10} KiB" for size in target.caches)
    return {
        "target": f"{target} ({target.chip}, {target.triple})",
        "cores": str(target.cores),
        "vectors": f"{target.vector_registers} registers of {target.vector_bits} bits",
        "caches": f"L1 {l1}, L2 {l2}, L3 {l3}",
        "features": " ".join(target.features) or "those of the chip",
    }


def _outcome(test: dict[str, Any]) -> str:
    return f"right, in {test['seconds']:.2f} s" if test["works"] else f"failed: {test['problem']}"

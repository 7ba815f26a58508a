"""The page as HTML: style, script, pictures and the compressed text of every stage in one file."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcflow.errors import MlcflowError
from mlcflow.report import page_plots as plots
from mlcflow.report.profile_text import scaled
from mlcflow.report.timing import duration

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
except ModuleNotFoundError as missing:
    raise MlcflowError(f"HTML: needs {missing.name}: pip install 'mlcflow[report]'") from missing

if TYPE_CHECKING:
    from mlcflow.check.certificate import Row
    from mlcflow.report.page import Page

HERE = Path(__file__).parent


def as_html(page: Page) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "bytes": _bytes, "scaled": _thousands}
    colours = plots.rule_colours(page.profile)
    rows = {row.name: row for row in page.profile.kernels} if page.profile else {}
    return environment.get_template("page.html.j2").render(
        page=page,
        style=_file("page.css"),
        script=_file("page.js"),
        totals=_stage_rows(page),
        timeline=plots.timeline(page.steps),
        graph=plots.graph(page.graph, rows, colours) if page.graph else "",
        roofline=plots.roofline(page.profile, colours) if page.profile else "",
        memory=plots.memory_plan(page.memory) if page.memory and page.memory.buffers else "",
        colours={name: plots.as_variable(colour) for name, colour in colours.items()},
        certified=_certified(page),
        names=list(page.stages),
        packed={name: _packed(texts) for name, texts in page.stages.items()},
    )


def _file(name: str) -> Markup:
    return Markup((HERE / name).read_text(encoding="utf-8"))  # noqa: S704 (our own)


def _packed(texts: Mapping[str, str]) -> str:
    """JSON, gzip, base64: what the script inflates when somebody asks for the stage."""
    data = json.dumps(texts).encode()
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def _stage_rows(page: Page) -> list[dict[str, Any]]:
    """A row a stage with its steps, and how wide their bars are."""
    longest = max((step.seconds for step in page.steps), default=0.0) or 1.0
    totals = {
        name: sum(step.seconds for step in page.steps if step.stage == name)
        for name in dict.fromkeys(step.stage for step in page.steps)
    }
    most = max(totals.values(), default=0.0) or 1.0
    return [
        {
            "name": name,
            "seconds": total,
            "width": f"{100 * total / most:.1f}",
            "operations": page.operations.get(name),
            "bytes": sum(map(len, page.stages.get(name, {}).values())),
            "steps": [
                {"step": step, "width": f"{100 * step.seconds / longest:.1f}"}
                for step in page.steps
                if step.stage == name
            ],
        }
        for name, total in totals.items()
    ]


def _certified(page: Page) -> list[tuple[str, list[tuple[Row, str]]]]:
    """The rows of the certificate under their titles, each with the width of its bar."""
    if page.certificate is None:
        return []
    parts = (("output", page.certificate.outputs), ("kernel", page.certificate.kernels))
    return [
        (title, [(row, f"{plots.decades(row.of_bound):.1f}") for row in rows])
        for title, rows in parts
        if rows
    ]


def _bytes(value: float) -> str:
    return scaled(value, 1024, (" B", " KiB", " MiB", " GiB"))


def _thousands(value: float) -> str:
    return scaled(value, 1000, ("", " k", " M", " G", " T"))

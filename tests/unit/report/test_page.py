"""The report page: complete, in one file, and usable by keyboard in light and dark."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from browser import Browser
from click.testing import CliRunner

import mlcflow
from mlcflow import Target
from mlcflow.check.isolate import is_supported
from mlcflow.graph.outline import kernels
from mlcflow.pipelines import build
from mlcflow.report.page import Page, gather
from mlcflow.report.step_sizes import watched
from mlcflow.tools import main

VOID = {"meta", "link", "br", "img", "input", "hr", "col"}


class Reader(HTMLParser):
    """Collects identifiers, links, what is loaded, and the packed stages; tags must close."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.links: set[str] = set()
        self.loads: list[str] = []
        self.stages: dict[str, str] = {}
        self.text: list[str] = []
        self.stack: list[str] = []
        self.stage = ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        if tag not in VOID:
            self.stack.append(tag)
        if "id" in given:
            self.ids[given["id"]] += 1
        self.links |= {given[key] for key in ("href", "xlink:href") if key in given}
        self.loads += [given["src"]] if "src" in given else []
        self.stage = given.get("data-stage", "") if tag == "script" else self.stage

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag
        self.stage = ""

    def handle_data(self, data: str) -> None:
        if self.stage:
            self.stages[self.stage] = data
        self.text.append(data)


def small() -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 8)]
    return torch.nn.Sequential(*layers, torch.nn.Softmax(-1)).eval(), torch.randn(4, 20)


@pytest.fixture(scope="module")
def page() -> Page:
    model, x = small()
    pipeline, sizes = watched(build("cpu", Target.host()))
    exe = mlcflow.compile(model, x, pipeline=pipeline)
    options = {"model": "<small> & sound", "target": Target.host(), "seconds": 0.05}
    return gather(exe, (x,), {}, steps=sizes, **options)


@pytest.fixture(scope="module")
def file(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page.write(tmp_path_factory.mktemp("report") / "made" / "page.html")


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text())
    reader.close()
    assert not reader.stack
    return reader


def test_one_file_that_loads_nothing(file: Path) -> None:
    reader = read(file)
    assert not reader.loads
    assert {link[0] for link in reader.links} == {"#"}
    assert [name for name, count in reader.ids.items() if count > 1] == []
    assert {link[1:] for link in reader.links} <= set(reader.ids)
    style = re.search(r"<style>(.*?)</style>", file.read_text(), re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style


def test_every_kernel_stage_and_step_is_there(page: Page, file: Path) -> None:
    reader = read(file)
    cut = {each.kernel for each in page.schedules}
    assert len(cut) >= 3 and {f"schedule-{name}" for name in cut} <= set(reader.ids)
    called = {call.kernel for call in page.graph}
    assert {f"kernel-{name}" for name in called} <= set(reader.ids)
    assert [step.stage for step in page.steps].count("llvm") > 5
    assert all(step.operations for step in page.steps)
    assert page.operations["llvm"] == page.steps[-1].operations
    assert any(each.python for each in page.schedules)
    text = "".join(reader.text)
    assert "<small> & sound" in text and "within its bounds" in text
    assert all(step.name in text for step in page.steps)


def test_the_ir_of_each_stage_is_packed(page: Page, file: Path) -> None:
    reader = read(file)
    assert list(reader.stages) == list(page.stages)
    for name, packed in reader.stages.items():
        found = json.loads(gzip.decompress(base64.b64decode(packed)))
        assert found == dict(page.stages[name]) and "main" in found
    assert "linalg" in "".join(page.stages["simplify"].values())
    assert "llvm." in page.stages["llvm"]["main"]


def test_the_graph_says_who_reads_what(page: Page) -> None:
    first, *_, last = page.graph
    assert first.reads and not first.after
    assert last.gives == ("result 0",) and last.after == (last.number - 1,)


def test_a_pipeline_without_kernels_or_a_memory_plan() -> None:
    model, x = small()
    exe = mlcflow.compile(model, x, pipeline="reference")
    assert not any(kernels(record.module) for record in exe.stages.records)
    page = gather(exe, (x,), {}, model="plain", target=Target.host(), seconds=0.05)
    assert "plan_memory" in page.missing["memory"]
    assert "plan_memory" in page.to_html()


def test_command(tmp_path: Path) -> None:
    model = tmp_path / "model.py"
    model.write_text(
        "import torch\nmodel = torch.nn.Linear(8, 4).eval()\ninputs = torch.randn(2, 8)\n"
    )
    target = tmp_path / "out.html"
    result = CliRunner().invoke(main, ["report", str(model), "-o", str(target), "--seconds=0.05"])
    assert result.exit_code == 0, result.output
    assert "out.html" in result.output and "Certificate" in target.read_text()
    assert not list(tmp_path.glob("*.part"))
    missing = CliRunner().invoke(main, ["report", str(tmp_path / "none.py")])
    assert missing.exit_code == 2


CRASHES = """
import os, torch
from mlcflow import Pipeline, Stage

model = torch.nn.ReLU()
inputs = torch.ones(3)

def crash(module):
    os.abort()

pipeline = Pipeline("crashes", (Stage("first", crash),))
"""


@pytest.mark.skipif(not is_supported(), reason="needs worker processes")
def test_a_compiler_that_crashes(tmp_path: Path) -> None:
    file = tmp_path / "crashes.py"
    file.write_text(CRASHES)
    output = tmp_path / "out.html"
    result = CliRunner().invoke(
        main, ["report", str(file), f"--pipeline={file}", "-o", str(output)]
    )
    assert result.exit_code == 1 and "step 'crash': the compiler was ended by" in result.output
    assert not output.exists()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in(scheme: str, browser: Browser, file: Path) -> None:
    """Every colour of text has a contrast of 4.5 to what is behind it (WCAG 2, AA)."""
    browser.open(file, scheme)
    ratios = browser.value("""(() => {
      const probe = document.body.appendChild(document.createElement("span"));
      const luminance = (name) => {
        probe.style.color = `var(--${name})`;
        const parts = getComputedStyle(probe).color.match(/\\d+/g).slice(0, 3).map((v) => {
          const c = v / 255; return c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4; });
        return .2126 * parts[0] + .7152 * parts[1] + .0722 * parts[2];
      };
      const ratio = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
        return (x + .05) / (y + .05); };
      const texts = ["text", "quiet", "accent", "good", "bad"];
      const code = ["text", "keyword", "type", "value", "symbol", "string"];
      return Object.fromEntries([
        ...texts.flatMap((t) => ["ground", "panel"].map((g) => [`${t} on ${g}`, ratio(t, g)])),
        ...code.flatMap((t) => ["ground", "add", "del"].map((g) => [`${t} on ${g}`, ratio(t, g)])),
      ]);
    })()""")
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}
    ground = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) > 380) == (scheme == "light")
    assert not browser.errors


def test_by_keyboard(browser: Browser, file: Path) -> None:
    browser.open(file)
    browser.press("Tab")
    assert browser.value("document.activeElement.className") == "skip"
    browser.value("document.getElementById('ir').scrollIntoView({behavior: 'instant'})")
    browser.wait_for("document.querySelector('#ir-diff .del, #ir-diff .add')")
    shown = "document.getElementById('ir-status').textContent"
    before = browser.value(shown)
    browser.press("j")
    assert browser.value("document.querySelectorAll('#ir-diff .here').length") == 1
    browser.press("]")
    browser.wait_for(f"{shown} !== {json.dumps(before)}")
    assert "after kernels" in browser.value(shown) and "after schedule" in browser.value(shown)
    browser.value("document.querySelector('#stage-llvm summary').focus()")
    browser.press("Enter")
    assert browser.value("document.getElementById('stage-llvm').open")
    assert not browser.errors


def test_links_open_what_is_folded(browser: Browser, file: Path, page: Page) -> None:
    browser.open(file)
    name = page.schedules[0].kernel
    browser.value(f"location.hash = 'schedule-{name}'")
    browser.wait_for(f"document.getElementById('schedule-{name}').open")
    browser.value(f"document.querySelector('#schedule-{name} .show-ir').click()")
    browser.wait_for(f"document.getElementById('ir-function').value === '{name}'")
    assert not browser.errors


def test_the_difference_is_right(browser: Browser, file: Path) -> None:
    """Rows keep the order of both sides, and equal ones are equal."""
    browser.open(file)
    assert (
        browser.value("""(() => {
      let seed = 7;
      const random = (n) => (seed = (seed * 48271) % 2147483647) % n;
      for (let round = 0; round < 300; round++) {
        const make = () => Array.from({length: random(30)}, () => "abcdef"[random(6)]);
        const a = make(), b = round % 3 ? make() : [...a.slice(0, 9), "new", ...a.slice(9)];
        const rows = align(a, b);
        const left = rows.map((r) => r[0]).filter((n) => n >= 0);
        const right = rows.map((r) => r[1]).filter((n) => n >= 0);
        const off = (n, k) => n !== k;
        if (left.some(off) || left.length !== a.length) return `left ${a} | ${b}`;
        if (right.some(off) || right.length !== b.length) return `right ${a} | ${b}`;
        if (rows.some(([i, j, same]) => same && a[i] !== b[j])) return "unequal";
        if (round % 3 === 0 && rows.filter((r) => !r[2]).length > 1) return "too much";
      }
      return "right";
    })()""")
        == "right"
    )

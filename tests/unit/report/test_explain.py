"""What a schedule tells about itself."""

from __future__ import annotations

import json
import platform
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import mlcflow
from mlcflow import mlir
from mlcflow.errors import ScheduleError, VerificationError
from mlcflow.report.explain import Explanation
from mlcflow.report.nest import nest

is_elf = sys.platform == "linux" and platform.machine() == "x86_64"

KERNEL = """func.func @main(%a: tensor<32x16xf32>, %b: tensor<16x64xf32>, %c: tensor<64xf32>)
    -> tensor<32x64xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<32x64xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<32x64xf32>) -> tensor<32x64xf32>
  %p = linalg.matmul ins(%a, %b : tensor<32x16xf32>, tensor<16x64xf32>)
      outs(%f : tensor<32x64xf32>) -> tensor<32x64xf32>
  %r = linalg.generic {
      indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (j)>,
                       affine_map<(i, j) -> (i, j)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%p, %c : tensor<32x64xf32>, tensor<64xf32>) outs(%e : tensor<32x64xf32>) {
  ^bb0(%x: f32, %y: f32, %o: f32):
    %s = arith.addf %x, %y : f32
    linalg.yield %s : f32
  } -> tensor<32x64xf32>
  return %r : tensor<32x64xf32>
}"""


def scheduled(text: str = KERNEL) -> mlcflow.Schedule:
    """The module goes out of scope here: the schedule must keep it."""
    schedule = mlcflow.Schedule(mlir.parse(text))
    schedule.tile_and_fuse("final", [8, 32], order=[1, 0])
    schedule.split(schedule.loops("root")[-1], [None, 4])
    schedule.vectorize()
    schedule.hoist()
    return schedule


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    return scheduled().explain()


@pytest.fixture(scope="module")
def timed() -> Explanation:
    return scheduled().explain(measure=True)


def test_a_report_for_each_step_and_one_for_the_start(explanation: Explanation) -> None:
    pythons = [step.python.split("(")[0] for step in explanation.steps]
    assert pythons == ["", "sch.tile_and_fuse", "sch.split", "sch.vectorize", "sch.hoist"]
    assert [step.number for step in explanation.steps] == [0, 1, 2, 3, 4]
    assert (explanation.kernel, explanation.kind) == ("main", "contraction")
    assert explanation.loops == (32, 64, 16)
    assert explanation.operations == 2 * 32 * 64 * 16


def test_what_matched(explanation: Explanation) -> None:
    tile, split, vectorize, _ = (step.matched for step in explanation.steps[1:])
    assert tile == ("block final: generic over i 32, j 64",)
    assert split == ("loop root.k: 16 iterations, reduction, inside its block",)
    assert [line.split(":")[0] for line in vectorize] == [
        "block fill0",
        "block root",
        "block final",
    ]


def test_loops_before_and_after(explanation: Explanation) -> None:
    before, tiled, split = (step.program.nest for step in explanation.steps[:3])
    assert before == (
        "fill0: fill over i 32, j 64",
        "root: matmul over i 32, j 64, k 16 (reduction)",
        "final: generic over i 32, j 64",
    )
    assert tiled[:2] == ("for j_0 in 2", "  for i_0 in 4")
    assert tiled[3] == "    root: matmul over i 8, j 32, k 16 (reduction)"
    assert "    for k_0 in 4 (reduction)" in split


def test_operations_in_and_out(explanation: Explanation) -> None:
    tile, _, vectorize, hoist = (step.changed for step in explanation.steps[1:])
    assert tile["scf.for"] == (0, 2)
    assert "linalg.matmul" not in tile
    assert vectorize["linalg.matmul"] == (1, 0) and vectorize["vector.contract"] == (0, 1)
    assert hoist["vector.transfer_write"][0] > hoist["vector.transfer_write"][1]


@pytest.mark.skipif(not is_elf, reason="needs x86-64 Linux")
def test_instructions_of_every_program(explanation: Explanation) -> None:
    first, *_, last = (step.program.hot_loop for step in explanation.steps)
    assert first is not None and last is not None
    assert last.stores == 0 < first.stores


def test_without_measuring_there_are_no_numbers(explanation: Explanation) -> None:
    assert explanation.peak is None
    assert {step.program.seconds for step in explanation.steps} == {None}
    assert "GFLOP/s" not in str(explanation)


def test_measured(timed: Explanation) -> None:
    assert timed.peak and timed.peak > 0
    for step in timed.steps:
        gflops, part = timed.gflops(step), timed.of_peak(step)
        assert step.program.seconds and step.program.seconds > 0
        assert gflops == pytest.approx(timed.operations / step.program.seconds / 1e9)
        assert part == pytest.approx(gflops / timed.peak)


def test_elementwise_kernels_are_measured_in_bytes() -> None:
    schedule = mlcflow.Schedule(mlir.parse(TANGENTS))
    explanation = schedule.explain(measure=True)
    (step,) = explanation.steps
    assert explanation.bytes == 2 * 512 * 4
    assert explanation.peak is None and explanation.of_peak(step) is None
    assert explanation.gigabytes(step) == pytest.approx(4096 / step.program.seconds / 1e9)
    assert "GB/s" in str(explanation) and "of peak" not in str(explanation)
    if is_elf:
        assert set(step.program.calls) == {"tanf"}


def test_text_shows_the_staircase(timed: Explanation) -> None:
    text = str(timed)
    assert all(word in text for word in ("time", "GFLOP/s", "of peak", "(as written)"))
    assert "step 3: sch.vectorize(blocks=[])" in text
    assert "matched: loop root.k: 16 iterations" in text
    assert "scf.for 0 -> 2" in text
    assert max(map(len, text.splitlines())) <= 110


def test_the_schedule_is_left_as_it_is() -> None:
    schedule = scheduled()
    before, trace = str(schedule), str(schedule.trace)
    schedule.explain(measure=True)
    assert (str(schedule), str(schedule.trace)) == (before, trace)
    schedule.function.verify()


def test_a_kernel_of_a_module_is_shown_with_the_graph() -> None:
    module = mlcflow.compile(KERNEL).stages["kernels"]
    schedule = mlcflow.Schedule(module)
    schedule.tile_and_fuse(schedule.final, [8, 32])
    explanation = schedule.explain()
    assert f"call @{explanation.kernel}(" in explanation.graph
    assert explanation.kernel != "main"
    assert f"func.func private @{explanation.kernel}" in explanation.steps[0].program.text


def test_a_choice_changes_nothing() -> None:
    schedule = mlcflow.Schedule(mlir.parse(KERNEL))
    size = schedule.sample_categorical([4, 8], decision=8)
    schedule.split("root.i", [None, size])
    first, choice, _ = schedule.explain().steps
    assert "decision=8" in choice.python
    assert choice.program == first.program and not choice.changed


TANGENTS = """func.func @main(%x: tensor<512xf32>) -> tensor<512xf32> {
  %e = tensor.empty() : tensor<512xf32>
  %y = linalg.map { math.tan } ins(%x : tensor<512xf32>) outs(%e : tensor<512xf32>)
  return %y : tensor<512xf32>
}"""


OPEN = """func.func @main(%x: tensor<?xf32>) -> tensor<?xf32> {
  %zero = arith.constant 0 : index
  %n = tensor.dim %x, %zero : tensor<?xf32>
  %e = tensor.empty(%n) : tensor<?xf32>
  %y = linalg.exp ins(%x : tensor<?xf32>) outs(%e : tensor<?xf32>) -> tensor<?xf32>
  return %y : tensor<?xf32>
}"""


def test_open_sizes_are_explained_but_not_timed() -> None:
    module = mlcflow.compile(OPEN).stages["kernels"]
    schedule = mlcflow.Schedule(module)
    explanation = schedule.explain()
    assert explanation.loops == (-1,)
    assert [line.endswith("over i ?") for line in explanation.steps[0].program.nest] == [True]
    assert explanation.steps[0].program.note
    assert explanation.to_html()
    with pytest.raises(ScheduleError, match="known shapes"):
        schedule.explain(measure=True)


def test_a_program_with_other_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(values: list, expected: list) -> None:
        if values is not expected:
            raise VerificationError("they differ")

    monkeypatch.setattr("mlcflow.report.replay.compare", wrong)
    with pytest.raises(VerificationError):
        scheduled().explain(measure=True)


def test_json_holds_everything(timed: Explanation) -> None:
    data = json.loads(timed.to_json())
    assert data["peak_gflops"] == timed.peak
    assert [step["python"] for step in data["steps"]] == [step.python for step in timed.steps]
    last = data["steps"][-1]
    assert last["gflops"] == timed.gflops(timed.steps[-1])
    assert last["changed"]["vector.transfer_write"][0] > 0
    assert mlir.parse(last["tensor_program"])
    if is_elf:
        assert last["instructions"]["stores"] == 0


class Page(HTMLParser):
    """The tags of a page, what it refers to, and whether every tag is closed."""

    VOID = frozenset({"meta", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.checked: list[str] = []
        self.labels: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.open += [tag] if tag not in self.VOID else []
        self.ids += [given["id"] or ""] if "id" in given else []
        self.references += [given[key] or "" for key in ("src", "href") if key in given]
        self.checked += [given["id"] or ""] if "checked" in given else []
        self.labels += [given["aria-labelledby"] or ""] if "aria-labelledby" in given else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_one_page(timed: Explanation) -> None:
    text = timed.to_html()
    page = Page(text)
    assert not page.open and not page.references
    assert "<script" not in text and "@import" not in text and "url(" not in text
    assert len(page.ids) == len(set(page.ids))
    assert set(page.labels) <= set(page.ids)
    assert {"graph", "program", "calls", "instructions"} <= set(page.ids)
    assert page.checked == [f"step-{len(timed.steps) - 1}", "wide-all", "view-nest"]
    assert "prefers-color-scheme: dark" in text


def test_html_escapes_names() -> None:
    text = KERNEL.replace("@main", '@"<b>"')
    module = mlir.parse(text)
    page = mlcflow.Schedule(module, kernel="<b>").explain().to_html()
    assert "<b>" not in page and "&lt;b&gt;" in page


def test_the_page_is_written_at_once(explanation: Explanation, tmp_path: Path) -> None:
    path = explanation.write_html(tmp_path / "reports" / "matmul.html")
    assert path.read_text(encoding="utf-8") == explanation.to_html()
    assert [each.name for each in path.parent.iterdir()] == ["matmul.html"]


def test_loops_with_marks() -> None:
    schedule = mlcflow.Schedule(mlir.parse(KERNEL))
    outer, _ = schedule.split("root.i", [None, 8])
    schedule.parallel(outer)
    assert "for i_0 in 4 (threads)" in nest(schedule.function)

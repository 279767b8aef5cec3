"""The page and the paper's table: whole without a network, escaped, small, and true to the runs."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import fake_stages
import numpy as np
import pytest
from PIL import Image

from qk_lightning.sweeps import plan as plan_module
from qk_lightning.sweeps.costs import Cost, add, cost_of, format_large, mean
from qk_lightning.sweeps.embed import embed, embed_all
from qk_lightning.sweeps.latex import compose_latex, escape_latex
from qk_lightning.sweeps.page_plots import fit_legend, pareto
from qk_lightning.sweeps.plan import plan_sweep
from qk_lightning.sweeps.reader import parse_sweep
from qk_lightning.sweeps.report import write_report
from qk_lightning.sweeps.results import collect_results, make_table

EVIL = "50% & <script>alert('x')</script> _a_ $x^{2$"
VOID = ("meta", "img", "br", "link")


class Page(HTMLParser):
    """What a browser would see: tags that nest, rows of cells, and every address."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.rows, self.scripts = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.addresses += [values[key] for key in ("src", "href", "xlink:href") if key in values]
        self.scripts += tag == "script"
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append((values.get("data-sort"), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open and self.rows and self.rows[-1]:
            key, text = self.rows[-1][-1]
            self.rows[-1][-1] = (key, text + data)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A sweep of fake runs with a name from hell, counted FLOPs and training losses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QK_ROOT", str(tmp_path_factory.mktemp("project")))
        patch.setattr(plan_module, "plan_chain", fake_stages.plan_chain)
        fake_stages.runs_root().mkdir()
        sweep = parse_sweep(
            {
                "name": "widths",
                "preset": "fake",
                "axes": {"width": [1, 4]},
                "controls": [{"name": EVIL, "overrides": ["width=4", "sharpness=5"]}],
                "baseline": {"width": 1},
                "metrics": {"val/loss": "min", "eval/avatars/accuracy": "max"},
            }
        )
        for run in plan_sweep(sweep).to_run:
            run.plan.write()
            fake_stages.run_stage(run.folder.path)
            for step in range(1, 5):
                run.folder.append_metrics(step, {"train/loss": 1 / step})
            run.folder.write_status(flops_per_step=2e9)
            git = {"commit": "0123456789abcdef", "dirty": True}
            run.folder.provenance_json.write_text(json.dumps({"git": git}))
        plan = plan_sweep(sweep)
        write_report(plan, [f"failed: {EVIL}"])
        yield plan


@pytest.fixture(scope="module")
def folder(written):
    """The sweep's folder: a test's own root is another one."""
    return next(iter(written.graph.values())).folder.path.parent / "sweeps/widths"


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_page_is_whole_without_a_network(text):
    page = Page(text)
    assert page.open == []
    addresses = [address for address in page.addresses if not address.startswith("#")]
    assert addresses
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(text) < 1_000_000


def test_what_others_wrote_is_escaped_everywhere(text):
    assert "<script>alert" not in text
    assert Page(text).scripts == 1  # our own
    assert "&lt;script&gt;alert" in text
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)  # raises where a name broke it
    assert "$x^{2$" in text  # a dollar in a plot is a dollar


def test_rows_can_be_sorted_by_any_column(text):
    rows = [row for row in Page(text).rows if row and row[0][1].startswith("width=")]
    assert [len(row) for row in rows[:4]] == [12] * 4
    by_loss = [float(row[1][0]) for row in rows[:2]]
    assert by_loss == pytest.approx([0.509, 0.206])
    assert rows[0][2] == ("0.0", "baseline")
    assert float(rows[1][2][0]) == pytest.approx(-0.303)
    assert rows[1][2][1].endswith(" better")
    assert all(key is not None for row in rows[:4] for key, _ in row)


def test_cost_is_that_of_the_runs(text, written):
    rows = [row for row in Page(text).rows if row and row[0][1].startswith("width=4")]
    seconds, images, flops = rows[0][8:11]
    assert (seconds[1], images[1], flops[1]) == ("0.1 s", "32", "8 GFLOP")
    assert "training FLOPs: 144 GFLOP" in text  # 18 runs of 4 steps, each once
    row = next(
        row for row in make_table(written, collect_results(written)) if row.stage == "refine"
    )
    assert row.chain_cost.flops == 3 * 8e9  # its ancestors, too


def test_each_row_has_its_command_and_its_identities(text, written):
    rows = {tuple(cell for _, cell in row[:2]): row for row in Page(text).rows if len(row) == 5}
    assert len(rows) == 9
    member = next(one for one in written.members if one.row.name == EVIL and one.seed == 2)
    _, _, command, runs, code = (cell for _, cell in rows[EVIL, "2"])
    assert command == "qk fit fake width=4 sharpness=5 seed=2"
    assert runs == ", ".join(f"{stage.stage} {stage.identity}" for stage in member.chain)
    assert code == "0123456789 with edits"


def test_plots_show_metrics_costs_and_losses(text):
    plots = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    words = ["".join(ElementTree.fromstring(svg).itertext()) for svg in plots]
    assert sum("training FLOPs, all stages" in one for one in words) == 2  # a metric each
    assert sum("train/loss" in one for one in words) == 3  # a stage each
    assert sum("width" in one and "val/loss (lower" in one for one in words) >= 1


def test_pareto_keeps_what_no_cheaper_one_equals():
    points = [(3.0, 1.0), (1.0, 2.0), (2.0, 2.0), (2.0, 1.5), (4.0, 0.5)]
    assert pareto(points, "min") == [(1.0, 2.0), (2.0, 1.5), (3.0, 1.0), (4.0, 0.5)]
    assert pareto(points, "max") == [(1.0, 2.0)]
    assert pareto([], "max") == []


def test_pictures_keep_to_their_budget(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    file = tmp_path / "noise.png"
    Image.fromarray(noise).save(file)
    whole, note = embed(file, 10**7)
    assert base64.b64decode(whole.partition(",")[2]) == file.read_bytes()
    assert note == ""
    uri, note = embed(file, 20_000)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert len(uri) <= 20_000
    assert picture.format == "JPEG"
    assert f"at {picture.width} x {picture.height} pixels" in note
    both = embed_all({"a": file, "b": file}, 50_000)
    assert sum(len(uri) for uri, _ in both.values()) <= 50_000


def test_a_legend_fits_into_its_figure():
    assert fit_legend(["stage1", "stage2"], 4.6, 2) == (2, ["stage1", "stage2"])
    assert fit_legend([], 4.6, 2) == (2, [])
    columns, (short, long) = fit_legend(["a", "b" * 200], 4.6, 2)
    assert columns == 1 and short == "a" and 50 < len(long) < 80 and long.endswith("…")


def test_latex_is_escaped_and_its_columns_agree(folder):
    latex = (folder / "report.tex").read_text()
    assert "50\\% \\& \\textless{}script\\textgreater{}" in latex
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 2
    for table in latex.split(r"\begin{table}")[1:]:
        columns = re.search(r"\\begin\{tabular\}\{(l[r]+)\}", table)[1]
        lines = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert len(columns) == 3  # metrics stand below each other: the page is narrow
        titles = [line for line in lines if line.startswith(r"\multicolumn{3}{l}{\emph{")]
        assert len(titles) == 2 and len(lines) == 9  # a heading; of each metric three rows
        for line in lines:
            if line not in titles:
                assert len(re.findall(r"(?<!\\)&", line)) == 2
        bare = re.sub(r"\\[{}$&%#_]", "", table)
        assert bare.count("{") == bare.count("}")
        assert bare.count("$") % 2 == 0
        loss, accuracy = [line for line in lines if line.startswith("width=4")]
        assert loss.count(r"\textbf{") == 2 and accuracy.count(r"\textbf{") == 0  # it is the same
        assert r"\textbf{\boldmath $0.206 \pm 0.015$}" in loss
    assert "Holm-corrected over 2 arms" in latex


def test_latex_of_a_sweep_without_results(written):
    assert compose_latex(written.file, [], []).count("%") == 2
    assert escape_latex("a\nb\x07\\{}") == r"a b \textbackslash{}\{\}"
    assert escape_latex("naïve α≤1 ✓ 中") == r"naïve $\alpha$$\leq$1 (U+2713) (U+4E2D)"


def test_latex_without_a_baseline_says_what_its_intervals_are(written):
    plan = replace(written, file=replace(written.file, baseline={}))
    latex = compose_latex(plan.file, make_table(plan, collect_results(plan)), [])
    assert "$\\pm$: 95\\,\\% interval of the mean, Student's t over seeds." in latex
    assert latex.count(r"\multicolumn{1}{c}{") == 2 * 2  # side by side, two stages


def test_costs_that_were_not_recorded_stay_unknown():
    known = cost_of({"seconds": 3.0, "flops_per_step": 5}, 10, 2)
    assert known == Cost(3.0, 20.0, 50.0)
    broken = cost_of({"seconds": True, "flops_per_step": "many"}, 10, 2)
    assert broken == Cost(None, 20.0, None)
    assert add([known, broken]) == Cost(None, 40.0, None)
    assert mean([known, known]) == known
    assert mean([]) == Cost()
    assert [format_large(value, "FLOP") for value in (None, 12.0, 1.84e12)] == [
        "-", "12 FLOP", "1.84 TFLOP"
    ]  # fmt: skip

"""How a report's page looks, and the lines of JavaScript that sort its tables. No network."""

from __future__ import annotations

# Nothing may be fetched, whatever stands in the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

CSS = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1700px;
       padding: 0 1rem; color: #1a1a1a; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
nav a { margin-right: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; margin: .5rem 0 1rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #e4e4e4; text-align: right;
         vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child, .words td, .words th { text-align: left; }
td:first-child, td.difference { white-space: normal; min-width: 11em; max-width: 20em; }
th { white-space: normal; vertical-align: bottom; }
.words td { white-space: normal; overflow-wrap: anywhere; }
th { background: #f5f5f5; } table.sortable th { cursor: pointer; }
th[aria-sort=ascending]::after { content: " \\25B2"; }
th[aria-sort=descending]::after { content: " \\25BC"; }
.interval { color: #666; } .better { color: #11662b; font-weight: 600; }
.worse { color: #9c2a10; } .level td { color: #666; font-style: italic; }
.best { font-weight: 700; }
.warning { background: #fff4d6; border-left: 4px solid #d99b00; padding: .5rem 1rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; }
.plots svg { max-width: 100%; height: auto; }
img { max-width: 100%; } code, pre { font-size: 12px; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; }
"""

# A click on a heading sorts by its column: by `data-sort` as a number, else as text; lines of
# levels stay at the end, and so do empty cells.
JS = """
document.querySelectorAll("table.sortable th").forEach(function (head) {
  head.addEventListener("click", function () {
    var table = head.closest("table"), body = table.tBodies[0];
    var up = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("th").forEach(function (other) { other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    function key(row) {
      var text = row.cells[head.cellIndex].dataset.sort, number = parseFloat(text);
      return text === "" ? null : isNaN(number) ? text : number;
    }
    Array.from(body.rows).sort(function (a, b) {
      var level = a.classList.contains("level") - b.classList.contains("level");
      var x = key(a), y = key(b);
      if (level || x === null || y === null) return level || (x === null) - (y === null);
      var order = typeof x === "number" && typeof y === "number" ? x - y :
        String(x).localeCompare(String(y), undefined, {numeric: true});
      return up ? order : -order;
    }).forEach(function (row) { body.appendChild(row); });
  });
});
"""

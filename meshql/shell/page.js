"use strict";
const table = document.getElementById("answer");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const count = document.getElementById("count");
const filter = document.getElementById("filter");
const told = count.textContent;

function value(row, column, numeric) {
  const cell = row.cells[column];
  if (cell.classList.contains("null")) return null;
  return numeric ? Number(cell.textContent.replace("inf", "Infinity")) : cell.textContent;
}

function compare(a, b) {
  if (typeof a === "string") return a.localeCompare(b, undefined, { numeric: true });
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
  return a < b ? -1 : a > b ? 1 : 0;
}

function sort(head) {
  const before = head.getAttribute("aria-sort");
  const way = before === "none" ? "ascending" : before === "ascending" ? "descending" : "none";
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", way);
  if (way === "none") return body.append(...rows);
  const numeric = head.classList.contains("n");
  const keyed = rows.map((row) => [value(row, head.cellIndex, numeric), row]);
  const turn = way === "ascending" ? 1 : -1;
  keyed.sort(([a], [b]) => (a === null ? 1 : 0) - (b === null ? 1 : 0) || (a === null ? 0 : turn * compare(a, b)));
  body.append(...keyed.map(([, row]) => row));
}

function search() {
  const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = Array.from(row.cells, (cell) => cell.textContent.toLowerCase()).join("\n");
    row.hidden = !wanted.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  count.textContent = wanted.length ? `${shown.toLocaleString("en")} of ${told}` : told;
}

for (const head of table.tHead.rows[0].cells) head.firstChild.addEventListener("click", () => sort(head));
filter.addEventListener("input", search);

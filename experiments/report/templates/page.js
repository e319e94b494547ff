"use strict";
// Columns sort and rows filter; all of the page is there without this.
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells];
  const bodies = [...table.tBodies].map(body => [body, [...body.rows]]);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    const small = head.querySelector("small");
    for (const node of [...head.childNodes]) if (node !== small) button.append(node);
    head.prepend(button);
    button.addEventListener("click", () => {
      const order = { ascending: "none", descending: "ascending" }[head.ariaSort] || "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      if (order !== "none") head.ariaSort = order;
      for (const [body, rows] of bodies) {
        const fixed = rows.filter(row => row.cells.length === 1);
        const moving = rows.filter(row => row.cells.length > 1);
        if (order !== "none") moving.sort((a, b) => compare(a, b, column, order === "ascending" ? 1 : -1));
        body.append(...fixed, ...moving);
      }
    });
  });
}
function value(row, column) {
  const cell = row.cells[column];
  if (!cell) return ["", NaN];
  const text = [...cell.childNodes].filter(node => node.nodeName !== "SMALL").map(node => node.textContent).join("").trim();
  const number = /^[+-]?[\d.,]+(e[+-]?\d+)?\s*(%|\*|$|[\[(s→])/.test(text) ? parseFloat(text.replaceAll(",", "")) : NaN;
  return [text, number];
}
function compare(a, b, column, sign) {  // what is no number stands below all numbers, either way
  const [[one, x], [other, y]] = [value(a, column), value(b, column)];
  if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;
  return sign * (isNaN(x) ? one.localeCompare(other, undefined, { numeric: true }) : x - y);
}
const bar = document.querySelector(".filters");
if (bar) {
  const kinds = ["backbone", "pool", "selector"];
  const off = Object.fromEntries(kinds.map(kind => [kind, new Set()]));
  const scores = bar.parentElement;
  for (const kind of kinds) {
    const names = new Set([...scores.querySelectorAll(`[data-${kind}]`)].map(element => element.dataset[kind]));
    if (names.size < 2) continue;
    const group = document.createElement("fieldset");
    group.append(Object.assign(document.createElement("legend"), { textContent: kind }));
    for (const name of names) {
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true, value: name });
      const label = document.createElement("label");
      label.append(box, " ", name);
      box.addEventListener("change", () => {
        off[kind][box.checked ? "delete" : "add"](name);
        for (const each of kinds)
          for (const element of document.querySelectorAll(`[data-${each}]`))
            element.classList.toggle("out", kinds.some(k => k in element.dataset && off[k].has(element.dataset[k])));
      });
      group.append(label);
    }
    bar.append(group);
  }
  bar.append(Object.assign(document.createElement("span"), { className: "soft", textContent: "A heading sorts by its column." }));
  bar.hidden = false;
}

"use strict";
// A click on a column's name sorts its table: numbers by their exact value, missing ones last.
for (const button of document.querySelectorAll("th[aria-sort] button")) {
  button.addEventListener("click", () => {
    const header = button.parentElement;
    const row = header.parentElement;
    const column = [...row.children].indexOf(header);
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of row.children) {
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    }
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = header.closest("table").tBodies[0];
    const rows = [...body.rows].map((each) => [value(each.cells[column]), each]);
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = typeof a === "number" ? a - b : a.localeCompare(b);
      return down ? -order : order;
    });
    body.append(...rows.map(([, each]) => each));
  });
}

function value(cell) {
  const exact = cell.dataset.value;
  if (exact === undefined) return cell.textContent.trim();
  return exact === "" ? "" : Number(exact);
}

// Tables whose columns sort, and fields that show the rows with a name.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const [body] = table.tBodies;
  const cells = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].textContent.trim();
  const number = (text) => (/^[-\d.,]+( ?%| ±.*)?/.test(text) ? parseFloat(text.replaceAll(",", "")) : NaN);

  function sort(column) {
    const cell = cells[column];
    const descends = cell.getAttribute("aria-sort") === "ascending";
    const sign = descends ? -1 : 1;
    const rows = [...body.rows].map((row) => [value(row, column), row]);
    const numeric = rows.some(([text]) => !Number.isNaN(number(text)))
      && rows.every(([text]) => text === "–" || text === "" || !Number.isNaN(number(text)));
    const missing = (text) => numeric && Number.isNaN(number(text));
    rows.sort(([a], [b]) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return sign * (numeric ? number(a) - number(b) : a.localeCompare(b));
    });
    for (const each of cells) each.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", descends ? "descending" : "ascending");
    body.append(...rows.map(([, row]) => row));
  }

  for (const [column, cell] of cells.entries()) {
    if ("unsorted" in cell.dataset) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    button.addEventListener("click", () => sort(column));
    cell.append(button);
  }
}

for (const field of document.querySelectorAll("[data-filters]")) {
  const [body] = $(field.dataset.filters).tBodies;
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const row of body.rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
  });
}

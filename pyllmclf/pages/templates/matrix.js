// The confusion matrix as an image: which cell the pointer or the arrow keys are at.
if ($("matrix")) {
  const matrix = $("matrix"), region = $("zoom");
  const size = Number(matrix.dataset.count);
  const names = page.figures.classes.map(shown);
  const place = new Map(page.order.map((c, i) => [c, i]));
  const texts = new Map(), totals = new Map();
  for (const [t, p, n] of page.confusion_cells) {
    totals.set(t, (totals.get(t) ?? 0) + n);
    if (place.has(t) && place.has(p)) texts.set(place.get(t) * size + place.get(p), n);
  }
  const frame = svg("rect", { class: "cell", width: 1, height: 1, visibility: "hidden" });
  matrix.append(frame);
  let row = 0, column = 0;

  function show() {
    const [t, p] = [page.order[row], page.order[column]];
    const n = texts.get(row * size + column) ?? 0, all = totals.get(t) ?? 0;
    frame.setAttribute("x", column);
    frame.setAttribute("y", row);
    frame.setAttribute("visibility", "visible");
    const said = t === p ? `“${names[t]}”, right` : `“${names[t]}”, predicted “${names[p]}”`;
    $("cell").textContent = `${said}: ${count(n, "text")} of ${all.toLocaleString("en")}`;
  }

  matrix.addEventListener("pointermove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.getScreenCTM().inverse());
    if (at.x < 0 || at.y < 0 || at.x >= size || at.y >= size) return;
    [row, column] = [Math.floor(at.y), Math.floor(at.x)];
    show();
  });
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  region.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    row = Math.min(size - 1, Math.max(0, row + step[0]));
    column = Math.min(size - 1, Math.max(0, column + step[1]));
    show();
    frame.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}

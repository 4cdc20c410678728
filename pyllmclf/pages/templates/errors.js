// The list of errors: filters, search, and a few more at a time.
if ($("error-list")) {
  const STEP = 20;
  const list = $("error-list");
  const items = [...document.querySelectorAll("[data-error]")];
  const texts = items.map((item) => [...item.querySelectorAll(".text")].map((each) => each.textContent).join("\n").toLowerCase());
  const more = $("error-more");
  let shown = STEP;
  list.append(...items);
  $("more-errors")?.remove();

  const fields = ["search", "label", "prediction", "low", "high", "short", "long"].map((name) => [name, $("error-" + name)]);
  for (const [name, key] of [["label", "labels"], ["prediction", "predictions"]]) {
    const names = new Set(page.errors.flatMap((error) => error[key]));
    for (const each of [...names].sort((a, b) => a.localeCompare(b))) $("error-" + name).append(new Option(each, each));
  }

  function matching() {
    const wanted = Object.fromEntries(fields.map(([name, field]) => [name, field.value]));
    const above = (value, low) => low === "" || value >= Number(low);
    const below = (value, high) => high === "" || value <= Number(high);
    const search = wanted.search.toLowerCase();
    return items.filter((_, i) => {
      const error = page.errors[i];
      return (!wanted.label || error.labels.includes(wanted.label))
        && (!wanted.prediction || error.predictions.includes(wanted.prediction))
        && above(100 * error.confidence, wanted.low) && below(100 * error.confidence, wanted.high)
        && above(error.tokens, wanted.short) && below(error.tokens, wanted.long)
        && texts[i].includes(search);
    });
  }

  function show() {
    const found = matching();
    const visible = new Set(found.slice(0, shown));
    for (const item of items) item.hidden = !visible.has(item);
    const some = found.length > visible.size ? ", of which " + visible.size + " are shown" : "";
    $("error-count").textContent = count(found.length, "error") + some + ".";
    if (more) more.parentElement.hidden = found.length <= visible.size;
  }

  for (const [, field] of fields) field.addEventListener("input", () => { shown = STEP; show(); });
  more?.addEventListener("click", () => { shown += STEP; show(); });

  // A link to an error that is not among those shown shows it.
  function reveal() {
    const place = items.findIndex((item) => "#" + item.id === location.hash);
    if (place < 0 || !items[place].hidden) return;
    for (const [, field] of fields) field.value = "";
    shown = place + 1;
    show();
    items[place].scrollIntoView();
  }
  addEventListener("hashchange", reveal);

  // Of a class without an error in this list there is no choice yet: an empty one would show all errors.
  function choose(field, name) {
    if (![...field.options].some((option) => option.value === name)) field.append(new Option(name, name));
    field.value = name;
  }

  for (const cell of document.querySelectorAll("td[data-true]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    button.setAttribute("aria-label", `${cell.textContent} errors: ${cell.dataset.true} as ${cell.dataset.predicted}`);
    button.addEventListener("click", () => {
      for (const [, field] of fields) field.value = "";
      choose($("error-label"), cell.dataset.true);
      choose($("error-prediction"), cell.dataset.predicted);
      shown = STEP;
      show();
      $("errors").scrollIntoView();
      $("error-label").focus({ preventScroll: true });
    });
    cell.append(button);
  }
  show();
  reveal();
}

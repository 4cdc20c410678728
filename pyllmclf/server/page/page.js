"use strict";
// Texts, labels and names only become text nodes and properties, never markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const limits = document.body.dataset;
  const SHOWN_CLASSES = Number(limits.shownClasses);
  const PAGE_ROWS = 50, PAGE_CLASSES = 10, CHUNK_TEXTS = 100, LONG_TEXT = 600;

  // --- elements ---

  // Control characters and marks that reorder text, as visible escapes.
  const UNSAFE = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
  const shown = (value) => String(value).replace(UNSAFE, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  const count = (n) => n.toLocaleString("en");
  const percent = (p, digits = 1) => (100 * p).toFixed(digits) + " %";
  const texts = (n) => count(n) + (n === 1 ? " text" : " texts");

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function bar(probability) {
    const make = (name, attributes) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      return made;
    };
    const svg = make("svg", { class: "bar", "aria-hidden": "true" });
    svg.append(make("rect", { width: (100 * probability).toFixed(2) + "%", height: "100%" }));
    return svg;
  }

  const bars = (classes) => element("ol", { class: "bars" }, ...classes.map(([name, p]) => element("li", {},
    element("bdi", { class: "name" }, shown(name)), bar(p), element("span", { class: "percent" }, percent(p)))));

  function allBars(classes) {
    const rest = classes.slice(SHOWN_CLASSES);
    const found = [bars(classes.slice(0, SHOWN_CLASSES))];
    if (rest.length) {
      const more = element("details", {}, element("summary", {}, count(rest.length) + " more"));
      more.addEventListener("toggle", () => more.append(bars(rest)), { once: true });
      found.push(more);
    }
    return found;
  }

  function textOf(text) {
    const paragraph = element("p", { class: "text", dir: "auto" }, shown(text.slice(0, LONG_TEXT)));
    if (text.length > LONG_TEXT) {
      const button = element("button", { type: "button", class: "plain" }, "whole text");
      button.addEventListener("click", () => paragraph.replaceChildren(shown(text)));
      paragraph.append(" … ", button);
    }
    return paragraph;
  }

  const labelsOf = (label) => (Array.isArray(label) ? label : label === null ? [] : [label]);
  const badges = (label, abstained) => labelsOf(label).length
    ? labelsOf(label).map((one) => element("bdi", { class: "label" }, shown(one)))
    : [element("span", { class: "note" }, abstained ? `no answer: ${shown(abstained)}` : "no label")];
  const same = (a, b) => JSON.stringify(labelsOf(a).toSorted()) === JSON.stringify(labelsOf(b).toSorted());

  // Shows the first items of a list, and the next ones at a click.
  function paged(list, button, items, size, make) {
    let next = 0;
    const more = () => {
      const first = items.slice(next, next + size).map(make);
      list.append(...first);
      const focus = next > 0 && first[0];
      next += size;
      button.hidden = next >= items.length;
      button.textContent = `Show ${count(Math.min(size, items.length - next))} more of ${count(items.length)}`;
      if (focus) {
        focus.tabIndex = -1;
        focus.focus({ preventScroll: true });
      }
    };
    list.replaceChildren();
    button.onclick = more;
    more();
  }

  // --- the server ---

  const KEY = "pyllmclf-key " + location.pathname;
  let key = null;

  async function request(path, options = {}) {
    const headers = { ...options.headers, ...(key === null ? {} : { Authorization: "Bearer " + key }) };
    let response;
    try {
      response = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      throw error.name === "AbortError" ? error : new Error("The server can't be reached.");
    }
    if (response.ok) return response;
    const body = await response.json().catch(() => null);
    const message = body?.error?.message ?? body?.error ?? `The server answers ${response.status}.`;
    if (response.status === 401) askForKey("The key is not that of this server.");
    throw new Error(message);
  }

  function askForKey(problem = "") {
    key = null;
    stored("sessionStorage", KEY, null);
    $("key-form").hidden = false;
    $("text-form").hidden = $("file-form").hidden = true;
    $("key-error").textContent = problem;
    $("key").focus();
  }

  // Storage may be switched off.
  function stored(kind, name, value) {
    try {
      if (value === undefined) return window[kind].getItem(name);
      if (value === null) window[kind].removeItem(name);
      else window[kind].setItem(name, value);
    } catch { /* without it, nothing is remembered */ }
    return null;
  }

  let models = new Map();

  async function loadModels() {
    const answer = await (await request("v1/models")).json();
    models = new Map(answer.data.map((model) => [model.id, model]));
    const [chosen, other] = [$("model").value, $("other").value];
    $("model").replaceChildren(...[...models.keys()].map((name) => new Option(shown(name), name)));
    $("other").replaceChildren(new Option("none", ""), ...[...models.keys()].map((name) => new Option(shown(name), name)));
    if (models.has(chosen)) $("model").value = chosen;
    if (models.has(other)) $("other").value = other;
    $("key-form").hidden = true;
    $("text-form").hidden = $("file-form").hidden = false;
    about();
  }

  function about() {
    for (const option of $("other").options) option.disabled = option.value === $("model").value && option.value !== "";
    if ($("other").value === $("model").value) $("other").value = "";
    const model = models.get($("model").value);
    if (!model) return;
    const names = model.classes.slice(0, 6).map(shown).join(", ") + (model.classes.length > 6 ? ` and ${count(model.classes.length - 6)} more` : "");
    const several = model.several_labels ? "; a text may have several" : "";
    $("about").replaceChildren(`${count(model.classes.length)} classes: `, element("bdi", {}, names),
      `${several}. Reads up to ${count(model.max_model_len)} tokens.`);
  }

  // --- texts ---

  let busy = false;

  async function classifyTexts() {
    if (busy) return;
    const value = $("text").value;
    const all = $("lines").checked ? value.split(/\r?\n/).filter((line) => line.trim()) : value.trim() ? [value] : [];
    $("error").textContent = "";
    if (!all.length) {
      $("error").textContent = "There is no text; type one.";
      $("text").focus();
      return;
    }
    busy = true;
    $("results").setAttribute("aria-busy", "true");
    try {
      const names = [$("model").value, $("other").value].filter(Boolean);
      showResults(all, names, await answersTo(all, names));
    } catch (error) {
      $("status").textContent = "";
      $("error").textContent = error.message;
    }
    busy = false;
    $("results").removeAttribute("aria-busy");
  }

  // For each text, the answers of the classifiers.
  async function answersTo(all, names) {
    const found = [], size = Math.min(CHUNK_TEXTS, Number(limits.maxTexts));
    for (let start = 0; start < all.length; start += size) {
      $("status").textContent = start ? `Classified ${count(start)} of ${texts(all.length)}.` : "Classifying …";
      const input = all.slice(start, start + size);
      const columns = await Promise.all(names.map(async (model) => {
        const body = JSON.stringify({ model, input });
        const headers = { "Content-Type": "application/json" };
        return (await (await request("classify", { method: "POST", headers, body })).json()).data;
      }));
      input.forEach((_, i) => found.push(columns.map((column) => column[i])));
    }
    return found;
  }

  function showResults(all, names, answers) {
    const items = all.map((text, i) => ({ text, answers: answers[i].map((answer, k) => ({
      label: answer.labels ?? answer.label,
      abstained: answer.abstained,
      classes: ranked(models.get(names[k]).classes.map((name, c) => [name, answer.probs[c]])),
    })) }));
    for (const item of items) item.differs = item.answers.length > 1 && !same(item.answers[0].label, item.answers[1].label);
    const list = element("div"), button = element("button", { type: "button", class: "plain" });
    const show = (some) => paged(list, button, some, PAGE_ROWS, (item) => resultOf(item, names));
    const differing = items.filter((item) => item.differs);
    const parts = [element("h2", {}, items.length > 1 ? "Results" : "Result")];
    if (names.length > 1 && items.length > 1) {
      const only = element("input", { type: "checkbox", id: "only" });
      only.addEventListener("change", () => show(only.checked ? differing : items));
      parts.push(element("label", { class: "check" }, only, "only texts on which the classifiers disagree"));
    }
    $("results").replaceChildren(...parts, list, button);
    show(items);
    const disagree = names.length > 1 ? (differing.length ? `; the classifiers disagree on ${count(differing.length)}` : "; the classifiers agree") : "";
    $("status").textContent = `${texts(items.length)} classified${disagree}.`;
  }

  const ranked = (classes) => classes.sort((a, b) => b[1] - a[1]);

  function resultOf(item, names) {
    const answers = item.answers.map((answer, i) => element("div", { class: "answer" },
      element("h3", {}, element("bdi", {}, shown(names[i]))),
      element("p", { class: "labels" }, ...badges(answer.label, answer.abstained)), ...allBars(answer.classes)));
    const article = element("article", { class: "card result" + (item.differs ? " differs" : "") }, textOf(item.text));
    if (item.differs) article.append(element("p", { class: "differ" }, "The classifiers disagree."));
    article.append(element("div", { class: "answers" }, ...answers));
    return article;
  }

  // --- a file ---

  let work = null, cancel = null;

  async function classifyFile() {
    const file = $("file").files[0];
    $("file-error").textContent = $("file-status").textContent = $("file-said").textContent = "";
    if (cancel) return;
    if (!file) return fileProblem("There is no file; choose one.");
    if (file.size > Number(limits.maxFileBytes)) {
      return fileProblem(`The file has ${count(file.size)} bytes, and the server reads ${count(Number(limits.maxFileBytes))}.`);
    }
    cancel = new AbortController();
    work = { name: file.name, about: null, rows: [], end: null };
    $("file-results").hidden = true;
    progress(null, "Sending the file");
    try {
      await receive(await request("files?" + parameters(file), {
        method: "POST", body: file, signal: cancel.signal, headers: { "Content-Type": "application/octet-stream" },
      }));
      if (!work.end) throw new Error("The answer ended early.");
      const longer = work.end.truncated ? `; the classifier reads only the beginning of ${count(work.end.truncated)}` : "";
      $("file-status").textContent = `${texts(work.rows.length)} classified${longer}.`;
    } catch (error) {
      const message = error.name === "AbortError" ? "Cancelled." : error.message;
      const part = work.rows.length ? ` ${count(work.rows.length)} of ${texts(work.about.rows)} are classified.` : "";
      fileProblem(message + part);
    }
    cancel = null;
    $("progress-line").hidden = $("cancel").hidden = true;
    if (work.rows.length) showFile();
  }

  function parameters(file) {
    const given = { model: $("model").value, name: file.name };
    if ($("text-column").value) given.text_column = $("text-column").value;
    if ($("label-column").value) given.label_column = $("label-column").value;
    return new URLSearchParams(given);
  }

  function fileProblem(message) {
    $("file-error").textContent = message;
  }

  function progress(value, text) {
    $("progress-line").hidden = $("cancel").hidden = false;
    if (value === null) $("progress").removeAttribute("value");
    else $("progress").value = value;
    $("progress-text").textContent = text;
  }

  // Reads the lines of an answer, which may be cut anywhere.
  async function receive(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", said = 0;
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new Error("The connection broke off.");
      });
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      lines.forEach((line) => take(JSON.parse(line)));
      const share = work.rows.length / work.about.rows;
      progress(share, `Classified ${count(work.rows.length)} of ${texts(work.about.rows)}`);
      // A screen reader hears of every quarter.
      if (Math.floor(4 * share) > said && share < 1) {
        said = Math.floor(4 * share);
        $("file-said").textContent = `${25 * said} % classified.`;
      }
    }
  }

  function take(line) {
    if (work.about === null) work.about = line;
    else if (line.done) work.end = line;
    else if (line.error !== undefined) throw new Error(line.error);
    else {
      line.row = work.rows.length + 1;
      line.confidence = Math.max(...Object.values(line.probabilities));
      work.rows.push(line);
    }
  }

  function showFile() {
    const labelled = work.about.label_column !== null;
    $("file-title").replaceChildren(labelled ? "Evaluation of " : "Predictions of ", element("bdi", {}, shown(work.name)));
    for (const part of document.querySelectorAll("[data-labelled]")) part.hidden = !labelled;
    $("filters").reset();
    $("evaluation").hidden = !(work.end && labelled);
    if (work.end && labelled) showEvaluation(work.end);
    fillChoices(labelled);
    work.sorted = work.rows.toSorted((a, b) => b.confidence - a.confidence);
    $("file-results").hidden = false;
    showRows();
    $("file-title").focus();
  }

  function showEvaluation(end) {
    const figures = [
      ["Accuracy", end.accuracy === null ? "–" : percent(end.accuracy, 2)],
      ["Errors", count(end.errors)], ["Macro-F1", end.macro_f1 === null ? "–" : end.macro_f1.toFixed(4)],
      ["Texts with a label", count(end.labelled)],
    ];
    if (end.unknown) figures.push(["Labels that are no class", count(end.unknown)]);
    if (end.missing) figures.push(["Missing labels", count(end.missing)]);
    $("figures").replaceChildren(...figures.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value))));
    paged($("classes"), $("more-classes"), end.classes, PAGE_CLASSES, (each) => element("tr", {},
      element("th", { scope: "row" }, element("bdi", {}, shown(each.class))),
      ...[count(each.texts), ...[each.precision, each.recall, each.f1].map((x) => x.toFixed(3))].map((cell) =>
        element("td", {}, cell))));
  }

  // The labels that occur, with their numbers of texts.
  function fillChoices(labelled) {
    for (const [id, labels] of [["given", (row) => row.given], ["predicted", (row) => row.label]]) {
      const counts = new Map();
      let none = 0;
      for (const row of work.rows) {
        if (labels(row) === undefined) continue;
        const found = labelsOf(labels(row));
        none += !found.length;
        for (const label of found) counts.set(label, (counts.get(label) ?? 0) + 1);
      }
      const options = work.about.classes.filter((name) => counts.has(name)).map((name) =>
        new Option(`${shown(name)} (${count(counts.get(name))})`, "=" + name));
      if (none) options.push(new Option(`no label (${count(none)})`, "none"));
      $(id).replaceChildren(new Option("any", ""), ...options);
    }
    $("kind").value = labelled ? "errors" : "";
  }

  function showRows() {
    if (!work?.sorted) return;
    const chosen = work.sorted.filter(filter());
    if ($("order").value === "up") chosen.reverse();
    const kind = { errors: ["error", "errors"], right: ["right prediction", "right predictions"], "": ["text", "texts"] }[$("kind").value];
    $("rows-title").textContent = kind[1][0].toUpperCase() + kind[1].slice(1);
    $("rows-status").textContent = chosen.length ? `${count(chosen.length)} ${kind[chosen.length === 1 ? 0 : 1]}` : `No ${kind[1]} with these filters.`;
    paged($("rows"), $("more-rows"), chosen, PAGE_ROWS, rowOf);
  }

  function filter() {
    const number = (id, otherwise) => ($(id).value === "" ? otherwise : Number($(id).value));
    const [low, high] = [number("confidence-from", -1) / 100, number("confidence-to", 101) / 100];
    const [short, long] = [number("length-from", 0), number("length-to", Infinity)];
    const [kind, given, predicted] = [$("kind").value, $("given").value, $("predicted").value];
    const search = $("search").value.toLowerCase();
    const has = (label, wanted) => wanted === "" || (label !== undefined
      && (wanted === "none" ? !labelsOf(label).length : labelsOf(label).includes(wanted.slice(1))));
    return (row) => (kind === "" || row.right === (kind === "right")) && has(row.given, given) && has(row.label, predicted)
      && row.confidence >= low && row.confidence <= high && row.length >= short && row.length <= long
      && (search === "" || row.text.toLowerCase().includes(search));
  }

  function rowOf(row) {
    const fact = (name, ...value) => element("span", {}, element("span", { class: "key" }, name + " "), ...value);
    const facts = [fact("predicted", ...badges(row.label, row.abstained)), fact("", percent(row.confidence))];
    if (row.given !== undefined) facts.splice(row.right ? 2 : 0, 0, fact("given", ...badges(row.given)));
    facts.push(fact("row", count(row.row)), fact("", count(row.length) + (row.length === 1 ? " character" : " characters")));
    return element("li", {}, textOf(row.text), element("p", { class: "facts" }, ...facts));
  }

  // --- downloads ---

  // As the command line's --escape-formulas: ' before what a spreadsheet takes for a formula.
  const FIRST = /^[=+\-@＝＋－＠;\t\r\n]/, INNER = /([;\t\r\n]["' ]*)(?=[=+\-@＝＋－＠])/g;
  const withoutFormulas = (cell) => (FIRST.test(cell) ? "'" : "") + cell.replace(INNER, "$1'");
  const quoted = (cell) => (/[",\r\n]/.test(cell) ? '"' + cell.replaceAll('"', '""') + '"' : cell);
  const fractional = (value) => typeof value === "number" && !Number.isInteger(value);

  function csvCell(value) {
    if (value === null || value === undefined) return "";
    if (fractional(value)) return String(value);
    return quoted(withoutFormulas(typeof value === "boolean" ? (value ? "True" : "False") : String(value)));
  }

  function freeName(name, taken) {
    while (taken.has(name)) name = "predicted_" + name;
    taken.add(name);
    return name;
  }

  const inputColumns = () => (work.about.columns.length ? work.about.columns : ["text"]);

  function inputValues(row) {
    if (!work.about.columns.length) return [row.text];
    const { columns, text_columns: own } = work.about;
    return row.cells.map((cell, i) => (own.length === 1 && own[0] === columns[i] ? row.text : cell));
  }

  function csv() {
    const { abstains, classes, best, label_separator: separator } = work.about;
    const taken = new Set(inputColumns());
    const added = [freeName(separator === null ? "label" : "labels", taken)];
    if (abstains) added.push(freeName("abstained", taken));
    const places = Array.from({ length: best ?? 0 }, (_, i) => i + 1);
    const names = best === null ? classes.map((name) => "probability_" + name)
      : places.flatMap((place) => [`label_${place}`, `probability_${place}`]);
    added.push(...names.map((name) => freeName(name, taken)));
    const lines = [[...inputColumns(), ...added].map(csvCell).join(",") + "\n"];
    for (const row of work.rows) {
      const own = best === null ? classes.map((name) => String(row.probabilities[name]))
        : ranked(Object.entries(row.probabilities)).flatMap(([name, p]) => [csvCell(name), String(p)]);
      if (abstains) own.unshift(csvCell(row.abstained ?? ""));
      lines.push([...inputValues(row).map(csvCell), csvCell(labelsOf(row.label).join(separator ?? "")), ...own].join(",") + "\n");
    }
    // With the mark, spreadsheets read UTF-8.
    return ["\ufeff", ...lines];
  }

  function jsonl() {
    const columns = inputColumns(), taken = new Set([...columns, "text"]);
    const own = [work.about.label_separator === null ? "label" : "labels", "probabilities", "abstained"];
    const [label, probabilities, abstained] = own.map((name) => freeName(name, taken));
    return work.rows.map((row) => {
      const values = inputValues(row);
      const entries = columns.map((name, i) => [name, values[i]]);
      if (!columns.includes("text")) entries.push(["text", row.text]);
      entries.push([label, row.label], [probabilities, row.probabilities]);
      if (work.about.abstains) entries.push([abstained, row.abstained ?? null]);
      return JSON.stringify(Object.fromEntries(entries)) + "\n";
    });
  }

  function download(parts, ending, type) {
    const url = URL.createObjectURL(new Blob(parts, { type }));
    const link = element("a", { href: url, download: work.name.replace(/(\.\w{1,7})+$/, "") + "-predictions" + ending });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  }

  // --- the page ---

  const THEME = "pyllmclf-theme";

  function setTheme(theme) {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  }

  function submitted(form, handle) {
    form.addEventListener("submit", (event) => {
      if (event.submitter?.name === "explain") return; // the server makes that page
      event.preventDefault();
      handle();
    });
  }

  function listenToTexts() {
    submitted($("text-form"), classifyTexts);
    $("text").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        classifyTexts();
      }
    });
    for (const id of ["model", "other"]) $(id).addEventListener("change", about);
    submitted($("key-form"), async () => {
      key = $("key").value.trim();
      try {
        await loadModels();
        stored("sessionStorage", KEY, $("keep-key").checked ? key : null);
        $("key").value = $("key-error").textContent = "";
        $("text").focus();
      } catch (error) {
        $("key-error").textContent ||= error.message;
      }
    });
  }

  function listenToFiles() {
    submitted($("file-form"), classifyFile);
    $("cancel").addEventListener("click", () => cancel?.abort());
    const drop = $("drop");
    for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
      // A file that is dropped beside the field would replace the page.
      window.addEventListener(name, (event) => {
        event.preventDefault();
        drop.classList.toggle("over", drop.contains(event.target) && /dragenter|dragover/.test(name));
      });
    }
    drop.addEventListener("drop", (event) => {
      if (event.dataTransfer.files.length) $("file").files = event.dataTransfer.files;
      $("classify-file").focus();
    });
    let waiting;
    const soon = (delay) => {
      clearTimeout(waiting);
      waiting = setTimeout(showRows, delay);
    };
    submitted($("filters"), showRows);
    $("filters").addEventListener("input", () => soon(150));
    $("filters").addEventListener("reset", () => soon(0));
    $("download-csv").addEventListener("click", () => download(csv(), ".csv", "text/csv;charset=utf-8"));
    $("download-jsonl").addEventListener("click", () => download(jsonl(), ".jsonl", "application/x-ndjson"));
  }

  function start() {
    setTheme($("theme").value = stored("localStorage", THEME) ?? "");
    $("theme").addEventListener("change", () => {
      setTheme($("theme").value);
      stored("localStorage", THEME, $("theme").value || null);
    });
    for (const part of document.querySelectorAll("[data-script]")) part.hidden = false;
    listenToTexts();
    listenToFiles();
    if (limits.needsKey === "yes") {
      key = stored("sessionStorage", KEY);
      if (key === null) return askForKey();
    }
    loadModels().catch((error) => {
      $("error").textContent = error.message;
    });
  }

  start();
})();

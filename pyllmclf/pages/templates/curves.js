// The curves of a class of the reader's choice, beside those that are drawn.
if ($("curve-class")) {
  // The plotted area, as pages/charts.py has it.
  const LEFT = 56, WIDTH = 350, TOP = 12, HEIGHT = 222, STYLE = "style-5";
  const chosen = $("curve-class");
  chosen.addEventListener("change", () => {
    const curves = page.curves[chosen.value];
    for (const [name, figure, words] of [["roc", "roc_area", "area"], ["recall", "average_precision", "average precision"]]) {
      const chart = $("chart-" + name), legend = chart.parentElement.querySelector(".legend");
      chart.querySelector(".added").replaceChildren();
      legend.querySelector(".chosen")?.remove();
      if (!curves) continue;
      const [x, y] = curves[name];
      const points = x.map((each, i) => `${LEFT + (WIDTH * each) / 1000},${TOP + HEIGHT * (1 - y[i] / 1000)}`).join(" ");
      chart.querySelector(".added").append(svg("polyline", { class: "line " + STYLE, points }));
      const line = document.createElement("li"), key = legend.querySelector(".key").cloneNode(true), label = document.createElement("bdi");
      line.className = "chosen";
      key.firstElementChild.setAttribute("class", "line " + STYLE);
      label.textContent = `${chosen.selectedOptions[0].textContent}: ${words} ${curves[figure].toFixed(4)}`;
      line.append(key, label);
      legend.append(line);
    }
  });
}

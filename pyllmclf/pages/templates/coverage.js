// The slider of the risk-coverage curve.
if ($("coverage-slider")) {
  const slider = $("coverage-slider"), chart = $("chart-coverage");
  const points = chart.querySelector("polyline").points;
  const mark = svg("circle", { class: "mark style-1", r: 5 });
  chart.querySelector(".added").append(mark);
  function show() {
    const row = page.coverage[slider.value], point = points[slider.value];
    mark.setAttribute("cx", point.x);
    mark.setAttribute("cy", point.y);
    const [low, high] = row.interval;
    const said = `${percent(row.coverage)} answered (${count(row.answered, "text")}, from probability ${row.threshold.toFixed(3)}): `
      + `${percent(row.accuracy, 2)} right, 95 % interval ${percent(low, 2)} to ${percent(high, 2)}`;
    $("coverage-output").textContent = said;
    slider.setAttribute("aria-valuetext", said);
  }
  slider.addEventListener("input", show);
  show();
}

"use strict";
// Recolours the strip below the tokens by a measure, and draws the map of hidden attention of a block. Text is set,
// never parsed.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = id => document.getElementById(id);
  const LINE = 4;
  const number = value => {
    const size = Math.abs(value), text = size === 0 ? "0" : size < 1e-3 ? size.toExponential(1) : String(+size.toPrecision(3));
    return (value < 0 ? "\u2212" : "") + text.replace("e-", "e\u2212");
  };
  const choices = (select, names) => names.forEach((name, i) => {
    const option = document.createElement("option");
    option.textContent = name;
    option.value = i;
    select.append(option);
  });
  const largest = values => values.reduce((most, value) => value === null ? most : Math.max(most, Math.abs(value)), 0);

  const tokens = [...document.querySelectorAll(".t")];
  function strip() {
    const measure = data.measures[Number(at("measure").value)], tops = measure.lines.map(line => largest(line.values));
    const height = LINE * tops.length;
    at("meaning").textContent = measure.meaning;
    at("full").textContent = measure.lines.map((line, i) => `${line.label} ${number(tops[i])}`).join(", ");
    tokens.forEach((token, i) => {
      const values = measure.lines.map(line => line.values[i]);
      const stops = values.map((value, n) => {
        const share = tops[n] ? Math.max(0, value / tops[n]) : 0;
        const colour = value === null ? "var(--hole)" : `rgb(var(--ink) / ${share.toFixed(2)})`;
        return `${colour} ${LINE * n}px ${LINE * (n + 1)}px`;
      });
      token.style.paddingBottom = `${height + 2}px`;
      token.style.backgroundSize = `100% ${height}px`;
      token.style.backgroundImage = `linear-gradient(${stops.join(",")})`;
      const said = measure.lines.map((line, n) => values[n] === null ? "" : `${line.label} ${number(values[n])}`).filter(Boolean);
      token.title = `${i}: ${data.tokens[i]}; ${measure.name}: ${said.join(", ") || "not measured"}`;
    });
  }
  if (data.measures.length) {
    choices(at("measure"), data.measures.map(measure => measure.name));
    at("measure").addEventListener("change", strip);
    at("strip-controls").hidden = false;
    const tell = event => {
      const token = event.target.closest(".t");
      if (token) at("token-said").textContent = token.title;
    };
    at("tokens").addEventListener("pointerover", tell);
    at("tokens").addEventListener("click", tell);
  }

  const {width, blocks} = data.maps, map = at("map");
  if (!blocks.length) return;
  const n = Math.ceil(data.tokens.length / width), SIZE = Math.max(4, Math.floor(544 / n));
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const cell = (row, column) => blocks[Number(at("block").value)].cells[row * (row + 1) / 2 + column];
  const span = i => {
    const last = Math.min(data.tokens.length, (i + 1) * width) - 1;
    const words = `${data.tokens[i * width]}${last > i * width ? ` \u2026 ${data.tokens[last]}` : ""}`;
    return `${words} (${i * width}${last > i * width ? `\u2013${last}` : ""})`;
  };
  function draw() {
    map.width = map.height = n * SIZE;
    const paint = map.getContext("2d"), ink = colour("--ink");
    paint.clearRect(0, 0, map.width, map.height);
    for (let row = 0; row < n; row++)
      for (let column = 0; column <= row; column++) {
        paint.fillStyle = `rgb(${ink} / ${Math.sqrt(cell(row, column) / 1000).toFixed(3)})`;
        paint.fillRect(column * SIZE, row * SIZE, SIZE, SIZE);
      }
    if (data.evidence) {
      const [start, stop] = data.evidence.map((place, end) => end ? Math.ceil(place / width) : Math.floor(place / width));
      paint.strokeStyle = colour("--series-3");
      paint.lineWidth = 1.5;
      paint.strokeRect(start * SIZE, start * SIZE, (stop - start) * SIZE, (n - start) * SIZE);
    }
  }
  function tell(event) {
    const box = map.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / box.width * n), row = Math.floor((event.clientY - box.top) / box.height * n);
    at("map-said").textContent = row < 0 || row >= n || column < 0 || column > row ? ""
      : `${span(row)} reads ${number(cell(row, column) / 10)} % from ${span(column)}`;
  }
  choices(at("block"), blocks.map(block => `block ${block.layer}`));
  const chosen = blocks.findIndex(block => block.layer === data.shown);
  at("block").value = chosen < 0 ? 0 : chosen;
  at("block").addEventListener("change", draw);
  map.addEventListener("pointermove", tell);
  map.addEventListener("click", tell);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  at("map-part").hidden = false;
  draw();
})();

"use strict";
// Draws one view (the averages, or a prompt) of one site as a table of coloured cells. Text is set, never parsed.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = id => document.getElementById(id);
  const LESS = [84, 39, 136], NONE = [247, 247, 247], MORE = [179, 88, 6];

  const make = (tag, text, parent) => {
    const element = document.createElement(tag);
    element.textContent = text;
    parent.append(element);
    return element;
  };
  const largest = (view, sites) => Math.max(0, ...sites.map(site =>
    view.cells[site].reduce((most, row) => row.reduce((m, cell) => cell ? Math.max(m, Math.abs(cell[0])) : m, most), 0)));
  const number = value => {
    const size = Math.abs(value), text = size === 0 ? "0" : size < 1e-3 ? size.toExponential(1) : String(+size.toPrecision(3));
    return (value < 0 ? "\u2212" : "") + text.replace("e-", "e\u2212");
  };

  function colour(share) {
    const end = share < 0 ? LESS : MORE, part = Math.min(1, Math.abs(share));
    return NONE.map((from, i) => Math.round(from + part * (end[i] - from)));
  }

  function words(view, site, row, column, cell) {
    const place = `${site}, layer ${data.layers[column]}, ${view.kind === "prompt" ? `position ${row}, ` : ""}${view.rows[row]}`;
    if (!cell) return `${place}: no value`;
    const [effect, second, third, prompts] = cell;
    if (view.kind === "prompt")
      return `${place}: effect ${number(effect)}` + (second === null ? "" : `, standard deviation over samples ${number(second)}`);
    const interval = second === null ? "" : ` (${number(second)} to ${number(third)})`;
    return `${place}: AIE ${number(effect)}${interval}, ${prompts} ${prompts === 1 ? "prompt" : "prompts"}`;
  }

  function draw() {
    const view = data.views[Number(at("view").value)], site = at("site").value, map = at("map");
    const limit = largest(view, at("common").checked ? data.sites : [site]);
    at("text").textContent = view.text;
    at("said").textContent = view.said || "";
    at("readout").textContent = "";
    map.replaceChildren();
    map.classList.toggle("many", data.layers.length > 14);
    const head = make("tr", "", make("thead", "", map));
    make("th", view.kind === "prompt" ? "token" : "tokens", head);
    for (const layer of data.layers) make("th", `layer ${layer}`.slice(data.layers.length > 14 ? 6 : 0), head).scope = "col";
    const body = make("tbody", "", map);
    view.cells[site].forEach((cells, row) => {
      const line = make("tr", "", body), name = make("th", view.rows[row], line);
      name.scope = "row";
      if (view.starred.includes(row)) name.className = "subject";
      cells.forEach((cell, column) => {
        const box = make("td", cell ? number(cell[0]) : "", line);
        box.title = words(view, site, row, column, cell);
        box.dataset.cell = `${row},${column}`;
        if (!cell) return box.classList.add("none");
        const share = limit ? cell[0] / limit : 0;
        box.style.background = `rgb(${colour(share).join(",")})`;
        box.style.color = Math.abs(share) > 0.6 ? "#ffffff" : "#1b1c1e";
      });
    });
    at("scale").hidden = !limit;
    at("low").textContent = number(-limit);
    at("high").textContent = number(limit);
    at("unit").textContent = data.unit;
  }

  data.views.forEach((view, i) => { make("option", view.name, at("view")).value = i; });
  for (const site of data.sites) make("option", site, at("site")).value = site;
  for (const id of ["view", "site", "common"]) at(id).addEventListener("change", draw);
  at("map").addEventListener("pointerover", event => {
    if (event.target.dataset.cell) at("readout").textContent = event.target.title;
  });
  at("controls").addEventListener("submit", event => event.preventDefault());
  at("controls").hidden = false;
  draw();
})();

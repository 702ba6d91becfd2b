"use strict";
document.documentElement.classList.add("scripted");

// The switch between a light and a dark page. Without a choice, the page follows the system.
const theme = document.getElementById("theme");
const dark = () => document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const nameTheme = () => { theme.textContent = dark() ? "Light page" : "Dark page"; };
theme.hidden = false;
theme.addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; nameTheme(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
nameTheme();

// Tables: a button in every header sorts by its column. Cells without a number stay at the end.
const parsed = cell => parseFloat(cell.textContent.replaceAll(",", ""));
function compare(one, other, numeric) {
  if (!numeric) return one.textContent.localeCompare(other.textContent, "en", { numeric: true });
  return parsed(one) - parsed(other);
}
function sort(table, column) {
  const head = table.tHead.rows[0].cells[column], numeric = head.classList.contains("number");
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const known = row => !numeric || !Number.isNaN(parsed(row.cells[column]));
  const rows = [...table.tBodies[0].rows];
  const sorted = rows.filter(known).sort((a, b) => sign * compare(a.cells[column], b.cells[column], numeric));
  table.tBodies[0].append(...sorted, ...rows.filter(row => !known(row)));
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
}
for (const table of document.querySelectorAll("table")) {
  if (table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, column));
    head.append(button);
  });
}

// Boxes that scroll can be reached and scrolled by keyboard.
function reachBoxes() {
  for (const box of document.querySelectorAll(".wide")) {
    const scrolls = box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight;
    let heading = box.closest("figure") ? null : box.previousElementSibling;
    while (heading && !/^H\d$/.test(heading.tagName)) heading = heading.previousElementSibling;
    const name = heading ? heading.textContent : box.querySelector("img") ? "Figure " + box.parentElement.id.replace("figure-", "") : "Table";
    if (scrolls) Object.entries({ tabindex: 0, role: "region", "aria-label": name + ", scrolls" }).forEach(([key, value]) => box.setAttribute(key, value));
    else for (const key of ["tabindex", "role", "aria-label"]) box.removeAttribute(key);
  }
}
reachBoxes();
addEventListener("resize", reachBoxes);

// Interactive charts. plotly's program is stored compressed, and starts when a chart comes into view.
let plotly = null;
function startPlotly() {
  plotly ??= (async () => {
    const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent), letter => letter.charCodeAt(0));
    const program = document.createElement("script");
    program.textContent = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    document.head.append(program);
    return window.Plotly;
  })();
  return plotly;
}
const digits = value => value === null || value === undefined ? "unknown" : String(Number(value.toPrecision(4)));
function fill(menu, names) {
  for (const [value, name] of names) menu.append(new Option(name, value));
}
const base = { margin: { l: 75, r: 15, t: 20, b: 65 }, paper_bgcolor: "#fff", plot_bgcolor: "#fff", font: { color: "#1d1f21", size: 13 }, hovermode: "closest" };
const axis = { automargin: true, exponentformat: "power", gridcolor: "#e3e6e8", nticks: 8, zeroline: false };
const titled = text => ({ title: { text, standoff: 6 } });
const options = { displayModeBar: false, responsive: true };

/* A chart: `draw(menus)` returns plotly's {data, layout}, and `points(data)` the curves of points that the arrow keys visit,
   each point as {text, curve, index}. Across a map, up and down keep the place; among spectra, the rank. */
function chart(section, draw, points) {
  const plot = section.querySelector(".plot"), output = section.querySelector("output");
  const menus = Object.fromEntries([...section.querySelectorAll("select")].map(menu => [menu.dataset.menu, menu]));
  let lines = [], row = 0, column = -1;
  async function show() {
    const Plotly = await startPlotly(), { data, layout } = draw(menus);
    lines = points(data, menus); row = 0; column = -1;
    await Plotly.react(plot, data, { ...base, ...layout }, options);
    if (!plot.dataset.drawn) plot.on("plotly_hover", event => { const point = event.points[0]; output.textContent = point.data.told(point); });
    plot.dataset.drawn = "yes";
  }
  plot.addEventListener("keydown", event => {
    const [down, right] = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key] ?? [0, 0];
    if (!(down || right) || !lines.length) return;
    event.preventDefault();
    row = (row + down + lines.length) % lines.length;
    column = Math.min(Math.max(column + right, 0), lines[row].length - 1);
    const point = lines[row][column];
    output.textContent = point.text;
    if (point.at) window.Plotly.Fx.hover(plot, [point.at]);
  });
  for (const menu of Object.values(menus)) menu.addEventListener("change", show);
  new IntersectionObserver((entries, observer) => {
    if (entries.some(entry => entry.isIntersecting)) { observer.disconnect(); show(); }
  }, { rootMargin: "300px" }).observe(section);
}

const dataOf = name => JSON.parse(document.getElementById("data-" + name)?.textContent ?? "null");
const spectra = dataOf("spectra"), surfaces = dataOf("surfaces");

if (spectra) {
  const section = document.getElementById("spectra");
  fill(section.querySelector("[data-menu=view]"), Object.entries(spectra.views).map(([key, view]) => [key, view.name]));
  fill(section.querySelector("[data-menu=group]"), Object.keys(spectra.groups).map(name => [name, name]));
  const draw = menus => {
    const name = menus.view.value, view = spectra.views[name], seen = new Set();
    const shown = spectra.groups[menus.group.value].filter(spectrum => spectrum.curves[name]);
    const data = shown.map(spectrum => {
      const { x, y, error } = spectrum.curves[name], first = !seen.has(spectrum.model);
      seen.add(spectrum.model);
      const told = point => `${spectrum.name}: ${view.x} ${digits(x[point.pointNumber])}, ${view.y.replaceAll("|eigenvalue|", "eigenvalue")} ${digits(y[point.pointNumber])}`
        + (error[point.pointNumber] === null ? "" : ` ± ${digits(error[point.pointNumber])}`);
      return {
        type: "scatter", mode: x.length > 30 ? "lines" : "lines+markers", name: spectrum.model, legendgroup: spectrum.model, showlegend: first,
        x, y: view.y_scale === "log" ? y.map(Math.abs) : y, line: { color: spectrum.colour, width: 1.5 },
        marker: { size: 6, symbol: y.map(value => value < 0 ? "circle-open" : "circle") },
        text: x.map((_, index) => told({ pointNumber: index })), hovertemplate: "%{text}<extra></extra>", told,
      };
    });
    const layout = {
      xaxis: { ...titled(view.x), type: view.x_scale, ...axis },
      yaxis: { ...titled(view.y), type: view.y_scale, ...axis },
      legend: section.clientWidth < 700 ? { orientation: "h", y: -0.3, yanchor: "top" } : {},
    };
    return { data, layout };
  };
  chart(section, draw, data => data.map((trace, curve) => trace.text.map((text, index) => ({ text, at: { curveNumber: curve, pointNumber: index } }))));
}

if (surfaces) {
  const section = document.getElementById("surfaces"), canDraw = Boolean(document.createElement("canvas").getContext("webgl"));
  fill(section.querySelector("[data-menu=plane]"), surfaces.map((surface, index) => [index, surface.name]));
  if (!canDraw) section.querySelector("[value=surface]").remove();
  const draw = menus => {
    const surface = surfaces[menus.plane.value], solid = menus.shape.value === "surface";
    const positive = surface.loss.flat().every(value => value === null || value > 0);
    const height = surface.loss.map(line => line.map(value => value === null ? null : positive ? Math.log10(value) : value));
    const told = point => {
      const [down, right] = solid ? [surface.y.indexOf(point.y), surface.x.indexOf(point.x)] : point.pointNumber;
      return `${surface.x_title} ${digits(surface.x[right])}, ${surface.y_title} ${digits(surface.y[down])}: loss ${digits(surface.loss[down][right])}`;
    };
    const text = surface.loss.map((line, down) => line.map((_, right) => told({ pointNumber: [down, right], x: surface.x[right], y: surface.y[down] })));
    const z = positive ? "log10 of the training loss" : "training loss";
    const data = [{ type: solid ? "surface" : "heatmap", x: surface.x, y: surface.y, z: height, text, told, hovertemplate: "%{text}<extra></extra>",
      colorscale: "Viridis", colorbar: { title: { text: z, side: "right" }, thickness: 14, len: 0.8 } }];
    if (surface.places.length) {
      const nearest = (values, value) => values.reduce((best, each, index) => Math.abs(each - value) < Math.abs(values[best] - value) ? index : best, 0);
      const note = place => `${surface.path ? "step" : "run"} ${place.step}` + (place.loss === null ? "" : `, loss off the plane ${digits(place.loss)}`);
      const places = { x: surface.places.map(place => place.x), y: surface.places.map(place => place.y), text: surface.places.map(note), name: "recorded points",
        hovertemplate: "%{text}<extra></extra>", told: point => note(surface.places[point.pointNumber]), mode: surface.path ? "lines+markers" : "markers",
        line: { color: "#d55e00", width: 3 }, marker: { size: solid ? 3 : 7, color: "#d55e00" }, showlegend: false };
      const z = surface.places.map(place => height[nearest(surface.y, place.y)][nearest(surface.x, place.x)]);
      data.push(solid ? { type: "scatter3d", z, ...places } : { type: "scatter", ...places });
    }
    const titles = [surface.x_title, surface.y_title, z].map(titled);
    const scene = { xaxis: titles[0], yaxis: titles[1], zaxis: titles[2], aspectratio: { x: 1, y: 1, z: 0.7 }, camera: { eye: section.clientWidth < 700 ? { x: 2.2, y: 2.2, z: 1.4 } : { x: 1.5, y: 1.5, z: 1 } } };
    return { data, layout: solid ? { scene, margin: { l: 0, r: 0, t: 0, b: 0 } } : { xaxis: { ...axis, ...titles[0] }, yaxis: { ...axis, ...titles[1] } } };
  };
  chart(section, draw, (data, menus) => {
    const solid = menus.shape.value === "surface";
    return data[0].text.map((line, down) => line.map((text, right) => ({ text, at: solid ? null : { curveNumber: 0, pointNumber: [down, right] } })));
  });
}

"use strict";
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const hidden = new Set();
  const margin = { left: 56, right: 14, top: 12, bottom: 26 };
  let eachSeed = true;

  const add = (parent, name, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };

  const steps = (value) => {
    for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= size) return String(+(value / size).toPrecision(4)) + unit;
    }
    return String(+value.toPrecision(4));
  };
  const number = (value) => (Math.abs(value) >= 1e4 ? steps(value) : String(+value.toPrecision(3)));

  // Round numbers from low to high, about so many.
  const ticks = (low, high, about) => {
    const rough = (high - low) / about;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found;
  };

  // A line through all values that there are, broken where there is none.
  const path = (x, y, xs, ys) => {
    let text = "", pen = "M";
    ys.forEach((value, i) => {
      if (value === null) { pen = "M"; return; }
      text += pen + x(xs[i]).toFixed(1) + " " + y(value).toFixed(1);
      pen = "L";
    });
    return text;
  };

  // The area between the ends of the intervals, each stretch that has them for itself.
  const band = (x, y, line) => {
    let text = "", stretch = [];
    const close = () => {
      if (stretch.length > 1) {
        const there = stretch.map((i) => x(line.x[i]).toFixed(1) + " " + y(line.high[i]).toFixed(1));
        const back = stretch.map((i) => x(line.x[i]).toFixed(1) + " " + y(line.low[i]).toFixed(1)).reverse();
        text += "M" + there.concat(back).join("L") + "Z";
      }
      stretch = [];
    };
    line.x.forEach((_, i) => { if (line.low[i] === null || line.high[i] === null) close(); else stretch.push(i); });
    close();
    return text;
  };

  const range = (lines, choice) => {
    if (choice.rate) return [-0.03, 1.05];
    const all = lines.flatMap((line) => [line.mean, line.low || [], line.high || [], ...(eachSeed ? line.seeds.map((s) => s[1]) : [])]);
    let low = Infinity, high = -Infinity;
    for (const values of [...all, [choice.threshold]]) {
      for (const value of values) if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
    }
    if (low > high) return [0, 1];
    const room = 0.05 * (high - low) || Math.abs(high) * 0.1 || 1;
    return [low - room, high + room];
  };

  const draw = (figure) => {
    const group = data[figure.dataset.kind];
    const choice = group.choices.find((each) => each.key === group.chosen);
    const everything = group.panels[figure.dataset.panel].lines[choice.key];
    const lines = everything.filter((line) => !hidden.has(line.arm));
    const place = figure.querySelector(".canvas");
    const width = place.clientWidth, height = width < 600 ? 300 : 380;
    const longest = Math.max(1, ...everything.map((line) => line.x[line.x.length - 1]));
    const [low, high] = range(lines, choice);
    const x = (value) => margin.left + (value / longest) * (width - margin.left - margin.right);
    const y = (value) => margin.top + ((high - value) / (high - low)) * (height - margin.top - margin.bottom);
    place.replaceChildren();
    const label = choice.label + " over environment steps; arms shown: " + lines.map((line) => data.arms[line.arm].name).join(", ");
    const svg = add(place, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
    for (const value of ticks(low, high, 5)) {
      add(svg, "line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: y(value), y2: y(value) });
      add(svg, "text", { x: margin.left - 8, y: y(value) + 4, "text-anchor": "end" }, number(value));
    }
    add(svg, "line", { class: "axis", x1: margin.left, x2: width - margin.right, y1: height - margin.bottom, y2: height - margin.bottom });
    for (const value of ticks(0, longest, width < 600 ? 3 : 6)) {
      const anchor = x(value) > width - 30 ? "end" : "middle";
      add(svg, "text", { x: x(value), y: height - 8, "text-anchor": anchor }, steps(value));
    }
    if (!everything.length) add(svg, "text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "no values");
    if (choice.threshold !== null && everything.length) {
      add(svg, "line", { class: "threshold", x1: margin.left, x2: width - margin.right, y1: y(choice.threshold), y2: y(choice.threshold) });
    }
    const parts = (line, kind) => ({ class: `${kind} arm-${data.arms[line.arm].colour}`, "data-arm": line.arm });
    for (const line of lines) {
      const opacity = 0.6 / Math.sqrt(Math.max(1, line.seeds.length));
      if (eachSeed) for (const [xs, ys] of line.seeds) add(svg, "path", { ...parts(line, "seed"), opacity, d: path(x, y, xs, ys) });
      if (line.low) add(svg, "path", { ...parts(line, "band"), d: band(x, y, line) });
    }
    for (const line of lines) {
      add(svg, "path", { ...parts(line, "mean"), "stroke-dasharray": data.arms[line.arm].dash, d: path(x, y, line.x, line.mean) });
      if (line.x.length === 1 && line.mean[0] !== null) add(svg, "circle", { ...parts(line, "dot"), cx: x(line.x[0]), cy: y(line.mean[0]), r: 4 });
    }
    point(place, svg, lines, x, y, width, height, longest, parts);
  };

  // What lies under the pointer: the nearest evaluation, and every arm's value there.
  const point = (place, svg, lines, x, y, width, height, longest, parts) => {
    const marks = add(svg, "g", {});
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    place.append(tip);
    const leave = () => { tip.hidden = true; marks.replaceChildren(); };
    const move = (event) => {
      const at = ((event.clientX - svg.getBoundingClientRect().left - margin.left) / (width - margin.left - margin.right)) * longest;
      const nearest = (xs) => xs.reduce((best, value, i) => (Math.abs(value - at) < Math.abs(xs[best] - at) ? i : best), 0);
      const found = lines.map((line) => [line, nearest(line.x)]).filter(([line, i]) => line.mean[i] !== null);
      leave();
      if (!found.length) return;
      const step = found.map(([line, i]) => line.x[i]).reduce((best, value) => (Math.abs(value - at) < Math.abs(best - at) ? value : best));
      add(marks, "line", { class: "axis", x1: x(step), x2: x(step), y1: margin.top, y2: height - margin.bottom });
      const title = document.createElement("b");
      title.textContent = steps(step) + " steps";
      tip.replaceChildren(title);
      for (const [line, i] of found.sort(([a, i], [b, j]) => b.mean[j] - a.mean[i])) {
        const arm = data.arms[line.arm], row = document.createElement("div");
        const swatch = add(row, "svg", { width: 22, height: 8, class: "swatch" });
        add(swatch, "line", { class: `arm-${arm.colour}`, x1: 0, x2: 22, y1: 4, y2: 4, "stroke-dasharray": arm.dash });
        let text = `${arm.name} ${number(line.mean[i])}`;
        if (line.low && line.low[i] !== null) text += ` (${number(line.low[i])}, ${number(line.high[i])})`;
        if (line.x[i] !== step) text += ` at ${steps(line.x[i])}`;
        row.append(text);
        tip.append(row);
        add(marks, "circle", { ...parts(line, "dot"), cx: x(line.x[i]), cy: y(line.mean[i]), r: 3.5 });
      }
      tip.hidden = false;
      const room = width - tip.offsetWidth, right = x(step) + 12;
      tip.style.left = Math.max(0, right > room ? Math.min(room, x(step) - 12 - tip.offsetWidth) : right) + "px";
    };
    svg.addEventListener("pointermove", move);
    svg.addEventListener("pointerdown", move);
    svg.addEventListener("pointerleave", leave);
  };

  const figures = [...document.querySelectorAll("figure.chart")];
  const drawAll = () => figures.forEach(draw);
  document.querySelectorAll("[hidden]").forEach((element) => { element.hidden = false; });
  document.getElementById("picture").open = false;
  for (const button of document.querySelectorAll("#legend button")) {
    button.addEventListener("click", () => {
      const arm = Number(button.dataset.arm), show = hidden.has(arm);
      if (show) hidden.delete(arm); else hidden.add(arm);
      button.setAttribute("aria-pressed", String(show));
      drawAll();
    });
  }
  for (const select of document.querySelectorAll("select")) {
    const change = () => { data[select.dataset.kind].chosen = select.value; drawAll(); };
    select.addEventListener("change", change);
    change(); // a browser that comes back to a page keeps what was selected
  }
  const box = document.getElementById("each-seed");
  const tick = () => { eachSeed = box.checked; drawAll(); };
  box.addEventListener("change", tick);
  tick();
  for (const button of document.querySelectorAll(".copy button")) {
    button.addEventListener("click", () => {
      const range = document.createRange();
      range.selectNodeContents(button.parentElement.querySelector("pre"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = document.execCommand("copy") ? "copied" : "press Ctrl-C";
    });
  }
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; drawAll(); } });
}

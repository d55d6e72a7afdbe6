// The two drawings, as SVG elements; colours come from style.css.
import { short } from "./words.js";

function artist(svg) {
  svg.replaceChildren();
  return (tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    svg.append(node);
    return node;
  };
}

// Where a score lies among the calibration scores.
export function histogram(svg, answer, calibration) {
  svg.toggleAttribute("hidden", !calibration);
  if (!calibration) return;
  const { edges, counts } = calibration.histogram, score = answer.ood_score, threshold = answer.threshold;
  const width = svg.clientWidth || 600, height = 200, top = 48, bottom = 168;
  let low = edges[0], high = edges[edges.length - 1];
  const range = high - low;  // a score far outside is shown at the edge, or the histogram would shrink to a line
  high = Math.max(high, Math.min(score + 0.05 * range, high + 0.6 * range));
  low = Math.min(low, Math.max(score - 0.05 * range, low - 0.6 * range));
  const x = (v) => 1 + (width - 2) * Math.min(1, Math.max(0, (v - low) / (high - low)));
  const tallest = Math.max(...counts), add = artist(svg);
  const note = (at, y, text, kind) => {
    const node = add("text", { x: at, y, class: kind, "text-anchor": "middle" }, text);
    const half = node.getComputedTextLength() / 2 + 2;
    node.setAttribute("x", Math.min(width - half, Math.max(half, at)));
  };
  counts.forEach((count, i) => {
    const tall = (bottom - top) * count / tallest, left = x(edges[i]);
    if (count) add("rect", { x: left, y: bottom - tall, width: Math.max(1, x(edges[i + 1]) - left - 1), height: tall,
      class: "bin" + (edges[i] >= threshold ? " beyond" : "") });
  });
  add("line", { x1: 0, x2: width, y1: bottom, y2: bottom, class: "axis" });
  add("line", { x1: x(threshold), x2: x(threshold), y1: 38, y2: bottom, class: "threshold" });
  note(x(threshold), 33, "flagged above " + short(threshold), "");
  const beyond = score > high || score < low, at = x(score);
  add("line", { x1: at, x2: at, y1: 18, y2: bottom, class: "score" });
  add("path", { d: `M${at - 5} ${bottom + 9}h10l-5 -8z`, class: "pin" });
  note(at, 13, beyond ? (score > high ? "this image, far beyond →" : "← this image, far below") : "this image", "mine");
  add("text", { x: 0, y: height - 3 }, "← familiar");
  add("text", { x: width, y: height - 3, "text-anchor": "end" }, "unfamiliar →");
  svg.setAttribute("aria-label", `Histogram of the scores of ${calibration.n} calibration images; this image has `
    + `${short(score)}, the threshold is ${short(threshold)}`);
}

// The evidence for drift over images, on a logarithmic axis.
export function evidence(svg, drift) {
  const width = svg.clientWidth || 600, height = 170, left = 46, bottom = 146, top = 12;
  const points = [[0, 0], ...drift.curve.map((p) => [p.images, p.log10_capital])];
  const highest = Math.max(drift.log10_alarm * 1.2, ...points.map((p) => p[1] * 1.05));
  const lowest = Math.min(-0.5, ...points.map((p) => p[1])), last = Math.max(1, drift.images);
  const x = (n) => left + (width - left - 2) * n / last;
  const y = (v) => bottom - (bottom - top) * (v - lowest) / (highest - lowest);
  const add = artist(svg), alarm = drift.log10_alarm;
  const step = highest <= 5 ? 1 : 10 ** Math.ceil(Math.log10(highest / 4));
  for (let tick = Math.ceil(lowest / step) * step; tick <= highest; tick += step) {
    add("line", { x1: left, x2: width, y1: y(tick), y2: y(tick), class: "axis" });
    add("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, Math.abs(tick) < 4 ? short(10 ** tick) : "1e" + tick);
  }
  add("line", { x1: left, x2: width, y1: y(alarm), y2: y(alarm), class: "threshold" });
  add("text", { x: width, y: y(alarm) - 5, "text-anchor": "end" }, "alarm");
  add("polyline", { points: points.map(([n, v]) => `${x(n).toFixed(1)},${y(v).toFixed(1)}`).join(" "), class: "line" });
  add("text", { x: left, y: height - 5 }, "0");
  add("text", { x: width, y: height - 5, "text-anchor": "end" }, drift.images + " images");
  svg.setAttribute("aria-label", `Evidence for drift after ${drift.images} images: ${short(10 ** drift.log10_capital)}; `
    + `the alarm is raised at ${short(10 ** alarm)}`);
}

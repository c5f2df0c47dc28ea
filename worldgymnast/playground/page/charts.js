// The timeline: belief of success above, distance to the real video below.

const NS = "http://www.w3.org/2000/svg";
// Room for the labels at the left, and half the slider's knob at the right.
export const LEFT = 36, RIGHT = 10;
const HEIGHT = 99, TOP = 6, SPLIT = 66, BOTTOM = 94;

function add(parent, name, attributes, text = "") {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  parent.append(element);
  return element;
}

function path(points) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

// lines: [{color, forked, nodes: [node infos since the fork]}]; last: largest frame on the axis; at: frame shown.
export function drawTimeline(svg, lines, last, at, realSuccess) {
  const width = Math.max(120, svg.clientWidth);
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.textContent = "";
  const x = depth => LEFT + (width - LEFT - RIGHT) * (last ? depth / last : 0);
  const hasError = lines.some(line => line.nodes.some(node => node.error !== null && node.depth > 0));
  const floor = hasError ? SPLIT : BOTTOM;
  for (const share of [0, 0.5, 1]) {
    const y = floor + (TOP - floor) * share;
    add(svg, "line", {class: "grid", x1: LEFT, x2: width, y1: y, y2: y});
    if (share || !hasError) add(svg, "text", {x: LEFT - 7, y: y + 3.5, "text-anchor": "end"}, `${100 * share}%`);
  }
  const errors = lines.flatMap(line => line.nodes.map(node => node.error ?? 0));
  const most = Math.max(0.05, ...errors);
  if (hasError) {
    add(svg, "line", {class: "grid", x1: LEFT, x2: width, y1: BOTTOM, y2: BOTTOM});
    add(svg, "text", {x: LEFT - 7, y: SPLIT + 9, "text-anchor": "end"}, `${(100 * most).toFixed(0)}%`);
  }
  for (const line of lines) {
    const curve = (key, toY) => line.nodes.filter(node => node[key] !== null && node[key] !== undefined).map(node => [x(node.depth), toY(node[key])]);
    const believe = value => floor + (TOP - floor) * value;
    const foreseen = curve("foreseen", believe), judge = curve("judge", believe);
    const error = curve("error", value => BOTTOM + (SPLIT + 4 - BOTTOM) * value / most);
    if (line.forked) add(svg, "line", {class: "fork", x1: x(line.forked), x2: x(line.forked), y1: TOP, y2: BOTTOM, stroke: line.color});
    if (foreseen.length > 1) add(svg, "path", {class: "foreseen", d: path(foreseen), stroke: line.color});
    if (judge.length > 1) add(svg, "path", {class: "judge", d: path(judge), stroke: line.color});
    if (hasError && error.length > 1) add(svg, "path", {class: "error", d: path(error), stroke: line.color});
  }
  if (realSuccess !== null && realSuccess <= last) {
    const at = x(realSuccess);
    add(svg, "path", {class: "mark", d: `M${at} ${TOP - 4}l9 4l-9 4z`});
    add(svg, "line", {x1: at, x2: at, y1: TOP - 4, y2: BOTTOM, stroke: "var(--good)", "stroke-width": 1});
  }
  add(svg, "line", {class: "head", x1: x(at), x2: x(at), y1: 0, y2: HEIGHT});
}

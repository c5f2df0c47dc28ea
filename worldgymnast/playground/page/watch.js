// A run while it trains: asks every few seconds, and redraws what changed.

const $ = id => document.getElementById(id);
const EVERY = 3000, COLORS = ["var(--a)", "var(--real)", "var(--b)", "var(--c)"], MINUS = "−";
const STATES = {finished: ["on", "finished"], running: ["busy", "running"], quiet: ["off", "no new step for a while"], starting: ["busy", "starting"]};
let version = "", shown = {};

const known = value => value !== null && value !== undefined;
// Halves go to the even number, as in the report.
const whole = value => Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);
const percent = value => known(value) ? `${whole(100 * value)} %` : "–";
const points = value => {
  const shown = known(value) ? whole(100 * value) : NaN;
  return known(value) ? `${shown < 0 ? MINUS : shown > 0 ? "+" : ""}${Math.abs(shown)}` : "–";
};
const number = value => !known(value) ? "–" : (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : Number(value.toPrecision(3)).toString()).replaceAll("-", MINUS);
const FORMAT = {percent, points, number};
const duration = seconds => seconds < 9.5 ? `${Number(seconds.toPrecision(2))} s` : seconds < 60 ? `${Math.round(seconds)} s` : seconds < 3600 ? `${Math.round(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h ${String(Math.round(seconds % 3600 / 60)).padStart(2, "0")} min`;

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) key === "class" ? element.className = value : element.setAttribute(key, value);
  element.append(...children.filter(child => child !== null));
  return element;
}

function svg(parent, name, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  parent.append(element);
  return element;
}

async function ask() {
  try {
    const answer = await fetch(`state?version=${version}`);
    if (!answer.ok) throw new Error(`error ${answer.status}`);
    const state = await answer.json();
    if (state.version !== version) { shown = state; version = state.version; draw(state); }
    progress(state);
  } catch {
    $("state").dataset.state = "off"; $("state").textContent = "the server is gone";
  }
  setTimeout(ask, document.hidden ? 5 * EVERY : EVERY);
}

// -- progress -----------------------------------------------------------------------------------------------------

function progress(state) {
  const first = state.trainings[0], parent = $("trainings");
  const [dot, text] = first ? STATES[first.state] : ["off", shown.problem ? "nothing to show yet" : "no training here"];
  $("state").dataset.state = dot;
  if ($("state").textContent !== text) $("state").textContent = text;
  const last = Math.max(...state.trainings.map(one => one.last ?? 0));
  $("age").textContent = last > 0 ? `newest step ${duration(Math.max(0, state.now - last))} ago` : "";
  parent.replaceChildren(...state.trainings.map(training));
}

function training(one) {
  const bar = make("div", {class: "bar"});
  bar.append(make("b", {}, one.name), one.total ? `step ${one.steps} of ${one.total}` : `${one.steps} steps`);
  if (one.total) bar.append(make("progress", {max: one.total, value: one.steps, "aria-label": `Progress of ${one.name}`}));
  if (one.step_seconds) bar.append(make("span", {}, `${duration(one.step_seconds)} a step`));
  if (one.state === "running" && known(one.left) && one.left > 0) bar.append(make("span", {}, `about ${duration(one.left)} left`));
  if (one.state === "quiet") bar.append(make("span", {}, "Perhaps it was stopped; the same command resumes it."));
  const tiles = make("dl", {class: "tiles"});
  for (const [key, name, unit] of shown.names ?? []) {
    const value = one.newest[key];
    if (!known(value)) continue;
    const [low, high] = one.interval ?? [null, null], isGap = key === "gap";
    const note = isGap && known(low) ? `points, ${points(low)} to ${points(high)}` : "";
    const isBad = (isGap && low > 0) || (key === "zero_advantage_groups" && value > 0.8) || (key === "judge_error_rate" && value > 0.1);
    tiles.append(make("div", {class: `tile${isBad ? " bad" : ""}`}, make("dt", {}, name), make("dd", {}, FORMAT[unit](value), make("small", {}, note))));
  }
  const shares = Object.entries(one.shares), total = shares.reduce((sum, [, seconds]) => sum + seconds, 0);
  const box = make("div", {class: "training"}, bar, tiles);
  if (total > 0) {
    const strip = make("div", {class: "shares", "aria-hidden": "true"});
    for (const [, seconds] of shares) { const part = make("i"); part.style.width = `${100 * seconds / total}%`; strip.append(part); }
    box.append(strip, make("div", {class: "sharekey"}, "newest step:", ...shares.map(([name, seconds]) => make("span", {}, `${name} ${duration(seconds)}`))));
  }
  return box;
}

// -- charts -------------------------------------------------------------------------------------------------------

// A chart that is drawn again whenever its width changes.
function chart(curve, height) {
  const figure = make("figure", {class: "curve"}), values = make("div", {class: "values"});
  figure.append(make("figcaption", {}, curve.title + (curve.percent ? ", %" : "")), values);
  const picture = svg(figure, "svg", {role: "img", "aria-label": describe(curve), height});
  new ResizeObserver(() => paint(picture, curve, values, Math.max(160, picture.clientWidth), height)).observe(picture);
  return figure;
}

function colored(element, i) { element.style.setProperty("--c", COLORS[i % COLORS.length]); return element; }

function limits(curve, scale) {
  const all = curve.series.flatMap(one => [...one.values, ...(one.low ?? []), ...(one.high ?? [])]).filter(known).map(value => value * scale);
  let low = Math.min(...all), high = Math.max(...all);
  if (curve.percent || /%$/.test(curve.title)) { low = Math.min(0, low); high = Math.max(100, high); }
  return high > low ? [low, high] : [low - 0.5, high + 0.5];
}

function paint(picture, curve, values, width, height) {
  picture.textContent = "";
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const scale = curve.percent ? 100 : 1, left = 44, right = 8, top = 8, bottom = height - 18;
  const [low, high] = limits(curve, scale), steps = curve.series.flatMap(one => one.steps);
  const first = Math.min(...steps), last = Math.max(...steps);
  const x = step => left + (width - left - right) * (last > first ? (step - first) / (last - first) : 0.5);
  const y = value => bottom + (top - bottom) * (value - low) / (high - low);
  for (const share of [0, 0.5, 1]) {
    const value = low + (high - low) * share;
    svg(picture, "line", {class: "grid", x1: left, x2: width, y1: y(value), y2: y(value)});
    svg(picture, "text", {x: left - 6, y: y(value) + 3.5, "text-anchor": "end"}, number(value));
  }
  svg(picture, "text", {x: left, y: height - 3}, String(first));
  if (last > first) svg(picture, "text", {x: width - right, y: height - 3, "text-anchor": "end"}, `${curve.x} ${last}`);
  curve.series.forEach((one, i) => {
    const group = colored(svg(picture, "g", {}), i), at = value => y(value * scale).toFixed(1);
    const points = one.steps.map((step, k) => [x(step).toFixed(1), one.values[k]]).filter(([, value]) => known(value));
    if (one.low && one.high) {
      const side = ends => one.steps.map((step, k) => `${x(step).toFixed(1)} ${at(ends[k] ?? one.values[k] ?? 0)}`);
      svg(group, "path", {class: "band", d: `M${[...side(one.high), ...side(one.low).reverse()].join("L")}Z`});
    }
    if (points.length > 1) svg(group, "path", {class: "line", d: `M${points.map(([px, value]) => `${px} ${at(value)}`).join("L")}`});
    if (points.length <= 12) for (const [px, value] of points) svg(group, "circle", {class: "dot", cx: px, cy: at(value), r: 2.6});
  });
  const mark = svg(picture, "line", {class: "at", y1: top, y2: bottom});
  const show = step => {
    const px = known(step) ? x(step) : 0;
    mark.setAttribute("x1", px); mark.setAttribute("x2", px); mark.setAttribute("visibility", known(step) ? "visible" : "hidden");
    read(values, curve, scale, step);
  };
  picture.onpointermove = event => {
    const wanted = first + (last - first) * (event.clientX - picture.getBoundingClientRect().left - left) / (width - left - right);
    show(steps.reduce((best, candidate) => Math.abs(candidate - wanted) < Math.abs(best - wanted) ? candidate : best, steps[0]));
  };
  picture.onpointerleave = () => show(null);
  show(null);
}

// The values at a step, or the newest ones.
function read(values, curve, scale, step) {
  values.replaceChildren(known(step) ? `${curve.x} ${step}` : "newest", ...curve.series.map((one, i) => {
    let k = one.values.length - 1;
    if (known(step)) one.steps.forEach((candidate, n) => { if (Math.abs(candidate - step) < Math.abs(one.steps[k] - step)) k = n; });
    else while (k > 0 && !known(one.values[k])) k -= 1;
    const name = curve.series.length > 1 ? `${one.name} ` : "";
    return colored(make("span", {}, name + (known(one.values[k]) ? number(one.values[k] * scale) : "–")), i);
  }));
}

function describe(curve) {
  const scale = curve.percent ? 100 : 1;
  return `${curve.title}: ${curve.series.map(one => { const values = one.values.filter(known); return `${one.name} from ${number(values[0] * scale)} to ${number(values[values.length - 1] * scale)}`; }).join("; ")}`;
}

// -- the page -----------------------------------------------------------------------------------------------------

function section(name, has) { $(`${name}section`).hidden = !has; return has; }
function rows(table, head, body, foot = null) {
  const line = (kind, cells) => make("tr", {}, ...cells.map((cell, i) => cell instanceof Node ? cell : make(i ? kind : "th", i ? {} : {scope: kind === "th" ? "col" : "row"}, cell)));
  table.replaceChildren();
  if (head) table.append(make("thead", {}, line("th", head)));
  table.append(make("tbody", {}, ...body.map(cells => line("td", cells))));
  if (foot) table.append(make("tfoot", {}, line("td", foot)));
}
const rate = value => make("td", {}, `${percent(value.value)} `, make("small", {}, known(value.low) ? `[${whole(100 * value.low)}, ${whole(100 * value.high)}]` : ""));

function draw(state) {
  $("title").textContent = state.title; document.title = state.title;
  $("problem").hidden = !state.problem; $("problem").textContent = state.problem ? `Nothing to show yet: ${state.problem}` : "";
  for (const id of ["verdict", "successsection", "gallerysection", "curvesection", "tasksection", "budgetsection", "stagesection", "notesection", "commandsection"]) $(id).hidden = true;
  if (state.problem) return;
  if (state.table) {
    $("verdict").hidden = false;
    const change = state.table.difference;
    $("verdicttext").textContent = `${percent(state.table.before.value)} → ${percent(state.table.after.value)}`;
    $("verdictnote").textContent = `Real success, mean over ${state.table.rows.length} tasks. Difference ${points(change.mean)} points [${points(change.low)}, ${points(change.high)}], ${change.n} pairs.`;
  }
  const isSuccess = curve => curve.title.startsWith("Success on the same starts");
  const both = state.curves.filter(isSuccess), rest = state.curves.filter(curve => !isSuccess(curve));
  if (section("success", both.length || state.gap.length)) {
    $("success").replaceChildren(...both.map(curve => chart({...curve, series: curve.series.filter(one => one.name !== "gap")}, 170)));
    rows($("gap"), ["scored", "imagined", "real", "gap, points", "starts"], state.gap.map(row => [row.when, rate(row.imagined), rate(row.real),
      make("td", row.gap.low > 0 ? {class: "flag"} : {}, `${points(row.gap.mean)} `, make("small", {}, `[${points(row.gap.low)}, ${points(row.gap.high)}]`)), String(row.gap.n)]));
    $("gap").hidden = !state.gap.length;
  }
  if (section("curve", rest.length)) $("curves").replaceChildren(...rest.map(curve => chart(curve, 130)));
  if (section("gallery", state.gallery.length)) gallery(state.gallery);
  if (section("task", state.tasks.length)) {
    rows($("tasks"), ["task", ...state.tasks[0].scores.map(score => `step ${score.step}`), "status"], state.tasks.map(row => [row.task,
      ...row.scores.map(score => make("td", score.held ? {class: "flag"} : {}, `${percent(score.imagined)} / ${percent(score.real)}`)), row.standing]));
  }
  const budget = Object.entries(state.budget), stages = Object.entries(state.stages), sum = list => list.reduce((total, [, value]) => total + value, 0);
  if (section("budget", budget.length)) rows($("budget"), null, budget.map(([name, count]) => [name, String(count)]), ["total", String(sum(budget))]);
  if (section("stage", stages.length)) rows($("stages"), null, stages.map(([name, seconds]) => {
    const share = make("i"); share.style.width = `${100 * seconds / sum(stages)}%`;
    return [name, make("td", {class: "share"}, share), duration(seconds)];
  }), ["total", "", duration(sum(stages))]);
  if (section("note", state.notes.length)) $("notes").replaceChildren(...state.notes.map(note => make("li", {}, note)));
  if (section("command", state.command)) $("command").textContent = state.command;
}

function gallery(pairs) {
  const wrong = pairs.filter(pair => pair.wrong).length;
  $("gallerylead").textContent = `Each pair has the same start and plays together. ${wrong} of ${pairs.length} verdicts ${wrong === 1 ? "is" : "are"} wrong${wrong ? " (red)" : ""}; the pairs are chosen to show both kinds.`;
  $("gallery").replaceChildren(...pairs.map((pair, i) => {
    const videos = make("div", {class: "videos"}), found = [];
    for (const kind of ["imagined", "real"]) {
      let view = make("div", {class: "no"}, "no video");
      if (pair[kind]) { view = make("video", {muted: "", playsinline: "", preload: "metadata", src: `video/${i}/${kind}?v=${version}#t=0.001`, "aria-label": `${kind}: ${pair.instruction}`}); view.muted = true; found.push(view); }
      videos.append(make("div", {}, kind, view));
    }
    const verdict = `Judge: ${!known(pair.verdict) ? "no answer" : pair.verdict ? "success" : "failure"}${known(pair.probability) ? ` (${pair.probability.toFixed(2)})` : ""} · Real: ${!known(pair.real_success) ? "unknown" : pair.real_success ? "success" : "failure"}`;
    const text = make("div", {}, pair.instruction, make("p", {}, verdict, ...(pair.wrong ? [" · ", make("span", {class: "mark"}, "wrong verdict")] : [])), make("p", {}, pair.note));
    const button = make("button", {type: "button"}, "Play");
    const playing = () => found.some(video => !video.paused && !video.ended);
    button.onclick = () => { if (playing()) found.forEach(video => video.pause()); else found.forEach(video => { video.currentTime = 0; video.play(); }); };
    for (const video of found) for (const event of ["play", "pause", "ended"]) video.addEventListener(event, () => { button.textContent = playing() ? "Pause" : "Play"; });
    return make("figure", {class: `pair${pair.wrong ? " wrong" : ""}`}, videos, make("figcaption", {}, text, found.length ? button : null));
  }));
}
ask();

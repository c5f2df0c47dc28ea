// The playground: shows lines of imagined frames, and sends what the person does.

import {LEFT, RIGHT, drawTimeline} from "./charts.js";
import {Controls} from "./controls.js";

const $ = id => document.getElementById(id);
const COLORS = {A: "var(--a)", B: "var(--b)", C: "var(--c)", D: "var(--d)"};
const BY = {start: "start", hand: "by hand", policy: "policy", log: "logged action"};
const percent = value => value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`;
const KEY = "worldgymnast-visit", KNOB = 8;

let socket = null, hello = null, pending = 0, streaming = "", running = false, replaying = false;
let nodes = new Map(), lines = [], active = "A", view = null, arrivals = [], redraw = false, lastTick = 0;
const controls = new Controls(() => { pulse = true; });
let pulse = false, lastDo = "";

// -- the conversation ---------------------------------------------------------------------------------------------

function connect() {
  const visit = sessionStorage.getItem(KEY) ?? "";
  const address = new URL("live", location.href);
  address.protocol = "ws:";
  address.search = new URLSearchParams({visit});
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onmessage = event => typeof event.data === "string" ? receive(JSON.parse(event.data)) : receiveFrame(event.data);
  socket.onclose = () => { link("off", "not connected"); if (!$("gone").open) gone("Start worldgymnast play again, or reload this page if it still runs."); };
  link("busy", "connecting");
}

function send(command) {
  if (socket?.readyState !== WebSocket.OPEN) return;
  pending += 1;
  lastDo = command.do;
  link("busy", "imagining");
  socket.send(JSON.stringify(command));
}

function receive(message) {
  if (message.is === "hello") begin(message);
  else if (message.is === "scene") loadScene(message);
  else if (message.is === "nodes") { for (const node of message.nodes) nodes.set(node.id, {...nodes.get(node.id), ...node}); pasts.clear(); }
  else if (message.is === "lines") setLines(message.lines);
  else if (message.is === "forked") { active = message.line; say(`Line ${message.line} begins here. The other lines stay.`); }
  else if (message.is === "said") { $("sentence").value = message.instruction; say(`Instruction: ${message.instruction}`); }
  else if (message.is === "note") say(message.text);
  else if (message.is === "error") { say(message.text, true); stopAll(); }
  else if (message.is === "refused") { sessionStorage.removeItem(KEY); gone(message.text); }
  dirty();
}

function receiveFrame(data) {
  const size = new DataView(data).getUint32(0), header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
  const node = header.node, line = lines.find(one => one.name === header.line);
  nodes.set(node.id, {...node, blob: new Blob([new Uint8Array(data, 4 + size)])});
  if (line) line.tip = node.id;
  if (view !== null && header.line === active) view = null;
  const now = performance.now();
  if (header.line === active) arrivals.push(now);
  while (arrivals.length && now - arrivals[0] > 2000) arrivals.shift();
  dirty();
}

function begin(message) {
  hello = message;
  sessionStorage.setItem(KEY, message.visit);
  nodes = new Map(); active = "A"; view = null; pending = 1; streaming = "";
  $("world").textContent = message.names.world || "World model";
  document.title = `Playground: ${message.names.world || "world model"}`;
  $("scene").replaceChildren(...message.scenes.map((name, i) => new Option(name, String(i))));
  $("policy").hidden = $("variety").hidden = !message.policy;
  $("judgename").textContent = message.judge ? `Judge (${message.judge.name})` : "Judge";
  $("ask").hidden = !message.judge;
  $("spec").textContent = `Actions: ${message.spec}. Frames: ${message.size[1]}×${message.size[0]}, ${message.fps.toFixed(1)} a second.`;
  loadScene(message);
  if ($("gone").open) $("gone").close();
}

function loadScene(message) {
  Object.assign(hello, {scene: message.scene, log: message.log, instruction: message.instruction, axes: message.axes});
  nodes = new Map(); active = "A"; view = null; arrivals = [];
  $("scene").value = String(message.scene);
  $("sentence").value = message.instruction;
  $("follow").hidden = !message.log;
  $("errorrow").hidden = !message.log;
  controls.load(message.axes);
  listKeys();
  say("");
}

function setLines(found) {
  lines = found;
  if (!lines.some(line => line.name === active)) active = lines[0].name;
  pending = Math.max(0, pending - 1);
  if (!pending) {
    streaming = "";
    link("on", "ready");
    if (lastDo !== "drive") controls.follow(tip(activeLine())?.action);
  }
  buildScreens();
}

// -- the screens --------------------------------------------------------------------------------------------------

const tip = line => nodes.get(line.tip);
const activeLine = () => lines.find(line => line.name === active) ?? lines[0];
const longest = () => Math.max(0, ...lines.map(line => tip(line)?.depth ?? 0));
const shownDepth = () => view ?? (tip(activeLine() ?? {})?.depth ?? 0);

const pasts = new Map();
function past(line) {
  const known = pasts.get(line.name), newest = tip(line);
  if (known && known.tip === newest) return known.path;
  let path = [];
  if (known?.tip && newest?.parent === known.tip.id && nodes.get(known.tip.id) === known.tip) { path = known.path; path.push(newest); }
  else { for (let node = newest; node; node = nodes.get(node.parent)) path.push(node); path.reverse(); }
  pasts.set(line.name, {tip: newest, path});
  return path;
}

function buildScreens() {
  const names = [...lines.map(line => line.name), ...(hello.log ? ["real"] : [])], parent = $("screens");
  if (parent.dataset.names === names.join() && parent.dataset.scene === String(hello.scene)) return;
  parent.dataset.names = names.join(); parent.dataset.scene = hello.scene; parent.dataset.count = names.length;
  parent.style.setProperty("--ratio", hello.size[1] / hello.size[0]);
  parent.replaceChildren(...names.map(screen));
}

function screen(name) {
  const figure = document.createElement("figure"), isReal = name === "real";
  figure.className = "screen"; figure.dataset.line = name;
  figure.style.setProperty("--line", isReal ? "var(--real)" : COLORS[name]);
  figure.innerHTML = `<div class="top"></div><div class="view"><canvas width="${hello.size[1]}" height="${hello.size[0]}" role="img"></canvas></div>
    <div class="meter"><i></i></div><figcaption class="bottom"><span class="left"></span><span class="right"></span></figcaption>`;
  const top = figure.querySelector(".top"), box = figure.querySelector(".view");
  const title = document.createElement(isReal || lines.length === 1 ? "span" : "button");
  title.className = "name"; title.textContent = isReal ? "Real" : lines.length === 1 ? "Imagined" : `Imagined ${name}`;
  if (title.tagName === "BUTTON") { title.type = "button"; title.onclick = () => { active = name; say(`Line ${name} is the one you drive.`); dirty(); }; }
  const by = document.createElement("span");
  by.className = "by"; top.append(title, by);
  if (!isReal && lines.length > 1) {
    const close = document.createElement("button");
    Object.assign(close, {type: "button", className: "x", textContent: "×"});
    close.setAttribute("aria-label", `Close line ${name}`);
    close.onclick = () => send({do: "close", line: name});
    top.append(close);
  }
  const [height, width] = hello.size;
  for (const [camera, y, x] of hello.cameras) {
    const tag = document.createElement("span");
    tag.className = "camera"; tag.textContent = camera;
    tag.style.left = `${100 * x / width}%`; tag.style.top = `${100 * y / height}%`;
    box.append(tag);
  }
  if (isReal) { const none = document.createElement("span"); none.className = "none"; none.hidden = true; box.append(none); }
  return figure;
}

function frameOf(line, depth) {
  const path = past(line);
  return path[Math.min(depth, path.length - 1)];
}

function showScreens() {
  const depth = shownDepth();
  for (const figure of $("screens").children) {
    const name = figure.dataset.line, canvas = figure.querySelector("canvas");
    figure.classList.toggle("active", name === active && lines.length > 1);
    const bar = figure.querySelector(".meter i"), by = figure.querySelector(".by"), left = figure.querySelector(".left"), right = figure.querySelector(".right");
    if (name === "real") {
      const none = figure.querySelector(".none"), last = hello.log.length - 1;
      none.hidden = depth <= last; none.textContent = `The recording ends at frame ${last}.`;
      if (depth <= last) show(canvas, `real/${hello.scene}/${depth}`, `Real frame ${depth}`);
      by.textContent = "recorded"; left.textContent = `frame ${Math.min(depth, last)} of ${last}`;
      const success = hello.log.success?.[0];
      right.className = "right" + (success !== undefined && depth >= success ? " yes" : "");
      right.textContent = hello.log.success === null ? "" : success === undefined ? "fails" : depth >= success ? "success" : "";
      continue;
    }
    const line = lines.find(one => one.name === name), node = line && frameOf(line, depth);
    if (!node) continue;
    show(canvas, node, `Imagined frame ${node.depth} of line ${name}, ${BY[node.origin]}`);
    const belief = node.judge ?? lastJudge(line, node.depth);
    by.textContent = node.depth === 0 ? "start" : BY[node.origin];
    left.innerHTML = ""; left.append(`frame ${node.depth}`);
    right.innerHTML = hello.judge ? `judge <b>${percent(belief)}</b>` : node.foreseen === null ? "" : `foreseen <b>${percent(node.foreseen)}</b>`;
    bar.style.width = `${100 * (belief ?? node.foreseen ?? 0)}%`;
    figure.querySelector(".meter").hidden = belief === null && node.foreseen === null;
  }
}

function lastJudge(line, depth) {
  const known = past(line).filter(node => node.depth <= depth && node.judge !== null);
  return known.length ? known[known.length - 1].judge : null;
}

const drawn = new WeakMap();
async function show(canvas, source, label) {
  const key = typeof source === "string" ? source : `${hello.visit}/${hello.scene}/${source.id}`;
  if (drawn.get(canvas) === key) return;
  drawn.set(canvas, key);
  canvas.setAttribute("aria-label", label);
  try {
    let bitmap = typeof source === "string" ? pictures.get(key) : null;
    if (!bitmap) {
      const blob = source.blob ?? await fetch(typeof source === "string" ? source : `frame/${hello.visit}/${source.id}`).then(answer => answer.ok ? answer.blob() : Promise.reject(new Error(answer.status)));
      if (typeof source !== "string") source.blob = blob;
      bitmap = await createImageBitmap(blob);
      if (typeof source === "string") pictures.set(key, bitmap);
    }
    if (drawn.get(canvas) === key) canvas.getContext("2d").drawImage(bitmap, 0, 0);
  } catch { if (drawn.get(canvas) === key) drawn.delete(canvas); }
}
const pictures = new Map();

// -- the rest of the page -----------------------------------------------------------------------------------------

function dirty() {
  if (redraw) return;
  redraw = true;
  requestAnimationFrame(() => { redraw = false; if (hello && lines.length && tip(lines[0])) render(); });
}

function render() {
  showScreens();
  const depth = shownDepth(), last = longest(), line = activeLine(), node = frameOf(line, depth);
  const axis = Math.max(last, 24, hello.log ? hello.log.length - 1 : 0);
  const slider = $("slider");
  slider.max = String(Math.max(last, hello.log ? hello.log.length - 1 : 0)); slider.value = String(depth);
  slider.style.marginLeft = `${LEFT - KNOB}px`;
  slider.style.width = `calc((100% - ${LEFT + RIGHT}px) * ${Number(slider.max) / axis} + ${2 * KNOB}px)`;
  const time = (depth / hello.fps).toFixed(1), belief = node.judge ?? lastJudge(line, node.depth);
  slider.setAttribute("aria-valuetext", `frame ${depth}, ${time} seconds${belief === null ? "" : `, judge ${percent(belief)}`}`);
  $("when").textContent = `frame ${depth} · ${time} s`;
  drawTimeline($("chart"), lines.map(one => ({color: COLORS[one.name], forked: one.forked, nodes: past(one).slice(one.forked)})), axis, depth, hello.log?.success?.[0] ?? null);
  legend();
  $("judgevalue").textContent = node.problem || (belief === null ? "–" : percent(belief) + (node.succeeded ? " · success" : ""));
  $("judgevalue").className = node.succeeded ? "yes" : "";
  $("foreseenrow").hidden = node.foreseen === null; $("foreseenvalue").textContent = percent(node.foreseen);
  $("errorvalue").textContent = node.error === null ? "left the log" : `${(100 * node.error).toFixed(1)} % RMS`;
  $("undo").disabled = !line.undo; $("redo").disabled = !line.redo;
  $("fork").disabled = lines.length >= 4; $("resample").disabled = last === 0; $("replay").disabled = last === 0;
  $("follow").disabled = !!hello.log && (tip(line)?.depth ?? 0) >= hello.log.length - 1 && view === null;
  for (const [id, on] of [["run", running], ["replay", replaying], ["policy", streaming === "policy"], ["follow", streaming === "log"]]) $(id).setAttribute("aria-pressed", String(on));
  const names = lines.map(one => one.name).join();
  $("clip").href = `clip/${hello.visit}.mp4?lines=${names}&real=${hello.log ? 1 : 0}`;
  $("start").href = `start/${hello.visit}/${node.id}.zip`;
  if (streaming || view !== null || replaying) controls.draw(node.action ?? undefined);
  const span = arrivals.length > 1 ? (arrivals[arrivals.length - 1] - arrivals[0]) / 1000 : 0;
  if (span > 0.2) $("pace").textContent = `${((arrivals.length - 1) / span).toFixed(1)} frames/s · real time is ${hello.fps.toFixed(1)}`;
}

let legendShown = "";
function legend() {
  const entries = [];
  if (hello.judge) entries.push(["", "judge"]);
  if (lines.some(line => tip(line)?.foreseen !== null)) entries.push(["thin", "world model itself"]);
  if (hello.log) entries.push(["dots", "distance to the real video"]);
  const key = entries.join();
  if (key === legendShown) return;
  legendShown = key;
  $("legend").innerHTML = entries.map(([kind, name]) => `<span><i class="${kind}"></i>${name}</span>`).join("");
}

function listKeys() {
  const rows = [["space", "run time, or pause"], ["P", "the policy acts, or stops"], ["O", "follow the log"], ["U / Shift U", "undo / redo"],
    ["T", "fork at the frame shown"], ["M", "resample what follows"], ["C", "next line"], ["← →", "one frame back or on"], ["Home End", "first or newest frame"], ["Esc", "stop"]];
  for (const axis of hello.axes) if (axis.keys.length) rows.push([axis.keys.map(key => key.toUpperCase()).join(" / "), `${axis.name} less / more`]);
  $("keylist").innerHTML = rows.map(() => "<dt></dt><dd></dd>").join("");
  [...$("keylist").children].forEach((element, i) => { element.textContent = rows[i >> 1][i % 2]; });
}

function say(text, isBad = false) { $("status").textContent = text; $("status").className = isBad ? "bad" : ""; }
function link(state, text) { $("link").dataset.state = state; if ($("link").textContent !== text) $("link").textContent = text; }
function gone(text) { stopAll(); $("gonetext").textContent = text; if (!$("gone").open) $("gone").showModal(); }

// -- what the person does -----------------------------------------------------------------------------------------

const driven = () => $("together").checked ? lines.map(line => line.name) : [active];

// To act in the past, go back there first.
function fromHere() {
  replaying = false;
  if (view === null) return;
  for (const name of driven()) send({do: "rewind", line: name, depth: view});
  view = null;
}

function stopAll() {
  running = replaying = false;
  if (streaming) { streaming = ""; send({do: "stop"}); }
  dirty();
}

function stream(by) {
  if (streaming === by) { stopAll(); return; }
  stopAll();
  fromHere();
  streaming = by;
  send({do: "play", by, lines: driven(), speed: Number($("speed").value), temperature: Number($("temperature").value)});
  streaming = by;
  say(by === "policy" ? `The policy acts: ${hello.instruction}` : "Following the logged actions.");
  dirty();
}

const actions = {
  run: () => { const was = running; stopAll(); running = !was; dirty(); },
  policy: () => { if (hello.policy) { sendSentence(); stream("policy"); } },
  follow: () => { if (hello.log) stream("log"); },
  undo: () => { stopAll(); view = null; send({do: "undo", line: active}); },
  redo: () => { stopAll(); view = null; send({do: "redo", line: active}); },
  fork: () => { if (lines.length < 4) { stopAll(); send({do: "fork", line: active, depth: shownDepth()}); view = null; } },
  resample: () => { stopAll(); const last = tip(activeLine()).depth, depth = view !== null && view < last ? view : activeLine().forked; view = null; say("Imagining again: the same actions, another draw."); send({do: "resample", line: active, depth}); },
  replay: () => { const was = replaying; stopAll(); replaying = !was; if (replaying) view = 0; dirty(); },
  next: () => { const names = lines.map(line => line.name); active = names[(names.indexOf(active) + 1) % names.length]; dirty(); },
  restart: () => { stopAll(); send({do: "open", scene: hello.scene}); },
};
for (const id of ["run", "policy", "follow", "undo", "redo", "fork", "resample", "replay", "restart"]) $(id).onclick = actions[id];
$("ask").onclick = () => { stopAll(); view = null; say("The judge was asked about the newest frame of every line."); send({do: "judge", lines: lines.map(line => line.name)}); };
$("scene").onchange = event => { stopAll(); send({do: "open", scene: Number(event.target.value)}); event.target.blur(); };
$("slider").oninput = event => look(Number(event.target.value));
$("smooth").onchange = event => document.body.classList.toggle("smooth", event.target.checked);
$("temperature").oninput = event => { $("temperaturevalue").textContent = Number(event.target.value).toFixed(1); };
$("again").onclick = () => { $("gone").close(); connect(); };
$("say").onsubmit = event => { event.preventDefault(); stopAll(); sendSentence(); $("sentence").blur(); };

function sendSentence() {
  const text = $("sentence").value.trim();
  if (!text) { $("sentence").value = hello.instruction; return; }
  if (text !== hello.instruction) { hello.instruction = text; send({do: "say", text}); }
}

function look(depth) {
  const newest = tip(activeLine())?.depth ?? 0, most = Number($("slider").max);
  const wanted = Math.max(0, Math.min(most, depth));
  view = wanted === newest ? null : wanted;
  replaying = false; running = false;
  dirty();
}

const KEYS = {p: "policy", o: "follow", t: "fork", m: "resample", c: "next", " ": "run"};
document.addEventListener("keydown", event => {
  if (!hello || !$("keys").checked || event.ctrlKey || event.altKey || event.metaKey || event.isComposing || $("gone").open) return;
  const element = document.activeElement, isText = element.matches("input[type=text], select"), isControl = element.matches("button, a, summary, input[type=checkbox]");
  if (event.key === "Escape") { stopAll(); element.blur(); return; }
  if (isText) return;
  const key = event.key.toLowerCase(), isRange = element.matches("input[type=range]");
  if (key === " " && isControl) return;
  if (controls.key(key, true)) { event.preventDefault(); return; }
  if (key === "u") { event.preventDefault(); actions[event.shiftKey ? "redo" : "undo"](); return; }
  if (KEYS[key]) { event.preventDefault(); if (!event.repeat) actions[KEYS[key]](); return; }
  if (isRange) return;
  const moves = {ArrowLeft: () => look(shownDepth() - 1), ArrowRight: () => look(shownDepth() + 1), Home: () => look(0), End: () => look(Infinity)};
  if (moves[event.key]) { event.preventDefault(); moves[event.key](); }
});
document.addEventListener("keyup", event => controls.key(event.key.toLowerCase(), false));

const BUTTONS = {0: "policy", 1: "undo", 2: "fork", 3: "resample", 8: "restart", 9: "run"};
function tick(now) {
  requestAnimationFrame(tick);
  if (!hello || !lines.length || !tip(lines[0])) return;
  const speed = Number($("speed").value), rate = speed ? hello.fps * speed : 1000;
  if (now - lastTick < 1000 / rate - 2) return;
  lastTick = Math.max(lastTick + 1000 / rate, now - 1000 / rate);
  if (replaying) {
    view = (view ?? 0) + 1;
    if (view >= longest()) { view = null; replaying = false; }
    dirty();
    return;
  }
  const {action, active: moved, pad} = controls.read();
  if (pad) { $("pads").textContent = `Gamepad: ${pad.name}. Sticks move, triggers grip.`; for (const button of pad.fresh) if (BUTTONS[button]) actions[BUTTONS[button]](); }
  if (!(moved || running || pulse)) { if (view === null && !streaming) controls.draw(); return; }
  if (moved && streaming) { streaming = ""; send({do: "stop"}); }  // the person takes over
  if (streaming || pending) return;
  pulse = false;
  fromHere();
  controls.draw();
  send({do: "drive", lines: driven(), action});
}
addEventListener("resize", dirty);
connect();
requestAnimationFrame(tick);

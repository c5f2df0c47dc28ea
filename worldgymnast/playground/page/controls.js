// Keys, pad, sliders and gamepad become one action.

const $ = id => document.getElementById(id);
const DEADZONE = 0.15;

export class Controls {
  constructor(onSwitch) {
    this.axes = []; this.values = []; this.held = new Set(); this.drag = null; this.dragged = new Map(); this.released = new Set(); this.pads = [0, 0];
    this.onSwitch = onSwitch; this.buttons = new Set();
    const pad = $("pad");
    pad.addEventListener("pointerdown", event => { pad.setPointerCapture(event.pointerId); this.movePad(event); });
    pad.addEventListener("pointermove", event => { if (this.drag) this.movePad(event); });
    for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) pad.addEventListener(kind, () => { this.drag = null; this.draw(); });
    window.addEventListener("blur", () => { this.held.clear(); this.drag = null; });
    $("strength").oninput = () => { $("strengthvalue").textContent = `${Math.round(100 * this.strength)} %`; };
  }

  get strength() { return Number($("strength").value); }

  load(axes) {
    this.axes = axes; this.values = axes.map(axis => axis.rest); this.held.clear(); this.dragged.clear();
    this.moving = axes.map((axis, i) => i).filter(i => !axes[i].is_hidden && !axes[i].is_gripper);
    const list = $("axes");
    list.textContent = "";
    axes.forEach((axis, i) => { if (!axis.is_hidden) list.append(this.row(axis, i)); });
    const [x, y] = this.moving;
    document.querySelector(".pads").hidden = y === undefined;
    if (y !== undefined) {
      document.querySelector(".px").textContent = axes[x].name;
      document.querySelector(".py").textContent = axes[y].name;
      $("padhelp").textContent = `Drag for ${axes[x].name} and ${axes[y].name}, or use the keys below. Time moves while you move.`;
    }
    this.draw();
  }

  row(axis, i) {
    const row = document.createElement("div"), label = document.createElement("label"), name = document.createElement("span");
    row.className = "axis"; name.textContent = axis.name; label.append(name); label.htmlFor = `axis${i}`;
    if (axis.keys.length) {
      const keys = document.createElement("span");
      keys.className = "keys"; keys.setAttribute("aria-hidden", "true");
      keys.innerHTML = axis.keys.map(key => `<kbd>${key.toUpperCase()}</kbd>`).join(" ");
      label.append(keys);
    }
    row.append(label);
    const input = document.createElement("input");
    Object.assign(input, {type: "range", id: `axis${i}`, min: axis.low, max: axis.high, step: axis.is_switch ? axis.high - axis.low : "any", value: axis.rest});
    if (axis.keys.length) input.setAttribute("aria-keyshortcuts", axis.keys.join(" "));
    input.oninput = () => { if (axis.springs) this.dragged.set(i, Number(input.value)); else this.values[i] = Number(input.value); this.draw(); this.onSwitch(); };
    const release = () => { if (this.dragged.has(i)) this.released.add(i); };  // after one more frame
    for (const kind of ["change", "pointerup", "blur"]) input.addEventListener(kind, release);
    const output = document.createElement("output");
    output.htmlFor = `axis${i}`; output.id = `value${i}`;
    row.append(input, output);
    return row;
  }

  movePad(event) {
    const box = $("pad").getBoundingClientRect();
    const clamp = value => Math.max(-1, Math.min(1, value));
    this.drag = [clamp(2 * (event.clientX - box.left) / box.width - 1), clamp(1 - 2 * (event.clientY - box.top) / box.height)];
    this.draw();
  }

  // A key that belongs to an axis; whether it was taken.
  key(key, isDown) {
    const owner = this.axes.find(axis => axis.keys.includes(key));
    if (!owner) return false;
    if (isDown) this.held.add(key); else this.held.delete(key);
    return true;
  }

  readGamepad() {
    const pad = [...(navigator.getGamepads?.() ?? [])].find(one => one && one.connected);
    if (!pad) return null;
    const dead = value => Math.abs(value) < DEADZONE ? 0 : value;
    const sticks = [dead(pad.axes[0] ?? 0), -dead(pad.axes[1] ?? 0), -dead(pad.axes[3] ?? 0), dead(pad.axes[2] ?? 0)];
    const trigger = (pad.buttons[7]?.value ?? 0) - (pad.buttons[6]?.value ?? 0);
    const pressed = new Set(pad.buttons.map((button, i) => button.pressed ? i : -1).filter(i => i >= 0));
    const fresh = [...pressed].filter(i => !this.buttons.has(i));
    this.buttons = pressed;
    return {name: pad.id, sticks, trigger, fresh};
  }

  // The action now, and whether a person moves anything.
  read() {
    let active = this.drag !== null || this.dragged.size > 0;
    const action = [...this.values], strength = this.strength;
    const push = (i, amount) => {  // amount in -1..1
      const axis = this.axes[i];
      if (axis.springs) action[i] += amount * strength * (amount > 0 ? axis.high - axis.rest : axis.rest - axis.low);
      else this.values[i] = action[i] = axis.is_switch ? (amount > 0 ? axis.high : axis.low)
        : Math.max(axis.low, Math.min(axis.high, this.values[i] + amount * axis.step * (axis.is_gripper ? 1 : strength)));
    };
    this.axes.forEach((axis, i) => {
      const [less, more] = axis.keys, amount = (this.held.has(more) ? 1 : 0) - (this.held.has(less) ? 1 : 0);
      if (amount) push(i, amount);
      if (this.held.has(more) || this.held.has(less)) active = true;
    });
    const sticks = this.drag ?? [];
    sticks.forEach((amount, n) => { if (this.moving[n] !== undefined && amount) push(this.moving[n], amount); });
    const pad = this.readGamepad();
    if (pad) {
      pad.sticks.forEach((amount, n) => { if (this.moving[n] !== undefined && amount) { push(this.moving[n], amount); active = true; } });
      const gripper = this.axes.findIndex(axis => axis.is_gripper);
      if (gripper >= 0 && Math.abs(pad.trigger) > DEADZONE) { push(gripper, pad.trigger); active = true; }
    }
    for (const [i, value] of this.dragged) action[i] = value;
    for (const i of this.released) this.dragged.delete(i);
    this.released.clear();
    this.axes.forEach((axis, i) => { action[i] = Math.max(axis.low, Math.min(axis.high, action[i])); });
    this.shown = action;
    return {action, active, pad};
  }

  // Axes that keep their value go on from the action of the newest frame, so that nothing jumps.
  follow(action) {
    this.axes.forEach((axis, i) => { if (!axis.springs) this.values[i] = action ? action[i] : axis.rest; });
    this.shown = null;
    this.draw();
  }

  // Show an action: that of the person, or of the frame on the screen.
  draw(action = null) {
    const values = action ?? this.shown ?? this.values;
    this.axes.forEach((axis, i) => {
      const input = $(`axis${i}`);
      if (!input || values[i] === undefined) return;
      if (document.activeElement !== input || !this.dragged.has(i)) input.value = values[i];
      $(`value${i}`).textContent = axis.is_switch ? "" : Number(values[i]).toPrecision(2).replace("-", "−").replace(/^(−?)0\.00.*$/, "0.0");
    });
    const knob = document.querySelector(".knob");
    const share = n => { const axis = this.axes[this.moving?.[n]]; return axis ? 2 * (values[this.moving[n]] - axis.low) / (axis.high - axis.low || 1) - 1 : 0; };
    knob.style.left = `${50 + 42 * share(0)}%`;
    knob.style.top = `${50 - 42 * share(1)}%`;
  }
}

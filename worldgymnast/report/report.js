"use strict";
// Without this script, tables keep their order and videos the browser's controls.

// ---------------------------------------------------------------- tables that sort

const keyOf = (row, column) => {
  const cell = row.cells[column];
  return (cell.dataset.sort ?? cell.textContent).trim();
};

/** Compare two cells, as numbers if both are; an empty one is last in either direction. */
function compare(a, b, sign) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const difference = Number(a) - Number(b);
  return sign * (Number.isNaN(difference) ? a.localeCompare(b, undefined, { numeric: true }) : difference);
}

function sortBy(table, header) {
  const body = table.tBodies[0], column = header.cellIndex, rows = [...body.rows];
  const isNumber = rows.every(row => !Number.isNaN(Number(keyOf(row, column))));
  const first = isNumber ? "descending" : "ascending";
  const second = isNumber ? "ascending" : "descending";
  const order = header.getAttribute("aria-sort") === first ? second : first;
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  body.append(...rows.sort((a, b) => compare(keyOf(a, column), keyOf(b, column), sign)));
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const header of table.tHead.rows[0].cells) {
    if (!header.textContent.trim()) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortBy(table, header));
    header.append(button);
  }
}

/** A table that is wider than the page is scrolled by keyboard too. */
function nameScrollers() {
  for (const box of document.querySelectorAll(".scroll")) {
    if (box.scrollWidth > box.clientWidth) {
      const title = box.querySelector("caption")?.textContent ?? box.dataset.title ?? "table";
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", title);
    } else {
      for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
    }
  }
}
nameScrollers();
addEventListener("resize", nameScrollers);

// ---------------------------------------------------------------- pairs of videos that play in step

function makePlayer(pair) {
  const videos = [...pair.querySelectorAll("video")], fps = Number(pair.dataset.fps), name = pair.dataset.name;
  const button = document.createElement("button"), slider = document.createElement("input");
  const time = document.createElement("output"), bar = document.createElement("div");
  let frame = 0;

  const lengthOf = video => video.duration || 0;
  const longest = () => videos.reduce((a, b) => (lengthOf(b) > lengthOf(a) ? b : a));
  const isPlaying = () => videos.some(video => !video.paused && !video.ended);
  const clock = () => longest().currentTime;

  function show() {
    button.textContent = isPlaying() ? "Pause" : "Play";
    button.setAttribute("aria-label", `${button.textContent}: ${name}`);
    slider.max = lengthOf(longest());
    slider.value = clock();
    slider.setAttribute("aria-valuetext", `${clock().toFixed(1)} seconds`);
    time.textContent = `${clock().toFixed(1)} s`;
  }
  /** Put every video at a time; a shorter one shows its last frame. */
  function seek(seconds) {
    for (const video of videos) video.currentTime = Math.min(seconds, Math.max(0, lengthOf(video) - 0.5 / fps));
    show();
  }
  /** The longest video is the clock; others follow it within a frame. */
  function follow() {
    const now = clock();
    for (const video of videos) {
      if (now < lengthOf(video) && Math.abs(video.currentTime - now) > 0.75 / fps) video.currentTime = now;
    }
    show();
    frame = isPlaying() ? requestAnimationFrame(follow) : 0;
  }
  function pause() {
    for (const video of videos) video.pause();
    seek(clock());
  }
  async function play() {
    if (clock() >= lengthOf(longest()) - 1 / fps) seek(0);
    const now = clock();
    await Promise.allSettled(videos.filter(video => now < lengthOf(video)).map(video => video.play()));
    if (!frame) follow();
  }
  const toggle = () => (isPlaying() ? pause() : play());

  for (const video of videos) {
    video.controls = false;
    video.addEventListener("click", toggle);
    for (const event of ["play", "pause", "ended", "seeked", "loadedmetadata"]) video.addEventListener(event, show);
  }
  Object.assign(button, { type: "button" });
  Object.assign(slider, { type: "range", min: 0, max: 1, step: 1 / fps, value: 0 });
  slider.setAttribute("aria-label", `Time: ${name}`);
  slider.addEventListener("input", () => {
    const seconds = Number(slider.value);
    for (const video of videos) video.pause();
    seek(seconds);
  });
  button.addEventListener("click", toggle);
  bar.className = "player";
  bar.append(button, slider, time);
  pair.querySelector(".videos").after(bar);
  show();
}

for (const pair of document.querySelectorAll(".pair")) {
  if (pair.querySelector("video")) makePlayer(pair);
}

// ---------------------------------------------------------------- paper

const opened = [];
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    opened.push(details);
  }
});
addEventListener("afterprint", () => {
  for (const details of opened.splice(0)) details.open = false;
});

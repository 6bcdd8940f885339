// The study viewer: series as tiles, one or two stacks to scroll through, cine, window by drag.
// Pictures around the one that is shown are fetched ahead and kept in bounded memory; those of a
// restoration no longer than it lasts.

const AHEAD = 10; // pictures fetched in the direction of travel; a third as many behind
const AT_ONCE = 3;
const KEPT_BYTES = 160e6;
const NOTCH_PX = 40; // of the wheel, or of a finger's way, for one picture
const TOOLS = [
  ["window", "Window", "Drag: up and down brightness, left and right contrast"],
  ["pan", "Move", "Drag moves the picture"],
  ["scroll", "Scroll", "Drag up and down turns pictures"],
];
const KEYS = [
  ["↑ ↓, Page Up/Down, wheel", "previous and next picture"], ["Home, End", "first and last"],
  ["Space", "cine on and off"], ["+ − 0", "zoom, fit"], ["← →", "move"], ["O", "sealed or original"],
  ["C", "compare two"], ["L", "link them"], ["W M S", "what dragging does"], ["I", "invert"], ["F", "full screen"],
];

/** Fetched pictures: what is wanted now comes first, what may be wanted next after it. */
class Pictures {
  constructor() {
    this.held = new Map(); // address -> {url, bytes, partial}, least recently used first
    this.asked = new Map(); // address -> promise
    this.next = [];
    this.running = 0;
    this.bytes = 0;
  }

  get(address) {
    const held = this.held.get(address);
    if (held) {
      this.held.delete(address);
      this.held.set(address, held);
      return Promise.resolve(held.url);
    }
    return this.asked.get(address) || this.fetch(address);
  }

  /** Fetch these while nothing else is wanted; what was to be fetched before is forgotten. */
  ahead(addresses) {
    this.next = addresses;
    this.work();
  }

  work() {
    while (this.running < AT_ONCE && this.next.length) {
      const address = this.next.shift();
      if (!this.held.has(address) && !this.asked.has(address)) this.fetch(address).catch(() => {});
    }
  }

  fetch(address) {
    this.running += 1;
    const asked = this.load(address).finally(() => {
      this.running -= 1;
      this.asked.delete(address);
      this.work();
    });
    this.asked.set(address, asked);
    return asked;
  }

  async load(address) {
    const answer = await fetchAnswer(address);
    const partial = answer.headers.get("X-Partial") === "true";
    const blob = await answer.blob();
    const url = URL.createObjectURL(blob);
    if (this.closed || this.ended?.(address)) {
      URL.revokeObjectURL(url);
      throw new Error("The restoration has ended.");
    }
    this.held.set(address, { url, bytes: blob.size, partial });
    this.bytes += blob.size;
    for (const old of [...this.held.keys()].slice(0, -2 * AT_ONCE)) {
      if (this.bytes <= KEPT_BYTES) break;
      this.forget(old);
    }
    return url;
  }

  forget(address) {
    const { url, bytes } = this.held.get(address);
    this.held.delete(address);
    this.bytes -= bytes;
    URL.revokeObjectURL(url);
  }

  forgetWhere(test) {
    this.next = this.next.filter((address) => !test(address));
    [...this.held.keys()].filter(test).forEach((address) => this.forget(address));
  }

  close() {
    this.closed = true;
    this.forgetWhere(() => true);
  }
}

/** One series on the screen. */
class Stack {
  constructor(viewer) {
    this.viewer = viewer;
    this.index = 0;
    this.way = 1;
    this.window = null;
    this.travel = 0;
    this.pane = new Pane("", viewer.pictures);
    this.stage = new Stage([this.pane], 4, 3);
    this.stage.scroll = (px) => this.roll(px);
    this.stage.turn = (step) => viewer.step(this, step);
    this.stage.onchange = () => viewer.zoomed(this);
    this.ruler = new Ruler(this.stage, 4, 3, () => this.draw());
    const measuring = { grab: this.stage.grab, drag: this.stage.drag };
    this.stage.grab = (event) => (this.dragging = measuring.grab(event) ? "ruler" : this.grab(event));
    this.stage.drag = (event) => (this.dragging === "ruler" ? measuring.drag(event) : this.drag(event));
    this.corners = ["name", "date", "place", "tone"].map((c) => make("span", { class: `corner ${c}` }));
    this.stage.element.setAttribute("role", "group");
    this.slider = make("input", { type: "range", min: 1, value: 1, "aria-label": "Image",
      oninput: () => viewer.go(this, Number(this.slider.value) - 1) });
    this.element = make("div", { class: "stack", onpointerdown: () => viewer.choose(this) },
      make("div", { class: "caption" }, ...this.corners.slice(0, 2)), this.stage.element,
      make("div", { class: "caption" }, ...this.corners.slice(2)), this.slider);
  }

  open(series, index = 0) {
    this.series = series;
    this.slices = series.images.flatMap(([id, frames, handle]) =>
      Array.from({ length: frames }, (_, frame) => ({ id, frame, handle })));
    this.slider.max = this.slices.length;
    this.slider.hidden = this.slices.length < 2;
    this.stage.element.setAttribute("aria-label",
      `${series.name}, ${series.study}. Arrow keys turn pictures, ? lists all keys.`);
    return this.show(Math.min(index, this.slices.length - 1));
  }

  get slice() {
    return this.slices[this.index];
  }

  address(slice) {
    const query = new URLSearchParams(this.window || {});
    const whose = this.viewer.original && slice.handle && !this.viewer.ended
      ? `/api/study-restorations/${slice.handle}/images/${slice.id}` : `/api/images/${slice.id}`;
    return `${whose}/frames/${slice.frame}${query.size ? `?${query}` : ""}`;
  }

  async show(index) {
    this.way = index < this.index ? -1 : 1;
    this.index = index;
    const slice = this.slice;
    const address = this.address(slice);
    this.slider.value = index + 1;
    const what = this.slices.every(({ id }) => id === slice.id) && this.slices.length > 1 ? "Frame" : "Image";
    this.pane.called = `${what} ${index + 1} of ${this.slices.length}`;
    this.pane.image.alt = `${this.original ? "Original" : "Sealed"}, ${this.pane.called}`;
    this.say();
    const shown = this.pane.show(address);
    this.viewer.fetchAhead();
    await shown;
    if (this.pane.address !== address) return;
    const { image } = this.pane;
    await image.decode().catch(() => {});
    if (this.slice !== slice || !image.naturalWidth) return;
    this.say();
    this.stage.resize(image.naturalWidth, image.naturalHeight);
    this.ruler.at(`${slice.id}/${slice.frame}`, image.naturalWidth, image.naturalHeight);
    this.draw();
    this.viewer.learn(slice.id).then((facts) => this.slice === slice && this.know(facts));
  }

  get original() {
    return Boolean(this.viewer.original && this.slice.handle && !this.viewer.ended);
  }

  know(facts) {
    this.facts = facts;
    this.ruler.know(facts.spacing_mm, facts.spacing_from);
    this.draw();
    this.say();
    this.viewer.state();
  }

  say() {
    const partly = this.viewer.pictures.held.get(this.pane.address)?.partial;
    const whose = this.original ? (partly ? "Partly restored" : "Original") : "Sealed";
    const tone = this.window ? `C ${this.window.center} W ${this.window.width}` : "";
    const said = [this.series.name, this.series.study, this.pane.called,
      [whose, tone].filter(Boolean).join(" · ")];
    this.corners.forEach((corner, place) => (corner.textContent = said[place]));
  }

  draw() {
    this.pane.drawing.replaceChildren(...[this.ruler.shape()].filter(Boolean));
  }

  /** Addresses to fetch ahead, the likeliest first. */
  ahead() {
    const places = [];
    for (let i = 1; i <= AHEAD; i += 1) {
      places.push(this.index + i * this.way);
      if (i % 3 === 0) places.push(this.index - (i / 3) * this.way);
    }
    const count = this.slices.length;
    const inside = this.viewer.playing ? places.map((p) => (p + count) % count) : places;
    return inside.filter((p) => p >= 0 && p < count).map((p) => this.address(this.slices[p]));
  }

  roll(px) {
    this.travel += px;
    const steps = Math.trunc(this.travel / NOTCH_PX);
    if (!steps) return;
    this.travel = Math.abs(px) >= NOTCH_PX ? 0 : this.travel - steps * NOTCH_PX;
    this.viewer.step(this, Math.abs(px) >= NOTCH_PX ? Math.sign(px) : steps);
  }

  grab(event) {
    const touch = event.pointerType !== "mouse";
    if (touch && this.stage.zoomed) return null;
    const tool = touch ? "scroll" : this.viewer.tool;
    if (tool === "pan" || (tool === "window" && !this.facts?.window)) {
      if (tool === "window") this.viewer.tell("Colours have no window: only grey values of a DICOM file have one.");
      return null;
    }
    this.from = { x: event.clientX, y: event.clientY, window: this.window || this.facts?.window && {
      center: this.facts.window[0], width: this.facts.window[1] } };
    return tool;
  }

  drag(event) {
    const dx = event.clientX - this.from.x;
    const dy = event.clientY - this.from.y;
    if (this.dragging === "scroll") {
      const way = event.clientY - (this.from.last ?? this.from.y);
      this.roll(event.pointerType === "mouse" ? way : -way); // a finger takes the pictures with it
      this.from.last = event.clientY;
      return;
    }
    const { center, width } = this.from.window;
    const step = Math.max(width, 16) / 300;
    const digits = width < 20 ? 2 : 0;
    this.viewer.setWindow(this, {
      center: Number((center + dy * step).toFixed(digits)),
      width: Number(Math.max(digits ? 0.01 : 1, width + dx * step).toFixed(digits)),
    });
  }

  /** Render the newest window; while one is under way, those between are left out. */
  async tone() {
    this.say();
    if (this.toning) return (this.again = true);
    this.toning = true;
    do {
      this.again = false;
      await this.show(this.index);
    } while (this.again);
    this.toning = false;
  }

  close() {
    this.stage.close();
  }
}

class StudyViewer {
  constructor(root, data, choose) {
    this.data = data;
    this.tool = "window";
    this.original = true;
    this.linked = true;
    this.facts = new Map();
    this.pictures = new Pictures();
    this.pictures.ended = (address) => this.ended && address.startsWith("/api/study-restorations/");
    this.onimage = choose;
    this.stacks = [new Stack(this)];
    this.active = this.stacks[0];
    this.rail = make("nav", { class: "rail", "aria-label": "Series" });
    this.place = make("div", { class: "stacks" }, this.active.element);
    this.note = make("p", { class: "note", role: "status" });
    this.keys = make("dl", { class: "keys", hidden: true },
      ...KEYS.flatMap(([key, what]) => [make("dt", {}, key), make("dd", {}, what)]));
    this.element = make("div", { class: "study" });
    this.element.append(this.toolbar(), this.keys,
      make("div", { class: "desk" }, this.rail, make("div", { class: "table" }, this.place, this.note)));
    this.element.addEventListener("keydown", (event) => this.key(event), { capture: true });
    root.replaceChildren(this.element);
    this.tiles();
    this.active.open(this.series(data.start) || data.series[0]);
    this.active.stage.element.focus({ preventScroll: true });
    this.state();
    this.expireLater();
  }

  series(id) {
    return this.data.series.find((series) => series.id === id);
  }

  /** New data for the same patient: a restoration began or ended. Nothing moves on the screen. */
  update(data) {
    if (JSON.stringify(data) === JSON.stringify(this.data)) return;
    const restored = (given) => given.series.some((one) => one.images.some(([, , handle]) => handle));
    const begins = restored(data) && !restored(this.data);
    this.data = data;
    this.ended = false;
    clearTimeout(this.expiry);
    this.pictures.forgetWhere((address) => !data.series.some((series) => series.images.some(
      ([id, , handle]) => address.includes(`/${id}/`) &&
        (!address.startsWith("/api/study-restorations/") || address.includes(`/${handle}/`)))));
    this.tiles();
    for (const stack of this.stacks) stack.open(this.series(stack.series.id) || data.series[0], stack.index);
    this.state();
    this.expireLater();
    // The button that restored it is gone: arrow keys turn pictures from here on.
    if (begins) this.active.stage.element.focus({ preventScroll: true });
  }

  expireLater() {
    if (this.data.expires) this.expiry = setTimeout(() => this.expire(), this.data.expires - Date.now());
  }

  expire() {
    this.ended = true;
    this.pictures.forgetWhere((address) => address.startsWith("/api/study-restorations/"));
    this.stacks.forEach((stack) => {
      stack.pane.release();
      stack.show(stack.index);
    });
    this.tell("The restoration has ended. Restore the study again to see the originals.");
    this.state();
  }

  // --- controls ---------------------------------------------------------------------------

  toolbar() {
    const button = (text, title, action) => make("button", { type: "button", title, onclick: action }, text);
    const group = (name, ...parts) => make("span", { class: "group", role: "group", "aria-label": name }, ...parts);
    this.tools = TOOLS.map(([tool, name, title]) => {
      const one = button(name, title, () => this.take(tool));
      one.dataset.tool = tool;
      return one;
    });
    this.player = button("▶ Cine", "Cine (Space)", () => this.play());
    this.speed = make("input", { type: "range", min: 1, max: 40, value: 12, "aria-label": "Pictures a second",
      oninput: () => (this.rate.textContent = `${this.speed.value}/s`) });
    this.rate = make("output", {}, "12/s");
    this.presets = make("select", { "aria-label": "Window preset", onchange: () => this.preset() });
    this.compare = button("Compare", "Two series side by side (C)", () => this.split());
    this.link = button("Linked", "Turn, zoom and move both together (L)", () => this.join());
    this.which = button("Original", "Sealed or original (O)", () => this.swap());
    this.invert = button("Invert", "Invert (I)", () => this.turnOver());
    this.rulers = make("span", { class: "group" });
    return make("div", { class: "toolbar" },
      make("span", { class: "warning" }, "Not for primary diagnosis"),
      group("Show", this.which, this.compare, this.link),
      group("Drag", ...this.tools),
      group("Window", this.presets, this.invert),
      group("Zoom", button("−", "Zoom out (-)", () => this.active.stage.zoom(0.8)),
        button("Fit", "Fit (0)", () => this.active.stage.fit()),
        button("+", "Zoom in (+)", () => this.active.stage.zoom(1.25))),
      this.cine = group("Cine", this.player, this.speed, this.rate),
      this.rulers,
      group("View", button("Full screen", "Full screen (F)", () => this.fill()), roomSwitch(this.element),
        button("Details", "Numbers, notes, history and downloads of this picture",
          () => this.onimage(this.active.slice.id)),
        button("?", "Keys", () => (this.keys.hidden = !this.keys.hidden))));
  }

  /** Buttons say what is so. */
  state() {
    const press = (button, on) => button.setAttribute("aria-pressed", Boolean(on));
    this.tools.forEach((button) => press(button, button.dataset.tool === this.tool));
    const restored = !this.ended && this.data.series.some((s) => s.images.some(([, , handle]) => handle));
    this.which.hidden = !restored;
    press(this.which, this.original);
    press(this.compare, this.stacks.length > 1);
    this.compare.hidden = this.data.series.length < 2;
    this.link.hidden = this.stacks.length < 2;
    press(this.link, this.linked);
    press(this.invert, this.element.classList.contains("inverted"));
    press(this.player, this.playing);
    this.cine.hidden = this.active.slices.length < 2;
    this.rulers.replaceChildren(this.active.ruler.element);
    const { active } = this;
    const own = (active.facts?.windows || []).map(([center, width], place) =>
      ({ name: `file ${place + 1}: ${center} / ${width}`, center, width }));
    this.choices = [...own, ...(active.series.modality === "CT" ? this.data.presets : [])];
    this.presets.replaceChildren(make("option", {}, "as in the file"),
      ...this.choices.map(({ name }) => make("option", {}, name)));
    const at = this.choices.findIndex(({ center, width }) =>
      center === active.window?.center && width === active.window?.width);
    if (active.window && at < 0) this.presets.append(make("option", {}, "by hand"));
    this.presets.selectedIndex = active.window ? (at < 0 ? this.choices.length + 1 : at + 1) : 0;
    this.presets.disabled = active.facts ? !active.facts.window : false;
    this.stacks.forEach((stack) => {
      stack.element.classList.toggle("active", stack === active && this.stacks.length > 1);
    });
    for (const tile of this.rail.querySelectorAll(".tile"))
      press(tile, this.stacks.some((stack) => stack.series.id === tile.dataset.series));
  }

  tell(sentence = "") {
    this.note.textContent = sentence;
    this.state();
  }

  tiles() {
    const studies = [...new Set(this.data.series.map((series) => series.study))];
    this.rail.replaceChildren(...studies.map((study) => make("section", {}, make("h3", {}, study),
      ...this.data.series.filter((series) => series.study === study).map((series) => make("button", {
        type: "button", class: "tile", "data-series": series.id, title: `${series.name}, ${series.about}`,
        onclick: () => this.load(series),
      }, make("img", { src: `/api/images/${series.middle}/thumbnail`, alt: "", draggable: "false" }),
        make("strong", {}, series.name), make("span", {}, series.about))))));
  }

  load(series) {
    this.stop();
    this.active.window = null;
    this.active.open(series);
    this.active.stage.element.focus({ preventScroll: true });
    this.tell();
  }

  take(tool) {
    this.tool = tool;
    this.tell();
  }

  swap() {
    this.original = !this.original;
    this.stacks.forEach((stack) => stack.show(stack.index));
    this.state();
  }

  split() {
    if (this.stacks.length > 1) {
      const gone = this.stacks.find((stack) => stack !== this.active);
      gone.element.remove();
      gone.close();
      this.stacks = [this.active];
    } else {
      const other = new Stack(this);
      const shown = this.data.series.indexOf(this.active.series);
      this.stacks.push(other);
      this.place.append(other.element);
      other.open(this.data.series[(shown + 1) % this.data.series.length], this.active.index);
    }
    this.relate();
    this.state();
  }

  join() {
    this.linked = !this.linked;
    this.relate();
    this.state();
  }

  /** From here on linked stacks keep this distance. */
  relate() {
    this.distance = this.stacks.length > 1 ? this.stacks[1].index - this.stacks[0].index : 0;
  }

  choose(stack) {
    if (this.active === stack) return;
    this.active = stack;
    this.state();
  }

  turnOver() {
    this.element.classList.toggle("inverted");
    this.state();
  }

  fill() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.element.requestFullscreen?.();
  }

  // --- turning ----------------------------------------------------------------------------

  others(stack) {
    return this.linked ? this.stacks.filter((other) => other !== stack) : [];
  }

  step(stack, step) {
    this.stop();
    this.go(stack, stack.index + step);
  }

  go(stack, index) {
    const inside = (of, place) => Math.min(of.slices.length - 1, Math.max(0, place));
    const shown = [stack.show(inside(stack, index))];
    const away = stack === this.stacks[0] ? this.distance : -this.distance;
    for (const other of this.others(stack)) shown.push(other.show(inside(other, stack.index + away)));
    if (!this.linked) this.relate();
    return Promise.all(shown);
  }

  fetchAhead() {
    const lists = this.stacks.filter((stack) => stack.slices).map((stack) => stack.ahead());
    const longest = Math.max(...lists.map((list) => list.length));
    const mixed = [];
    for (let i = 0; i < longest; i += 1) for (const list of lists) if (i < list.length) mixed.push(list[i]);
    this.pictures.ahead(mixed);
  }

  play() {
    if (this.playing) return this.stop();
    this.playing = {};
    this.state();
    this.run(this.playing);
  }

  async run(mine) {
    while (this.playing === mine) {
      const began = performance.now();
      const { active } = this;
      await this.go(active, (active.index + 1) % active.slices.length);
      const left = 1000 / Number(this.speed.value) - (performance.now() - began);
      await new Promise((done) => setTimeout(done, Math.max(0, left)));
    }
  }

  stop() {
    if (!this.playing) return;
    this.playing = null;
    this.state();
  }

  zoomed(stack) {
    if (this.following) return;
    this.following = true;
    const { scale, least, x, y, view, width, height } = stack.stage;
    for (const other of this.others(stack)) {
      const stage = other.stage;
      if (!stage.least || !least) continue;
      stage.scale = (scale / least) * stage.least;
      stage.x = stage.view.width / 2 - ((view.width / 2 - x) / (width * scale)) * stage.width * stage.scale;
      stage.y = stage.view.height / 2 - ((view.height / 2 - y) / (height * scale)) * stage.height * stage.scale;
      stage.zoomed = stack.stage.zoomed;
      stage.apply();
    }
    this.following = false;
  }

  // --- tones ------------------------------------------------------------------------------

  preset() {
    const chosen = this.choices[this.presets.selectedIndex - 1];
    this.setWindow(this.active, chosen ? { center: chosen.center, width: chosen.width } : null);
  }

  /** Linked stacks of one modality share their window: their values mean the same. */
  setWindow(stack, window) {
    const same = this.others(stack).filter((other) => other.series.modality === stack.series.modality);
    for (const one of [stack, ...same]) {
      one.window = window;
      one.tone();
    }
    this.tell(window ? `Changed for this view only: window ${window.center} / ${window.width}.` : "");
  }

  /** What a file says of its pixels, asked once. */
  learn(id) {
    if (!this.facts.has(id)) {
      this.facts.set(id, fetch(`/api/images/${id}/display`, { credentials: "same-origin", cache: "no-store" })
        .then((answer) => (answer.ok ? answer.json() : {})).catch(() => ({})));
    }
    return this.facts.get(id);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches?.("select, input[type=number]")) return;
    const { active } = this;
    const last = active.slices.length - 1;
    const keys = {
      ArrowUp: () => this.step(active, -1), ArrowDown: () => this.step(active, 1),
      PageUp: () => this.step(active, -1), PageDown: () => this.step(active, 1),
      Home: () => this.go(active, 0), End: () => this.go(active, last),
      " ": () => this.play(), o: () => this.swap(), c: () => this.split(), l: () => this.join(),
      w: () => this.take("window"), m: () => this.take("pan"), s: () => this.take("scroll"),
      i: () => this.turnOver(), f: () => this.fill(), "?": () => (this.keys.hidden = !this.keys.hidden),
    };
    if (event.key === " " && event.target.matches?.("button")) return;
    if (event.key.startsWith("Arrow") && event.target.closest?.(".ruler, input")) return;
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  close() {
    this.stop();
    clearTimeout(this.expiry);
    this.stacks.forEach((stack) => stack.close());
    this.pictures.close();
  }
}

const studies = new WeakMap();

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const root = parentElement.querySelector(".root");
  pageServer = data.server;
  const held = studies.get(root);
  if (held?.data.id === data.id) held.update(data);
  else {
    held?.close();
    studies.set(root, new StudyViewer(root, data, (image) => setTriggerValue("image", image)));
  }
  // A clean-up of an earlier call must not remove what this call shows.
  const shown = studies.get(root);
  const owner = (shown.owner = {});
  return () => {
    if (shown.owner !== owner) return;
    shown.close();
    studies.delete(root);
  };
}

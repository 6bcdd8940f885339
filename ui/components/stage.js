// What viewer and editor share: a picture that can be zoomed and panned by mouse, touch and
// keyboard, the same in every pane. Zoom and position live in CSS variables of the root, so
// panes cannot drift apart.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, `on…` listeners and children. Text is never parsed as HTML. */
function make(tag, attributes = {}, ...children) {
  const element = tag.startsWith("svg:")
    ? document.createElementNS(SVG, tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The id of the server that drew this page: empty where it is the only one, null where it does not matter. */
let pageServer = null;

/** Do requests reach another server than the one that draws this page? After its server was gone a page
 *  stays with another one, while requests go back as soon as theirs is there again. What the page opens
 *  lies in the memory of one server, so nothing but a new page brings them together. */
async function isElsewhere() {
  if (pageServer === null) return false;
  const answer = await fetch("/api/health/", { credentials: "same-origin", cache: "no-store" }).catch(() => null);
  if (!answer?.ok || ((await answer.json()).server || "") === pageServer) return false;
  const before = Number(sessionStorage.getItem("medsec.elsewhere") || 0);
  sessionStorage.setItem("medsec.elsewhere", String(Date.now()));
  return Date.now() - before > 10_000; // else it did not help
}

/** A picture from the server with the session's cookie; a refusal becomes its own sentence. */
async function fetchAnswer(address, signal) {
  const answer = await fetch(address, { credentials: "same-origin", cache: "no-store", signal });
  if (!answer.ok) {
    if (answer.status === 404 && await isElsewhere()) window.location.reload();
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.title || "The picture could not be loaded. Reload the page.");
  }
  return answer;
}

async function fetchPicture(address, signal) {
  return URL.createObjectURL(await (await fetchAnswer(address, signal)).blob());
}

/** The name of a drawn box, beside it: above or inside it would cover what has to be read. */
function boxName(box, width, name) {
  const right = box.x2 < width * 0.93;
  const left = !right && box.x1 > width * 0.07;
  return make("svg:text", {
    x: right ? box.x2 : box.x1, y: (box.y1 + box.y2) / 2, class: left ? "left" : null,
  }, name);
}

/** Colours of classes, readable on light and dark pictures; the label is always written too. */
const COLOURS = ["#ffd166", "#4cc9f0", "#f78fb3", "#95e06c", "#c5a3ff", "#ff9f5a", "#7ee8c7"];
function colourOf(label, labels) {
  return COLOURS[Math.max(0, labels.indexOf(label)) % COLOURS.length];
}

/** One picture of a stage, with the drawing above it. */
class Pane {
  constructor(name, pictures = null) {
    this.pictures = pictures; // keeps what it gives; without it each picture is fetched anew
    this.image = make("img", { class: "picture", alt: name, draggable: "false" });
    this.drawing = make("svg:svg", { class: "drawing", preserveAspectRatio: "none" });
    this.world = make("div", { class: "world" }, this.image, this.drawing);
    this.message = make("p", { class: "message", role: "status", hidden: true });
    this.element = make("div", { class: "pane" }, this.world, this.message);
    this.address = null;
    this.ready = Promise.resolve();
  }

  resize(width, height) {
    this.world.style.width = `${width}px`;
    this.world.style.height = `${height}px`;
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
  }

  show(address) {
    if (address === this.address) return this.ready;
    this.address = address;
    this.loading?.abort();
    this.loading = new AbortController();
    this.element.setAttribute("aria-busy", "true");
    const fetched = this.pictures?.get(address) || fetchPicture(address, this.loading.signal);
    this.ready = fetched
      .then((url) => {
        if (address !== this.address) return this.pictures || URL.revokeObjectURL(url);
        this.revoke();
        this.image.src = this.url = url;
        this.image.hidden = false;
        this.message.hidden = true;
        this.element.removeAttribute("aria-busy");
      })
      .catch((error) => {
        if (error.name === "AbortError" || address !== this.address) return;
        this.refuse(this.called ? `${this.called}: ${error.message}` : error.message);
      });
    return this.ready;
  }

  refuse(sentence) {
    this.release();
    this.address = null;
    this.message.textContent = sentence;
    this.message.hidden = false;
    this.element.removeAttribute("aria-busy");
  }

  release() {
    this.image.hidden = true;
    this.image.removeAttribute("src");
    this.revoke();
  }

  revoke() {
    if (this.url && !this.pictures) URL.revokeObjectURL(this.url);
    this.url = null;
  }
}

/** Panes that zoom and move as one. */
class Stage {
  constructor(panes, width, height) {
    this.panes = panes;
    this.width = width;
    this.height = height;
    this.element = make("div", { class: "stage", tabindex: "0" }, ...panes.map((p) => p.element));
    this.element.style.setProperty("--ratio", width / height);
    panes.forEach((pane) => pane.resize(width, height));
    this.pointers = new Map();
    this.zoomed = false;
    this.onchange = () => {};
    this.grab = () => false; // the editor takes pointers that start on a box
    this.listen();
    this.watcher = new ResizeObserver(() => (this.zoomed ? this.apply() : this.fit()));
    this.watcher.observe(this.element);
  }

  /** Another picture with other dimensions takes the place of this one. */
  resize(width, height) {
    if (width === this.width && height === this.height) return;
    Object.assign(this, { width, height });
    this.element.style.setProperty("--ratio", width / height);
    this.panes.forEach((pane) => pane.resize(width, height));
    this.fit();
  }

  get view() {
    const shown = this.panes.find((pane) => pane.element.offsetWidth > 0) || this.panes[0];
    return shown.element.getBoundingClientRect();
  }

  fit() {
    const { width, height } = this.view;
    if (!width || !height) return;
    this.scale = this.least = Math.min(width / this.width, height / this.height);
    this.x = (width - this.width * this.scale) / 2;
    this.y = (height - this.height * this.scale) / 2;
    this.zoomed = false;
    this.apply();
  }

  /** Zoom by a factor around a point of the pane, by default its middle. */
  zoom(factor, at) {
    const view = this.view;
    const point = at || { x: view.width / 2, y: view.height / 2 };
    const scale = Math.min(32, Math.max(this.least * 0.8, this.scale * factor));
    this.x = point.x - ((point.x - this.x) * scale) / this.scale;
    this.y = point.y - ((point.y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.zoomed = true;
    this.apply();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.zoomed = true;
    this.apply();
  }

  /** Bring a box to the middle, large enough to read. */
  focusOn(box) {
    const view = this.view;
    const share = Math.min(
      view.width / (3 * (box.x2 - box.x1)), view.height / (3 * (box.y2 - box.y1)), 8);
    this.scale = Math.max(this.least, Math.min(share, 32));
    this.x = view.width / 2 - ((box.x1 + box.x2) / 2) * this.scale;
    this.y = view.height / 2 - ((box.y1 + box.y2) / 2) * this.scale;
    this.zoomed = true;
    this.apply();
  }

  apply() {
    const { width, height } = this.view;
    const keep = 40; // some of the picture always stays in sight
    this.x = Math.min(width - keep, Math.max(keep - this.width * this.scale, this.x));
    this.y = Math.min(height - keep, Math.max(keep - this.height * this.scale, this.y));
    const style = this.element.style;
    style.setProperty("--x", `${this.x}px`);
    style.setProperty("--y", `${this.y}px`);
    style.setProperty("--z", this.scale);
    this.element.classList.toggle("grown", this.scale >= 3);
    this.element.classList.toggle("free", this.zoomed);
    this.onchange(this.scale);
  }

  /** From the screen to pixels of the picture. */
  toPixels(event) {
    const pane = this.panes.find((p) => p.element.contains(event.target)) || this.panes[0];
    const view = pane.element.getBoundingClientRect();
    return {
      x: (event.clientX - view.left - this.x) / this.scale,
      y: (event.clientY - view.top - this.y) / this.scale,
    };
  }

  listen() {
    const stage = this.element;
    const local = (x, y) => ({ x: x - this.view.left, y: y - this.view.top });
    // The wheel scrolls the page unless the picture has the focus.
    stage.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && this.scroll) {
        event.preventDefault();
        return this.scroll(event.deltaY);
      }
      if (!event.ctrlKey && !stage.matches(":focus-within")) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), local(event.clientX, event.clientY));
    }, { passive: false });
    stage.addEventListener("pointerdown", (event) => {
      if (event.button > 0 || event.target.closest("input, button, select")) return;
      this.pointers.set(event.pointerId, event);
      if (this.pointers.size === 1 && this.grab(event)) this.grabbed = true;
      if (this.grabbed || this.zoomed || event.pointerType === "mouse" || this.pointers.size > 1)
        stage.setPointerCapture(event.pointerId);
    });
    stage.addEventListener("pointermove", (event) => {
      const before = this.pointers.get(event.pointerId);
      if (!before) return;
      if (this.pointers.size === 2) {
        const other = [...this.pointers.values()].find((p) => p.pointerId !== event.pointerId);
        const span = (p) => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY);
        const middle = local((event.clientX + other.clientX) / 2, (event.clientY + other.clientY) / 2);
        this.zoom(span(event) / Math.max(1, span(before)), middle);
      } else if (this.grabbed) this.drag?.(event);
      else if (this.zoomed || event.pointerType === "mouse")
        this.pan(event.clientX - before.clientX, event.clientY - before.clientY);
      this.pointers.set(event.pointerId, event);
    });
    const release = (event) => {
      if (!this.pointers.delete(event.pointerId)) return;
      if (this.grabbed && !this.pointers.size) {
        this.grabbed = false;
        this.drop?.(event);
      }
    };
    stage.addEventListener("pointerup", release);
    stage.addEventListener("pointercancel", release);
    stage.addEventListener("dblclick", (event) => {
      if (!event.target.closest(".box")) this.fit();
    });
    stage.addEventListener("keydown", (event) => {
      if (event.defaultPrevented || event.target.closest("input, select")) return;
      const step = event.shiftKey ? 120 : 30;
      const keys = {
        ArrowLeft: () => this.pan(step, 0), ArrowRight: () => this.pan(-step, 0),
        ArrowUp: () => this.pan(0, step), ArrowDown: () => this.pan(0, -step),
        "+": () => this.zoom(1.25), "=": () => this.zoom(1.25), "-": () => this.zoom(0.8),
        0: () => this.fit(), PageUp: () => this.turn?.(-1), PageDown: () => this.turn?.(1),
      };
      if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      keys[event.key]();
    });
  }

  zoomButtons() {
    const button = (text, name, action) =>
      make("button", { type: "button", "aria-label": name, title: name, onclick: action }, text);
    return make("span", { class: "group", role: "group", "aria-label": "Zoom" },
      button("−", "Zoom out (-)", () => this.zoom(0.8)),
      button("Fit", "Fit the picture (0)", () => this.fit()),
      button("+", "Zoom in (+)", () => this.zoom(1.25)));
  }

  close() {
    this.watcher.disconnect();
    this.panes.forEach((pane) => {
      pane.loading?.abort();
      pane.release();
    });
  }
}

/** A slider over frames, or nothing where there is one frame. */
function frameControl(frames, onframe) {
  if (frames < 2) return null;
  const input = make("input", {
    type: "range", min: 1, max: frames, value: 1, "aria-label": "Frame",
    oninput: () => set(Number(input.value) - 1),
  });
  const text = make("output", {}, `1 of ${frames}`);
  const set = (frame) => {
    input.value = frame + 1;
    text.textContent = `${frame + 1} of ${frames}`;
    onframe(frame);
  };
  const element = make("label", { class: "group" }, "Frame ", input, text);
  element.set = (frame) => set(Math.min(frames - 1, Math.max(0, frame)));
  return element;
}

/** Centre and width of the shown grey values; ``onwindow`` gets them, or null for the file's own. */
function windowControl(given, onwindow) {
  const presets = [...given];
  const set = (center, width) => {
    numbers[0].value = center;
    numbers[1].value = width;
    onwindow(Number(width) > 0 && center !== "" ? { center: Number(center), width: Number(width) } : null);
  };
  const numbers = ["Window centre", "Window width"].map((name, place) => make("input", {
    type: "number", step: "any", "aria-label": name, placeholder: place ? "width" : "centre",
    onchange: () => set(numbers[0].value, numbers[1].value),
  }));
  const select = make("select", { "aria-label": "Window preset", onchange: () => {
    const preset = presets[select.selectedIndex - 1];
    set(preset ? preset.center : "", preset ? preset.width : "");
  } }, make("option", {}, "as in the file"), ...presets.map((preset) => make("option", {}, preset.name)));
  const element = make("span", { class: "group", role: "group", "aria-label": "Window" },
    "Window ", select, ...numbers);
  element.refuse = (why) => element.replaceChildren(why);
  element.add = (more) => {
    for (const preset of more.filter((m) => !presets.some((p) => p.name === m.name))) {
      presets.push(preset);
      select.append(make("option", {}, preset.name));
    }
  };
  return element;
}

/** A reading room is dark: the surroundings of pictures are too, until somebody switches it off. */
function roomSwitch(element) {
  const key = "medsec-light-room";
  const button = make("button", { type: "button", onclick: () => set(element.classList.contains("room")) },
    "Dark room");
  const set = (light) => {
    element.classList.toggle("room", !light);
    button.setAttribute("aria-pressed", !light);
    localStorage.setItem(key, light ? "1" : "");
  };
  set(localStorage.getItem(key) === "1");
  return button;
}

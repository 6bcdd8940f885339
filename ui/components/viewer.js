// The viewer: sealed and original picture compared by slider or side by side, boxes linked to
// their rows, frames and window. It never holds a picture longer than the restoration lasts.

const MODES = [
  ["slider", "Slider"], ["side", "Side by side"], ["masked", "Sealed"], ["original", "Original"],
];

function percent(share) {
  return share === null || share === undefined ? "–" : `${(share * 100).toFixed(0)} %`;
}

class Viewer {
  constructor(root, data) {
    this.data = data;
    this.frame = 0;
    this.window = null;
    this.labels = [...new Set(data.regions.map((region) => region.label))].sort();
    this.masked = new Pane("Sealed");
    this.original = data.original ? new Pane(data.opened) : null;
    const panes = this.original ? [this.original, this.masked] : [this.masked];
    this.stage = new Stage(panes, data.width, data.height);
    this.stage.element.setAttribute("role", "group");
    this.stage.element.setAttribute("aria-label",
      `${data.title}. Arrow keys move, plus and minus zoom, 0 fits` +
      (data.frames > 1 ? ", Page Up and Page Down change the frame." : "."));
    this.frames = frameControl(data.frames, (frame) => this.turnTo(frame));
    this.stage.turn = (step) => this.frames?.set(this.frame + step);
    this.note = make("p", { class: "note", role: "status" });
    this.badge = make("span", { class: "badge", hidden: true });
    this.stage.element.append(this.badge);
    this.ruler = new Ruler(this.stage, data.width, data.height, () => this.draw());
    this.captions = make("div", { class: "captions" },
      make("span", {}, "Sealed"), this.original && make("span", {}, data.opened));
    this.element = make("div", { class: "viewer" },
      make("p", { class: "warning" }, "Not for primary diagnosis"),
      this.toolbar(), this.captions, this.stage.element, this.sides(), this.note, this.table());
    this.bar.append(roomSwitch(this.element));
    root.replaceChildren(this.element);
    this.mode(this.original ? "slider" : "masked");
    this.draw();
    this.load();
    this.learn();
    if (data.expires) this.expiry = setTimeout(() => this.expire(), data.expires - Date.now());
  }

  // --- controls ---------------------------------------------------------------------------

  toolbar() {
    const bar = make("div", { class: "toolbar" });
    if (this.original) {
      this.modes = MODES.map(([mode, name]) =>
        make("button", { type: "button", "data-mode": mode, onclick: () => this.mode(mode) },
          mode === "original" ? this.data.opened : name));
      bar.append(make("span", { class: "group", role: "group", "aria-label": "Compare" },
        ...this.modes));
      this.split = make("input", {
        type: "range", min: 0, max: 100, step: 0.5, value: 50, class: "split",
        "aria-label": `Sealed left of here, ${this.data.opened.toLowerCase()} right of here`,
        oninput: () => this.stage.element.style.setProperty("--split", `${this.split.value}%`),
      });
      const divider = make("span", { class: "divider" });
      divider.addEventListener("pointerdown", (event) => {
        event.stopPropagation(); // the picture stays where it is
        divider.setPointerCapture(event.pointerId);
      });
      divider.addEventListener("pointermove", (event) => {
        if (!divider.hasPointerCapture(event.pointerId)) return;
        const { left, width } = this.stage.element.getBoundingClientRect();
        this.split.value = (100 * (event.clientX - left)) / width;
        this.split.dispatchEvent(new Event("input"));
      });
      this.stage.element.append(divider, this.split);
    }
    bar.append(this.stage.zoomButtons());
    if (this.frames) bar.append(this.frames);
    if (this.data.regions.length) {
      this.boxes = make("input", { type: "checkbox", checked: true, onchange: () => this.draw() });
      bar.append(make("label", { class: "group" }, this.boxes, " Boxes"));
    }
    if (this.data.window) {
      this.windows = windowControl(this.data.window, (window) => {
        this.window = window;
        this.load();
      });
      bar.append(this.windows);
    }
    this.enhance = make("input", { type: "checkbox", onchange: () => this.load() });
    bar.append(make("label", { class: "group" }, this.enhance, " Enhance contrast"));
    this.invert = make("input", { type: "checkbox", onchange: () => {
      this.stage.element.classList.toggle("inverted", this.invert.checked);
      this.say();
    } });
    bar.append(make("label", { class: "group" }, this.invert, " Invert"), this.ruler.element);
    this.bar = bar;
    return bar;
  }

  /** What the file says of its pixels; the pictures do not wait for it. */
  async learn() {
    if (!this.data.display) return;
    const answer = await fetch(this.data.display, { credentials: "same-origin", cache: "no-store" })
      .catch(() => null);
    if (!answer?.ok) return;
    const { spacing_mm, spacing_from, windows, window } = await answer.json();
    this.ruler.know(spacing_mm, spacing_from);
    if (!window) return this.windows?.refuse("No window: the values of this picture are colours.");
    this.windows?.add(windows.map(([center, width], place) =>
      ({ name: `file ${place + 1}: ${center} / ${width}`, center, width })));
  }

  /** Side markers that are sealed, said beside the picture to those who may know them. */
  sides() {
    if (!this.data.sides?.length) return null;
    const names = { L: "left", R: "right" };
    return make("p", { class: "sides" }, "Side marker under a box: " + this.data.sides
      .map(({ number, side }) => `box ${number} says ${side} (${names[side]})`).join(", ") + ".");
  }

  mode(mode) {
    this.stage.element.dataset.mode = this.captions.dataset.mode = mode;
    this.modes?.forEach((b) => b.setAttribute("aria-pressed", b.dataset.mode === mode));
    requestAnimationFrame(() => this.stage.fit());
  }

  // --- pictures ---------------------------------------------------------------------------

  turnTo(frame) {
    this.frame = frame;
    this.ruler.at(frame);
    this.load();
    this.draw();
  }

  address(pattern, query) {
    const address = pattern.replace("{frame}", this.frame);
    return query.size ? `${address}?${query}` : address;
  }

  load() {
    const view = new URLSearchParams(this.window || {});
    if (this.enhance.checked) view.set("enhance", "true");
    this.masked.show(this.address(this.data.masked, view));
    if (this.original && !this.ended) {
      this.original.show(this.address(this.data.original, view));
    }
    this.say();
  }

  /** Say what was done to the picture that is shown; what is stored never changes. */
  say() {
    const said = [];
    if (this.window) said.push(`window ${this.window.center} / ${this.window.width}`);
    if (this.enhance.checked) said.push("contrast enhanced (CLAHE)");
    if (this.invert.checked) said.push("inverted");
    const changed = said.length ? `Changed for this view only: ${said.join(", ")}.` : "";
    this.note.textContent = [this.ended, changed].filter(Boolean).join(" ");
    this.badge.textContent = said.join(", ");
    this.badge.hidden = !said.length;
  }

  expire() {
    this.original.refuse("The restoration has ended.");
    this.ended = "The restoration has ended. Restore the image again to see the original.";
    this.mode("masked");
    this.say();
    this.modes?.forEach((button) => (button.disabled = button.dataset.mode !== "masked"));
  }

  // --- boxes and their rows ---------------------------------------------------------------

  draw() {
    const shown = this.boxes?.checked;
    for (const pane of this.stage.panes) {
      pane.drawing.replaceChildren(...(shown ? this.data.regions : [])
        .filter((region) => region.frame <= this.frame && this.frame < region.frame_end)
        .map((region) => this.box(region)), ...[this.ruler.shape()].filter(Boolean));
    }
  }

  box(region) {
    const colour = colourOf(region.label, this.labels);
    const selected = region.id === this.selected;
    return make("svg:g", {
      class: selected ? "box selected" : "box", "data-id": region.id,
      style: `--colour: ${colour}; --x1: ${region.x1}px; --y1: ${region.y1}px; ` +
        `--w: ${region.x2 - region.x1}px; --h: ${region.y2 - region.y1}px`,
      onclick: () => this.select(region.id),
    },
      make("svg:rect", { x: region.x1, y: region.y1,
        width: region.x2 - region.x1, height: region.y2 - region.y1 }),
      boxName(region, this.data.width, selected ? `${region.number} ${region.label}` : region.number));
  }

  table() {
    if (!this.data.regions.length)
      return make("p", { class: "empty" }, "No region of this image is sealed.");
    const titles = ["No.", "Class", "Confidence", "Box (px)", ...this.data.columns];
    if (this.data.frames > 1) titles.splice(4, 0, "Frames");
    this.rows = new Map();
    const body = make("tbody", {}, ...this.data.regions.map((region) => {
      const cells = [
        make("button", { type: "button", class: "number", "aria-label": `Show region ${region.number}`,
          style: `--colour: ${colourOf(region.label, this.labels)}`,
          onclick: () => this.select(region.id, true) }, region.number),
        region.label, region.confidence == null ? percent(null) : `from ${percent(region.confidence)}`,
        `${region.x1}, ${region.y1} – ${region.x2}, ${region.y2}`, ...region.cells,
      ];
      if (this.data.frames > 1)
        cells.splice(4, 0, `${region.frame + 1}–${region.frame_end}`);
      const row = make("tr", {}, ...cells.map((cell) => make("td", {}, cell)));
      this.rows.set(region.id, row);
      return row;
    }));
    return make("div", { class: "rows", tabindex: "0", role: "region", "aria-label": "Sealed regions" },
      make("table", {},
        make("thead", {}, make("tr", {}, ...titles.map((t) => make("th", { scope: "col" }, t)))),
        body));
  }

  select(id, travel = false) {
    this.selected = id;
    const region = this.data.regions.find((r) => r.id === id);
    if (!(region.frame <= this.frame && this.frame < region.frame_end))
      this.frames?.set(region.frame);
    if (travel) {
      this.stage.element.scrollIntoView({ block: "nearest" });
      this.stage.focusOn(region);
    }
    this.draw();
    this.rows.forEach((row, key) => row.classList.toggle("selected", key === id));
    if (!travel) this.rows.get(id)?.scrollIntoView({ block: "nearest" });
  }

  close() {
    clearTimeout(this.expiry);
    this.stage.close();
  }
}

const viewers = new WeakMap();

export default function (component) {
  const { data, parentElement } = component;
  const root = parentElement.querySelector(".root");
  pageServer = data.server;
  const held = viewers.get(root);
  if (held?.data.id !== data.id) {
    held?.close();
    viewers.set(root, new Viewer(root, data));
  }
  // If a newer call has replaced this one, its clean-up runs later and must not
  // remove what the newer call shows.
  const shown = viewers.get(root);
  const owner = (shown.owner = {});
  return () => {
    if (shown.owner !== owner) return;
    shown.close();
    viewers.delete(root);
  };
}

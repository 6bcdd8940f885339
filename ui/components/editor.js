// The box editor: draw, move, resize, relabel and remove boxes by mouse, touch or keyboard.
// Removing a detected box requires a reason; its row stays in the list until sealing.

const EDGES = { nw: [1, 1, 0, 0], ne: [0, 1, 1, 0], sw: [1, 0, 0, 1], se: [0, 0, 1, 1] };
const VERDICTS = {
  identifying: "identifies a person", harmless: "identifies nobody", unknown: "may identify somebody",
};
const KEYS = [
  ["D", "draw boxes, or stop"], ["N", "add a box in the middle"], ["Tab", "the next box"],
  ["← ↑ → ↓", "move the box; with Alt resize it, with Shift in larger steps"],
  ["Space", "choose the box, or not any more"], ["A", "choose all boxes, or none"],
  ["Delete", "remove the box, or all chosen ones with one reason"],
  ["1 … 9", "give the box the class with this number in its list"],
  ["E", "enlarge the box, or show the whole picture again"], ["Ctrl Z", "undo, until it is sealed"],
  ["Ctrl Enter", "seal, and open the next image"], ["J, K", "leave it as it is: the next image, the previous one"],
  ["Esc", "leave the box"], ["?", "these keys"],
];
const REASONS = ["No identifying content", "Duplicate of another box", "Wrong place, redrawn"];

class Editor {
  constructor(root, data, onchange, command) {
    this.data = data;
    this.onchange = onchange;
    this.command = command;
    this.frame = 0;
    this.drawing = false;
    this.boxes = data.boxes.map((box, index) => ({ ...box, key: index, from: box.from || { ...box } }));
    this.next = this.boxes.length;
    this.past = [];
    this.chosen = new Set(); // of several boxes that get one reason
    this.pane = new Pane("Draft, not sealed yet");
    this.stage = new Stage([this.pane], data.width, data.height);
    const stage = this.stage.element;
    stage.setAttribute("role", "group");
    stage.setAttribute("aria-label",
      `${data.title}. D draws, N adds a box, Tab goes from box to box. On a box: arrow keys move,` +
      " with Alt they resize, Shift makes larger steps, Space chooses it, Delete removes." +
      " A question mark shows all keys.");
    this.frames = frameControl(data.frames, (frame) => {
      this.frame = frame;
      this.load();
      this.draw();
    });
    this.stage.turn = (step) => this.frames?.set(this.frame + step);
    this.stage.grab = (event) => this.grab(event);
    this.stage.drag = (event) => this.drag(event);
    this.stage.drop = () => this.drop();
    stage.addEventListener("keydown", (event) => this.key(event), { capture: true });
    this.list = make("ol", { class: "list" });
    this.said = make("p", { class: "note", role: "status" });
    this.several = make("div", { class: "toolbar several", role: "group", "aria-label": "Chosen boxes" });
    this.keys = make("dl", { class: "keys", hidden: true },
      ...KEYS.flatMap(([key, what]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, what)]));
    root.replaceChildren(make("div", { class: "editor" },
      make("p", { class: "warning" }, "Not for primary diagnosis"),
      this.toolbar(), this.keys, this.said, this.several,
      make("div", { class: "work" }, stage, this.list)));
    root.firstElementChild.addEventListener("keydown", (event) => { // also from a field of the list
      if (!(event.ctrlKey || event.metaKey) || event.key !== "Enter") return;
      event.preventDefault();
      this.command("seal");
    });
    this.draw();
    this.rows();
    this.load();
    stage.focus({ preventScroll: true }); // every key works at once
  }

  toolbar() {
    const button = (name, title, action) =>
      make("button", { type: "button", title, onclick: action }, name);
    this.pencil = button("Draw boxes", "Draw with mouse or finger (D)", () => this.pen(!this.drawing));
    this.pencil.setAttribute("aria-pressed", "false");
    this.back = button("Undo", "Undo the last change (Ctrl Z)", () => this.undo());
    this.back.disabled = true;
    this.covered = make("input", { type: "checkbox", onchange: () =>
      this.stage.element.classList.toggle("covered", this.covered.checked) });
    return make("div", { class: "toolbar" },
      make("span", { class: "group" }, this.pencil,
        button("Add box", "Add a box in the middle (N)", () => this.add()), this.back,
        button("Keys (?)", "Show the keys", () => (this.keys.hidden = !this.keys.hidden))),
      this.stage.zoomButtons(), this.frames,
      make("label", { class: "group" }, this.covered, " Preview as masked"),
      this.data.window && windowControl(this.data.window, (window) => {
        this.window = window;
        this.load();
      }));
  }

  load() {
    const view = this.window ? `?${new URLSearchParams(this.window)}` : "";
    this.pane.show(this.data.picture.replace("{frame}", this.frame) + view);
  }

  // --- changes ----------------------------------------------------------------------------

  /** Remember how it was, change it, show it and tell the page. */
  change(action) {
    this.past.push(JSON.stringify(this.boxes));
    action();
    this.done();
  }

  done() {
    this.back.disabled = !this.past.length;
    this.draw();
    this.rows();
    this.onchange(this.boxes.map(({ key, ...box }) => ({ ...box, strayed: this.strayed(box) })));
  }

  undo() {
    if (!this.past.length) return;
    this.boxes = JSON.parse(this.past.pop());
    this.selected = null;
    this.chosen.clear();
    this.done();
  }

  /** Whole pixels, rounded outward and kept inside the picture. */
  settle(box) {
    const { width, height } = this.data;
    const low = (a, b, most) => Math.min(most - 1, Math.max(0, Math.floor(Math.min(a, b))));
    const high = (a, b, most) => Math.max(1, Math.min(most, Math.ceil(Math.max(a, b))));
    const { x1, y1, x2, y2 } = box;
    box.x1 = low(x1, x2, width);
    box.x2 = Math.max(box.x1 + 1, high(x1, x2, width));
    box.y1 = low(y1, y2, height);
    box.y2 = Math.max(box.y1 + 1, high(y1, y2, height));
  }

  create(x1, y1, x2, y2) {
    const box = {
      key: this.next++, found: null, label: this.lastLabel || this.data.labels[0], confidence: 1,
      x1, y1, x2, y2, frame: 0, frame_end: this.data.frames, removed: null, left: "",
    };
    this.settle(box);
    this.boxes.push(box);
    this.selected = box.key;
    return box;
  }

  add() {
    const view = this.stage.view;
    const x = (view.width / 2 - this.stage.x) / this.stage.scale;
    const y = (view.height / 2 - this.stage.y) / this.stage.scale;
    const w = Math.max(8, this.data.width / 8), h = Math.max(8, this.data.height / 16);
    this.change(() => this.create(x - w / 2, y - h / 2, x + w / 2, y + h / 2));
    this.focusBox();
  }

  /** Has a found box left what it was found on? Then its old place needs a reason too. */
  strayed({ found, from, x1, y1, x2, y2 }) {
    if (found === null) return false;
    const w = Math.min(x2, from.x2) - Math.max(x1, from.x1);
    const h = Math.min(y2, from.y2) - Math.max(y1, from.y1);
    const least = Math.min((x2 - x1) * (y2 - y1), (from.x2 - from.x1) * (from.y2 - from.y1));
    return Math.max(0, w) * Math.max(0, h) * 2 < least;
  }

  remove(box) {
    this.change(() => {
      if (box.found === null) this.boxes = this.boxes.filter((b) => b !== box);
      else box.removed = "";
      this.selected = null;
    });
    if (box.found !== null) this.list.querySelector(`[data-key="${box.key}"] select`)?.focus();
    else this.stage.element.focus();
  }

  // --- several at once --------------------------------------------------------------------

  choose(box) {
    if (!this.chosen.delete(box.key)) this.chosen.add(box.key);
    this.draw();
    this.rows();
  }

  chooseAll() {
    const here = this.boxes.filter((box) => box.removed === null);
    const all = here.every((box) => this.chosen.has(box.key));
    this.chosen = new Set(all ? [] : here.map((box) => box.key));
    this.draw();
    this.rows();
  }

  /** Remove all chosen boxes; those that were found get the reason. One step for undo. */
  removeChosen(reason) {
    this.change(() => {
      this.boxes = this.boxes.filter((box) => box.found !== null || !this.chosen.has(box.key));
      for (const box of this.boxes) if (this.chosen.has(box.key)) box.removed = reason;
      this.selected = null;
      this.chosen.clear();
    });
    this.stage.element.focus();
  }

  offerSeveral() {
    const chosen = this.boxes.filter((box) => box.removed === null && this.chosen.has(box.key));
    this.several.hidden = !chosen.length;
    if (!chosen.length) return;
    const found = chosen.some((box) => box.found !== null);
    const reason = make("select", { "aria-label": "Reason for removing the chosen boxes" },
      ...REASONS.map((one) => make("option", {}, one)));
    const own = make("input", { type: "text", class: "reason", maxlength: 200,
      "aria-label": "Own reason for removing the chosen boxes", placeholder: "or in your own words" });
    const remove = make("button", { type: "button", class: "remove-chosen", onclick: () =>
      this.removeChosen(found ? own.value.trim() || reason.value : "") }, "Remove the chosen boxes");
    this.several.replaceChildren(
      make("span", {}, chosen.length === 1 ? "1 box chosen" : `${chosen.length} boxes chosen`),
      ...(found ? [reason, own] : []), remove,
      make("button", { type: "button", onclick: () => {
        this.chosen.clear();
        this.draw();
        this.rows();
      } }, "Choose none"));
  }

  // --- mouse and touch --------------------------------------------------------------------

  pen(on) {
    this.drawing = on;
    this.pencil.setAttribute("aria-pressed", on);
    this.stage.element.classList.toggle("drawing-boxes", on);
  }

  find(element) {
    const key = element.closest?.(".box")?.dataset.key;
    return key === undefined ? null : this.boxes.find((box) => box.key === Number(key));
  }

  grab(event) {
    const at = this.stage.toPixels(event);
    const box = this.find(event.target);
    this.before = JSON.stringify(this.boxes);
    if (box && !this.drawing && event.shiftKey) {
      this.choose(box);
      return true;
    }
    if (box && !this.drawing) {
      this.selected = box.key;
      this.held = { box, at, from: { ...box }, edge: event.target.dataset.edge, moved: false };
      this.draw();
      this.rows();
      return true;
    }
    if (!this.drawing) {
      if (this.selected !== null) {
        this.selected = null;
        this.draw();
        this.rows();
      }
      return false;
    }
    this.held = { box: null, at, moved: false };
    // Otherwise the box that has the focus would keep it, and Delete would remove that one.
    this.selected = null;
    this.stage.element.focus({ preventScroll: true });
    return true;
  }

  drag(event) {
    const held = this.held;
    if (!held) return;
    const now = this.stage.toPixels(event);
    const dx = now.x - held.at.x, dy = now.y - held.at.y;
    if (!held.moved && Math.hypot(dx, dy) * this.stage.scale < 4) return; // a click, not a drag
    held.moved = true;
    if (!held.box) {
      held.box = this.create(held.at.x, held.at.y, now.x, now.y);
      held.from = { ...held.box, x2: held.box.x1, y2: held.box.y1 };
      held.drawn = true;
    }
    const { box, from } = held;
    if (held.drawn) Object.assign(box, { x1: held.at.x, y1: held.at.y, x2: now.x, y2: now.y });
    else this.moveBy(box, from, dx, dy, EDGES[held.edge] || [1, 1, 1, 1]);
    this.settle(box);
    this.draw();
  }

  moveBy(box, from, dx, dy, [left, top, right, bottom]) {
    if (left && right) { // a move keeps its size at the border
      dx = Math.max(-from.x1, Math.min(this.data.width - from.x2, dx));
      dy = Math.max(-from.y1, Math.min(this.data.height - from.y2, dy));
      dx = Math.round(dx);
      dy = Math.round(dy);
    }
    Object.assign(box, {
      x1: from.x1 + left * dx, y1: from.y1 + top * dy,
      x2: from.x2 + right * dx, y2: from.y2 + bottom * dy,
    });
  }

  drop() {
    if (!this.held?.moved) return;
    this.past.push(this.before);
    this.held = null;
    this.done();
    this.focusBox();
  }

  // --- keyboard ---------------------------------------------------------------------------

  key(event) {
    if (event.target.closest("input, select")) return;
    const box = this.find(event.target);
    const step = event.shiftKey ? 10 : 1;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const take = (action) => {
      event.preventDefault();
      event.stopPropagation();
      action();
    };
    if ((event.ctrlKey || event.metaKey) && event.key === "z") return take(() => this.undo());
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") return take(() => this.command("seal"));
    if (event.ctrlKey || event.metaKey) return;
    if (event.key === "j" || event.key === "J") return take(() => this.command("next"));
    if (event.key === "k" || event.key === "K") return take(() => this.command("previous"));
    if (event.key === "e" || event.key === "E") return take(() => this.enlarge(box));
    if (box && /^[1-9]$/.test(event.key)) return take(() => this.relabel(box, Number(event.key) - 1));
    if (event.key === "d" || event.key === "D") return take(() => this.pen(!this.drawing));
    if (event.key === "n" || event.key === "N") return take(() => this.add());
    if (event.key === "a" || event.key === "A") return take(() => this.chooseAll());
    if (event.key === "?") return take(() => (this.keys.hidden = !this.keys.hidden));
    const remove = event.key === "Delete" || event.key === "Backspace";
    if (remove && this.chosen.size) return take(() => this.several.querySelector("select, button")?.focus());
    if (!box) return;
    if (remove) return take(() => this.remove(box));
    if (event.key === " ") return take(() => this.choose(box));
    if (event.key === "Escape") return take(() => this.stage.element.focus());
    const by = moves[event.key];
    if (by) take(() => {
      this.change(() => {
        this.moveBy(box, { ...box }, ...by, event.altKey ? [0, 0, 1, 1] : [1, 1, 1, 1]);
        this.settle(box);
      });
      this.focusBox();
    });
  }

  /** Zoom to a box, or back to the whole picture. */
  enlarge(box) {
    if (this.stage.zoomed || !box) this.stage.fit();
    else this.stage.focusOn(box);
    if (box) this.focusBox();
  }

  relabel(box, place) {
    const label = this.data.labels[place];
    if (!label || label === box.label) return;
    this.lastLabel = label;
    this.change(() => (box.label = label));
    this.focusBox();
  }

  focusBox() {
    this.pane.drawing.querySelector(`[data-key="${this.selected}"]`)?.focus();
  }

  // --- what is shown ----------------------------------------------------------------------

  draw() {
    const focused = this.pane.drawing.querySelector(":focus")?.dataset.key;
    this.pane.drawing.replaceChildren(...this.boxes
      .filter((box) => box.removed === null && box.frame <= this.frame && this.frame < box.frame_end)
      .map((box) => this.shape(box)));
    if (focused !== undefined && Number(focused) === this.selected) this.focusBox();
  }

  shape(box) {
    const { x1, y1, x2, y2 } = box;
    const selected = box.key === this.selected;
    const name = `${this.boxes.indexOf(box) + 1} ${box.label}`;
    const shape = make("svg:g", {
      class: ["box", selected && "selected", this.chosen.has(box.key) && "chosen",
        this.proposed(box) && "proposed"].filter(Boolean).join(" "),
      "data-key": box.key, tabindex: 0, role: "button", style: `--colour: ${this.colour(box)}`,
      "aria-label": `Box ${name}, ${this.sure(box)}, from ${x1}, ${y1} to ${x2}, ${y2}`,
      onfocus: () => {
        if (this.selected === box.key) return;
        this.selected = box.key;
        this.draw();
        this.rows();
      },
    },
      make("svg:path", { class: "mask", d: this.mask(box) }),
      make("svg:rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1 }),
      boxName(box, this.data.width, selected ? name : name.split(" ")[0]));
    if (selected) for (const [edge, [left, top]] of Object.entries(EDGES))
      shape.append(make("svg:circle", { "data-edge": edge, cx: left ? x1 : x2, cy: top ? y1 : y2 }));
    return shape;
  }

  /** The pixels that sealing hides: a found box with its padding, a person's own as drawn, both
      rounded outward to the blocks of the file. */
  mask(box) {
    const { from } = box;
    const same = box.found !== null &&
      ["x1", "y1", "x2", "y2", "frame", "frame_end", "label"].every((name) => box[name] === from[name]);
    const [w, h, left, top] = this.data.grid;
    const [x1, y1, x2, y2] = same ? from.hides : [
      Math.max(0, Math.floor((box.x1 - left) / w) * w + left),
      Math.max(0, Math.floor((box.y1 - top) / h) * h + top),
      Math.min(this.data.width, Math.ceil((box.x2 - left) / w) * w + left),
      Math.min(this.data.height, Math.ceil((box.y2 - top) / h) * h + top),
    ];
    return `M${x1} ${y1}H${x2}V${y2}H${x1}Z`;
  }

  colour(box) {
    return colourOf(box.label, this.data.labels);
  }

  proposed(box) {
    return box.found !== null && box.proposed;
  }

  sure(box) {
    if (box.found === null) return "drawn by a person";
    const share = `${(box.confidence * 100).toFixed(0)} % sure`;
    const parts = [share, this.proposed(box) && "a proposal", VERDICTS[box.verdict]];
    return parts.filter(Boolean).join(", ");
  }

  rows() {
    const kept = this.boxes.filter((box) => box.removed === null).length;
    this.said.textContent = this.boxes.length
      ? `${kept} ${kept === 1 ? "box" : "boxes"} will be sealed.` +
        (kept < this.boxes.length ? ` ${this.boxes.length - kept} removed.` : "")
      : "No boxes: nothing will be sealed.";
    this.list.replaceChildren(...this.boxes.map((box, index) => this.row(box, index + 1)));
    this.offerSeveral();
  }

  row(box, number) {
    const row = make("li", { "data-key": box.key, class: box.key === this.selected ? "selected" : "" });
    const show = make("button", { type: "button", class: "number", style: `--colour: ${this.colour(box)}`,
      "aria-label": `Show box ${number}`, onclick: () => {
        this.selected = box.key;
        if (!(box.frame <= this.frame && this.frame < box.frame_end)) this.frames?.set(box.frame);
        this.stage.focusOn(box);
        this.draw();
        this.rows();
        this.focusBox();
      } }, number);
    if (box.removed !== null) row.append(...this.removedRow(box, number, show));
    else row.append(make("input", { type: "checkbox", checked: this.chosen.has(box.key),
      "aria-label": `Choose box ${number}`, onchange: () => this.choose(box) }),
      show, this.labelChoice(box, number),
      make("button", { type: "button", "aria-label": `Remove box ${number}`,
        onclick: () => this.remove(box) }, "Remove"),
      make("span", { class: "sure" }, this.sure(box)), ...this.frameRange(box, number),
      ...(this.strayed(box) ? this.why(box, "left", `leaving the place where box ${number} was found`) : []));
    return row;
  }

  labelChoice(box, number) {
    const names = this.data.labels.includes(box.label) ? this.data.labels : [box.label, ...this.data.labels];
    const choice = make("select", { "aria-label": `Class of box ${number}`, onchange: () => {
      this.lastLabel = choice.value;
      this.change(() => (box.label = choice.value));
    } }, ...names.map((name) => make("option", { selected: name === box.label }, name)));
    return choice;
  }

  frameRange(box, number) {
    if (this.data.frames < 2) return [];
    if (box.key !== this.selected)
      return [make("span", { class: "frames" }, `frames ${box.frame + 1}–${box.frame_end}`)];
    const input = (name, value, set) => make("input", { type: "number", min: 1, max: this.data.frames,
      value, "aria-label": `${name} frame of box ${number}`, onchange: (event) => {
        const frame = Math.min(this.data.frames, Math.max(1, Math.round(Number(event.target.value)) || 1));
        this.change(() => set(frame));
      } });
    return [make("span", { class: "group" }, "frames ",
      input("First", box.frame + 1, (f) => {
        box.frame = f - 1;
        box.frame_end = Math.max(box.frame_end, f);
      }), "–",
      input("Last", box.frame_end, (f) => {
        box.frame_end = f;
        box.frame = Math.min(box.frame, f - 1);
      }))];
  }

  /** A reason: a usual one or a person's own words. */
  why(box, field, what) {
    const set = (reason) => this.change(() => (box[field] = reason.trim()));
    const own = make("input", { type: "text", value: box[field], class: "reason", maxlength: 200,
      "aria-label": `Reason for ${what}`, placeholder: "Why is this box not needed?",
      onchange: () => set(own.value) });
    const usual = make("select", { "aria-label": `Usual reasons for ${what}`,
      onchange: () => { if (usual.value) set(usual.value); } },
      make("option", { value: "" }, "Reason …"),
      ...REASONS.map((reason) => make("option", { selected: reason === box[field] }, reason)));
    return [usual, own];
  }

  removedRow(box, number, show) {
    show.disabled = true;
    return [show, make("s", {}, box.label), make("span", { class: "sure" }, this.sure(box)),
      make("button", { type: "button", "aria-label": `Keep box ${number}`,
        onclick: () => this.change(() => (box.removed = null)) }, "Keep"),
      ...this.why(box, "removed", `removing box ${number}`)];
  }

  close() {
    this.stage.close();
  }
}

const editors = new WeakMap();

export default function (component) {
  const { data, parentElement, setStateValue, setTriggerValue } = component;
  const root = parentElement.querySelector(".root");
  pageServer = data.server;
  const held = editors.get(root);
  if (held?.data.id === data.id) held.data.picture = data.picture; // opened anew, same boxes
  else {
    held?.close();
    editors.set(root, new Editor(root, data, (boxes) => setStateValue("boxes", boxes),
      (name) => setTriggerValue("command", name)));
  }
  // If a newer call has replaced this one, its clean-up runs later and must not
  // remove what the newer call shows.
  const shown = editors.get(root);
  const owner = (shown.owner = {});
  return () => {
    if (shown.owner !== owner) return;
    shown.close();
    editors.delete(root);
  };
}

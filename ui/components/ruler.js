// A measuring line with its length in millimetres. Available only if the file defines the pixel
// size. Names the DICOM attribute that defines it, because the three attributes measure different
// things.

const SPACING = {
  PixelSpacing: "by PixelSpacing",
  ImagerPixelSpacing: "on the detector (ImagerPixelSpacing): a projection is magnified, the body part is smaller",
  NominalScannedPixelSpacing: "on the scanned film (NominalScannedPixelSpacing)",
};

class Ruler {
  /** `spacing` in mm from row to row and from column to column; `onchange` redraws. */
  constructor(stage, width, height, onchange) {
    Object.assign(this, { stage, width, height, onchange, spacing: null, lines: new Map(), place: 0 });
    this.said = make("span", { class: "length", role: "status" });
    this.button = make("button", { type: "button", "aria-pressed": "false", onclick: () => this.toggle() },
      "Measure");
    this.element = make("span", { class: "group", hidden: true }, this.button, this.said);
    stage.grab = (event) => this.grab(event);
    stage.drag = (event) => this.drag(event);
  }

  /** The file says how large a pixel is, or does not: only then lengths can be measured. */
  know(spacing, from) {
    const known = spacing && SPACING[from];
    this.spacing = known ? spacing : null;
    this.from = from;
    this.element.hidden = !known;
    this.say();
  }

  /** Each picture has its own line, which is there again when the picture is. */
  at(place, width = this.width, height = this.height) {
    Object.assign(this, { place, width, height });
    this.button.setAttribute("aria-pressed", Boolean(this.line));
    this.say();
  }

  get line() {
    return this.lines.get(this.place) || null;
  }

  set line(line) {
    if (line) this.lines.set(this.place, line);
    else this.lines.delete(this.place);
  }

  toggle() {
    if (this.line) this.line = null;
    else { // across the middle third of what is seen, to be dragged or moved by keys
      const view = this.stage.view;
      const x = (share) => (view.width * share - this.stage.x) / this.stage.scale;
      const y = (view.height / 2 - this.stage.y) / this.stage.scale;
      this.line = [this.inside(x(1 / 3), y), this.inside(x(2 / 3), y)];
    }
    this.button.setAttribute("aria-pressed", Boolean(this.line));
    this.say();
    this.onchange();
    if (this.line) this.stage.element.querySelector(".ruler [data-end]")?.focus();
  }

  inside(x, y) {
    return { x: Math.min(this.width, Math.max(0, x)), y: Math.min(this.height, Math.max(0, y)) };
  }

  get millimetres() {
    const [a, b] = this.line;
    return Math.hypot((a.y - b.y) * this.spacing[0], (a.x - b.x) * this.spacing[1]);
  }

  say() {
    this.said.textContent = this.line && this.spacing ? `${this.millimetres.toFixed(1)} mm ${SPACING[this.from]}` : "";
  }

  grab(event) {
    const end = event.target.dataset?.end;
    if (!this.line || end === undefined) return false;
    this.held = Number(end);
    return true;
  }

  drag(event) {
    const { x, y } = this.stage.toPixels(event);
    this.move(this.held, x, y);
  }

  move(end, x, y) {
    this.line[end] = this.inside(x, y);
    this.say();
    this.onchange();
  }

  key(event, end) {
    const step = event.shiftKey ? 10 : 1;
    const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const pane = event.target.closest(".pane");
    this.move(end, this.line[end].x + by[0], this.line[end].y + by[1]);
    pane.querySelector(`.ruler [data-end="${end}"]`)?.focus();
  }

  /** The line for one pane's drawing, or nothing. */
  shape() {
    if (!this.line || !this.spacing) return null;
    const [a, b] = this.line;
    const handle = (end, name) => make("svg:circle", {
      "data-end": end, cx: this.line[end].x, cy: this.line[end].y, tabindex: 0, role: "button",
      "aria-label": `${name} of the measured line: arrow keys move it`,
      onkeydown: (event) => this.key(event, end),
    });
    return make("svg:g", { class: "ruler" },
      make("svg:line", { x1: a.x, y1: a.y, x2: b.x, y2: b.y, class: "under" }),
      make("svg:line", { x1: a.x, y1: a.y, x2: b.x, y2: b.y }),
      handle(0, "Start"), handle(1, "End"),
      make("svg:text", { x: b.x, y: b.y }, `${this.millimetres.toFixed(1)} mm`));
  }
}

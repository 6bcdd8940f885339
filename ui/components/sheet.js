// A contact sheet: many drafts at once with their boxes, one enlarged, confirmed together. How long each
// was on the screen, and how large, goes to the server with the confirmation.

const SEEN_MS = 1000; // on the screen, before it counts as seen
const KEYS = [
  ["Arrows", "go from picture to picture"], ["E or pointer", "enlarge"], ["X", "leave out, to open it later"],
  ["O", "open in the editor"], ["C", "add the boxes of this picture to all of its series here"],
  ["Ctrl Enter", "confirm and seal"], ["Ctrl Z", "take the last confirmation back, for what is not sealed yet"], ["?", "these keys"],
];

class Sheet {
  constructor(root, data, tell) {
    Object.assign(this, { root, data, tell, tiles: [], out: new Set(), at: 0 });
    this.large = make("div", { class: "large", hidden: true, role: "status" });
    this.keys = make("dl", { class: "keys", hidden: true }, ...KEYS.flatMap(([key, what]) => [make("dt", {}, key), make("dd", {}, what)]));
    this.begin = make("button", { type: "button", class: "primary", onclick: () => this.confirm() });
    this.said = make("span", { role: "status" });
    const grid = make("div", { class: "tiles" });
    for (const group of data.groups)
      grid.append(make("div", { class: "block", style: `--count: ${group.items.length}` }, make("h3", { title: group.title }, group.title),
        make("div", { class: "of" }, ...group.items.map((item) => this.tile(item, group)))));
    this.grid = grid;
    const sheet = make("section", { class: "sheet", "aria-label": "Contact sheet" }, this.keys, grid,
      make("div", { class: "bar" }, this.begin, this.said,
        make("button", { type: "button", onclick: () => this.carry() }, "Add these boxes to the series (C)"),
        make("button", { type: "button", onclick: () => (this.keys.hidden = !this.keys.hidden) }, "Keys (?)"),
        data.undo > 0 && make("button", { type: "button", onclick: () => tell("undone", true) }, `Undo the last ${data.undo} (Ctrl Z)`),
        make("button", { type: "button", onclick: () => tell("left", true) }, "Back to the list")), this.large);
    sheet.addEventListener("keydown", (event) => this.key(event));
    // A sheet that opens under a pointer that rests must not be covered by one of its pictures.
    sheet.addEventListener("pointermove", () => (this.pointed = true));
    root.replaceChildren(sheet);
    this.fit = this.fit.bind(this);
    window.addEventListener("resize", this.fit);
    requestAnimationFrame(this.fit);
    this.watch();
    this.draw();
    this.tiles[0]?.element.focus({ preventScroll: true });
  }

  tile(item, group) {
    const image = make("img", { src: `/api/drafts/${item.id}/preview/?side=256&v=${item.version}`, alt: `${item.name}: ${item.boxes} boxes` });
    const tile = { item, group, ms: 0, visible: false, enlarged: false, image };
    const index = this.tiles.push(tile) - 1;
    tile.element = make("button", { type: "button", class: "tile", title: item.why, "aria-label": `${item.name}, ${item.boxes} boxes. ${item.why}`,
      onfocus: () => (this.at = index),
      onmousemove: (event) => { if (!this.pointed || this.hovered === index) return; this.hovered = index; this.hover = setTimeout(() => this.enlarge(index, event.clientX), 300); },
      onmouseleave: () => { clearTimeout(this.hover); this.hovered = null; this.shrink(); },
      onclick: () => this.toggle(index) },
      image, make("span", {}, `${item.name} · ${item.boxes === 1 ? "1 box" : `${item.boxes} boxes`}`));
    return tile.element;
  }

  /** Make the pictures as large as the window allows without scrolling, within limits. */
  fit() {
    const bar = 72, top = Math.min(220, Math.max(60, this.grid.getBoundingClientRect().top));
    const high = window.innerHeight - top - bar;
    let low = this.root.clientWidth < 600 ? 92 : 100, most = 320;
    while (most - low > 4) {
      const side = Math.round((low + most) / 2);
      this.grid.style.setProperty("--side", `${side}px`);
      if (this.grid.scrollHeight <= high) low = side;
      else most = side;
    }
    this.grid.style.setProperty("--side", `${low}px`);
  }

  /** Count for each picture how long it is on the screen, drawn, in a window that is shown. */
  watch() {
    this.observer = new IntersectionObserver((entries) => {
      for (const entry of entries)
        this.tiles.find((tile) => tile.element === entry.target).visible = entry.intersectionRatio > 0.9;
    }, { threshold: [0, 0.91] });
    this.tiles.forEach((tile) => this.observer.observe(tile.element));
    let before = performance.now();
    this.clock = setInterval(() => {
      const now = performance.now(), spent = Math.min(1000, now - before);
      before = now;
      if (document.hidden) return;
      for (const tile of this.tiles)
        if (tile.visible && tile.image.complete && tile.image.naturalWidth && !this.covered(tile)) tile.ms += spent;
      this.draw();
    }, 250);
  }

  /** Is a picture under the enlarged one? Then nobody sees it. */
  covered(tile) {
    if (this.large.hidden || this.large.dataset.of === tile.item.id) return false;
    const over = this.large.getBoundingClientRect(), own = tile.element.getBoundingClientRect();
    return over.left < own.right && own.left < over.right && over.top < own.bottom && own.top < over.bottom;
  }

  draw() {
    const kept = this.tiles.filter((tile) => !this.out.has(tile));
    const unseen = kept.filter((tile) => tile.ms < SEEN_MS).length;
    this.tiles.forEach((tile) => {
      tile.element.classList.toggle("seen", tile.ms >= SEEN_MS);
      tile.element.classList.toggle("out", this.out.has(tile));
    });
    this.begin.textContent = `Confirm and seal ${kept.length === 1 ? "1 image" : `${kept.length} images`}`;
    this.begin.disabled = this.sent || unseen > 0 || !kept.length;
    this.said.textContent = unseen ? `${unseen} not seen yet` : this.data.left ? `${this.data.left} more wait` : "These are the last ones";
  }

  enlarge(index, x) {
    const tile = this.tiles[index];
    tile.enlarged = true;
    const middle = x ?? tile.element.getBoundingClientRect().left;
    this.large.classList.toggle("left", middle > window.innerWidth / 2);
    this.large.replaceChildren(
      make("img", { src: `/api/drafts/${tile.item.id}/preview/?side=1200&v=${tile.item.version}`, alt: `${tile.item.name}, enlarged` }),
      make("p", {}, tile.group.title), make("p", {}, `${tile.item.name}. ${tile.item.why}`));
    this.large.dataset.of = tile.item.id;
    this.large.hidden = false;
  }

  shrink() {
    this.large.hidden = true;
  }

  toggle(index) {
    const tile = this.tiles[index];
    if (!this.out.delete(tile)) this.out.add(tile);
    this.draw();
  }

  carry() {
    const tile = this.tiles[this.at];
    this.tell("carried", { from: tile.item.id, to: tile.group.items.map((item) => item.id).filter((id) => id !== tile.item.id) });
  }

  confirm() {
    if (this.begin.disabled) return;
    this.begin.disabled = this.sent = true;
    this.tell("confirmed", this.tiles.filter((tile) => !this.out.has(tile)).map((tile) => ({
      id: tile.item.id, version: tile.item.version, seconds: tile.ms / 1000, enlarged: tile.enlarged,
      px: Math.round(Math.max(tile.image.clientWidth, tile.image.clientHeight)) })));
  }

  key(event) {
    const top = this.tiles[this.at].element.getBoundingClientRect().top;
    const columns = this.tiles.filter((tile) => Math.abs(tile.element.getBoundingClientRect().top - top) < 4).length;
    const go = (step) => this.tiles[Math.min(this.tiles.length - 1, Math.max(0, this.at + step))].element.focus();
    const keys = {
      ArrowLeft: () => go(-1), ArrowRight: () => go(1), ArrowUp: () => go(-columns), ArrowDown: () => go(columns),
      e: () => (this.large.hidden ? this.enlarge(this.at) : this.shrink()), x: () => this.toggle(this.at),
      Escape: () => this.shrink(), o: () => this.tell("opened", this.tiles[this.at].item.id), c: () => this.carry(),
      "?": () => (this.keys.hidden = !this.keys.hidden),
    };
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") keys[event.key] = () => this.confirm();
    else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z" && this.data.undo) keys.z = () => this.tell("undone", true);
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
    if (!this.large.hidden && event.key.startsWith("Arrow")) this.enlarge(this.at);
  }

  close() {
    clearInterval(this.clock);
    clearTimeout(this.hover);
    window.removeEventListener("resize", this.fit);
    this.observer.disconnect();
  }
}

const sheets = new WeakMap();

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const root = parentElement.querySelector(".root");
  const held = sheets.get(root);
  if (held?.data.id !== data.id) {
    held?.close();
    sheets.set(root, new Sheet(root, data, setTriggerValue));
  }
  else held.sent = false; // it was refused
  const sheet = sheets.get(root), owner = (sheet.owner = {});
  return () => {
    if (sheet.owner !== owner) return;
    sheet.close();
    sheets.delete(root);
  };
}

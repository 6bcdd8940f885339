// The work list: what waits, by patient, study and series, each picture with its boxes. A picture opens
// in the editor; a series opens on a contact sheet.

const LIST_KEYS = [
  ["Arrows", "go from picture to picture"], ["Enter", "open in the editor"],
  ["S", "the picture's series on a contact sheet"], ["?", "these keys"],
];

class Worklist {
  constructor(root, data, tell) {
    Object.assign(this, { root, data, tell, tiles: [], at: 0 });
    this.keys = make("dl", { class: "keys", hidden: true },
      ...LIST_KEYS.flatMap(([key, what]) => [make("dt", {}, key), make("dd", {}, what)]));
    const list = make("div", { class: "worklist", role: "group", "aria-label": "Work list" });
    for (const patient of data.patients)
      list.append(make("section", { class: "patient", "aria-label": patient.title },
        make("h3", {}, patient.title), ...patient.groups.map((group) => this.group(group))));
    list.addEventListener("keydown", (event) => this.key(event));
    root.replaceChildren(this.keys, list);
  }

  group(group) {
    const count = group.count === 1 ? "1 image" : `${group.count} images`;
    const tiles = group.items.map((item) => this.tile(item, group));
    const more = group.count - group.items.length;
    return make("div", { class: "series" },
      make("div", { class: "head" }, make("span", { class: "what" }, [group.title, count].filter(Boolean).join(" · ")),
        ...group.needs.map(([need, number]) => make("span", { class: "need" }, `${need}: ${number}`)),
        group.fit > 1 && make("button", { type: "button", onclick: () => this.tell("sheet", group.id) },
          `Contact sheet of ${group.fit}`)),
      make("div", { class: "row" }, ...tiles,
        more > 0 && make("button", { type: "button", class: "more", onclick: () => this.tell("all", group.id) },
          `${more} more`)));
  }

  tile(item, group) {
    const image = make("img", { alt: "" });
    const boxes = item.boxes === 1 ? "1 box" : `${item.boxes} boxes`;
    const index = this.tiles.length;
    const element = make("button", { type: "button", class: `item${item.need ? " needs" : ""}`, disabled: Boolean(item.by),
      title: item.by ? `${item.by} is working on this image.` : item.why,
      "aria-label": `${item.name}, ${boxes}. ${item.by ? `${item.by} is working on it.` : item.why}`,
      onfocus: () => (this.at = index), onclick: () => this.tell("opened", item.id) },
      image, make("span", {}, item.by ? `${item.by} has it` : `${item.name} · ${boxes}`));
    this.tiles.push({ element, group });
    showThumb(image, item.id, item.version, 256);
    return element;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const go = (step) => this.tiles[Math.min(this.tiles.length - 1, Math.max(0, this.at + step))]?.element.focus();
    const keys = {
      ArrowLeft: () => go(-1), ArrowUp: () => go(-1), ArrowRight: () => go(1), ArrowDown: () => go(1),
      s: () => this.tiles[this.at] && this.tell("sheet", this.tiles[this.at].group.id),
      "?": () => (this.keys.hidden = !this.keys.hidden),
    };
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }
}

const lists = new WeakMap();

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const root = parentElement.querySelector(".root");
  if (lists.get(root)?.data.id !== data.id) lists.set(root, new Worklist(root, data, setTriggerValue));
}

// How far one's uploads are, and what is sealed beside the page, in the sidebar of every page. Nothing is
// shown where nothing goes on.

class IntakeLine {
  constructor(root, data, tell) {
    Object.assign(this, { root, data, tell });
    this.before = data?.sealing || 0;
    this.draw = this.draw.bind(this);
    sender.listeners.add(this.draw);
    sender.wake();
    this.draw();
  }

  draw() {
    const { overview, phase } = sender;
    const parts = [];
    if (phase === "sending") {
      const there = sender.files.length - sender.count("waiting");
      parts.push(this.bar("Sending", there, sender.files.length, `${there} of ${images(sender.files.length)} sent`));
      if (sender.note) parts.push(make("p", { class: "note" }, sender.note));
    } else if (phase === "plan") parts.push(make("p", {}, "An upload waits for you on the page Upload."));
    else if (phase === "stopped" && sender.error)
      parts.push(...this.dismissable(sender.error));
    else if (phase !== "reading" && overview && overview.listed > overview.arrived) {
      const left = overview.listed - overview.arrived;
      const missing = `${files(left)} of an upload ${left === 1 ? "has" : "have"} not arrived. To go on, drop the same files again on the page Upload.`;
      // What another tab may still be sending is not to be dismissed.
      parts.push(...(overview.given_up ? this.dismissable(missing) : [make("p", {}, missing)]));
    }
    const looking = lookingLine(overview);
    if (looking)
      parts.push(this.bar("Looking", overview.looked, overview.looked + overview.to_look, looking));
    else if (overview?.looked)
      parts.push(make("p", {}, this.outcome(overview)));
    parts.push(...this.sealing(overview));
    this.root.replaceChildren(make("div", { class: "line", role: "status" }, ...parts));
  }

  outcome({ looked, sealed, ready, review, failed }) {
    const parts = [sealed && `${sealed} sealed`, ready && `${ready} ready to seal`,
      review && `${review} to look at`, failed && `${failed} failed`].filter(Boolean);
    return `${images(looked)} looked at${parts.length ? `: ${parts.join(", ")}` : ""}`;
  }

  /** What is sealed beside the page; what came back is named, and opens. */
  sealing(overview) {
    if (!overview) return [];
    const { sealing, sealed_beside: sealed, came_back: back } = overview;
    if (this.before && !sealing && this.data?.refresh) this.tell("settled", true);
    this.before = sealing;
    const done = sealed + back.length, parts = [];
    if (sealing)
      parts.push(this.bar("Sealing", done, done + sealing, `${images(sealing)} being sealed; you can go on`));
    else if (sealed) parts.push(make("p", {}, `${images(sealed)} sealed`));
    for (const { image_id: id, title, message } of back)
      parts.push(make("div", { class: "back", role: "alert" },
        make("p", {}, make("strong", {}, title)), make("p", {}, `Not sealed: ${message}`),
        make("button", { type: "button", onclick: () => this.tell("opened", id) }, "Open it again")));
    return parts;
  }

  dismissable(text) {
    return [make("p", {}, text), make("button", { type: "button", onclick: () => sender.dismiss() }, "Dismiss")];
  }

  bar(name, value, max, text) {
    return make("div", { class: "step" },
      make("progress", { value, max: Math.max(1, max), "aria-label": name }), make("span", {}, text));
  }

  close() {
    sender.listeners.delete(this.draw);
  }
}

const lines = new WeakMap();

export default function (component) {
  const root = component.parentElement.querySelector(".root");
  lines.get(root)?.close();
  const line = new IntakeLine(root, component.data, component.setTriggerValue);
  lines.set(root, line);
  return () => line.close();
}

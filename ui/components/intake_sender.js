// Sends studies to the server: reads what was dropped, asks whose it is, and sends each file until it
// is acknowledged. One sender for the whole tab: it goes on while pages change.

const PIECE = 8 << 20, HEAD = 64 << 10, HEADS = 48, AT_ONCE = 3;
const MOST_FILES = 2000, MOST_BYTES = 2 * 2 ** 30;
/** What lies on CDs beside the images. */
const NO_IMAGE = /^(dicomdir|thumbs\.db|desktop\.ini|autorun\..*|.*\.(exe|dll|html?|css|js|txt|xml|inf|ini|jar|ico|bat|cmd|sh|msi|cab|chm|log|lnk|url|md|json|zip\.part))$/i;
const WAITS = new Set([429, 502, 503, 504]);

class IntakeSender {
  constructor() {
    this.listeners = new Set();
    this.forget();
    this.overview = null;
    this.poll();
    window.addEventListener("beforeunload", (event) => {
      if (["reading", "plan", "sending"].includes(this.phase)) event.preventDefault();
    });
  }

  forget() {
    Object.assign(this, { phase: "idle", items: [], skipped: [], files: [], groups: [], id: null,
      note: "", error: "", answers: new Map(), sentBytes: 0, unread: false });
  }

  tell(change) {
    Object.assign(this, change);
    this.listeners.forEach((listener) => listener(this));
  }

  // --- what was dropped -------------------------------------------------------------------

  /** @param sources entries of a drop, or files with their paths. */
  async take(sources, options) {
    this.forget();
    this.tell({ phase: "reading", options });
    try {
      for (const source of sources) await this.walk(source, "");
      const bytes = this.items.reduce((sum, item) => sum + item.size, 0);
      if (!this.items.length) throw new Error("There is no image in what you dropped.");
      if (this.items.length > MOST_FILES || bytes > MOST_BYTES)
        throw new Error(`These are ${files(this.items.length)} of ${(bytes / 1e9).toFixed(1)} GB.` +
          " Drop at most 2,000 files of 2 GB together, one study after the other.");
      await this.list();
    } catch (error) {
      this.tell({ phase: "stopped", error: error.message });
    }
  }

  async walk(source, folder, depth = 0) {
    if (source.isDirectory) {
      const reader = source.createReader();
      for (;;) {
        const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
        if (!some.length) return;
        for (const one of some) await this.walk(one, `${folder}${source.name}/`, depth);
      }
    }
    const file = source.isFile ? await new Promise((ok, no) => source.file(ok, no)) : source.file;
    await this.add(file.name, source.folder ?? folder, file.size, file, depth);
  }

  /** @param content a Blob, or a function that gives a stream. */
  async add(name, folder, size, content, depth) {
    const skip = (why) => this.skipped.push({ name: folder + name, why });
    if (/(^|\/)(\.|__MACOSX)/.test(folder + name)) return;
    if (NO_IMAGE.test(name)) return skip("no image");
    if (!size) return skip("empty file");
    if (/\.zip$/i.test(name)) return this.unpack(name, folder, content, depth, skip);
    this.items.push({ name, folder, size, content });
    if (this.items.length % 100 === 0) this.tell({});
  }

  async unpack(name, folder, content, depth, skip) {
    if (depth >= ZIP_DEPTH) return skip("an archive in an archive in an archive");
    try {
      const blob = content instanceof Blob ? content : await wholeOf(await content());
      const entries = await zipEntries(blob);
      if (!entries.length) return skip("no file is in it");
      if (entries.every(({ why }) => why && why === entries[0].why)) return skip(entries[0].why);
      for (const entry of entries) {
        const parts = entry.name.split(/[\\/]/).filter((part) => part && part !== "." && part !== "..");
        const last = parts.pop() || "unnamed";
        if (entry.why) {
          this.skipped.push({ name: [folder + name, ...parts, last].join("/"), why: entry.why });
          continue;
        }
        await this.add(last, [folder + name, ...parts, ""].join("/"), entry.size, entry.stream, depth + 1);
        if (this.items.length > MOST_FILES) return;
      }
    } catch (error) {
      skip(error.message);
    }
  }

  async head(item) {
    if (item.content instanceof Blob) return new Uint8Array(await item.content.slice(0, HEAD).arrayBuffer());
    return firstBytes(await item.content(), HEAD);
  }

  // --- whose it is ------------------------------------------------------------------------

  async list(anew = true) {
    const { profile, seal } = this.options;
    const files = this.items.map(({ name, folder, size }) => ({ name, folder, size }));
    this.keep(await this.json("POST", "", { files, profile, seal }));
    try {
      await this.ask();
    } catch (error) {
      if (error.status !== 404 || !anew) throw error;
      await this.list(false); // other files of the same names and sizes were not sent to their end
    }
  }

  /** Have the server read the first bytes, and go on where a person has answered already and these are the same files. */
  async ask() {
    const missing = this.files.map((file) => file.place);
    while (missing.length) {
      const parts = [];
      for (const place of missing.splice(0, HEADS)) {
        const head = await this.head(this.items[place]).catch(() => new Uint8Array());
        const about = new DataView(new ArrayBuffer(8));
        about.setUint32(0, place);
        about.setUint32(4, head.byteLength);
        parts.push(about, head);
      }
      this.keep(await this.bytes("POST", `${this.id}/headers/`, new Blob(parts)));
      this.tell({ note: `Reading whose files they are: ${this.files.length - missing.length} of ${this.files.length}` });
    }
    this.tell({ note: "" });
    for (const group of this.groups.filter((g) => !g.ready && this.answers.has(keyOf(g))))
      this.keep(await this.json("POST", `${this.id}/targets/`, { targets: [{ group: group.group, ...this.answers.get(keyOf(group)) }] }));
    if (this.groups.every((group) => group.ready)) this.send();
    else this.tell({ phase: "plan" });
  }

  /** A person said where the groups belong. Answers what the server wants to know still. */
  async confirm(targets) {
    const wrong = new Map();
    for (const target of targets)
      try {
        this.keep(await this.json("POST", `${this.id}/targets/`, { targets: [target] }));
        const { group, ...answer } = target;
        this.answers.set(keyOf(this.groups[group]), answer);
      } catch (error) {
        wrong.set(target.group, error);
      }
    if (!wrong.size) this.send();
    return wrong;
  }

  // --- sending ----------------------------------------------------------------------------

  async send() {
    this.tell({ phase: "sending", note: "", error: "" });
    const waiting = this.files.filter((file) => file.state === "waiting").map((file) => file.place);
    try {
      await Promise.all(Array.from({ length: AT_ONCE }, () => this.worker(waiting)));
      if (this.unread && this.phase === "sending") await this.json("DELETE", `${this.id}/`).catch(() => {});
      const other = this.files.some((file) => file.state === "other-patient");
      this.tell({ phase: this.id ? "done" : "idle", error: other ? "Some files name another patient than their record and were not taken in." : "" });
      this.wake();
    } catch (error) {
      if (this.phase !== "sending") return;
      if (error.status === 404) return this.again();
      this.tell({ phase: "stopped", error: error.message });
    }
  }

  /** The server was started anew and has forgotten the list, not the files. */
  async again() {
    try {
      this.groups = [];
      await this.list();
    } catch (error) {
      this.tell({ phase: "stopped", error: error.message });
    }
  }

  async worker(waiting) {
    while (waiting.length && this.phase === "sending") {
      const place = waiting.shift(), item = this.items[place], file = this.files[place];
      try {
        const blob = item.content instanceof Blob ? item.content : await wholeOf(await item.content());
        await this.sendFile(place, blob, file.received);
      } catch (error) {
        if (error.status !== undefined && error.status !== 422 && error.status !== 413) throw error;
        this.unread = true; // the server goes on waiting for it
        Object.assign(this.files[place], { state: "refused", message: error.message });
      }
      this.sentBytes += item.size;
      this.tell({ note: "" });
    }
  }

  async sendFile(place, blob, received) {
    let at = received, stuck = 0;
    for (;;) {
      const answer = await this.bytes("PUT", `${this.id}/files/${place}/?offset=${at}`, blob.slice(at, at + PIECE));
      this.files[place] = answer;
      if (answer.state !== "waiting") return;
      stuck = answer.received > at ? 0 : stuck + 1;
      if (stuck > 3) throw new Error("This file could not be sent.");
      at = answer.received;
    }
  }

  async stop() {
    const id = this.id;
    this.tell({ phase: "stopped", id: null, error: "Stopped. What has arrived stays." });
    if (id) await this.json("DELETE", `${id}/`).catch(() => {});
  }

  /** That an upload was stopped, or that earlier ones did not arrive whole, need not be said any more. */
  async dismiss() {
    const stopped = this.phase === "stopped", path = !stopped ? "" : this.id && `${this.id}/`;
    if (stopped) this.forget();
    if (path !== null) await this.json("DELETE", path).catch(() => {});
    await this.refresh();
  }

  /** Some files are not to be taken in: the others are listed anew. */
  async leave(places) {
    const out = new Set(places), { id } = this;
    this.skipped.push(...places.map((place) => ({ name: this.items[place].folder + this.items[place].name, why: "left out by you" })));
    this.items = this.items.filter((_, place) => !out.has(place));
    this.tell({ phase: "reading", id: null, files: [], groups: [] });
    try {
      await this.json("DELETE", `${id}/`);
      if (!this.items.length) return this.tell({ phase: "done" });
      await this.list();
    } catch (error) {
      this.tell({ phase: "stopped", error: error.message });
    }
  }

  keep(state) {
    this.tell({ id: state.intake_id, files: state.files, groups: state.groups });
  }

  // --- requests ---------------------------------------------------------------------------

  json(method, path, body) {
    return this.request(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  }

  bytes(method, path, body) {
    return this.request(path, { method, headers: { "Content-Type": "application/octet-stream" }, body });
  }

  /** Asks until there is an answer: a lost connection or a busy server is waited for. */
  async request(path, options) {
    for (let pause = 1; ; pause = Math.min(15, pause * 2)) {
      const answer = await fetch(`/api/intakes/${path}`, { ...options, credentials: "same-origin", cache: "no-store" }).catch(() => null);
      if (answer?.ok) return answer.status === 204 ? null : answer.json();
      if (answer && !WAITS.has(answer.status)) {
        const problem = await answer.json().catch(() => ({}));
        const signedOut = "You were signed out. Sign in and drop the same files again: nothing is taken in twice.";
        throw Object.assign(new Error(answer.status === 401 ? signedOut : problem.title || "The server refused it."), { status: answer.status });
      }
      if (this.phase === "stopped") throw new Error("Stopped.");
      this.tell({ note: answer ? "The server is busy. It goes on by itself." : "The connection is lost. It goes on by itself." });
      await new Promise((done) => setTimeout(done, 1000 * Math.max(pause, Number(answer?.headers.get("Retry-After")) || 0)));
    }
  }

  // --- how far it is ----------------------------------------------------------------------

  async poll() {
    const own = (this.polling = {}); // a newer call has taken over
    await this.refresh();
    if (this.polling !== own) return;
    const busy = this.phase === "sending" || this.overview?.to_look || this.overview?.sealing;
    this.timer = setTimeout(() => this.poll(), busy && !document.hidden ? 1500 : 20_000);
  }

  /** Look now, and again soon. */
  wake() {
    clearTimeout(this.timer);
    this.poll();
  }

  async refresh() {
    const answer = await fetch("/api/intakes/", { credentials: "same-origin", cache: "no-store" }).catch(() => null);
    this.tell({ overview: answer?.ok ? await answer.json() : null });
  }

  count(...states) {
    return this.files.filter((file) => states.includes(file.state)).length;
  }
}

function keyOf(group) {
  return JSON.stringify([group.number, group.name, group.birth_date, group.part]);
}

/** A duration as people say it. */
function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function images(count) {
  return count === 1 ? "1 image" : `${count.toLocaleString("en")} images`;
}

/** A text that a right-to-left name cannot turn around: such a name stands apart from what follows. Marks in a
 *  name that turn text around are left out: a file could show another name than it has. */
function apart(text) {
  const name = text.replace(/[\u202a-\u202e\u2066-\u2069]/g, "");
  return /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]/.test(name) ? `\u2068${name}\u2069` : name;
}

function files(count) {
  return count === 1 ? "1 file" : `${count.toLocaleString("en")} files`;
}

/** How fast it goes; what takes longer than a second is told by the minute. */
function pace(perSecond) {
  if (!perSecond) return "";
  return perSecond < 1 ? ` · ${(60 * perSecond).toFixed(perSecond < 0.1 ? 1 : 0)} a minute` : ` · ${perSecond.toFixed(1)} a second`;
}

/** What networks still have to do, in a sentence; empty where they are done. */
function lookingLine(overview) {
  if (!overview?.to_look) return "";
  const whole = overview.looked + overview.to_look;
  const rate = pace(overview.per_second);
  const left = overview.seconds_left ? ` · ${duration(overview.seconds_left)} left` : "";
  return `${overview.looked} of ${images(whole)} looked at or sealed${rate}${left}`;
}

const sender = (window.medsecSender ||= new IntakeSender());

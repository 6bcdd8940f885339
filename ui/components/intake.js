// Where studies are dropped: a folder, a ZIP, a CD or files. It shows whose they are before anything
// is sent, and asks where a file names another patient than the record.

const REASONS_OF_MISMATCH = ["Name has changed", "Typing error at the device", "Emergency number, patient known since"];

class IntakeZone {
  constructor(root, data, settled) {
    this.root = root;
    this.data = data;
    this.settled = settled;
    this.choices = new Map();
    this.draw = this.draw.bind(this);
    sender.listeners.add(this.draw);
    this.left = sender.overview?.to_look || 0;
    this.build();
    this.draw();
  }

  build() {
    const pick = (more) => make("input", { type: "file", multiple: true, hidden: true, ...more,
      onchange: (event) => {
        const files = [...event.target.files].map((file) => ({ file,
          folder: file.webkitRelativePath.split("/").slice(0, -1).map((p) => `${p}/`).join("") }));
        event.target.value = "";
        if (files.length) this.take(files);
      } });
    this.filesInput = pick({ "aria-label": "Files" });
    this.folderInput = pick({ "aria-label": "Folder", webkitdirectory: true });
    this.zone = make("div", { class: "zone",
      ondragover: (event) => { event.preventDefault(); this.zone.classList.add("over"); },
      ondragleave: () => this.zone.classList.remove("over"),
      ondrop: (event) => {
        event.preventDefault();
        this.zone.classList.remove("over");
        const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
        if (entries.length) this.take(entries);
      } });
    this.profile = make("select", { "aria-label": "Specialty" }, ...this.data.profiles.map(([name, title]) =>
      make("option", { value: name, selected: name === this.data.profile }, title)));
    this.seal = make("input", { type: "checkbox", checked: this.data.seal, onchange: () => remember("seal", this.seal.checked) });
    this.seal.checked = this.data.offers_seal && recall("seal", false);
    this.plan = make("div", { class: "plan" });
    this.root.replaceChildren(make("section", { class: "intake", "aria-label": "Studies" }, this.zone, this.plan));
  }

  take(sources) {
    this.choices.clear();
    sender.take(sources, { profile: this.profile.value, seal: this.data.offers_seal && this.seal.checked });
  }

  draw() {
    const { phase } = sender;
    const looked = sender.overview?.to_look || 0;
    if (this.left && !looked) this.settled(); // the list below has changed
    this.left = looked;
    if (this.shown !== phase || ["reading", "sending"].includes(phase)) {
      this.zone.replaceChildren(...this.invitation(phase));
      if (phase !== "plan") this.plan.replaceChildren(...this.report(phase));
    }
    else if (phase === "idle" || phase === "done" || phase === "stopped") this.renew(phase);
    if (phase === "plan" && this.shown !== "plan") this.showPlan();
    this.shown = phase;
  }

  /** Another patient was chosen below. */
  renew(phase) {
    const named = this.data.patient?.title || "";
    if (this.named !== named) this.zone.replaceChildren(...this.invitation(phase));
    this.named = named;
  }

  invitation(phase) {
    const button = (text, input) => make("button", { type: "button", onclick: () => input.click() }, text);
    if (phase === "reading")
      return [make("p", { class: "big" }, sender.note || `Reading: ${images(sender.items.length)} so far`)];
    if (phase === "sending") {
      const there = sender.files.length - sender.count("waiting");
      return [make("p", { class: "big" }, `${there} of ${images(sender.files.length)} sent`),
        make("progress", { value: there, max: sender.files.length, "aria-label": "Sent" }),
        make("p", {}, sender.note || "You can go on working; leave this tab open until all are sent."),
        make("button", { type: "button", onclick: () => sender.stop() }, "Stop")];
    }
    if (phase === "plan") return [];
    return [make("p", { class: "big" }, "Drop a study here: a folder, a ZIP, a CD or files"),
      make("p", {}, "Patients and studies are read from the files. Up to 2,000 files and 2 GB together."),
      make("p", {}, this.data.patient ? `Files that name nobody go into the record of ${this.data.patient.title}.`
        : "Photographs and other files that name nobody: choose the patient below first, then drop them here."),
      make("div", { class: "toolbar" }, button("Choose files", this.filesInput), button("Choose a folder", this.folderInput),
        make("label", { class: "group" }, "Specialty ", this.profile),
        this.data.offers_seal && make("label", { class: "group", title: "Images with uncertain boxes, or in which nothing was found, wait for you. The audit log marks each image that was sealed without a look." },
          this.seal, " Seal images without doubt at once")),
      this.filesInput, this.folderInput];
  }

  // --- before: whose they are ---------------------------------------------------------------

  showPlan() {
    const { patient } = this.data;
    this.begin = make("button", { type: "button", class: "primary", onclick: () => this.confirm() });
    const cancel = make("button", { type: "button", onclick: () => { sender.stop(); sender.forget(); sender.tell({}); } }, "Cancel");
    const open = sender.groups.filter((group) => !group.ready);
    const unclear = sender.groups.filter((group) => !group.number);
    for (const group of open) {
      const before = this.choices.get(keyOf(group)); // another patient was chosen meanwhile
      if (!before?.decided) this.choices.set(keyOf(group), this.choiceOf(group, patient, unclear.length));
    }
    this.rows = make("ul", { class: "groups" }, ...open.map((group) => this.row(group)));
    const count = open.reduce((sum, group) => sum + group.files, 0);
    this.begin.textContent = `Take in ${images(count)}` + (open.length > 1 && !unclear.length ? ` of ${open.length} patients` : "");
    this.plan.replaceChildren(make("h3", {}, "Whose images are these?"), this.rows,
      make("div", { class: "toolbar" }, this.begin, cancel), ...this.skippedList());
    this.begin.focus({ preventScroll: true });
  }

  /** What happens with a group unless a person says otherwise.
   *  @param unclear how many groups have no number: several may be of several people, and each is asked for. */
  choiceOf(group, patient, unclear) {
    if (group.record) return { patient_id: group.record.patient_id, title: titleOf(group.record), reason: "", ask: group.differs.length > 0 };
    if (group.number && group.name) return { patient_id: null, reason: "" };
    const each = !group.number && unclear > 1;
    return { patient_id: each ? undefined : patient?.id, title: patient?.title, reason: "", ask: false, each };
  }

  row(group) {
    const choice = this.choices.get(keyOf(group));
    const { patient } = this.data;
    const named = [apart(group.name) || (group.number ? "Name not given" : "No patient named in the files"), group.number,
      group.birth_date && `born ${isoDate(group.birth_date)}`].filter(Boolean).join(" · ");
    const studies = group.studies.map((study) => [study.date, study.modality, study.description,
      study.accession_number && `accession ${study.accession_number}`, study.series > 1 && `${study.series} series`, images(study.files)].filter(Boolean).join(" · "));
    const names = group.places.map((place) => apart(sender.items[place].folder + sender.items[place].name));
    const unnamed = !group.number && !group.name && make("p", { class: "names" },
      names.slice(0, 4).join(", ") + (names.length > 4 ? ` and ${names.length - 4} more` : ""));
    const where = make("p", { class: "where" });
    const problem = make("p", { class: "problem", role: "alert" });
    const reason = make("input", { type: "text", class: "reason", maxlength: 2000, list: "mismatch-reasons",
      placeholder: "Why do these files belong to this record?", "aria-label": `Reason for ${group.name || group.number}`,
      oninput: () => { choice.reason = reason.value.trim(); } });
    const others = make("span", { class: "group" });
    const show = () => {
      where.textContent = choice.patient_id === null ? `No record has this number. A record is made: ${group.number} · ${apart(group.name)}`
        : choice.patient_id ? `Record: ${choice.title}`
        : choice.each && patient ? "These files have no patient number, and there are others without one. Say of each whose it is."
        : "Choose the patient below first: the files do not say whose they are.";
      mine.hidden = choice.patient_id === patient?.id;
      row.classList.toggle("open", choice.ask || choice.patient_id === undefined);
      reason.hidden = !choice.ask;
      problem.hidden = !choice.ask && choice.patient_id !== undefined;
      if (choice.ask && !problem.textContent)
        problem.textContent = `The files name another ${group.differs.join(" and ")} than the record. Cancel, or say why they belong there.`;
    };
    const leave = make("button", { type: "button", onclick: () => {
      this.choices.delete(keyOf(group));
      sender.leave(group.places);
    } }, `Leave ${group.files === 1 ? "this file" : `these ${files(group.files)}`} out`);
    leave.setAttribute("aria-label", `${leave.textContent}: ${names[0]}`);
    const mine = make("button", { type: "button", onclick: () => {
      Object.assign(choice, { patient_id: patient.id, title: patient.title, decided: true, reason: "", ask: false });
      problem.textContent = reason.value = ""; // a reason was for the patient before
      show();
      ([...this.choices.values()].find((other) => other.patient_id === undefined)?.aim() || this.begin).focus();
    } }, `File under ${patient?.title}`);
    mine.setAttribute("aria-label", `${mine.textContent}: ${names[0]}`);
    if (choice.each && patient) others.append(mine);
    if (choice.patient_id === undefined || choice.each) others.append(leave);
    /** Says what is missing, and goes there. */
    const need = () => {
      if (choice.patient_id === undefined)
        problem.textContent = choice.each && patient ? "Say first whose these files are, or leave them out. For another patient than this one, choose that patient below."
          : "These files cannot be taken in yet. Choose the patient below, or leave them out.";
      show();
      choice.aim().focus();
      row.scrollIntoView({ block: "center" });
    };
    if (patient && group.record?.patient_id !== patient.id && (group.record || group.number)) {
      const moved = () => choice.decided && choice.patient_id === patient.id;
      const instead = make("button", { type: "button", onclick: () => {
        if (moved()) Object.assign(choice, { ask: false, ...this.choiceOf(group, patient, 0), decided: false });
        else Object.assign(choice, { patient_id: patient.id, title: patient.title, reason: "", ask: true, decided: true });
        reason.value = "";
        problem.textContent = moved() ? "The files name another patient than this record. Say why they belong there." : "";
        label();
        show();
        if (moved()) reason.focus();
      } });
      const label = () => (instead.textContent = moved() ? "Undo: file them under the number in the files" : `File under ${patient.title} instead`);
      label();
      others.append(instead);
    }
    const row = make("li", {}, make("p", { class: "who" }, named), ...studies.map((text) => make("p", {}, text)), unnamed, where, problem, reason, others);
    const aim = () => (choice.ask ? reason : mine.isConnected && !mine.hidden ? mine : leave);
    Object.assign(choice, { show, need, aim, problem, input: reason });
    reason.value = choice.reason;
    show();
    return row;
  }

  async confirm() {
    const open = sender.groups.filter((group) => !group.ready).map((group) => [group, this.choices.get(keyOf(group))]);
    const missing = open.find(([, choice]) => choice.patient_id === undefined || (choice.ask && !choice.reason));
    if (missing) {
      missing[1].need();
      return;
    }
    this.begin.disabled = true;
    const wrong = await sender.confirm(open.map(([{ group }, { patient_id, reason }]) => ({ group, patient_id, reason })));
    this.begin.disabled = false;
    const refused = [...wrong].map(([group, error]) => [this.choices.get(keyOf(sender.groups[group])), error]);
    for (const [choice, error] of refused) {
      choice.ask = true;
      choice.problem.textContent = error.message;
      choice.show();
    }
    refused[0]?.[0].input.focus();
  }

  // --- after --------------------------------------------------------------------------------

  skippedList() {
    if (!sender.skipped.length) return [];
    return [make("details", { open: !sender.items.length }, make("summary", {}, `${files(sender.skipped.length)} left out`),
      make("ul", {}, ...sender.skipped.slice(0, 200).map(({ name, why }) => make("li", {}, `${apart(name)}: ${why}`))))];
  }

  report(phase) {
    if (!["done", "stopped"].includes(phase)) return [];
    const list = (state, text) => {
      const found = sender.files.filter((file) => file.state === state);
      return found.length ? [make("details", { open: state === "other-patient" }, make("summary", {}, `${files(found.length)} ${text}`),
        make("ul", {}, ...found.slice(0, 200).map((file) => make("li", {}, `${apart(sender.items[file.place].name)}: ${file.message}`))))] : [];
    };
    const taken = sender.count("taken");
    return [sender.error && make("p", { class: "problem", role: "alert" }, sender.error),
      taken && make("p", { class: "taken", role: "status" }, `${images(taken)} taken in and encrypted. They are looked at now; you can close this page.`),
      ...list("other-patient", "of another patient"), ...list("refused", "could not be taken in"),
      ...list("duplicate", "here already"), ...this.skippedList()].filter(Boolean);
  }

  close() {
    sender.listeners.delete(this.draw);
  }
}

function titleOf(record) {
  return `${record.id} · ${apart(record.name)}`;
}

function isoDate(text) {
  return /^\d{8}$/.test(text) ? `${text.slice(0, 4)}-${text.slice(4, 6)}-${text.slice(6)}` : text;
}

/** A choice that stays with this browser; never anything of a patient. */
function remember(name, value) {
  try {
    localStorage.setItem(`medsec.${name}`, JSON.stringify(value));
  } catch { /* a browser that keeps nothing */ }
}

function recall(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(`medsec.${name}`)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

const zones = new WeakMap();

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const root = parentElement.querySelector(".root");
  const settled = () => setTriggerValue("settled", true);
  const held = zones.get(root);
  if (held) {
    Object.assign(held, { data, settled });
    held.owner = null;
    if (sender.phase === "plan") held.showPlan();
    else held.draw();
  } else zones.set(root, new IntakeZone(root, data, settled));
  const zone = zones.get(root), owner = (zone.owner = {});
  return () => {
    if (zone.owner !== owner) return;
    zone.close();
    zones.delete(root);
  };
}

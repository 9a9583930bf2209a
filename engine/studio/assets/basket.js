// What is kept: row k of the basket is sample k of its run, so that the command makes what was seen, byte for byte.
import { get, post } from "./api.js";

const find = (id) => document.getElementById(id);

function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const named = (message) => message.replaceAll("wish.csv:", "basket.csv:"); // as the table is called that is saved

const kept = (number, wish, given, text) => (
  { given, given_name: given?.name ?? "", id: `wish-${number + 1}`, wish: structuredClone({ ...wish, number }), out: false, text });

function sent(rows) { // those up to the last that is kept
  const last = rows.findLastIndex((row) => !row.out);
  return { rows: rows.slice(0, last + 1).map(({ id, wish, given, given_name, out }, number) => (
    { id, wish: wish ?? { number }, given_name, reading: given?.reading ?? {}, out })) };
}

export class Basket {
  constructor(onShow, onChange) { // `onShow` brings a row back to the page; `onChange`: other rows are in it
    this.onShow = onShow;
    this.onChange = onChange;
    this.rows = [];
    this.taken = null; // table, commands and snippet of what is in it
    this.changes = Promise.resolve(); // one after another
    find("save-csv").addEventListener("click", () => Object.entries(this.taken.tables).forEach(([name, text]) => save(name, text)));
    find("save-command").addEventListener("click", () => save("basket.sh", `#!/bin/sh\nset -e\n${this.taken.commands.join("\n")}\n`));
    find("save-python").addEventListener("click", () => save("basket.py", this.taken.python));
    find("empty").addEventListener("click", () => this.empty());
    find("run").addEventListener("click", () => this.run());
    find("stop-run").addEventListener("click", () => post("/api/run/stop").then((told) => this.tellRun(told), (error) => this.runFault(error)));
  }

  allot() { // the place of a wish that is not kept yet
    this.rows.push({ id: `free-${this.rows.length}`, wish: null, given: null, given_name: "", out: true, text: "", isAsked: false });
    return this.rows.length - 1;
  }

  isFree(number) { return this.rows[number].out && !this.rows[number].isAsked; }

  async keep(number, wish, given, text) {
    this.rows[number].isAsked = true;
    await this.change([[number, kept(number, wish, given, text)]]);
  }

  async vary(wish, given, times) { // the same wish with other noise; what it leaves open is drawn anew
    const numbers = Array.from({ length: times }, () => this.allot());
    const isTaken = await this.change(numbers.map((number) => [number, kept(number, wish, given, "not made yet")]));
    if (!isTaken && this.rows.length === numbers[0] + times) this.rows.length = numbers[0];
  }

  async empty() {
    const out = this.rows.flatMap((row, number) => (row.out ? [] : [[number, { out: true, id: `out-${number}` }]]));
    if (!confirm(`Take all ${out.length} out of the basket?`)) return;
    await this.change(out);
    find("keep").focus();
  }

  change(edits) { // [number, what is new of the row]; whether they are taken: refused rows stay as they were
    this.changes = this.changes.then(() => this.edit(edits));
    return this.changes;
  }

  async edit(edits) {
    const rows = [...this.rows];
    for (const [number, part] of edits) rows[number] = { ...rows[number], ...part };
    try {
      this.taken = rows.some((row) => !row.out) ? await post("/api/basket", sent(rows)) : null;
      for (const [number, part] of edits) Object.assign(this.rows[number], part);
      this.tell("");
      return true;
    } catch (error) {
      this.tell(named(error.message));
      return false;
    } finally {
      for (const [number] of edits) this.rows[number].isAsked = false;
      this.draw();
      this.onChange();
    }
  }

  draw() {
    const count = this.rows.filter((row) => !row.out).length, { taken } = this;
    find("kept").textContent = count ? `${count} kept` : "empty";
    find("rows").replaceChildren(...this.rows.flatMap((row, number) => (row.out ? [] : [this.item(row, number)])));
    find("basket").dataset.ready = count;
    find("take").hidden = !taken;
    if (!taken) return;
    find("command").textContent = taken.commands.join("\n\n");
    find("csv").textContent = Object.entries(taken.tables).map(([name, text]) => `${name}\n${text}`).join("\n");
    find("python").textContent = taken.python;
    find("notes").replaceChildren(...taken.notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })));
  }

  item(row, number) {
    const item = document.createElement("li");
    item.innerHTML = `<input type="text" maxlength="64"><span></span><button type="button">Show</button><button type="button" class="away">✕</button>`;
    const [name, , show, away] = item.children;
    name.value = row.id;
    name.setAttribute("aria-label", `Name of case ${number}`);
    name.addEventListener("change", () => this.change([[number, { id: name.value.trim() || `wish-${number + 1}` }]]));
    item.children[1].textContent = row.text;
    show.setAttribute("aria-label", `Show ${row.id}`);
    show.addEventListener("click", () => this.onShow(number));
    away.setAttribute("aria-label", `Take ${row.id} out`);
    away.addEventListener("click", () => { this.change([[number, { out: true, id: `out-${number}` }]]); find("keep").focus(); });
    return item;
  }

  async run() {
    try {
      this.tellRun(await post("/api/run", { basket: sent(this.rows), out: find("out").value }));
      this.watch();
    } catch (error) {
      this.runFault(error);
    }
  }

  watch() {
    const look = async () => {
      try {
        const told = await get("/api/run");
        this.tellRun(told);
        if (told.state === "running") setTimeout(look, 500);
      } catch (error) {
        this.runFault(error);
      }
    };
    setTimeout(look, 300);
  }

  tellRun({ state, done, total, words, outs }) {
    find("stop-run").hidden = state !== "running";
    find("run").disabled = state === "running";
    const counted = total ? `${done} of ${total} made` : "starting";
    const text = { running: counted, done: `Done: ${outs.join(", ")}` }[state] ?? state;
    find("run-state").textContent = words ? `${text}: ${words}` : text;
    find("run-state").dataset.state = state;
  }

  tell(fault) { find("basket-state").textContent = fault; }

  runFault(error) { find("run-state").textContent = named(error.message); }
}

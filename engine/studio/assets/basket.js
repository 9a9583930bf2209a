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

export class Basket {
  constructor(onShow) { // `onShow` brings a row back to the page
    this.onShow = onShow;
    this.rows = [];
    this.taken = null; // table, commands and snippet of what is in it
    this.latest = 0;
    find("save-csv").addEventListener("click", () => Object.entries(this.taken.tables).forEach(([name, text]) => save(name, text)));
    find("save-command").addEventListener("click", () => save("basket.sh", `#!/bin/sh\nset -e\n${this.taken.commands.join("\n")}\n`));
    find("save-python").addEventListener("click", () => save("basket.py", this.taken.python));
    find("run").addEventListener("click", () => this.run());
    find("stop-run").addEventListener("click", () => post("/api/run/stop").then((told) => this.tellRun(told), (error) => this.fault(error)));
  }

  allot() { // the place of a wish that is not kept yet
    this.rows.push({ id: `free-${this.rows.length}`, wish: null, given: null, given_name: "", out: true, text: "" });
    return this.rows.length - 1;
  }

  isFree(number) { return this.rows[number].out; }

  keep(number, wish, given, text) {
    this.rows[number] = { given, given_name: given?.name ?? "", id: `wish-${number + 1}`, wish: structuredClone({ ...wish, number }), out: false, text };
    this.change();
  }

  vary(wish, given, times) { // the same wish with other noise; what it leaves open is drawn anew
    for (let k = 0; k < times; k++) this.keep(this.allot(), wish, given, "not made yet");
  }

  sent() { // rows up to the last that is kept
    const last = this.rows.findLastIndex((row) => !row.out);
    return { rows: this.rows.slice(0, last + 1).map(({ id, wish, given, given_name, out }, number) => (
      { id, wish: wish ?? { number }, given_name, reading: given?.reading ?? {}, out })) };
  }

  async change() {
    this.draw();
    const turn = ++this.latest, kept = this.rows.filter((row) => !row.out).length;
    find("take").hidden = kept === 0;
    if (kept === 0) return;
    try {
      const taken = await post("/api/basket", this.sent());
      if (turn !== this.latest) return;
      this.taken = taken;
      find("command").textContent = taken.commands.join("\n\n");
      find("csv").textContent = Object.entries(taken.tables).map(([name, text]) => `${name}\n${text}`).join("\n");
      find("python").textContent = taken.python;
      find("notes").replaceChildren(...taken.notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })));
      find("basket").dataset.ready = kept;
    } catch (error) {
      this.fault(error);
    }
  }

  draw() {
    const kept = this.rows.filter((row) => !row.out).length;
    find("kept").textContent = kept ? `${kept} kept` : "empty";
    find("rows").replaceChildren(...this.rows.flatMap((row, number) => (row.out ? [] : [this.item(row, number)])));
  }

  item(row, number) {
    const item = document.createElement("li");
    item.innerHTML = `<input type="text" maxlength="64"><span></span><button type="button">Show</button><button type="button" class="away">✕</button>`;
    const [name, , show, away] = item.children;
    name.value = row.id;
    name.setAttribute("aria-label", `Name of case ${number}`);
    name.addEventListener("change", () => { row.id = name.value.trim() || `wish-${number + 1}`; this.change(); });
    item.children[1].textContent = row.text;
    show.setAttribute("aria-label", `Show ${row.id}`);
    show.addEventListener("click", () => this.onShow(number));
    away.setAttribute("aria-label", `Take ${row.id} out`);
    away.addEventListener("click", () => { row.out = true; row.id = `out-${number}`; this.change(); find("keep").focus(); });
    return item;
  }

  async run() {
    try {
      this.tellRun(await post("/api/run", { basket: this.sent(), out: find("out").value }));
      this.watch();
    } catch (error) {
      this.fault(error);
    }
  }

  watch() {
    const look = async () => {
      try {
        const told = await get("/api/run");
        this.tellRun(told);
        if (told.state === "running") setTimeout(look, 500);
      } catch (error) {
        this.fault(error);
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

  fault(error) { find("run-state").textContent = find("kept").textContent = error.message; }
}

// A mask or scan of one's own: dropped anywhere, or chosen; sent to the program on this machine, which forgets it.
import { put } from "./api.js";

const find = (id) => document.getElementById(id);
const READING = ["labels", "cavity", "orientation", "map"]; // how files are read, as the command line spells it

async function filesOf(entry) { // of a dropped file or folder, at any depth: [path, file]
  if (entry.isFile) return [[entry.fullPath, await new Promise((resolve, reject) => entry.file(resolve, reject))]];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) return found;
    for (const child of part) found.push(...await filesOf(child));
  }
}

function body(files) { // the length of a list, the list, the files one after another
  const list = new TextEncoder().encode(JSON.stringify(files.map(([path, { size }]) => [path, size])));
  const length = new DataView(new ArrayBuffer(8));
  length.setBigUint64(0, BigInt(list.length));
  return new Blob([length.buffer, list, ...files.map(([, file]) => file)]);
}

export function tell(text, isFault = false) { // a fault stands at the picture as well, where one looks
  find("own-state").textContent = text;
  find("own-state").classList.toggle("fault", isFault);
  find("refused").textContent = text;
  find("refused").hidden = !isFault;
  if (isFault) find("refused").scrollIntoView({ block: "nearest" });
}

export function listen(onGiven) {
  async function give(files) {
    const seen = files.filter(([, { name }]) => !name.startsWith("."));
    if (!seen.length) return tell("There is no file in it.", true);
    tell(`Reading ${seen.length === 1 ? seen[0][1].name : `${seen.length} files`} …`);
    const reading = Object.fromEntries(READING.map((id) => [id, find(id).value]));
    try {
      const given = { ...await put(`/api/given?${new URLSearchParams(reading)}`, body(seen)), reading };
      tell([`${given.name} is read.`, ...given.warnings].join("\n"));
      onGiven(given);
    } catch (error) {
      const names = seen.length === 1 && !error.message.includes(seen[0][1].name) ? `${seen[0][1].name}: ` : "";
      tell(`Not taken. ${names}${error.message}`, true);
    }
  }

  for (const id of ["files", "folder"]) {
    find(id).addEventListener("change", (event) => {
      give([...event.target.files].map((file) => [file.webkitRelativePath || file.name, file]));
      event.target.value = "";
    });
  }
  let depth = 0;
  const mark = () => document.body.classList.toggle("dropping", depth > 0);
  const before = { capture: true }; // the picture stops these events
  document.addEventListener("dragenter", () => { depth++; mark(); }, before);
  document.addEventListener("dragleave", () => { depth = Math.max(0, depth - 1); mark(); }, before);
  document.addEventListener("dragover", (event) => event.preventDefault(), before);
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    depth = 0;
    mark();
    const { items, files } = event.dataTransfer;
    const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    try {
      give(entries.length ? (await Promise.all(entries.map(filesOf))).flat() : [...files].map((file) => [file.name, file]));
    } catch (error) {
      tell(`The browser cannot read what was dropped (${error.message}); choose it by Files or Folder.`, true);
    }
  }, before);
}

// A mask or scan of one's own: dropped anywhere, or chosen; sent to the program on this machine, which forgets it.
import { put } from "./api.js";

const find = (id) => document.getElementById(id);

async function filesOf(entry) { // of a dropped folder, at any depth
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) return found;
    for (const child of part) found.push(...await filesOf(child));
  }
}

function body(files) { // the length of a list, the list, the files one after another
  const list = new TextEncoder().encode(JSON.stringify(files.map(({ name, size }) => [name, size])));
  const length = new DataView(new ArrayBuffer(8));
  length.setBigUint64(0, BigInt(list.length));
  return new Blob([length.buffer, list, ...files]);
}

export function listen(onGiven) {
  const tell = (text, isFault = false) => {
    find("own-state").textContent = text;
    find("own-state").classList.toggle("fault", isFault);
  };

  async function give(files) {
    const seen = files.filter(({ name }) => !name.startsWith("."));
    if (!seen.length) return;
    tell(`Reading ${seen.length === 1 ? seen[0].name : `${seen.length} files`} …`);
    const how = new URLSearchParams({ labels: find("labels").value, cavity: find("cavity").value, orientation: find("orientation").value });
    try {
      const given = await put(`/api/given?${how}`, body(seen));
      tell([given.kind === "mask" ? `Images are made around ${given.name}.` : `${given.name} is changed as wished.`, ...given.warnings].join(" "));
      onGiven(given);
    } catch (error) {
      tell(error.message, true);
    }
  }

  for (const id of ["files", "folder"]) find(id).addEventListener("change", (event) => { give([...event.target.files]); event.target.value = ""; });
  let depth = 0;
  const mark = () => document.body.classList.toggle("dropping", depth > 0);
  document.addEventListener("dragenter", () => { depth++; mark(); });
  document.addEventListener("dragleave", () => { depth--; mark(); });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    depth = 0;
    mark();
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = entries.length ? (await Promise.all(entries.map(filesOf))).flat() : [...event.dataTransfer.files];
    give(files);
  });
}

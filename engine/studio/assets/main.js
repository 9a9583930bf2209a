// The page: wishes become volumes while they change; the newest wish of a side ends the one before.
import { get, leave, post } from "./api.js";
import { Basket } from "./basket.js";
import { Conditions } from "./conditions.js";
import { listen as listenForFiles, tell as tellOwn } from "./dropped.js";
import { Own, hasCells, isScan, voxels } from "./own.js";
import { Panes, chosen } from "./panes.js";
import { Shares } from "./shares.js";

const find = (id) => document.getElementById(id);
const PAUSE_MS = 30, HERE_MS = 60_000; // before a wish that moves is made; between two words to the program
const SHARES = ["ncr_share", "ed_share", "et_share"], FIRST = ["volume_ml"], PLACE = ["x", "y", "z"];

let facts, panes, conditions, shares, basket, own;
const sides = { a: null, b: null }; // of each: wish, what it starts from, the volume that is shown
let side = "a", timer = null, checks = 0;

const current = () => sides[side];
const gone = (error) => { if (error.status === 0 || error.status === 401) { find("gone").textContent = error.message; find("gone").hidden = false; } };

function newSide() {
  return {
    wish: { cells: {}, number: basket.allot(), seed: 0, steps: null, guidance: null, start: "drawn", given: null, strength: 0.5 },
    given: null, // the mask or scan that the wish starts from
    made: null, // the volume of the wish
    fault: "", // why there is none
    scan: null, // a scan that is shown in its place
  };
}

function read() { // the controls into the wish of their side
  const { wish } = current();
  wish.cells = { ...conditions.cells(), ...(shares?.cells() ?? {}) };
  wish.seed = Number(find("seed").value || 0);
  wish.steps = find("steps").value === "" ? null : Number(find("steps").value);
  wish.guidance = find("guidance").value === "" ? null : Number(find("guidance").value);
  wish.strength = Number(find("strength").value);
  if (!basket.isFree(wish.number)) wish.number = basket.allot(); // what was kept stays as it was seen
}

function write() { // and back
  const { wish, given } = current();
  conditions.set(wish.cells);
  if (shares && SHARES.every((name) => name in wish.cells)) shares.show(SHARES.map((name) => Number(wish.cells[name])), true);
  else if (shares) shares.isGiven = false;
  find("seed").value = wish.seed;
  find("steps").value = wish.steps ?? "";
  find("guidance").value = wish.guidance ?? "";
  find("strength").value = wish.strength;
  find("strength").nextElementSibling.textContent = wish.strength;
  tellStart(wish.start, given);
}

function tellStart(start, given) {
  own.show(start, given);
  find("steps").placeholder = ["drawn", "mask"].includes(start) ? facts.defaults.steps : facts.case_steps;
  const isOff = !hasCells(start);
  conditions.disable(isOff);
  for (const id of ["tumour", "place-columns", "shape-columns", "shares-field"]) find(id).classList.toggle("off", isOff);
  for (const part of [find("all-open"), find("clicks"), find("take-crosshair"), ...shares?.handles ?? []]) part.disabled = isOff;
  find("typical").hidden = find("given-or-drawn").hidden = isOff;
  find("decides").hidden = !isOff;
  if (!isOff) return tellCells();
  placing(false);
  find("decides").textContent = start === "mask" ? "The mask decides what is made. This is measured of it:" : "The lesion is taken out, so there is no tumour to wish for.";
  const values = measuredOf(given);
  conditions.measured(start === "mask" ? values : {});
  if (shares && SHARES.every((name) => name in values)) shares.measured(SHARES.map((name) => values[name]));
}

function tellCells() { // what is given; `check` brings what is drawn
  conditions.set(conditions.cells());
  shares?.draw();
}

function measuredOf(given) { // a dropped mask, by column
  const value = ({ made }, { offset, factor }) => (Number(made) - offset) / factor;
  return Object.fromEntries((given?.measured ?? []).map((one, k) => [facts.columns[k].name, value(one, facts.columns[k])]));
}

function placing(isOn) { // whether a click in a section takes its place
  find("clicks").setAttribute("aria-pressed", isOn);
  document.body.classList.toggle("placing", isOn);
}

async function check() { // what is wrong with the wish, how usual it is, what is drawn for it
  const turn = ++checks, { wish } = current();
  find("number-text").textContent = `This is case ${wish.number} of the run. Kept, the next wish is the next case, with noise of its own.`;
  if (!hasCells(wish.start)) { tell([], []); return true; }
  const told = await post("/api/wish", wish);
  if (turn !== checks) return false;
  tell(told.faults, told.warnings);
  find("typical").hidden = told.faults.length > 0;
  if (told.faults.length) return false;
  conditions.drawn(told.row);
  if (shares && !shares.isGiven) shares.show(SHARES.map((name) => told.row[name]), false);
  const share = told.distance / told.limit;
  find("needle").style.left = `${Math.min(100, 80 * share)}%`;
  const words = Object.keys(wish.cells).length === 0 ? "Everything is open: as typical as the cohort." : `${share <= 0.5 ? "Typical" : share <= 1 ? "Unusual, within the cohort" : "Far from the cohort"}: distance ${told.distance.toFixed(1)}, and ${told.limit.toFixed(1)} is exceeded by one case in a thousand of ${facts.cases}.`;
  find("typical-text").textContent = words;
  find("typical").dataset.level = share <= 0.5 ? "typical" : share <= 1 ? "unusual" : "far";
  return true;
}

function tell(faults, warnings) {
  const item = (text, kind) => Object.assign(document.createElement("li"), { textContent: text.replace(/^wish\.csv:2: /, ""), className: kind });
  find("messages").replaceChildren(...faults.map((text) => item(text, "fault")), ...warnings.map((text) => item(text, "warning")));
}

function changed() { // by hand
  read();
  current().scan = null;
  find("refused").hidden = true;
  clearTimeout(timer);
  current().fault = "";
  tellKeep();
  panes.panes[side].tell("…", true);
  timer = setTimeout(() => make(side), PAUSE_MS);
}

async function make(which) {
  const one = sides[which], pane = panes.panes[which], wish = structuredClone(one.wish);
  one.fault = "";
  try {
    if (which === side && !await check()) {
      if (find("messages").querySelector(".fault")) noVolume(which, "This wish contradicts itself; see the messages.");
      return;
    }
    pane.tell(`Making case ${wish.number} …`, true);
    const made = await post("/api/volumes", { wish, pane: which });
    if (made.given_up || JSON.stringify(wish) !== JSON.stringify(one.wish)) return; // a newer one is on its way
    one.made = { ...made, wish };
    const now = ["a", "b"].find((name) => sides[name] === one); // B may have become A
    if (now) await show(now);
  } catch (error) {
    faulty(which, error);
  }
}

function noVolume(which, why) {
  sides[which].fault = why;
  panes.panes[which].tell(why, false, true);
  tellKeep();
}

function faulty(which, error) { // a volume that cannot be made or shown
  if (error.status === 410) return make(which); // it was dropped for newer ones
  noVolume(which, error.message);
  gone(error);
}

async function show(which) {
  const { scan, made } = sides[which], pane = panes.panes[which];
  tellMeasured();
  tellKeep();
  if (scan) {
    const [where, seen] = voxels(scan, sides.b?.wish.start);
    pane.tell(`${scan.name}, ${where === "own" ? "as it was given" : "on the model’s grid"}`);
    await panes.show(which, `/api/given/${scan.id}/${where}`, seen);
  } else if (made) {
    const kept = made.changed_ml === undefined ? "" : ` ${made.changed_ml.toFixed(0)} ml of the scan are new, every other voxel is the scan’s own.`;
    pane.tell(`Case ${made.number}, seed ${made.seed}: ${made.text}.${kept}`);
    pane.state.title = `made in ${made.seconds.toFixed(1)} s`;
    pane.element.dataset.seconds = made.seconds;
    await panes.show(which, `/api/volumes/${made.key}`, made);
    if (panes.isDifference && which === "a" && panes.isCompared) panes.again("b");
  }
}

function tellMeasured() {
  const seen = Object.entries(sides).filter(([which, one]) => one?.made && !one.scan && (which === "a" || panes.isCompared));
  if (!seen.length) return;
  find("measured").replaceChildren(...seen.filter(([, { made }]) => made.rows.length).map(([which, { made }]) => {
    const table = document.createElement("table");
    table.innerHTML = `<thead><tr><th scope="col"></th><th scope="col">asked</th><th scope="col">made</th><th scope="col">differs</th></tr></thead><tbody></tbody>`;
    if (panes.isCompared) table.createCaption().textContent = which.toUpperCase();
    for (const row of made.rows) {
      const line = table.tBodies[0].insertRow();
      const name = line.appendChild(Object.assign(document.createElement("th"), { scope: "row", textContent: `${row.name} ` }));
      if (row.unit) name.append(Object.assign(document.createElement("small"), { textContent: row.unit }));
      for (const [text, kind] of [[row.wanted, row.drawn ? "drawn" : ""], [row.made, "made"], [row.difference, "differs"]]) {
        Object.assign(line.insertCell(), { textContent: text, className: kind });
      }
      line.dataset.column = row.column;
    }
    return table;
  }));
}

function choose(which) { // the side that the controls are for
  side = which;
  document.querySelector(`input[name="side"][value="${which}"]`).checked = true;
  write();
  check().catch(gone);
  tellKeep();
}

function compare(isOn, makes = true) {
  panes.compare(isOn);
  if (isOn) panes.open("b");
  find("sides").hidden = !isOn;
  if (isOn && !sides.b) {
    sides.b = newSide();
    const { number } = sides.b.wish;
    Object.assign(sides.b, { wish: { ...structuredClone(sides.a.wish), number }, given: sides.a.given });
  }
  const isAlone = !isOn && sides.a.scan; // what came of the scan is looked at alone
  if (isAlone) Object.assign(sides, { a: sides.b, b: null });
  choose(isOn ? "b" : "a");
  if (isAlone) show("a").catch((error) => faulty("a", error));
  if (isOn && makes && !sides.b.made) make("b");
  tellMeasured();
}

function startFrom(given, start = given?.starts[0] ?? "drawn") { // a mask or scan that was dropped, or nothing
  find("lost").hidden = true;
  if (isScan(given)) {
    const { cells, seed, steps, guidance } = structuredClone(current().wish); // the wish that is seen goes into the scan
    sides.a.scan = given;
    if (!panes.isCompared) compare(true, false);
    Object.assign(sides.b.wish, { cells, seed, steps, guidance });
    choose("b");
  }
  const one = current();
  one.given = given;
  checks++; // an answer that is on its way is of another wish
  Object.assign(one.wish, { start, given: given?.id ?? null });
  tellStart(start, given);
  if (sides.a.scan) show("a").catch((error) => faulty("a", error));
  changed();
}

function lost(given) { // the program holds it no more
  const text = `${given.name} is not held any more: this page was silent for an hour, or newer files came. Drop it again.`;
  tellOwn(text);
  find("lost").textContent = text;
  find("lost").hidden = false;
  for (const one of Object.values(sides)) {
    if (one?.given?.id !== given.id) continue;
    one.given = null;
    Object.assign(one.wish, { start: "drawn", given: null });
  }
  write();
  check().catch(gone);
}

async function here() { // a word to the program, and what it holds
  try {
    const { held } = await get("/api/here");
    find("gone").hidden = true;
    for (const one of Object.values(sides)) if (one?.given && !held.includes(one.given.id)) lost(one.given);
  } catch (error) {
    gone(error);
  }
}

function takePlace(mm) {
  if (!mm || !hasCells(current().wish.start)) return;
  const cells = { ...conditions.cells() };
  PLACE.forEach((name, k) => { cells[name] = String(Number(((mm[k] + facts.fov_mm[k] / 2) / facts.fov_mm[k]).toFixed(4))); });
  conditions.set(cells);
  changed();
}

const short = ({ rows, text, measured_ml }) => (rows.length ? `${measured_ml.toFixed(1)} ml` : text);

const isMade = ({ made, wish }) => made !== null && JSON.stringify(made.wish) === JSON.stringify(wish);

function tellKeep() { // whether the wish can be kept and varied; if not, why
  const one = current();
  const missing = isMade(one) ? "" : one.fault || "The volume of this wish is still being made.";
  const why = missing || (basket.isFree(one.wish.number) ? "" : "This one is in the basket.");
  for (const [id, reason] of [["keep", why], ["vary", missing]]) {
    find(id).setAttribute("aria-disabled", reason !== "");
    find(id).title = reason;
  }
  find("keep-why").textContent = why;
}

function isOffered(id) { // else it says why not
  basket.tell(find(id).title);
  return find(id).getAttribute("aria-disabled") === "false";
}

function keep() {
  const { wish, given, made } = current();
  if (isOffered("keep")) basket.keep(wish.number, wish, given, short(made));
}

function vary() {
  const { wish, given } = current(), times = find("times");
  if (!isOffered("vary")) return;
  if (times.value === "" || !times.checkValidity()) basket.tell(`Vary it ${times.min} to ${times.max} times${times.value && `, not ${times.value}`}.`);
  else basket.vary(wish, given, Number(times.value));
}

function listen() {
  find("wish").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["seed", "steps", "guidance", "strength"]) find(id).addEventListener("input", () => { find("strength").nextElementSibling.textContent = find("strength").value; changed(); });
  document.querySelectorAll('input[name="side"]').forEach((input) => input.addEventListener("change", () => choose(chosen("side"))));
  find("all-open").addEventListener("click", () => { conditions.set({}); if (shares) shares.isGiven = false; changed(); });
  find("compare").addEventListener("click", () => compare(!panes.isCompared));
  find("clicks").addEventListener("click", () => placing(find("clicks").getAttribute("aria-pressed") !== "true"));
  find("take-crosshair").addEventListener("click", () => takePlace(panes.crosshair(side) ?? panes.crosshair("a")));
  for (const which of ["a", "b"]) {
    const { element } = panes.panes[which];
    element.addEventListener("keydown", (event) => { if (event.key === "Enter") takePlace(panes.crosshair(which)); });
    element.addEventListener("pointerup", (event) => {
      if (document.body.classList.contains("placing") && panes.isSection(which, event)) takePlace(panes.crosshair(which));
    });
  }
  find("keep").addEventListener("click", keep);
  find("vary").addEventListener("click", vary);
  listenForFiles(startFrom);
  addEventListener("pagehide", leave);
  setInterval(here, HERE_MS);
  addEventListener("pageshow", here); // back from the history, from sleep, from behind other pages
  document.addEventListener("resume", here);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) here(); });
}

function build() {
  const place = (name) => find(FIRST.includes(name) ? "tumour" : PLACE.includes(name) ? "place-columns" : "shape-columns");
  const own = facts.columns.filter(({ name }) => !SHARES.includes(name));
  conditions = new Conditions(place, own, changed);
  if (SHARES.every((name) => facts.columns.some((column) => column.name === name))) {
    find("shares-field").hidden = false;
    shares = new Shares(find("shares"), SHARES, facts.tissues, changed);
  }
  find("about").textContent = `${facts.model} · ${facts.voxels.join(" × ")} voxels · ${facts.backend}`;
  find("about").title = `${facts.data}. ${facts.use}`;
  find("steps").max = facts.most_steps;
  find("guidance").placeholder = facts.defaults.guidance;
  find("directory").textContent = `In ${facts.directory}, or give a whole path. The table is written beside it.`;
  if (!facts.takes_masks) find("own-text").textContent = "Drop the files of a case (four modalities and a mask), or a DICOM folder, anywhere on the page. It stays in this program’s memory while the page is open. This model makes mask and image together, so it takes no mask alone.";
}

async function open() {
  try {
    facts = await get("/api/model");
  } catch (error) {
    find("gone").textContent = error.message;
    find("gone").hidden = false;
    return;
  }
  basket = new Basket((number) => {
    const row = basket.rows[number], one = current();
    Object.assign(one, { wish: structuredClone(row.wish), given: row.given, scan: null });
    write();
    make(side).then(() => { row.text = isMade(one) ? short(one.made) : row.text; basket.draw(); });
  }, tellKeep);
  panes = new Panes(facts, faulty);
  panes.open("a");
  own = new Own((start) => startFrom(current().given, start), () => startFrom(null));
  sides.a = newSide();
  build();
  write();
  listen();
  await make("a");
}

open();

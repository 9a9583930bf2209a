// Shares of the tissues as one control: a bar with two handles, whose parts always sum to 1.
const STEP = 0.01, WIDE = 0.1;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class Shares {
  constructor(place, columns, tissues, onChange) { // `columns`: ncr, ed, et in the order of the bar
    this.columns = columns;
    this.onChange = onChange;
    this.cuts = [0.2, 0.6];
    this.isGiven = false;
    place.innerHTML = `
      <div class="bar"><div class="part"></div><div class="part"></div><div class="part"></div>
        <button type="button" role="slider" class="handle"></button><button type="button" role="slider" class="handle"></button></div>
      <p class="shares-text"></p><button type="button" class="open">Leave open</button>`;
    this.bar = place.querySelector(".bar");
    this.parts = [...place.querySelectorAll(".part")];
    this.handles = [...place.querySelectorAll(".handle")];
    this.text = place.querySelector(".shares-text");
    this.names = tissues.map(({ name }) => name);
    this.opener = place.querySelector(".open");
    this.parts.forEach((part, k) => part.classList.add(`tissue-${k + 1}`));
    this.handles.forEach((handle, k) => {
      handle.setAttribute("aria-label", `Border of ${this.names[k]} and ${this.names[k + 1]}`);
      handle.setAttribute("aria-valuemin", 0);
      handle.setAttribute("aria-valuemax", 100);
      handle.addEventListener("keydown", (event) => this.key(event, k));
      handle.addEventListener("pointerdown", (event) => this.drag(event, k));
    });
    this.opener.addEventListener("click", () => { this.isGiven = false; this.draw(); this.onChange(); });
    this.draw();
  }

  key(event, k) {
    const by = { ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP, PageDown: -WIDE, PageUp: WIDE, Home: -1, End: 1 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    this.move(k, this.cuts[k] + by);
  }

  drag(event, k) {
    const handle = this.handles[k];
    handle.setPointerCapture(event.pointerId);
    const box = this.bar.getBoundingClientRect();
    const move = ({ clientX }) => this.move(k, (clientX - box.left) / box.width);
    const end = () => { handle.removeEventListener("pointermove", move); handle.removeEventListener("pointerup", end); };
    handle.addEventListener("pointermove", move);
    handle.addEventListener("pointerup", end);
  }

  move(k, to) {
    const bounds = k === 0 ? [0, this.cuts[1]] : [this.cuts[0], 1];
    this.cuts[k] = Math.round(clamp(to, ...bounds) * 100) / 100;
    this.isGiven = true;
    this.draw();
    this.onChange();
  }

  values() {
    const [a, b] = this.cuts;
    return [a, Math.round((b - a) * 100) / 100, Math.round((1 - b) * 100) / 100];
  }

  cells() { // none while they are open
    return this.isGiven ? Object.fromEntries(this.columns.map((name, k) => [name, String(this.values()[k])])) : {};
  }

  show(values, isGiven) { // as they are given, or as they were drawn
    this.isGiven = isGiven;
    this.cuts = [values[0], values[0] + values[1]].map((cut) => clamp(cut, 0, 1));
    this.draw();
  }

  measured(values) { // of a mask, which decides; what is given stays for later
    this.draw([values[0], values[0] + values[1]].map((cut) => clamp(cut, 0, 1)), "measured");
  }

  draw(cuts = this.cuts, word = this.isGiven ? "given" : "drawn") {
    const edges = [0, ...cuts, 1];
    this.parts.forEach((part, k) => {
      part.style.left = `${100 * edges[k]}%`;
      part.style.width = `${100 * (edges[k + 1] - edges[k])}%`;
    });
    const values = edges.slice(1).map((edge, k) => Math.round(100 * (edge - edges[k])));
    this.handles.forEach((handle, k) => {
      handle.style.left = `${100 * cuts[k]}%`;
      handle.setAttribute("aria-valuenow", Math.round(100 * cuts[k]));
      handle.setAttribute("aria-valuetext", `${this.names[k]} ${values[k]} %, ${this.names[k + 1]} ${values[k + 1]} %`);
    });
    this.text.textContent = this.names.map((name, k) => `${name} ${values[k]} %`).join(" · ") + (word === "given" ? "" : ` (${word})`);
    this.bar.parentElement.dataset.state = word;
    this.opener.hidden = word !== "given";
  }
}

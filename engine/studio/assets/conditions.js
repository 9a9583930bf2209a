// The conditions of a wish as controls: a slider and a number each; what is open shows what was drawn for it.
const TICKS = 400; // of a slider
const LOGARITHMIC = new Set(["volume_ml", "surface_cm2"]);

const plain = (value) => String(Number(Number(value).toPrecision(6))); // as tables hold numbers

class Condition {
  constructor(place, column, onChange) {
    this.column = column;
    this.onChange = onChange;
    this.text = ""; // the cell, empty while it is open
    const id = `condition-${column.name}`;
    place.insertAdjacentHTML("beforeend", `
      <div class="condition" id="${id}-field">
        <label for="${id}"></label><output for="${id}"></output>
        <input type="range" id="${id}" min="0" max="${TICKS}" step="1">
        <input type="number" step="any" class="exact" id="${id}-exact">
        <button type="button" class="open" title="Leave open: it is drawn">Open</button>
      </div>`);
    this.field = place.lastElementChild;
    this.slider = this.field.querySelector('input[type="range"]');
    this.exact = this.field.querySelector(".exact");
    this.output = this.field.querySelector("output");
    this.opener = this.field.querySelector(".open");
    const unit = column.unit ? ` (${column.unit})` : "";
    this.field.querySelector("label").textContent = `${column.title}${unit}`;
    this.slider.setAttribute("aria-label", `${column.words}${unit}`);
    this.exact.setAttribute("aria-label", `${column.words}${unit}, exactly`);
    this.opener.setAttribute("aria-label", `Leave ${column.words} open`);
    this.field.title = `${column.words}; column ${column.name}: ${column.allowed}`;
    this.slider.addEventListener("input", () => this.give(plain(this.fromSlider())));
    this.exact.addEventListener("input", () => this.give(this.exact.value === "" ? "" : plain(this.fromShown(Number(this.exact.value))), "exact"));
    this.opener.addEventListener("click", () => { this.give(""); this.slider.focus(); });
  }

  scale(value) { return LOGARITHMIC.has(this.column.name) ? Math.log(value) : value; }

  fromSlider() {
    const [low, high] = [this.scale(this.column.low), this.scale(this.column.high)];
    const value = low + ((high - low) * Number(this.slider.value)) / TICKS;
    return LOGARITHMIC.has(this.column.name) ? Number(Math.exp(value).toPrecision(3)) : Number(value.toFixed(3));
  }

  toSlider(value) {
    const [low, high] = [this.scale(this.column.low), this.scale(this.column.high)];
    return Math.round((TICKS * (this.scale(value) - low)) / (high - low));
  }

  fromShown(value) { return (value - this.column.offset) / this.column.factor; }
  toShown(value) { return value * this.column.factor + this.column.offset; }

  give(text, from = "") {
    this.text = text;
    this.show(text === "" ? null : Number(text), from);
    this.onChange();
  }

  show(drawn, from = "", word = "drawn") { // `drawn`: the value where the cell is open, or that a mask has whatever is given
    const isGiven = this.text !== "" && word === "drawn", value = isGiven ? Number(this.text) : drawn;
    this.field.dataset.state = isGiven ? "given" : word;
    this.opener.hidden = !isGiven;
    if (value === null || Number.isNaN(value)) {
      this.output.textContent = this.exact.value = this.exact.placeholder = "";
      return;
    }
    const shown = this.toShown(value), digits = this.column.unit ? 1 : 2;
    this.slider.value = this.toSlider(value);
    const words = `${shown.toFixed(digits)}${this.column.unit ? ` ${this.column.unit}` : ""}`;
    this.output.textContent = isGiven ? "given" : word;
    this.slider.setAttribute("aria-valuetext", `${words}, ${this.output.textContent}`);
    if (from !== "exact") this.exact.value = isGiven ? Number(shown.toFixed(3)) : "";
    this.exact.placeholder = shown.toFixed(digits);
  }
}

export class Conditions {
  constructor(places, columns, onChange) { // `places`: column -> element
    this.all = new Map(columns.map((column) => [column.name, new Condition(places(column.name), column, onChange)]));
  }

  cells() {
    return Object.fromEntries([...this.all].filter(([, one]) => one.text !== "").map(([name, one]) => [name, one.text]));
  }

  set(cells) { // without asking for anything
    for (const [name, one] of this.all) {
      one.text = cells[name] ?? "";
      one.show(one.text === "" ? null : Number(one.text));
    }
  }

  drawn(row) { for (const [name, one] of this.all) if (one.text === "" && name in row) one.show(row[name]); }

  measured(row) { for (const [name, one] of this.all) one.show(row[name] ?? null, "", "measured"); } // of a mask, which decides

  disable(isOff) { for (const one of this.all.values()) for (const part of [one.slider, one.exact, one.opener]) part.disabled = isOff; }
}

// The two places where volumes are seen: sections and 3D by NiiVue, or pictures where the browser has no WebGL2.
import { bytes } from "./api.js";

const find = (id) => document.getElementById(id);
export const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

const fromCentre = (mm, { centre_mm }) => centre_mm.map((middle, k) => mm[k] - middle);

class Pane {
  constructor(side) {
    this.side = side;
    this.element = find(`pane-${side}`);
    this.canvas = find(`canvas-${side}`);
    this.where = this.element.querySelector(".where");
    this.state = this.element.querySelector(".state");
    this.making = this.element.querySelector(".making");
    this.picture = this.element.querySelector("img");
    this.nv = this.opening = null;
    this.shown = null; // { base, facts, files }
    this.latest = 0;
  }

  tell(text, isMaking = false, isFault = false) {
    this.state.textContent = text;
    this.state.classList.toggle("fault", isFault);
    this.making.hidden = !isMaking;
  }
}

export class Panes {
  constructor(facts, onFault) { // `onFault` is told the side and the error where a volume cannot be shown
    this.facts = facts;
    this.onFault = onFault;
    this.is3D = sbldmViewer.isPossible();
    this.panes = { a: new Pane("a"), b: new Pane("b") };
    this.isCompared = this.isDifference = false;
    find("legend").innerHTML = facts.tissues.map((_, k) => `<li><span class="swatch tissue-${k + 1}"></span></li>`).join("");
    facts.tissues.forEach(({ name }, k) => find("legend").children[k].append(name));
    facts.modalities.forEach(({ key, name }, k) => {
      find("modalities").insertAdjacentHTML("beforeend", `<label><input type="radio" name="modality"><span></span></label>`);
      const label = find("modalities").lastElementChild;
      label.querySelector("input").value = key;
      label.querySelector("input").checked = k === facts.modalities.length - 1;
      label.querySelector("span").textContent = name;
    });
    this.listen();
    if (!this.is3D) this.without3D();
  }

  open(side) { // NiiVue, where it is not there yet; it takes a second, while the first volume is made
    const pane = this.panes[side];
    if (this.is3D) pane.opening ??= this.attach(side, pane);
    return pane.opening;
  }

  async attach(side, pane) {
    pane.canvas.addEventListener("webglcontextlost", () => this.anew(side), { once: true });
    pane.nv = await sbldmViewer.open(pane.canvas, (place) => this.tellPlace(pane, place));
    pane.nv.setSliceType(sbldmViewer.VIEWS[chosen("view")]);
    this.turn();
  }

  anew(side) { // the graphics were lost: a machine that slept, a driver that was started again
    const pane = this.panes[side], fresh = pane.canvas.cloneNode();
    pane.canvas.replaceWith(fresh);
    Object.assign(pane, { canvas: fresh, nv: null, opening: null });
    return this.again(side);
  }

  link() { // one crosshair for both, where they lie in one space
    const { a, b } = this.panes;
    if (!a.nv || !b.nv) return;
    a.nv.broadcastTo(this.isOneSpace() ? [b.nv] : [], { "2d": true, "3d": true });
    b.nv.broadcastTo(this.isOneSpace() ? [a.nv] : [], { "2d": true, "3d": true });
  }

  isOneSpace() {
    const { a, b } = this.panes;
    return String(a.shown?.facts.centre_mm) === String(b.shown?.facts.centre_mm);
  }

  follow(side) { // the other crosshair goes where this one was put
    const from = this.panes[side], other = this.panes[side === "a" ? "b" : "a"];
    if (!this.isCompared || !other.nv?.volumes.length || !this.isOneSpace()) return;
    other.nv.scene.crosshairPos = other.nv.mm2frac(from.shown.facts.place_mm);
    other.nv.createOnLocationChange();
    other.nv.drawScene();
  }

  async show(side, base, facts) { // the volume that lies below an address
    const pane = this.panes[side], turn = ++pane.latest;
    const isNew = pane.shown === null || pane.shown.base !== base;
    if (isNew) pane.shown = { base, facts, files: {} };
    if (!this.is3D) return this.showPicture(pane, turn);
    await this.open(side);
    const modality = chosen("modality");
    const volumes = await Promise.all([this.image(pane, modality), this.image(pane, this.facts.mask)]);
    if (turn !== pane.latest) return;
    volumes[0].cal_max = this.white(pane, modality);
    volumes[1].opacity = find("opacity").value / 100;
    const first = pane.nv.volumes.length === 0;
    if (this.isDifference && side === "b") await this.addDifference(pane, volumes, modality);
    if (turn !== pane.latest) return;
    const before = first ? null : pane.nv.frac2mm(pane.nv.scene.crosshairPos);
    pane.nv.volumes = volumes;
    pane.nv.setVolume(volumes[0], 0);
    this.link();
    this.level();
    if (isNew) {
      pane.nv.scene.crosshairPos = pane.nv.mm2frac(facts.place_mm);
      if (side === "a" || facts.changed_ml) find("turn").value = sbldmViewer.facing(fromCentre(facts.place_mm, facts));
      this.turn();
      this.follow(side);
    } else if (before) pane.nv.scene.crosshairPos = pane.nv.mm2frac([...before].slice(0, 3));
    pane.nv.createOnLocationChange();
    await (first ? sbldmViewer.sectionsThen3D(pane.nv) : sbldmViewer.drawn(pane.nv));
    pane.canvas.setAttribute("aria-label", `Sections and a 3D view: ${facts.text ?? "the dropped scan"}`);
    pane.element.dataset.drawn = `${base} ${modality}`;
    if (first) await sbldmViewer.drawn(pane.nv);
  }

  async image(pane, role) { // of what the pane shows, decoded once
    const { base, facts, files } = pane.shown;
    files[role] ??= bytes(`${base}/${role}.nii.gz`).then(async (buffer) => {
      const isMask = role === this.facts.mask;
      const image = await niivue.NVImage.loadFromUrl({
        url: buffer, name: `${role}.nii.gz`, colormap: "gray", cal_min: 0,
        cal_max: isMask ? Math.max(...this.facts.tissues.map(({ value }) => value)) : facts.windows[role],
      });
      if (isMask) image.setColormapLabel(sbldmViewer.colours(this.facts.tissues));
      return image;
    }).catch((error) => { delete files[role]; throw error; });
    return files[role];
  }

  white(pane, modality) { // upper end of the grey window: one for both panes, where they lie in one space
    const { a, b } = this.panes;
    const seen = this.isCompared && this.isOneSpace() ? [a, b] : [pane];
    return Math.max(...seen.map(({ shown }) => shown.facts.windows[modality]));
  }

  level() { // what is drawn in the window that holds now
    const modality = chosen("modality");
    for (const pane of Object.values(this.panes)) {
      const image = pane.nv?.volumes[0];
      if (image?.name !== `${modality}.nii.gz`) continue; // another one is on its way
      const white = this.white(pane, modality);
      pane.element.dataset.white = white;
      if (image.cal_max === white) continue;
      image.cal_max = white;
      pane.nv.updateGLVolume();
    }
  }

  async addDifference(pane, volumes, modality) { // how far B lies from A, voxel by voxel
    const other = this.panes.a;
    if (!other.shown) return;
    const [from, to] = [await this.image(other, modality), volumes[0]];
    if (from.img.length !== to.img.length) return;
    const apart = to.clone();
    for (let k = 0; k < apart.img.length; k++) apart.img[k] = Math.abs(to.img[k] - from.img[k]);
    const white = volumes[0].cal_max;
    Object.assign(apart, { name: "difference.nii", colormap: "hot", opacity: 0.75, cal_min: white / 20, cal_max: white / 2 });
    volumes.push(apart);
  }

  async showPicture(pane, turn) {
    const data = await bytes(`${pane.shown.base}/picture.png`);
    if (turn !== pane.latest) return;
    URL.revokeObjectURL(pane.picture.src);
    pane.picture.src = URL.createObjectURL(new Blob([data], { type: "image/png" }));
    pane.picture.alt = `Sections of every modality with the tumour outlined: ${pane.shown.facts.text}`;
    pane.element.dataset.drawn = `${pane.shown.base} picture`;
  }

  async again(side) { // with what is chosen now
    const { shown } = this.panes[side];
    try {
      if (shown) await this.show(side, shown.base, shown.facts);
    } catch (error) {
      this.onFault(side, error);
    }
  }

  crosshair(side) { // mm from the middle of the model's field of view, RAS; null without a volume
    const { nv, shown } = this.panes[side];
    return nv && nv.volumes.length ? fromCentre([...nv.frac2mm(nv.scene.crosshairPos)].slice(0, 3), shown.facts) : null;
  }

  isSection(side, event) { // whether a click lies in a section, not in the 3D view
    const { nv, canvas } = this.panes[side];
    if (!nv) return false;
    const box = canvas.getBoundingClientRect(), scale = nv.uiData.dpr ?? 1;
    return nv.inRenderTile((event.clientX - box.left) * scale, (event.clientY - box.top) * scale) < 0;
  }

  compare(isOn) {
    this.isCompared = isOn;
    this.panes.b.element.hidden = !isOn;
    find("difference").hidden = !isOn || !this.is3D;
    find("compare").setAttribute("aria-pressed", isOn);
    document.body.classList.toggle("compared", isOn);
    for (const { nv } of Object.values(this.panes)) nv?.resizeListener();
    this.level();
  }

  tellPlace(pane, { mm, values }) {
    const mask = values.find(({ name }) => name.startsWith(this.facts.mask));
    const label = mask ? Math.round(mask.value) : 0;
    const tissue = this.facts.tissues.find(({ value }) => value === label);
    const modality = this.facts.modalities.find(({ key }) => key === chosen("modality"));
    const place = sbldmViewer.placeText(fromCentre([...mm], pane.shown.facts));
    pane.where.textContent = `${place}  ·  ${modality.name} ${Math.round(values[0].value)}  ·  ${tissue ? tissue.name : "no tumour"}`;
  }

  turn() {
    const degrees = Number(find("turn").value), cut = Number(find("cut").value);
    for (const [id, unit] of [["opacity", " %"], ["turn", "°"], ["cut", " %"]]) {
      const text = `${find(id).value}${unit}`;
      find(id).nextElementSibling.textContent = text;
      find(id).setAttribute("aria-valuetext", text);
    }
    for (const { nv } of Object.values(this.panes)) if (nv) sbldmViewer.turn(nv, degrees, cut);
  }

  listen() {
    find("look").addEventListener("submit", (event) => event.preventDefault());
    document.querySelectorAll('input[name="modality"]').forEach((input) => input.addEventListener("change", () => { this.again("a"); this.again("b"); }));
    document.querySelectorAll('input[name="view"]').forEach((input) => input.addEventListener("change", () => {
      document.body.classList.toggle("flat", !["all", "render"].includes(chosen("view")));
      for (const { nv } of Object.values(this.panes)) nv?.setSliceType(sbldmViewer.VIEWS[chosen("view")]);
    }));
    find("opacity").addEventListener("input", () => {
      this.turn();
      for (const { nv } of Object.values(this.panes)) if (nv?.volumes.length > 1) nv.setOpacity(1, find("opacity").value / 100);
    });
    for (const id of ["turn", "cut"]) find(id).addEventListener("input", () => this.turn());
    find("difference").addEventListener("click", () => {
      this.isDifference = !this.isDifference;
      find("difference").setAttribute("aria-pressed", this.isDifference);
      this.again("b");
    });
  }

  without3D() {
    find("no-3d").hidden = false;
    for (const { canvas, picture, where } of Object.values(this.panes)) {
      canvas.parentElement.hidden = where.hidden = true;
      picture.hidden = false;
    }
    document.querySelectorAll(".three-d").forEach((part) => { part.hidden = true; });
    for (const id of ["clicks", "take-crosshair"]) find(id).hidden = true;
  }
}

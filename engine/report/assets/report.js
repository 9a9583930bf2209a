"use strict";
// The viewer of a report: one canvas, volumes decoded from the page when their case is chosen.
(() => {
  const facts = JSON.parse(document.getElementById("viewer-facts").textContent);
  const find = (id) => document.getElementById(id);
  const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
  const canvas = find("canvas"), list = find("case"), place = find("place"), loading = find("loading");
  let nv = null, opened = null, latest = 0;

  const read = (id) => JSON.parse(find(id).textContent);

  function whenRead(id) { // the page may still be loading
    return new Promise((resolve) => {
      const look = () => (find(id) ? resolve() : document.readyState === "loading" ? setTimeout(look, 50) : resolve());
      look();
    });
  }

  async function volume(role) { // of the opened case, decoded once
    if (!opened.volumes[role]) {
      const white = opened.facts.windows[role];
      const image = await niivue.NVImage.loadFromBase64({
        base64: find(`volume-${opened.sample}-${role}`).textContent,
        name: `${role}.nii.gz`, colormap: "gray", cal_min: 0, cal_max: white ?? facts.tissues.length,
      });
      if (role === facts.mask) image.setColormapLabel(sbldmViewer.colours(facts.tissues));
      opened.volumes[role] = image;
    }
    return opened.volumes[role];
  }

  async function show() { // the chosen modality of the chosen case
    const turn = ++latest, sample = Number(list.value);
    await whenRead(`facts-${sample}`);
    if (turn !== latest) return;
    const isNew = opened === null || opened.sample !== sample;
    if (isNew) opened = { sample, volumes: {}, facts: read(`facts-${sample}`) };
    const own = opened;
    find("about").textContent = own.facts.text;
    find("previous").disabled = list.selectedIndex === 0;
    find("next").disabled = list.selectedIndex === list.options.length - 1;
    if (nv === null) return showPicture(sample);
    const image = await volume(chosen("modality")), mask = await volume(facts.mask);
    if (turn !== latest || own !== opened) return;
    mask.opacity = find("opacity").value / 100;
    nv.volumes = [image, mask];
    nv.setVolume(image, 0);
    if (isNew) nv.scene.crosshairPos = nv.mm2frac(own.facts.tumour);
    if (isNew) faceTumour(own.facts.tumour);
    nv.createOnLocationChange();
    if (!document.documentElement.dataset.drawn) {
      await sbldmViewer.sectionsThen3D(nv);
      document.documentElement.dataset.sections = sample;
    }
    loading.hidden = true;
    await sbldmViewer.drawn(nv);
    canvas.setAttribute("aria-label", `Sections and a 3D view of sample ${sample}: ${own.facts.text}`);
    document.documentElement.dataset.drawn = `${sample}-${chosen("modality")}`;
  }

  function showPicture(sample) {
    const picture = find("picture"), preview = find(`preview-${sample}`);
    picture.src = preview.src;
    picture.alt = preview.alt;
  }

  function tellPlace({ mm, values }) {
    const label = values.length > 1 ? Math.round(values[1].value) : 0;
    const modality = facts.modalities.find(({ key }) => key === chosen("modality"));
    place.textContent = [
      sbldmViewer.placeText(mm),
      `${modality.name} ${Math.round(values[0].value)}`, label ? facts.tissues[label - 1].name : "no tumour",
    ].join("  ·  ");
  }

  function setView() {
    nv.setSliceType(sbldmViewer.VIEWS[chosen("view")]);
  }

  function set3D() {
    sbldmViewer.turn(nv, Number(find("turn").value), Number(find("cut").value));
  }

  function faceTumour(mm) {
    find("turn").value = sbldmViewer.facing(mm);
    find("cut").value = 0;
    tellSliders();
    set3D();
  }

  function tellSliders() {
    for (const input of document.querySelectorAll('#controls input[type="range"]')) {
      const text = `${input.value}${input.dataset.unit}`;
      input.nextElementSibling.textContent = text;
      input.setAttribute("aria-valuetext", text);
    }
  }

  function listen() {
    list.addEventListener("change", show);
    const turnTo = (by) => { list.selectedIndex += by; show(); };
    find("previous").addEventListener("click", () => turnTo(-1));
    find("next").addEventListener("click", () => turnTo(1));
    find("controls").addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("click", (event) => {
      const button = event.target.closest("button.look");
      if (!button) return;
      list.value = button.value;
      find("viewer").scrollIntoView();
      canvas.focus({ preventScroll: true });
      show();
    });
    if (nv === null) return;
    document.querySelectorAll('input[name="modality"]').forEach((input) => input.addEventListener("change", show));
    document.querySelectorAll('input[name="view"]').forEach((input) => input.addEventListener("change", setView));
    find("opacity").addEventListener("input", (event) => {
      tellSliders();
      if (nv.volumes.length > 1) nv.setOpacity(1, event.target.value / 100);
    });
    for (const id of ["turn", "cut"]) find(id).addEventListener("input", () => { tellSliders(); set3D(); });
  }

  function without3D() {
    find("no-3d").hidden = false;
    canvas.parentElement.hidden = true;
    find("picture").hidden = false;
    document.querySelectorAll("#viewer .three-d").forEach((part) => { part.hidden = true; });
  }

  async function open() {
    if (!sbldmViewer.isPossible()) {
      without3D();
    } else {
      nv = await sbldmViewer.open(canvas, tellPlace);
      setView();
    }
    tellSliders();
    listen();
    await show();
  }

  open();
})();

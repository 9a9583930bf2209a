"use strict";
// The viewer of a report: one canvas, volumes decoded from the page when their case is chosen.
(() => {
  const facts = JSON.parse(document.getElementById("viewer-facts").textContent);
  const find = (id) => document.getElementById(id);
  const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
  const canvas = find("canvas"), list = find("case"), place = find("place"), loading = find("loading");
  const WIDE_VIEWS = { axial: 0, coronal: 1, sagittal: 2, all: 3, render: 4 }; // NiiVue's slice types
  const ELEVATION = 18, NO_CLIP = 2;
  let nv = null, opened = null, latest = 0;

  const read = (id) => JSON.parse(find(id).textContent);

  function whenRead(id) { // the page may still be loading
    return new Promise((resolve) => {
      const look = () => (find(id) ? resolve() : document.readyState === "loading" ? setTimeout(look, 50) : resolve());
      look();
    });
  }

  function colours() {
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
    facts.tissues.forEach(({ name, colour }, k) => {
      table.R.push(colour[0]); table.G.push(colour[1]); table.B.push(colour[2]);
      table.A.push(255); table.I.push(k + 1); table.labels.push(name);
    });
    return table;
  }

  async function volume(role) { // of the opened case, decoded once
    if (!opened.volumes[role]) {
      const white = opened.facts.windows[role];
      const image = await niivue.NVImage.loadFromBase64({
        base64: find(`volume-${opened.sample}-${role}`).textContent,
        name: `${role}.nii.gz`, colormap: "gray", cal_min: 0, cal_max: white ?? facts.tissues.length,
      });
      if (role === facts.mask) image.setColormapLabel(colours());
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
    if (!document.documentElement.dataset.drawn) { // the 3D view takes longest: the sections stand before it is begun
      nv.opts.multiplanarShowRender = niivue.SHOW_RENDER.NEVER;
      await drawn();
      nv.opts.multiplanarShowRender = niivue.SHOW_RENDER.ALWAYS;
      document.documentElement.dataset.sections = sample;
    }
    loading.hidden = true;
    await drawn();
    canvas.setAttribute("aria-label", `Sections and a 3D view of sample ${sample}: ${own.facts.text}`);
    document.documentElement.dataset.drawn = `${sample}-${chosen("modality")}`;
  }

  function showPicture(sample) {
    const picture = find("picture"), preview = find(`preview-${sample}`);
    picture.src = preview.src;
    picture.alt = preview.alt;
  }

  function tellPlace({ mm, values }) {
    const part = (value, plus, minus) => `${Math.abs(value).toFixed(1)} mm ${value < 0 ? minus : plus}`;
    const label = values.length > 1 ? Math.round(values[1].value) : 0;
    const modality = facts.modalities.find(({ key }) => key === chosen("modality"));
    place.textContent = [
      part(mm[0], "right", "left"), part(mm[1], "front", "back"), part(mm[2], "up", "down"),
      `${modality.name} ${Math.round(values[0].value)}`, label ? facts.tissues[label - 1].name : "no tumour",
    ].join("  ·  ");
  }

  async function drawn() { // and on the screen
    nv.drawScene();
    await nextFrame();
    await nextFrame();
  }

  const nextFrame = () => new Promise((resolve) => requestAnimationFrame(resolve));

  function drawOnceAFrame() { // each of NiiVue's calls asks for a whole picture
    const draw = nv.drawScene.bind(nv);
    let waiting = null;
    nv.drawScene = () => {
      waiting ??= nextFrame().then(() => { waiting = null; draw(); });
    };
  }

  function setView() {
    nv.setSliceType(WIDE_VIEWS[chosen("view")]);
  }

  function set3D() { // the cut faces the viewer
    const turn = Number(find("turn").value), cut = Number(find("cut").value);
    nv.setRenderAzimuthElevation(turn, ELEVATION);
    nv.setClipPlane([cut === 0 ? NO_CLIP : 0.5 - cut / 100, 360 - turn, 0]);
  }

  function faceTumour([x, y]) { // NiiVue's azimuth: 0 from behind, 90 from the left, 180 from the front
    const degrees = Math.round((Math.atan2(-x, -y) * 180) / Math.PI / 5) * 5;
    find("turn").value = (degrees + 360) % 360;
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

  const STEPS = {
    ArrowRight: [-1, 0, 0], ArrowLeft: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1],
  };

  function step(event) {
    const by = STEPS[event.key];
    if (!by || nv.volumes.length === 0) return;
    event.preventDefault();
    nv.moveCrosshairInVox(...by);
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
    canvas.addEventListener("keydown", step);
  }

  function without3D() {
    find("no-3d").hidden = false;
    canvas.parentElement.hidden = true;
    find("picture").hidden = false;
    document.querySelectorAll("#viewer .three-d").forEach((part) => { part.hidden = true; });
  }

  async function open() {
    if (!document.createElement("canvas").getContext("webgl2")) {
      without3D();
    } else {
      nv = new niivue.Niivue({
        logLevel: "silent", dragAndDropEnabled: false, isRadiologicalConvention: true, sagittalNoseLeft: true,
        multiplanarLayout: niivue.MULTIPLANAR_TYPE.GRID, multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS,
        multiplanarPadPixels: 10, showAllOrientationMarkers: true, crosshairColor: [0.3, 0.75, 1, 0.9], crosshairGap: 6, crosshairWidth: 0.8, crosshairWidthUnit: "mm",
        show3Dcrosshair: false, fontColor: [0.95, 0.95, 0.95, 1], viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
        clipPlaneColor: [0, 0, 0, 0], scrollRequiresFocus: true,
      });
      nv.onLocationChange = tellPlace;
      nv.meshShaders = []; // none is drawn; they would be compiled
      await nv.attachToCanvas(canvas, false);
      // Gradients light a rendering as ours is not, but are computed of each volume: two thirds of the time to the
      // first picture in software. A copy in their place costs next to nothing.
      nv.blurShader = nv.sobelFirstOrderShader = nv.passThroughShader;
      drawOnceAFrame();
      setView();
    }
    tellSliders();
    listen();
    await show();
  }

  open();
})();

"use strict";
// What pages with volumes share: one canvas with sections and a 3D view of a volume and its mask, drawn by NiiVue.
const sbldmViewer = (() => {
  const VIEWS = { axial: 0, coronal: 1, sagittal: 2, all: 3, render: 4 }; // NiiVue's slice types
  const ELEVATION = 18, NO_CLIP = 2;
  const STEPS = {
    ArrowRight: [-1, 0, 0], ArrowLeft: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1],
  };

  const nextFrame = () => new Promise((resolve) => requestAnimationFrame(resolve));

  const isPossible = () => document.createElement("canvas").getContext("webgl2") !== null;

  async function open(canvas, onPlace) { // NiiVue on a canvas; `onPlace` is told where the crosshair is
    const nv = new niivue.Niivue({
      logLevel: "silent", loadingText: "", dragAndDropEnabled: false, isRadiologicalConvention: true, sagittalNoseLeft: true,
      multiplanarLayout: niivue.MULTIPLANAR_TYPE.GRID, multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS,
      multiplanarPadPixels: 10, showAllOrientationMarkers: true, crosshairColor: [0.3, 0.75, 1, 0.9], crosshairGap: 6, crosshairWidth: 0.8, crosshairWidthUnit: "mm",
      show3Dcrosshair: false, fontColor: [0.95, 0.95, 0.95, 1], viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
      clipPlaneColor: [0, 0, 0, 0], scrollRequiresFocus: true,
    });
    nv.onLocationChange = onPlace;
    nv.meshShaders = []; // none is drawn; they would be compiled
    await nv.attachToCanvas(canvas, false);
    leaveOutGradients(nv);
    drawOnceAFrame(nv);
    canvas.addEventListener("keydown", (event) => step(nv, event));
    return nv;
  }

  function drawOnceAFrame(nv) { // each of NiiVue's calls asks for a whole picture
    const draw = nv.drawScene.bind(nv);
    let waiting = null;
    nv.drawScene = () => {
      waiting ??= nextFrame().then(() => { waiting = null; if (nv.canvas.clientWidth) draw(); }); // not while it is hidden
    };
  }

  function leaveOutGradients(nv) { // they light a rendering as ours is not, and cost as much as the volume's texture
    const { gl } = nv, draw = gl.drawArrays.bind(gl), use = gl.useProgram.bind(gl);
    let isLeftOut = false;
    gl.drawArrays = (...given) => { if (!isLeftOut) draw(...given); };
    gl.useProgram = (program) => { isLeftOut = false; use(program); };
    nv.blurShader = nv.sobelFirstOrderShader = { uniforms: {}, use: () => { isLeftOut = true; } };
  }

  async function drawn(nv) { // and on the screen
    nv.drawScene();
    await nextFrame();
    await nextFrame();
  }

  async function sectionsThen3D(nv) { // the 3D view takes longest: the sections stand before it is begun
    nv.opts.multiplanarShowRender = niivue.SHOW_RENDER.NEVER;
    await drawn(nv);
    nv.opts.multiplanarShowRender = niivue.SHOW_RENDER.ALWAYS;
  }

  function colours(tissues) { // NiiVue's table of a mask's values
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
    for (const { name, colour, value } of tissues) {
      table.R.push(colour[0]); table.G.push(colour[1]); table.B.push(colour[2]);
      table.A.push(255); table.I.push(value); table.labels.push(name);
    }
    return table;
  }

  function placeText(mm) {
    const part = (value, plus, minus) => `${Math.abs(value).toFixed(1)} mm ${value < 0 ? minus : plus}`;
    return [part(mm[0], "right", "left"), part(mm[1], "front", "back"), part(mm[2], "up", "down")].join("  ·  ");
  }

  function turn(nv, degrees, cut) { // the cut, in percent, faces the viewer
    nv.setRenderAzimuthElevation(degrees, ELEVATION);
    nv.setClipPlane([cut === 0 ? NO_CLIP : 0.5 - cut / 100, 360 - degrees, 0]);
  }

  function facing([x, y]) { // NiiVue's azimuth: 0 from behind, 90 from the left, 180 from the front
    const degrees = Math.round((Math.atan2(-x, -y) * 180) / Math.PI / 5) * 5;
    return (degrees + 360) % 360;
  }

  function step(nv, event) {
    const by = STEPS[event.key];
    if (!by || nv.volumes.length === 0) return;
    event.preventDefault();
    nv.moveCrosshairInVox(...by);
  }

  return { VIEWS, isPossible, open, drawn, sectionsThen3D, colours, placeText, turn, facing };
})();

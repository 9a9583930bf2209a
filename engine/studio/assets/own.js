// What a wish starts from: noise alone, a mask, or a scan of one's own and what is done with it.
const find = (id) => document.getElementById(id);
const WORDS = {
  insert: "Put the lesion into it", replace: "Put it in place of its own lesion", remove: "Take its own lesion out",
  change: "Change the whole scan",
};

export const hasCells = (start) => start !== "mask" && start !== "remove"; // whether conditions say what is made
export const isScan = (given) => Boolean(given?.grid || given?.own);

export function voxels(given, start) { // on which a scan is seen: [part of its address, what the viewer begins with]
  const where = given.own && start !== "change" ? "own" : "grid";
  return [where, given[where]];
}

export class Own {
  constructor(onStart, onAway) {
    find("use").addEventListener("change", () => onStart(find("use").value));
    find("without").addEventListener("click", onAway);
  }

  show(start, given) {
    find("start").hidden = !given;
    find("strength-field").hidden = start !== "change";
    if (!given) return;
    find("start-name").textContent = start === "mask" ? `Around ${given.name}` : `From ${given.name}`;
    find("use").hidden = !isScan(given);
    find("use").replaceChildren(...given.starts.map((value) => new Option(WORDS[value], value, false, value === start)));
  }
}

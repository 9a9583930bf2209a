// What the page asks of the program that it came from. The token stands behind # in the address: no server sees it there.
const token = location.hash.slice(1);
export const page = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function ask(method, path, body, more = {}) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body !== undefined && !(body instanceof Blob)) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, { method, headers, body, ...more });
  } catch (error) {
    throw new Refused(0, "The program behind this page does not answer any more. Start `sbldm-engine studio` again, and open the address that it prints.");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  const text = answer.status === 401 ? "This page has no valid token. Open the whole address that `sbldm-engine studio` printed." : told.error ?? answer.statusText;
  throw new Refused(answer.status, text);
}

const own = (path) => `${path}${path.includes("?") ? "&" : "?"}page=${page}`;

export const get = async (path) => (await ask("GET", own(path))).json();
export const post = async (path, body) => (await ask("POST", own(path), body)).json();
export const put = async (path, blob) => (await ask("PUT", own(path), blob)).json();
export const bytes = async (path) => (await ask("GET", own(path))).arrayBuffer();
export const leave = () => ask("POST", own("/api/leave"), undefined, { keepalive: true }).catch(() => {});

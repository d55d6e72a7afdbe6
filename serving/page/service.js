// Requests to the service behind this page, with its token where it asks for one.
const base = location.pathname.replace(/ui\/?$/, "");
const KEY = "ood-guard token";
const PATIENCE = 5;  // times that a busy service is asked again

export const address = location.origin + base;

export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

let askForToken = () => Promise.reject(new Refused(401, "this service asks for a token"));
let asking = null;

// ask() resolves to a token that the user typed; it is called once, however many requests wait for it.
export function onTokenNeeded(ask) { askForToken = ask; }

export async function request(path, options = {}) {
  for (let tried = 0; ; tried++) {
    const token = sessionStorage.getItem(KEY), headers = token ? { Authorization: "Bearer " + token } : {};
    let reply;
    try {
      reply = await fetch(base + path, { ...options, headers });
    } catch {
      throw new Refused(0, "the service cannot be reached");
    }
    if (reply.ok) return reply.json();
    const sentence = (await reply.json().catch(() => ({}))).error || "the service answered " + reply.status;
    if (reply.status === 401) {
      if (token === sessionStorage.getItem(KEY)) {  // no other request has got a new one meanwhile
        sessionStorage.removeItem(KEY);
        asking ||= askForToken(sentence).finally(() => { asking = null; });
        sessionStorage.setItem(KEY, await asking);
      }
      continue;
    }
    if ((reply.status === 503 || reply.status === 429) && tried < PATIENCE) {
      const seconds = Number(reply.headers.get("Retry-After")) || 1;
      await new Promise((wake) => setTimeout(wake, 1000 * seconds * (1 + Math.random())));
      continue;
    }
    throw new Refused(reply.status, sentence);
  }
}

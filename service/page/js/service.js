// Calls of the service. Keys live in this module's memory only, and travel in headers.

export const keys = { api: "", admin: "" };

/** A refusal of the service, as RFC 9457 describes one, or a failure of the page itself. */
export class Problem extends Error {
  constructor(body) {
    super(body.detail ?? body.title);
    this.name = body.type?.split(":").pop() ?? "unknown";
    this.title = body.title;
    this.status = body.status ?? 0;
    this.requestId = body.request_id ?? "";
    this.retryAfter = body.retry_after ?? 0;
  }

  static local(name, title, detail) {
    return new Problem({ type: `urn:snac:problem:${name}`, title, detail });
  }
}

/** Where the service is, also behind a proxy that puts it below a folder. */
export const base = new URL("./", document.baseURI);

export async function call(path, { method = "GET", body, headers = {}, admin = false } = {}) {
  const sent = new Headers(headers);
  if (keys.api) sent.set("X-Api-Key", keys.api);
  if (admin && keys.admin) sent.set("X-Admin-Key", keys.admin);
  let answer;
  try {
    answer = await fetch(new URL(path, base), { method, body, headers: sent, cache: "no-store" });
  } catch {
    throw Problem.local("network", "The service does not answer", `${method} ${path} got no answer.`);
  }
  if (!answer.ok) throw await problemOf(answer);
  return answer;
}

async function problemOf(answer) {
  try {
    return new Problem(await answer.json());
  } catch {
    return new Problem({
      type: "urn:snac:problem:no-json",
      title: `HTTP ${answer.status}`,
      detail: `Something between this page and the service answered ${answer.status} ${answer.statusText}.`,
      status: answer.status,
      retry_after: Number(answer.headers.get("Retry-After")) || 0,
    });
  }
}

export const about = async () => (await call("page/service.json")).json();
export const currentModel = async () => (await call("v1/models/current")).json();
export const listModels = async () => (await call("v1/models")).json();
export const operate = async (what) => (await call(`v1/models/${what}`, { method: "POST", admin: true })).json();

/** Encode a recording; returns {codes, timings}, with the codes as the service writes them. */
export async function encode(blob) {
  const headers = { "Content-Type": blob.type.startsWith("audio/") ? blob.type : "application/octet-stream" };
  const answer = await call("v1/encode", { method: "POST", body: blob, headers });
  return { codes: await answer.json(), timings: timingsOf(answer) };
}

/** Decode tokens; returns {wav, timings, model}. */
export async function decode(body) {
  const headers = { "Content-Type": "application/json", Accept: "audio/wav" };
  const answer = await call("v1/decode", { method: "POST", body: JSON.stringify(body), headers });
  return { wav: await answer.blob(), timings: timingsOf(answer), model: modelOf(answer) };
}

/** Measure a reconstruction; returns {siSdr, stoi, logMel}. */
export async function measure(blob) {
  const headers = { "Content-Type": "application/octet-stream" };
  const answer = await call("v1/reconstruct", { method: "POST", body: blob, headers });
  await answer.arrayBuffer();
  const figure = (name) => answer.headers.get(name);
  return { siSdr: figure("X-SI-SDR"), stoi: figure("X-STOI"), logMel: figure("X-Log-Mel-Distance") };
}

const modelOf = (answer) => ({
  version: decodeURIComponent(answer.headers.get("X-Model-Version") ?? ""),
  token_space: answer.headers.get("X-Token-Space") ?? "",
});

/** The stages of Server-Timing, in milliseconds. */
function timingsOf(answer) {
  const timings = {};
  for (const part of (answer.headers.get("Server-Timing") ?? "").split(",")) {
    const found = /^\s*([\w-]+);dur=([\d.]+)/.exec(part);
    if (found) timings[found[1]] = Number(found[2]);
  }
  return timings;
}

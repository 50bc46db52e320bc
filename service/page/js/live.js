// Live mode: tokens go out at a language model's pace, and audio is played as it comes back.

import { colour, prepare } from "./canvas.js";
import { byId, fillFigures, round } from "./dom.js";
import { flatten } from "./layouts.js";
import { PcmPlayer } from "./pcm.js";
import { showProblem } from "./problems.js";
import { base, currentModel, keys, Problem } from "./service.js";

const TICK_MS = 15;

export function setUpLive(page) {
  const start = byId("live-start");
  let running = null;
  start.onclick = async () => {
    if (running) {
      running.stop();
      return;
    }
    showProblem(byId("live-problem"), null);
    start.textContent = "Stop";
    try {
      const levels = page.result?.levels ?? (await page.takeSample());
      if (levels) await (running = new LiveStream(page, levels)).run();
    } catch (error) {
      showProblem(byId("live-problem"), error, page.facts);
    }
    running = null;
    start.textContent = "Stream the tokens";
  };
}

/** The subprotocols that carry the key: browsers set no headers on WebSockets. */
function subprotocols() {
  if (!keys.api) return [];
  const bytes = String.fromCharCode(...new TextEncoder().encode(keys.api));
  return ["snac", `snac.key.${btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`];
}

class LiveStream {
  #stopped = false;
  #socket = null;
  #player = null;
  #needed = Infinity;
  #enoughAt = null;
  sent = 0;
  audioSeconds = 0;
  firstTokenAt = null;
  firstAudioAt = null;
  points = [];

  constructor(page, levels) {
    this.page = page;
    this.tokens = flatten(levels);
    this.tokensPerSecond = page.model.tokens_per_second;
    this.pace = Number(byId("pace").value);
    const lookahead = byId("lookahead").value;
    this.query = new URLSearchParams({ layout: "flat", format: "s16le", ...(lookahead ? { lookahead_frames: lookahead } : {}) });
    if (page.result) this.query.set("token_space", page.result.model.token_space);
  }

  stop() {
    this.#stopped = true;
    this.#socket?.close();
    this.#player?.stop();
  }

  async run() {
    const url = new URL(`v1/stream/decode?${this.query}`, base);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = (this.#socket = new WebSocket(url, subprotocols()));
    socket.binaryType = "arraybuffer";
    this.page.did({ kind: "stream", query: String(this.query) });
    const done = new Promise((resolve, reject) => {
      let opened = false;
      let problem = null;
      socket.onopen = () => (opened = true);
      socket.onmessage = async ({ data }) => {
        try {
          if (typeof data !== "string") this.#heard(data);
          else {
            const message = JSON.parse(data);
            if (message.type === "ready") {
              this.#player = await PcmPlayer.open(message.sample_rate);
              this.#needed = message.tokens_per_frame * (Math.floor(message.lookahead_samples / message.frame_samples) + 1);
              this.#send();
            } else if (message.type === "problem") problem = new Problem(message.problem);
          }
        } catch (error) {
          reject(error);
        }
      };
      socket.onclose = ({ code, reason }) => {
        if (problem) reject(problem);
        else if (code === 1000 || this.#stopped) resolve();
        else if (opened) reject(Problem.local("stream-ended", "The stream ended early", `Close code ${code}${reason ? `: ${reason}` : ""}.`));
        else this.#whyRefused().then(resolve, reject);
      };
    });
    try {
      await done;
    } finally {
      this.#stopped = true;
    }
    this.#show();
    byId("live-said").textContent = this.firstAudioAt === null ? "" : `First audio after ${byId("first-audio").textContent} milliseconds.`;
  }

  /** A browser does not show why a handshake was refused; the same refusal meets a plain call. */
  async #whyRefused() {
    await currentModel();
    throw Problem.local(
      "overloaded",
      "The stream was refused",
      "The service took no further stream: it has as many open as it may have, or does not accept this page's address.",
    );
  }

  #send() {
    const began = (this.firstTokenAt = performance.now());
    const step = () => {
      if (this.#stopped) return;
      const due = this.pace ? Math.floor(((performance.now() - began) / 1000) * this.tokensPerSecond * this.pace) + 1 : this.tokens.length;
      while (this.sent < Math.min(due, this.tokens.length)) this.#socket.send(String(this.tokens[this.sent++]));
      if (this.sent >= Math.min(this.#needed, this.tokens.length)) this.#enoughAt ??= performance.now();
      this.#show();
      if (this.sent < this.tokens.length) setTimeout(step, TICK_MS);
      else this.#socket.send('{"type":"end"}');
    };
    step();
  }

  #heard(bytes) {
    this.firstAudioAt ??= performance.now();
    this.audioSeconds += this.#player.push(bytes).length / this.#player.rate;
    this.#show();
  }

  #show() {
    const now = performance.now();
    const elapsed = (now - (this.firstTokenAt ?? now)) / 1000;
    const tokenSeconds = this.sent / this.tokensPerSecond;
    this.points.push([elapsed, tokenSeconds, this.audioSeconds]);
    if (this.firstAudioAt !== null) byId("first-audio").textContent = round(this.firstAudioAt - this.firstTokenAt, 0);
    fillFigures(byId("live-figures"), [
      ["Tokens sent", `${this.sent}`, `of ${this.tokens.length}`],
      ["As speech", `${round(tokenSeconds, 2)} s`],
      ["Audio received", `${round(this.audioSeconds, 2)} s`],
      ["Time", `${round(elapsed, 2)} s`],
      ["After the tokens it needs", this.firstAudioAt === null || this.#enoughAt === null ? null : `${round(this.firstAudioAt - this.#enoughAt, 0)} ms`],
      ["Gaps in play", this.#player ? String(this.#player.gaps) : "0"],
    ]);
    drawProgress(this.points, this.tokens.length / this.tokensPerSecond);
  }
}

/** Two steps over time: seconds of tokens sent, and of audio received. */
function drawProgress(points, total) {
  const { context, width, height } = prepare(byId("live-plot"));
  const longest = Math.max(total, points.at(-1)[0], 0.1);
  const x = (seconds) => (seconds / longest) * (width - 1);
  const y = (seconds) => height - 1 - (seconds / total) * (height - 16);
  context.fillStyle = colour("line");
  context.fillRect(0, height - 1, width, 1);
  [
    [1, "muted", "tokens"],
    [2, "output", "audio"],
  ].forEach(([column, name, words], i) => {
    context.strokeStyle = context.fillStyle = colour(name);
    context.lineWidth = 1.5;
    context.beginPath();
    points.forEach((point, at) => {
      if (at) context.lineTo(x(point[0]), y(points[at - 1][column]));
      context.lineTo(x(point[0]), y(point[column]));
    });
    context.stroke();
    context.font = `11px ${colour("mono")}`;
    context.fillText(words, i * 56, 10);
  });
}

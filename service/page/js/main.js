// The page: what is shown, and what each part does with the others.

import { decodeFile } from "./audio.js";
import { codeFor } from "./code.js";
import { byId, copyFrom, download, element, fillFigures, round } from "./dom.js";
import { setUpKeys } from "./keys.js";
import { LAYOUTS, levelsOf, written } from "./layouts.js";
import { setUpLive } from "./live.js";
import { setUpModels } from "./models.js";
import { Player } from "./player.js";
import { Plots } from "./plots.js";
import { showProblem } from "./problems.js";
import { about, currentModel, decode, encode, keys, measure } from "./service.js";
import { fetchSample, setUpSources } from "./sources.js";

const MOST_TEXT = 20000;
const IDLE = "Space plays; A and B change over. Point at a token, or focus the picture and use the arrow keys.";

const player = new Player();
const plots = new Plots(byId("plots"));

const page = {
  facts: { reads_browser_recordings: false, max_seconds: 7200, max_body_bytes: 2 ** 28 },
  model: null,
  result: null,
  action: null,

  /** Run something that may end in a problem, and show the problem. */
  async attempt(act) {
    showProblem(byId("problem"), null);
    document.body.setAttribute("aria-busy", "true");
    try {
      return await act();
    } catch (error) {
      byId("progress").textContent = "";
      showProblem(byId("problem"), error, page.facts, () => page.attempt(act));
      return null;
    } finally {
      document.body.removeAttribute("aria-busy");
    }
  },

  takeSample: () => page.attempt(async () => page.encodeAndDecode(await fetchSample(), "sample.wav")),
  takeRecording: (blob, name) => page.attempt(() => page.encodeAndDecode(blob, name)),

  async encodeAndDecode(blob, name) {
    const say = (words) => (byId("progress").textContent = words);
    say("Encoding …");
    page.model = await currentModel();
    const began = performance.now();
    const encoded = await encode(blob);
    const encodeMs = performance.now() - began;
    say("Decoding …");
    const { sample_rate: rate, num_samples: samples, model } = encoded.codes;
    const decoded = await decode(encoded.codes);
    const [input, output] = await Promise.all([decodeFile(blob, rate), decodeFile(decoded.wav, rate)]);
    say(input ? "" : "This browser does not read the format of the recording, so the input is neither drawn nor played.");
    page.show({
      name, blob, input, output, rate, model,
      wav: decoded.wav,
      answer: encoded.codes,
      levels: encoded.codes.codes,
      duration: samples / rate,
      warnings: encoded.codes.warnings ?? [],
      timings: { encode: encoded.timings, decode: decoded.timings, encodeMs },
    });
    page.did({ kind: "recording", name });
    return page.result.levels;
  },

  async takeTokens(body, note) {
    byId("progress").textContent = "Decoding …";
    page.model = await currentModel();
    const decoded = await decode(body);
    const rate = page.model.sample_rate;
    const output = await decodeFile(decoded.wav, rate);
    const levels = levelsOf(body, page.model.codes_per_frame);
    page.show({
      name: "Pasted tokens", blob: null, input: null, output, rate, levels,
      model: decoded.model,
      wav: decoded.wav,
      answer: { num_samples: output.length, sample_rate: rate, model: decoded.model },
      duration: output.length / rate,
      warnings: [],
      timings: { decode: decoded.timings },
    });
    byId("progress").textContent = `Read as ${note}.`;
    page.did({ kind: "tokens", body });
    return levels;
  },

  show(result) {
    page.result = result;
    byId("result").hidden = byId("take").hidden = false;
    byId("result-title").textContent = result.name;
    byId("quality-figures").textContent = "";
    document.querySelector(".quality").hidden = !result.blob;
    player.load({ input: result.input, output: result.output }, result.rate);
    for (const radio of byId("sides").querySelectorAll("input")) radio.disabled = !player.has(radio.value);
    // Tokens come in whole coarse frames, and reach beyond the end of the audio.
    result.tokenSeconds = (result.levels[0].length * page.model.frame_samples) / result.rate;
    plots.load({ input: result.input, output: result.output }, result.rate, result.levels, result.tokenSeconds);
    showFigures();
    showLanes();
    showToken(null);
    offerLayouts();
    showStatus();
  },

  /** Remember what was done, for the code. */
  did(action) {
    page.action = action;
    byId("take").hidden = page.result === null;
    showCode();
  },

  async refresh() {
    try {
      page.facts = await about();
      page.model = await currentModel();
      showStatus();
    } catch (error) {
      showStatus(error);
    }
  },
};

function showStatus(error = null) {
  const status = byId("status");
  status.classList.toggle("ready", !error);
  status.classList.toggle("bad", Boolean(error) && error.name !== "unauthorized");
  status.querySelector(".words").textContent = error
    ? error.name === "unauthorized" ? "a key is needed" : error.title
    : `${page.model.version} · ${page.model.token_space} · ${page.model.device}`;
  byId("about").textContent = `SNAC tokenizer ${page.facts.version ?? ""}`;
}

function showFigures() {
  const { result, model } = page;
  const total = result.levels.reduce((sum, level) => sum + level.length, 0);
  const ms = (stages, name) => (stages?.[name] === undefined ? null : `${round(stages[name])} ms`);
  const { encode: first, decode: second, encodeMs } = result.timings;
  fillFigures(byId("figures"), [
    ["Bitrate", `${round(model.bits_per_second / 1000, 2)} kbit/s`],
    ["Token rate", `${round(model.tokens_per_second, 1)} /s`],
    ["Tokens", total, `in ${result.levels.length} levels`],
    ["Duration", `${round(result.duration, 2)} s`],
    ["Encode: queue", ms(first, "queue")],
    ["Encode: inference", ms(first, "inference")],
    ["Decode: queue", ms(second, "queue")],
    ["Decode: inference", ms(second, "inference")],
    ["Encode, as seen here", encodeMs === undefined ? null : `${round(encodeMs, 0)} ms`],
    ["Model version", result.model.version],
    ["Token space", result.model.token_space],
    ["Heed", result.warnings.length ? result.warnings.join(" ") : null],
  ]);
}

/** Name the rows of the token picture: the level, and the time that one of its codes covers. */
function showLanes() {
  const { levels, tokenSeconds } = page.result;
  byId("lanes").replaceChildren(
    ...levels.map((level, i) =>
      element("li", {}, element("b", { textContent: `Level ${i}` }), ` ${round((1000 * tokenSeconds) / level.length, 0)} ms`),
    ),
  );
}

function offerLayouts() {
  const chosen = byId("layout").value;
  const fitting = Object.entries(LAYOUTS).filter(([, layout]) => layout.fits(page.result.levels));
  byId("layout").replaceChildren(...fitting.map(([value, { title }]) => element("option", { value, textContent: title })));
  if (fitting.some(([value]) => value === chosen)) byId("layout").value = chosen;
  showTokens();
}

const tokensText = () => written(byId("layout").value, page.result.levels, page.result.answer);

function showTokens() {
  const text = tokensText();
  byId("tokens-text").textContent = text.length > MOST_TEXT ? `${text.slice(0, MOST_TEXT)} … (Copy and Download have all of it)` : text;
}

function showCode() {
  if (!page.action) return;
  const language = document.querySelector('input[name="language"]:checked').value;
  byId("code").textContent = codeFor(language, page.action);
}

function showToken(cell) {
  const out = byId("token");
  out.classList.toggle("on", Boolean(cell));
  out.textContent = cell
    ? `level ${cell.level} · index ${cell.index} · code ${cell.code} · ${round(cell.start, 3)}–${round(cell.end, 3)} s`
    : IDLE;
}

function setUpPlayer() {
  byId("play").onclick = () => (player.isPlaying ? player.stop() : player.play());
  player.addEventListener("change", () => {
    byId("play").textContent = player.isPlaying ? "Stop" : "Play";
    byId("time").textContent = `${round(player.position, 3)} s`;
    plots.at(player.position);
  });
  player.addEventListener("side", () => {
    byId("sides").querySelector(`[value="${player.side}"]`).checked = true;
  });
  byId("sides").onchange = (event) => player.choose(event.target.value);
  plots.addEventListener("seek", ({ detail }) => player.seek(detail));
  plots.tokens.addEventListener("point", ({ detail }) => showToken(detail));
  plots.tokens.addEventListener("choose", ({ detail }) => player.play(detail.start, detail.end));
  byId("zoom-in").onclick = () => plots.zoom(0.5);
  byId("zoom-out").onclick = () => plots.zoom(2);
  byId("earlier").onclick = () => plots.pan(-0.5);
  byId("later").onclick = () => plots.pan(0.5);
  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input:not([type=radio]), textarea, select, button, a, dialog, pre, .tokens");
    if (typing || !page.result || event.ctrlKey || event.metaKey || event.altKey) return;
    const acts = {
      " ": () => byId("play").click(),
      a: () => player.has("input") && player.choose("input"),
      b: () => player.has("output") && player.choose("output"),
    };
    const act = acts[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

function setUpTaking() {
  const name = () => page.result.name.replace(/\.\w+$/, "").replaceAll(" ", "-").toLowerCase();
  byId("layout").onchange = showTokens;
  byId("copy-tokens").onclick = (event) => copyFrom(event.target, tokensText());
  byId("save-tokens").onclick = () => {
    const custom = byId("layout").value === "custom";
    download(`${name()}.${custom ? "txt" : "json"}`, tokensText(), custom ? "text/plain" : "application/json");
  };
  byId("save-audio").onclick = () => download(`${name()}-decoded.wav`, page.result.wav);
  byId("languages").onchange = showCode;
  byId("copy-code").onclick = (event) => copyFrom(event.target, byId("code").textContent);
  byId("quality").onclick = () =>
    page.attempt(async () => {
      byId("quality-figures").textContent = "measuring …";
      const { siSdr, stoi, logMel } = await measure(page.result.blob);
      byId("quality-figures").textContent = `SI-SDR ${siSdr} dB · STOI ${stoi} · log-mel distance ${logMel}`;
    });
}

setUpPlayer();
setUpTaking();
setUpSources(page);
setUpLive(page);
const showModels = setUpModels(page);
setUpKeys(async () => {
  showProblem(byId("problem"), null);
  await page.refresh();
  await showModels();
  showCode();
});
await page.refresh();
if (!page.facts.api_key || keys.api) await showModels();
document.body.dataset.ready = "true";

/** For the console, and for tests: what the page knows. */
export { page, player, plots };

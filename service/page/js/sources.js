// Where input comes from: a file, a drop, the microphone, the sample, or pasted tokens.

import { colour, prepare } from "./canvas.js";
import { byId, round } from "./dom.js";
import { readTokens } from "./paste.js";
import { startRecording } from "./recorder.js";
import { base } from "./service.js";

const LEVELS_KEPT = 240;

/** Call `page.takeRecording(blob, name)` and `page.takeTokens(body, note)` with what comes. */
export function setUpSources(page) {
  const file = byId("file");
  byId("choose").onclick = () => file.click();
  file.onchange = () => {
    if (file.files[0]) page.takeRecording(file.files[0], file.files[0].name);
    file.value = "";
  };
  byId("sample").onclick = () => page.takeSample();
  setUpDrop(page);
  setUpPaste(page);
  setUpMicrophone(page);
}

export async function fetchSample() {
  const answer = await fetch(new URL("page/sample.wav", base));
  return answer.blob();
}

function setUpDrop(page) {
  let inside = 0;
  const within = (change) => {
    inside = Math.max(0, inside + change);
    document.body.classList.toggle("dropping", inside > 0);
  };
  addEventListener("dragenter", () => within(1));
  addEventListener("dragleave", () => within(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    within(-inside);
    const [dropped] = event.dataTransfer.files;
    if (dropped) page.takeRecording(dropped, dropped.name);
  });
}

function setUpPaste(page) {
  const [form, open] = [byId("paste"), byId("paste-open")];
  open.onclick = () => {
    form.hidden = !form.hidden;
    open.setAttribute("aria-expanded", String(!form.hidden));
    if (!form.hidden) byId("pasted").focus();
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    page.attempt(() => {
      const { body, note } = readTokens(byId("pasted").value);
      return page.takeTokens({ ...body, noise: byId("noise").value, seed: Number(byId("seed").value) }, note);
    });
  };
}

function setUpMicrophone(page) {
  const button = byId("record");
  const words = button.querySelector(".words");
  let recording = null;
  button.onclick = () =>
    page.attempt(async () => {
      if (recording) {
        const { stop } = recording;
        recording = null;
        words.textContent = "Record";
        button.classList.remove("recording");
        byId("level").hidden = true;
        const blob = await stop();
        const ending = blob.type.split("/")[1];
        await page.takeRecording(blob, `recording.${ending}`);
        return;
      }
      recording = await startRecording(page.facts.reads_browser_recordings);
      words.textContent = "Stop";
      button.classList.add("recording");
      byId("level").hidden = false;
      showLevel(() => recording);
    });
}

/** Draw how loud it is, for as long as it is recorded. */
function showLevel(current) {
  const began = performance.now();
  const levels = [];
  const step = () => {
    const recording = current();
    if (!recording) return;
    levels.push(recording.level());
    if (levels.length > LEVELS_KEPT) levels.shift();
    const { context, width, height } = prepare(byId("level").querySelector("canvas"));
    context.fillStyle = colour("bad");
    levels.forEach((level, i) => {
      const tall = Math.max(1, Math.min(1, level) * height);
      context.fillRect((i * width) / LEVELS_KEPT, (height - tall) / 2, Math.max(1, width / LEVELS_KEPT - 1), tall);
    });
    byId("recorded").textContent = `${round((performance.now() - began) / 1000)} s`;
    requestAnimationFrame(step);
  };
  step();
}

// Encodes the chosen recording and plays it while its tokens are decoded, without gaps.

import { SnacClient } from "./snac.mjs";

const status = document.getElementById("status");

document.getElementById("file").addEventListener("change", async ({ target }) => {
  const client = new SnacClient(document.getElementById("url").value);
  const speaker = new AudioContext({ sampleRate: 24000 });
  try {
    const { codes } = await client.encode(target.files[0], "orpheus");
    const frames = Array.from({ length: codes.length / 7 }, (_, i) => codes.slice(7 * i, 7 * i + 7));
    const begin = performance.now();
    let first, playAt = 0;
    for await (const samples of client.streamDecode(frames, "orpheus")) {
      first ??= Math.round(performance.now() - begin);
      const buffer = speaker.createBuffer(1, samples.length, speaker.sampleRate);
      buffer.copyToChannel(samples, 0);
      const source = speaker.createBufferSource();
      source.buffer = buffer;
      source.connect(speaker.destination);
      playAt = Math.max(playAt, speaker.currentTime);
      source.start(playAt);
      playAt += buffer.duration;
    }
    status.textContent = `${codes.length} tokens, first audio after ${first} ms`;
  } catch (error) {
    status.textContent = `This did not work. ${error.message}`;
  }
});

// node --experimental-websocket examples/javascript/node.mjs voice.wav back.wav [URL]
//
// Encodes a recording, decodes it as a whole into a file, then again as a stream, frame by frame.
// From Node 22 on, WebSocket needs no option.

import { readFile, writeFile } from "node:fs/promises";
import { SnacClient } from "./snac.mjs";

const [input, output, url = "http://127.0.0.1:8000"] = process.argv.slice(2);
const client = new SnacClient(url);

const codes = await client.encode(await readFile(input), "orpheus");
console.log(`${codes.duration.toFixed(2)} s, ${codes.codes.length} tokens of ${codes.model.token_space}`);
await writeFile(output, Buffer.from(await client.decode(codes)));

function* frames() {
  for (let i = 0; i < codes.codes.length; i += 7) yield codes.codes.slice(i, i + 7);
}

const begin = performance.now();
let first, length = 0;
for await (const samples of client.streamDecode(frames(), "orpheus")) {
  first ??= performance.now() - begin;
  length += samples.length;
}
console.log(`first audio after ${first.toFixed(0)} ms, ${length} samples in all`);

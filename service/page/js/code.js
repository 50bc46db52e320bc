// What the page just did, as code: curl, Python and JavaScript.

import { base, keys } from "./service.js";

/**
 * Return the code for an action in a language.
 *
 * `action` is {kind: "recording", name} or {kind: "tokens", body} or {kind: "stream", ...start,
 * codes}; the key itself is never written, only where it goes.
 */
export function codeFor(language, action) {
  return WRITERS[language][action.kind](action);
}

const url = (path) => new URL(path, base).href;
const socket = (path) => url(path).replace(/^http/, "ws");
const json = (value) => JSON.stringify(value);

/** A list of numbers, short enough to be read; the whole is what Download saves. */
const listed = (body) => json(body).length > 600;

const keyed = () => Boolean(keys.api);
const curlKey = () => (keyed() ? ` \\\n  -H "X-Api-Key: $SNAC_API_KEY"` : "");
const pythonHead = (more = "") =>
  `${keyed() ? "import os\n" : ""}${more}import httpx\n\nservice = httpx.Client(base_url="${base.href}", timeout=900${
    keyed() ? ', headers={"X-Api-Key": os.environ["SNAC_API_KEY"]}' : ""
  })\n`;
const jsHeaders = (fields) => `{ ${[...fields, ...(keyed() ? ['"X-Api-Key": key'] : [])].join(", ")} }`;
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

const WRITERS = {
  curl: {
    recording: ({ name }) => `curl --fail-with-body --data-binary @${quoted(name)}${curlKey()} \\
  -H "Content-Type: application/octet-stream" \\
  ${url("v1/encode")} -o tokens.json

curl --fail-with-body --data-binary @tokens.json${curlKey()} \\
  -H "Content-Type: application/json" -H "Accept: audio/wav" \\
  ${url("v1/decode")} -o reconstruction.wav
`,
    tokens: ({ body }) => `${listed(body) ? "# tokens.json: what Download saves\n" : `cat > tokens.json <<'END'\n${json(body)}\nEND\n`}
curl --fail-with-body --data-binary @tokens.json${curlKey()} \\
  -H "Content-Type: application/json" -H "Accept: audio/wav" \\
  ${url("v1/decode")} -o speech.wav
`,
    stream: () => `# curl cannot hold a conversation over a WebSocket; this streams the same audio over HTTP.
# tokens.json: what Download saves, in any layout.
curl --fail-with-body --no-buffer --data-binary @tokens.json${curlKey()} \\
  -H "Content-Type: application/json" -H "Accept: audio/wav" \\
  "${url("v1/decode?stream=true")}" -o speech.wav
`,
  },
  python: {
    recording: ({ name }) => `${pythonHead()}
with open(${json(name)}, "rb") as file:
    answer = service.post("v1/encode", content=file.read())
answer.raise_for_status()
tokens = answer.json()
print(tokens["layout"], [len(level) for level in tokens["codes"]])

answer = service.post("v1/decode", json=tokens, headers={"Accept": "audio/wav"})
answer.raise_for_status()
with open("reconstruction.wav", "wb") as file:
    file.write(answer.content)
`,
    tokens: ({ body }) => `${pythonHead(listed(body) ? "import json\n\n" : "")}
${listed(body) ? `with open("tokens.json") as file:  # what Download saves\n    tokens = json.load(file)` : `tokens = ${python(body)}`}
answer = service.post("v1/decode", json=tokens, headers={"Accept": "audio/wav"})
answer.raise_for_status()
with open("speech.wav", "wb") as file:
    file.write(answer.content)
`,
    stream: ({ query }) => `import json
${keyed() ? "import os\n" : ""}import wave

from websockets.sync.client import connect

tokens = json.load(open("tokens.json"))["codes"]  # Download, in the layout flat
url = "${socket(`v1/stream/decode?${query}`)}"
with connect(url, ping_interval=None${keyed() ? ', additional_headers={"X-Api-Key": os.environ["SNAC_API_KEY"]}' : ""}) as stream:
    ready = json.loads(stream.recv())
    for token in tokens:
        stream.send(str(token))
    stream.send('{"type": "end"}')
    with wave.open("speech.wav", "wb") as file:
        file.setparams((1, 2, ready["sample_rate"], 0, "NONE", ""))
        for message in stream:
            if isinstance(message, bytes):
                file.writeframes(message)
`,
  },
  javascript: {
    recording: () => `const recording = document.querySelector("input[type=file]").files[0];
const encoded = await fetch("${url("v1/encode")}", {
  method: "POST",
  headers: ${jsHeaders(['"Content-Type": "application/octet-stream"'])},
  body: recording,
});
const tokens = await encoded.json();

const decoded = await fetch("${url("v1/decode")}", {
  method: "POST",
  headers: ${jsHeaders(['"Content-Type": "application/json"', 'Accept: "audio/wav"'])},
  body: JSON.stringify(tokens),
});
new Audio(URL.createObjectURL(await decoded.blob())).play();
`,
    tokens: ({ body }) => `const tokens = ${listed(body) ? 'await (await fetch("tokens.json")).json(); // what Download saves' : `${json(body)};`}
const decoded = await fetch("${url("v1/decode")}", {
  method: "POST",
  headers: ${jsHeaders(['"Content-Type": "application/json"', 'Accept: "audio/wav"'])},
  body: JSON.stringify(tokens),
});
new Audio(URL.createObjectURL(await decoded.blob())).play();
`,
    stream: ({ query }) => `const stream = new WebSocket("${socket(`v1/stream/decode?${query}`)}"${
      keyed() ? ', ["snac", `snac.key.${btoa(key).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`]' : ""
    });
stream.binaryType = "arraybuffer";
stream.onopen = () => {
  for (const token of tokens) stream.send(String(token)); // layout flat
  stream.send('{"type": "end"}');
};
stream.onmessage = ({ data }) => {
  if (typeof data === "string") console.log(JSON.parse(data));
  else play(new Int16Array(data)); // 24 kHz, mono
};
`,
  },
};

/** JSON as Python writes it. */
function python(value) {
  if (value === null) return "None";
  if (value === true || value === false) return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, one]) => `${json(name)}: ${python(one)}`).join(", ")}}`;
  return json(value);
}

// The browser's audio: one context for what is heard, and decoding of files at the model's rate.

let shared = null;

/** The context that plays; browsers let it start only after a click or a key. */
export async function playing() {
  shared ??= new AudioContext({ latencyHint: "interactive" });
  if (shared.state === "suspended") await shared.resume();
  return shared;
}

/** Decode a file to mono samples at `rate`; null if this browser does not read its format. */
export async function decodeFile(blob, rate) {
  const context = new OfflineAudioContext(1, 1, rate);
  let buffer;
  try {
    buffer = await context.decodeAudioData(await blob.arrayBuffer());
  } catch {
    return null;
  }
  const mono = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    const data = buffer.getChannelData(channel);
    for (let i = 0; i < mono.length; i++) mono[i] += data[i] / buffer.numberOfChannels;
  }
  return mono;
}

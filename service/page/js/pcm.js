// Playing 16-bit PCM as it comes.

import { playing } from "./audio.js";

// What the network delays by less than this is not heard as a gap.
const HEAD_START_SECONDS = 0.1;

export class PcmPlayer {
  #next = 0;
  #context = null;
  #left = null;
  #sources = new Set();
  gaps = 0;

  static async open(rate) {
    const player = new PcmPlayer();
    player.rate = rate;
    player.#context = await playing();
    return player;
  }

  /** Schedule the next bytes right behind the last; returns the samples as numbers. */
  push(bytes) {
    const whole = this.#join(new Uint8Array(bytes));
    const samples = new Float32Array(whole.byteLength >> 1);
    const view = new DataView(whole.buffer, whole.byteOffset);
    for (let i = 0; i < samples.length; i++) samples[i] = view.getInt16(2 * i, true) / 32768;
    if (!samples.length) return samples;
    const now = this.#context.currentTime;
    if (this.#next && now > this.#next) this.gaps += 1;
    const at = Math.max(this.#next, now + (this.#next ? 0 : HEAD_START_SECONDS));
    const buffer = new AudioBuffer({ length: samples.length, sampleRate: this.rate });
    buffer.copyToChannel(samples, 0);
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    source.connect(this.#context.destination);
    source.onended = () => this.#sources.delete(source);
    source.start(at);
    this.#sources.add(source);
    this.#next = at + buffer.duration;
    return samples;
  }

  stop() {
    for (const source of this.#sources) source.stop();
    this.#sources.clear();
  }

  /** Messages are divided anywhere, also within a sample. */
  #join(bytes) {
    const held = this.#left ?? new Uint8Array(0);
    const joined = new Uint8Array(held.length + bytes.length);
    joined.set(held);
    joined.set(bytes, held.length);
    const even = joined.length - (joined.length % 2);
    this.#left = joined.slice(even);
    return joined.subarray(0, even);
  }
}

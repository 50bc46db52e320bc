// Two sounds in step: both run, one is heard, and changing over takes a few milliseconds.

import { playing } from "./audio.js";

const FADE_SECONDS = 0.004;

export class Player extends EventTarget {
  #sounds = {};
  #running = null;
  #from = 0;
  #until = 0;
  #startedAt = 0;
  #context = null;
  side = "input";
  duration = 0;
  position = 0;

  /** Take new sounds: {input, output}, each samples or null, at `rate` Hz. */
  load(sounds, rate) {
    this.stop();
    this.#sounds = sounds;
    this.rate = rate;
    this.duration = Math.max(0, ...Object.values(sounds).map((one) => (one ? one.length / rate : 0)));
    this.position = 0;
    this.choose(sounds[this.side] ? this.side : sounds.output ? "output" : "input");
    this.#tell();
  }

  get isPlaying() {
    return this.#running !== null;
  }

  has(side) {
    return Boolean(this.#sounds[side]);
  }

  /** Play from `from` to `until` seconds; without them, from the position to the end. */
  async play(from = this.position >= this.duration ? 0 : this.position, until = this.duration) {
    this.#halt();
    const context = (this.#context = await playing());
    const at = context.currentTime + 0.01;
    const running = {};
    for (const [side, samples] of Object.entries(this.#sounds)) {
      if (!samples) continue;
      const buffer = new AudioBuffer({ length: samples.length, sampleRate: this.rate });
      buffer.copyToChannel(samples, 0);
      const source = new AudioBufferSourceNode(context, { buffer });
      const gain = new GainNode(context, { gain: side === this.side ? 1 : 0 });
      source.connect(gain).connect(context.destination);
      source.start(at, Math.min(from, buffer.duration), Math.max(0, until - from));
      running[side] = { source, gain };
    }
    this.#running = running;
    [this.#from, this.#until, this.#startedAt] = [from, until, at];
    this.#follow();
    this.#tell();
  }

  stop() {
    this.#halt();
    this.#tell();
  }

  seek(seconds) {
    this.position = Math.max(0, Math.min(this.duration, seconds));
    if (this.isPlaying) return this.play(this.position);
    this.#tell();
    return undefined;
  }

  /** Hear the other one, at once and in place. */
  choose(side) {
    this.side = side;
    for (const [name, { gain }] of Object.entries(this.#running ?? {}))
      gain.gain.setTargetAtTime(name === side ? 1 : 0, this.#context.currentTime, FADE_SECONDS);
    this.dispatchEvent(new Event("side"));
  }

  /** The gain that each sound has right now. */
  gains() {
    return Object.fromEntries(Object.entries(this.#running ?? {}).map(([name, { gain }]) => [name, gain.gain.value]));
  }

  #follow() {
    const running = this.#running;
    const step = () => {
      if (this.#running !== running) return;
      const now = this.#from + Math.max(0, this.#context.currentTime - this.#startedAt);
      this.position = Math.min(now, this.#until);
      if (now >= this.#until) this.#halt();
      this.#tell();
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  #halt() {
    for (const { source } of Object.values(this.#running ?? {})) {
      source.stop();
      source.disconnect();
    }
    this.#running = null;
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}

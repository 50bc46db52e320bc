// The stack of plots with one time axis: input, reconstruction, tokens; playhead and span on top.

import { colour, prepare } from "./canvas.js";
import { drawSpectrogram, logMel, loudest } from "./spectrogram.js";
import { TokenMap } from "./tokenmap.js";
import { drawWaveform, peakOf } from "./waveform.js";

const SHORTEST_SECONDS = 0.1;
const STEPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 600];
const TICK_PIXELS = 72;

export class Plots extends EventTarget {
  #sounds = {};
  #rate = 24000;
  #duration = 0;
  #peak = 1;
  #view = { start: 0, end: 1 };
  #position = 0;
  #span = null;

  constructor(place) {
    super();
    this.place = place;
    this.tokens = new TokenMap(place.querySelector(".tokens"));
    this.tokens.addEventListener("point", ({ detail }) => this.mark(detail));
    this.head = place.querySelector(".head");
    this.band = place.querySelector(".span");
    this.axis = place.querySelector(".axis");
    for (const signal of place.querySelectorAll(".signal"))
      signal.addEventListener("click", (event) => {
        const box = signal.getBoundingClientRect();
        this.dispatchEvent(new CustomEvent("seek", { detail: this.#seconds((event.clientX - box.left) / box.width) }));
      });
    new ResizeObserver(() => this.draw()).observe(place);
    document.fonts.ready.then(() => this.draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  load(sounds, rate, levels, duration) {
    [this.#sounds, this.#rate, this.#duration] = [sounds, rate, duration];
    this.#view = { start: 0, end: duration };
    this.#peak = Math.max(0.05, ...Object.values(sounds).filter(Boolean).map(peakOf));
    this.tokens.load(levels, duration);
    this.mark(null);
    for (const side of ["input", "output"]) this.place.querySelector(`.for-${side}`).hidden = !sounds[side];
    this.draw();
  }

  draw() {
    if (!this.#duration || !this.place.getBoundingClientRect().width) return;
    const { start, end } = this.#view;
    const pictures = {};
    for (const side of ["input", "output"]) {
      const samples = this.#sounds[side];
      if (!samples) continue;
      const row = this.place.querySelector(`.for-${side}`);
      drawWaveform(prepare(row.querySelector(".wave")), samples, this.#rate, this.#view, this.#peak, { ink: colour(side), line: colour("line") });
      const surface = prepare(row.querySelector(".mel"));
      pictures[side] = { surface, values: logMel(samples, this.#rate, start, end, Math.max(1, Math.round(surface.width))) };
    }
    // Both have one scale, so that what is louder is darker in either.
    const reference = Math.max(...Object.values(pictures).map(({ values }) => loudest(values)));
    for (const { surface, values } of Object.values(pictures)) drawSpectrogram(surface, values, reference);
    this.tokens.draw(this.#view);
    this.#drawAxis();
    this.#place();
  }

  /** Zoom around the playhead if it is in view, by `factor`. */
  zoom(factor) {
    const { start, end } = this.#view;
    const centre = this.#position > start && this.#position < end ? this.#position : (start + end) / 2;
    const length = Math.min(this.#duration, Math.max(SHORTEST_SECONDS, (end - start) * factor));
    this.#show(centre - length / 2, length);
  }

  /** Move the view by a part of its length. */
  pan(part) {
    const { start, end } = this.#view;
    this.#show(start + part * (end - start), end - start);
  }

  /** Put the playhead; a view that it has left follows. */
  at(seconds) {
    this.#position = seconds;
    const { start, end } = this.#view;
    if (seconds > end || seconds < start) this.#show(seconds, end - start);
    else this.#place();
  }

  mark(span) {
    this.#span = span;
    this.#place();
  }

  get view() {
    return this.#view;
  }

  #show(start, length) {
    const from = Math.max(0, Math.min(this.#duration - length, start));
    this.#view = { start: from, end: from + length };
    this.draw();
  }

  #seconds(part) {
    return this.#view.start + part * (this.#view.end - this.#view.start);
  }

  #place() {
    const { width } = this.head.parentElement.getBoundingClientRect();
    const x = (seconds) => ((seconds - this.#view.start) / (this.#view.end - this.#view.start)) * width;
    this.head.style.transform = `translateX(${x(this.#position).toFixed(2)}px)`;
    this.band.classList.toggle("on", this.#span !== null);
    if (!this.#span) return;
    this.band.style.transform = `translateX(${x(this.#span.start).toFixed(2)}px)`;
    this.band.style.width = `${(x(this.#span.end) - x(this.#span.start)).toFixed(2)}px`;
  }

  #drawAxis() {
    const { context, width } = prepare(this.axis);
    const { start, end } = this.#view;
    const step = STEPS.find((one) => (one / (end - start)) * width >= TICK_PIXELS) ?? STEPS.at(-1);
    const digits = step < 0.1 ? 2 : step < 1 ? 1 : 0;
    context.font = `11px ${colour("mono")}`;
    context.textBaseline = "top";
    for (let tick = Math.ceil(start / step); tick * step <= end + 1e-9; tick++) {
      const x = ((tick * step - start) / (end - start)) * width;
      context.fillStyle = colour("line");
      context.fillRect(Math.min(x, width - 1), 0, 1, 5);
      context.fillStyle = colour("muted");
      const words = `${(tick * step).toFixed(digits)} s`;
      const wide = context.measureText(words).width;
      context.fillText(words, Math.max(0, Math.min(width - wide, x - wide / 2)), 7);
    }
  }
}

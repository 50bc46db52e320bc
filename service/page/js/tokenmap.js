// The tokens as a picture: one row a level, each cell as wide as the time that its code covers.

import { colour, isDark, prepare } from "./canvas.js";

const GAP = 3;

/** The colour of a code: neighbours in number are far apart in hue, so that change is seen. */
export function codeColour(code, dark) {
  const hue = (code * 137.508) % 360;
  const lightness = (dark ? 0.56 : 0.62) + 0.16 * ((code * 0.6180339887) % 1);
  return `oklch(${lightness.toFixed(3)} 0.095 ${hue.toFixed(1)})`;
}

export class TokenMap extends EventTarget {
  #levels = [];
  #view = { start: 0, end: 1 };
  cursor = null;

  constructor(place) {
    super();
    this.place = place;
    this.canvas = place.querySelector("canvas");
    place.addEventListener("pointermove", (event) => this.#point(this.#under(event)));
    place.addEventListener("pointerleave", () => this.#point(null));
    place.addEventListener("click", (event) => this.#choose(this.#under(event)));
    place.addEventListener("keydown", (event) => this.#key(event));
    place.addEventListener("focus", () => this.#point(this.cursor ?? { level: 0, index: 0 }));
    place.addEventListener("blur", () => this.#point(null));
  }

  load(levels, seconds) {
    this.#levels = levels;
    this.seconds = seconds;
    this.cursor = null;
    this.place.setAttribute("aria-label", `Tokens: ${levels.map((level, i) => `${level.length} of level ${i}`).join(", ")}`);
  }

  /** {level, index, code, start, end} of a cell. */
  describe({ level, index }) {
    const width = this.seconds / this.#levels[level].length;
    return { level, index, code: this.#levels[level][index], start: index * width, end: (index + 1) * width };
  }

  draw(view) {
    this.#view = view;
    const surface = prepare(this.canvas);
    const { context, width, height } = surface;
    const dark = isDark();
    const tall = (height + GAP) / this.#levels.length;
    this.#levels.forEach((codes, level) => {
      const wide = ((this.seconds / codes.length) * width) / (view.end - view.start);
      const offset = (view.start / (view.end - view.start)) * width;
      const first = Math.max(0, Math.floor(offset / wide));
      const last = Math.min(codes.length, Math.ceil((offset + width) / wide));
      // Cells narrower than a pixel cannot be told apart: one in a pixel is drawn.
      const step = Math.max(1, Math.floor(1 / wide));
      for (let index = first; index < last; index += step) {
        context.fillStyle = codeColour(codes[index], dark);
        const gap = wide > 4 ? 1 : 0;
        context.fillRect(index * wide - offset, level * tall, Math.max(wide * step - gap, 0.5), tall - GAP);
      }
      if (this.cursor?.level === level) {
        context.strokeStyle = colour("ink");
        context.lineWidth = 2;
        context.strokeRect(this.cursor.index * wide - offset, level * tall + 1, Math.max(wide - 1, 2), tall - GAP - 2);
      }
    });
  }

  #under(event) {
    if (!this.#levels.length) return null;
    const box = this.canvas.getBoundingClientRect();
    const level = Math.min(this.#levels.length - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * this.#levels.length)));
    const seconds = this.#view.start + ((event.clientX - box.left) / box.width) * (this.#view.end - this.#view.start);
    const count = this.#levels[level].length;
    const index = Math.floor((seconds / this.seconds) * count);
    return index >= 0 && index < count ? { level, index } : null;
  }

  #key(event) {
    if (!this.#levels.length) return;
    const now = this.cursor ?? { level: 0, index: 0 };
    const count = this.#levels[now.level].length;
    const to = (level) => {
      const next = Math.max(0, Math.min(this.#levels.length - 1, level));
      return { level: next, index: Math.floor((now.index * this.#levels[next].length) / count) };
    };
    const moves = {
      ArrowRight: () => ({ ...now, index: Math.min(count - 1, now.index + 1) }),
      ArrowLeft: () => ({ ...now, index: Math.max(0, now.index - 1) }),
      ArrowDown: () => to(now.level + 1),
      ArrowUp: () => to(now.level - 1),
      Home: () => ({ ...now, index: 0 }),
      End: () => ({ ...now, index: count - 1 }),
    };
    if (event.key in moves) this.#point(moves[event.key]());
    else if (event.key === "Enter") this.#choose(now);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #point(cell) {
    if (cell?.level === this.cursor?.level && cell?.index === this.cursor?.index) return;
    this.cursor = cell;
    this.draw(this.#view);
    this.dispatchEvent(new CustomEvent("point", { detail: cell && this.describe(cell) }));
  }

  #choose(cell) {
    if (cell) this.dispatchEvent(new CustomEvent("choose", { detail: this.describe(cell) }));
  }
}

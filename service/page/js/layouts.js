// Token layouts, as docs/layouts.md describes them: between the codec's levels and lists of tokens.

const ORPHEUS_BASE = 128266;
const ORPHEUS_SPACING = 4096;
const MINI_OMNI_BASE = 152000;
const MINI_OMNI_SPACING = 4160;

/** <custom_token_0> of the Orpheus vocabulary; the first audio code is <custom_token_10>. */
export const CUSTOM_TOKEN_ZERO = 128256;

/** [level, index within the frame] for each position of a coarse frame: a code, then all beneath it. */
export function depthFirst(codesPerFrame) {
  const order = [];
  const visit = (level, index) => {
    order.push([level, index]);
    if (level + 1 === codesPerFrame.length) return;
    const fan = codesPerFrame[level + 1] / codesPerFrame[level];
    for (let child = index * fan; child < (index + 1) * fan; child++) visit(level + 1, child);
  };
  visit(0, 0);
  return order;
}

/** Codes of each level in a coarse frame, from the lengths of the levels. */
export const framesOf = (levels) => levels.map((level) => level.length / levels[0].length);

export function flatten(levels) {
  const perFrame = framesOf(levels);
  const order = depthFirst(perFrame);
  const flat = [];
  for (let frame = 0; frame < levels[0].length; frame++)
    for (const [level, index] of order) flat.push(levels[level][frame * perFrame[level] + index]);
  return flat;
}

export function unflatten(flat, codesPerFrame) {
  const order = depthFirst(codesPerFrame);
  const levels = codesPerFrame.map(() => []);
  for (let start = 0; start < flat.length; start += order.length)
    order.forEach(([level, index], position) => {
      levels[level][(start / order.length) * codesPerFrame[level] + index] = flat[start + position];
    });
  return levels;
}

const orpheus = (levels) => flatten(levels).map((code, i) => ORPHEUS_BASE + ORPHEUS_SPACING * (i % 7) + code);

function miniOmni(levels) {
  const flat = flatten(levels);
  const frames = levels[0].length;
  return Array.from({ length: 7 }, (_, row) => {
    const offset = MINI_OMNI_BASE + MINI_OMNI_SPACING * row;
    const codes = Array.from({ length: frames }, (_, frame) => offset + flat[7 * frame + row]);
    return [...Array(row + 1).fill(offset + 4097), ...codes, offset + 4096, ...Array(6 - row).fill(offset + 4097)];
  });
}

const seven = (levels) => levels.length === 3;

/** What the page offers: how each is written as text, and whether the model's shape has it. */
export const LAYOUTS = {
  hierarchical: { title: "hierarchical", fits: () => true, tokens: (levels) => levels },
  flat: { title: "flat", fits: () => true, tokens: flatten },
  orpheus: { title: "orpheus", fits: seven, tokens: orpheus, base: ORPHEUS_BASE },
  "mini-omni": { title: "mini-omni", fits: seven, tokens: miniOmni, base: MINI_OMNI_BASE },
  custom: {
    title: "<custom_token_N>",
    fits: seven,
    text: (levels) => orpheus(levels).map((token) => `<custom_token_${token - CUSTOM_TOKEN_ZERO}>`).join(""),
  },
};

/** Levels of tokens in any layout, for drawing; null if they do not fit the model's shape. */
export function levelsOf({ codes, layout = "hierarchical", base }, codesPerFrame) {
  const name = layout.split("/")[0];
  const perFrame = codesPerFrame.reduce((sum, count) => sum + count, 0);
  if (name === "hierarchical") return codes;
  if (name === "mini-omni") {
    const frames = codes[0].length - 8;
    const flat = [];
    for (let frame = 0; frame < frames; frame++)
      codes.forEach((row, j) => flat.push(row[frame + j + 1] - (base ?? MINI_OMNI_BASE) - MINI_OMNI_SPACING * j));
    return unflatten(flat, codesPerFrame);
  }
  if (codes.length % perFrame) return null;
  const offset = (i) => (name === "orpheus" ? (base ?? ORPHEUS_BASE) + ORPHEUS_SPACING * (i % perFrame) : 0);
  return unflatten(codes.map((token, i) => token - offset(i)), codesPerFrame);
}

/** The text of tokens in a layout: what Copy copies. */
export function written(name, levels, answer) {
  const layout = LAYOUTS[name];
  if (layout.text) return layout.text(levels);
  const { num_samples, sample_rate, model } = answer;
  return JSON.stringify({ layout: `${name}/1`, base: layout.base ?? null, codes: layout.tokens(levels), num_samples, sample_rate, model });
}

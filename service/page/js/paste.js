// Reading pasted tokens: which layout they are in is seen from what they look like.

import { CUSTOM_TOKEN_ZERO } from "./layouts.js";
import { Problem } from "./service.js";

const refused = (detail) => Problem.local("not-tokens", "These are no tokens", detail);

/**
 * Return {body, note}: the body of a decode request, and what was made of the text.
 *
 * What tokens mean is left to the service, which checks every one.
 */
export function readTokens(text) {
  const trimmed = text.trim();
  if (!trimmed) throw refused("Nothing was pasted.");
  const custom = [...trimmed.matchAll(/<custom_token_(\d+)>/g)].map((found) => Number(found[1]));
  if (custom.length) {
    const audio = custom.filter((number) => number >= 10);
    const left = custom.length - audio.length;
    return {
      body: { layout: "orpheus", codes: audio.map((number) => CUSTOM_TOKEN_ZERO + number) },
      note: `${audio.length} <custom_token_N>${left ? `, ${left} markers left out` : ""}`,
    };
  }
  const value = parse(trimmed);
  if (Array.isArray(value)) return fromList(value);
  if (value === null || typeof value !== "object" || !Array.isArray(value.codes)) throw refused("The object has no list “codes”.");
  return { body: value, note: `layout ${value.layout ?? "hierarchical"}` };
}

function parse(text) {
  if (/^[\[{]/.test(text)) {
    try {
      return JSON.parse(text);
    } catch (error) {
      throw refused(`The JSON cannot be read: ${error.message}`);
    }
  }
  const words = text.split(/[\s,;]+/).filter(Boolean);
  const wrong = words.find((word) => !/^\d+$/.test(word));
  if (wrong !== undefined) throw refused(`“${wrong.slice(0, 40)}” is no token.`);
  return words.map(Number);
}

function fromList(list) {
  if (!list.length) throw refused("The list is empty.");
  if (list.every(Array.isArray)) {
    const layout = list.length === 7 ? "mini-omni" : "hierarchical";
    return { body: { layout, codes: list }, note: `layout ${layout}` };
  }
  const layout = list.some((token) => token > 4095) ? "orpheus" : "flat";
  return { body: { layout, codes: list }, note: `layout ${layout}` };
}

// Log-mel spectrograms: mel bands over time, in decibels below a common reference.

import { isDark } from "./canvas.js";
import { Spectrum } from "./fft.js";

const SIZE = 1024;
const BANDS = 80;
const RANGE_DB = 72;
const PALETTES = {
  light: [[243, 241, 236], [206, 214, 216], [140, 170, 186], [72, 112, 146], [32, 58, 92], [14, 22, 40]],
  dark: [[13, 15, 17], [30, 41, 58], [64, 78, 108], [133, 118, 128], [214, 158, 120], [255, 233, 196]],
};

const spectrum = new Spectrum(SIZE);
const mel = (hertz) => 2595 * Math.log10(1 + hertz / 700);
const hertz = (value) => 700 * (10 ** (value / 2595) - 1);

/** Triangular filters, as [first bin, weights], evenly spaced in mel up to half the rate. */
function filters(rate) {
  const top = mel(rate / 2);
  const edges = Array.from({ length: BANDS + 2 }, (_, i) => (hertz((top * i) / (BANDS + 1)) * SIZE) / rate);
  return Array.from({ length: BANDS }, (_, band) => {
    const [low, peak, high] = edges.slice(band, band + 3);
    const first = Math.max(0, Math.floor(low));
    const weights = [];
    for (let bin = first; bin <= Math.min(SIZE / 2, Math.ceil(high)); bin++) {
      const weight = bin < peak ? (bin - low) / (peak - low) : (high - bin) / (high - peak);
      weights.push(Math.max(0, weight));
    }
    // The lowest bands are narrower than a bin: they take the nearest one.
    if (weights.every((weight) => weight === 0)) return [Math.min(SIZE / 2, Math.round(peak)), [1]];
    return [first, weights];
  });
}

const made = new Map();

/** Return decibels, column after column, for `columns` moments between `start` and `end` seconds. */
export function logMel(samples, rate, start, end, columns) {
  if (!made.has(rate)) made.set(rate, filters(rate));
  const values = new Float32Array(columns * BANDS);
  for (let column = 0; column < columns; column++) {
    const centre = (start + ((column + 0.5) / columns) * (end - start)) * rate;
    const power = spectrum.at(samples, centre);
    made.get(rate).forEach(([first, weights], band) => {
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += weights[i] * power[first + i];
      values[column * BANDS + band] = 10 * Math.log10(sum + 1e-9);
    });
  }
  return values;
}

/** The loudest value: what 0 dB of a picture is. */
export const loudest = (values) => values.reduce((most, value) => Math.max(most, value), -60);

export function drawSpectrogram({ context, width, height }, values, reference) {
  const columns = values.length / BANDS;
  const image = new ImageData(columns, BANDS);
  const table = palette(isDark() ? PALETTES.dark : PALETTES.light);
  for (let column = 0; column < columns; column++) {
    for (let band = 0; band < BANDS; band++) {
      const level = 1 + (values[column * BANDS + band] - reference) / RANGE_DB;
      const shade = Math.round(255 * Math.max(0, Math.min(1, level)));
      image.data.set(table.subarray(4 * shade, 4 * shade + 4), 4 * ((BANDS - 1 - band) * columns + column));
    }
  }
  const picture = new OffscreenCanvas(columns, BANDS);
  picture.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, width, height);
}

function palette(stops) {
  const table = new Uint8ClampedArray(4 * 256);
  for (let shade = 0; shade < 256; shade++) {
    const place = (shade / 255) * (stops.length - 1);
    const below = Math.min(stops.length - 2, Math.floor(place));
    stops[below].forEach((value, channel) => {
      table[4 * shade + channel] = value + (place - below) * (stops[below + 1][channel] - value);
    });
    table[4 * shade + 3] = 255;
  }
  return table;
}

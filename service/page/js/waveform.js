// Waveforms: the lowest and the highest sample of each column.

export const peakOf = (samples) => samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);

/** Draw the samples of `view`, {start, end} in seconds, with `peak` at the full height. */
export function drawWaveform({ context, width, height }, samples, rate, { start, end }, peak, { ink, line }) {
  const middle = height / 2;
  context.fillStyle = line;
  context.fillRect(0, Math.round(middle), width, 1);
  context.fillStyle = ink;
  const columns = Math.max(1, Math.floor(2 * width));
  const perColumn = ((end - start) * rate) / columns;
  for (let column = 0; column < columns; column++) {
    const first = Math.max(0, Math.floor(start * rate + column * perColumn));
    const last = Math.min(samples.length, Math.ceil(start * rate + (column + 1) * perColumn) + 1);
    if (first >= last) continue;
    let low = Infinity;
    let high = -Infinity;
    for (let i = first; i < last; i++) {
      low = Math.min(low, samples[i]);
      high = Math.max(high, samples[i]);
    }
    const top = middle - (high / peak) * middle;
    const bottom = middle - (low / peak) * middle;
    context.fillRect(column / 2, top, 0.6, Math.max(0.8, bottom - top));
  }
}

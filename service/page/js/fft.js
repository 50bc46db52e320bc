// The power spectrum of real samples: a radix-2 fast Fourier transform of a fixed size.

export class Spectrum {
  constructor(size) {
    this.size = size;
    this.power = new Float32Array(size / 2 + 1);
    this.window = Float64Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
    this.cos = Float64Array.from({ length: size / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / size));
    this.sin = Float64Array.from({ length: size / 2 }, (_, i) => Math.sin((2 * Math.PI * i) / size));
    const bits = Math.log2(size);
    this.reversed = Uint32Array.from({ length: size }, (_, i) => {
      let mirrored = 0;
      for (let bit = 0; bit < bits; bit++) mirrored |= ((i >> bit) & 1) << (bits - 1 - bit);
      return mirrored;
    });
    this.real = new Float64Array(size);
    this.imaginary = new Float64Array(size);
  }

  /** Return the power of `samples` around `centre`, windowed; silence lies beyond both ends. */
  at(samples, centre) {
    const { size, real, imaginary, cos, sin } = this;
    const start = Math.round(centre) - size / 2;
    for (let i = 0; i < size; i++) {
      const place = this.reversed[i];
      real[place] = (samples[start + i] ?? 0) * this.window[i];
      imaginary[place] = 0;
    }
    for (let half = 1; half < size; half *= 2) {
      const stride = size / (2 * half);
      for (let block = 0; block < size; block += 2 * half) {
        for (let k = 0; k < half; k++) {
          const low = block + k;
          const high = low + half;
          const c = cos[k * stride];
          const s = -sin[k * stride];
          const re = real[high] * c - imaginary[high] * s;
          const im = real[high] * s + imaginary[high] * c;
          real[high] = real[low] - re;
          imaginary[high] = imaginary[low] - im;
          real[low] += re;
          imaginary[low] += im;
        }
      }
    }
    for (let bin = 0; bin <= size / 2; bin++) this.power[bin] = real[bin] ** 2 + imaginary[bin] ** 2;
    return this.power;
  }
}

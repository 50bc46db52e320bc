// An audio worklet that hands on what the microphone hears, block by block.

class Capture extends AudioWorkletProcessor {
  process([input]) {
    if (input.length) this.port.postMessage(input[0].slice());
    return true;
  }
}

registerProcessor("capture", Capture);

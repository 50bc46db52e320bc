// Recording from the microphone: as WebM or MP4 if the service reads them, otherwise as WAV.

import { playing } from "./audio.js";
import { Problem } from "./service.js";
import { wavFile } from "./wav.js";

const TYPES = ["audio/webm;codecs=opus", "audio/mp4", "audio/webm"];

/**
 * Start recording.
 *
 * Returns {level(), stop(), type}: the loudest sample of late, and a promise of the recording.
 */
export async function startRecording(serviceReadsThem) {
  const stream = await microphone();
  const context = await playing();
  const source = context.createMediaStreamSource(stream);
  const analyser = new AnalyserNode(context, { fftSize: 1024 });
  source.connect(analyser);
  const window = new Float32Array(analyser.fftSize);
  const type = serviceReadsThem && globalThis.MediaRecorder ? TYPES.find((one) => MediaRecorder.isTypeSupported(one)) : null;
  const finish = type ? asMedia(stream, type) : await asWav(context, source);
  return {
    type: type ?? "audio/wav",
    level() {
      analyser.getFloatTimeDomainData(window);
      return window.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
    },
    async stop() {
      const recording = await finish();
      source.disconnect();
      for (const track of stream.getTracks()) track.stop();
      return recording;
    },
  };
}

async function microphone() {
  if (!navigator.mediaDevices?.getUserMedia)
    throw Problem.local("insecure-page", "No microphone on this page", "The browser keeps the microphone from pages that came over plain HTTP.");
  try {
    return await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
  } catch (error) {
    const missing = error.name === "NotFoundError";
    throw missing
      ? Problem.local("no-microphone", "No microphone was found", "The browser knows of no device that records.")
      : Problem.local("microphone", "The microphone was refused", error.message);
  }
}

function asMedia(stream, mimeType) {
  const recorder = new MediaRecorder(stream, { mimeType, audioBitsPerSecond: 128000 });
  const chunks = [];
  recorder.ondataavailable = (event) => chunks.push(event.data);
  recorder.start(250);
  return () =>
    new Promise((resolve) => {
      recorder.onstop = () => resolve(new Blob(chunks, { type: mimeType.split(";")[0] }));
      recorder.stop();
    });
}

async function asWav(context, source) {
  await context.audioWorklet.addModule(new URL("./capture.js", import.meta.url));
  const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  const blocks = [];
  node.port.onmessage = (event) => blocks.push(event.data);
  source.connect(node);
  return async () => {
    source.disconnect(node);
    // What is under way from the audio thread arrives before this.
    await new Promise((resolve) => setTimeout(resolve, 60));
    const samples = new Float32Array(blocks.reduce((total, block) => total + block.length, 0));
    let at = 0;
    for (const block of blocks) {
      samples.set(block, at);
      at += block.length;
    }
    return wavFile(samples, context.sampleRate);
  };
}

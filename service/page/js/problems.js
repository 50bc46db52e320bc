// Problems in words: what happened, and what to do about it.

import { byId, element } from "./dom.js";
import { Problem } from "./service.js";

const seconds = (value) => (value >= 120 ? `${Math.round(value / 60)} minutes` : `${value} seconds`);

/** What helps against each problem, by the last part of its type. */
const ADVICE = {
  "unreadable-audio": (facts) =>
    "Save the recording as WAV, FLAC, Ogg or MP3 and open that." +
    (facts.reads_browser_recordings ? "" : " This service reads WebM and MP4 only with its extra “media”."),
  "audio-too-long": (facts) =>
    `Cut the recording: one request may hold ${seconds(facts.max_seconds)} of audio here. Whoever runs the service can raise SNAC_MAX_SECONDS.`,
  "too-large": (facts) =>
    `Send a smaller file, for example FLAC in place of WAV: ${Math.floor(facts.max_body_bytes / 2 ** 20)} MiB are the most here.`,
  unauthorized: () => "Enter the key under Keys. It stays in the memory of this page.",
  forbidden: () => "This call is closed to browsers here until the service has an admin key (SNAC_ADMIN_KEY); then enter it under Keys.",
  "token-space": () =>
    "These tokens were made by another encoder and would decode to noise. Serve the model that made them, or encode the recording again with this one.",
  "invalid-codes": () => "Check the place that the message names: codes are whole numbers from 0 to 4095, and each level has twice as many as the one before.",
  "invalid-layout": () => "Check the place that the message names: a token may be missing, or the tokens may be of another layout.",
  "invalid-request": () => "Check the fields that the message names.",
  "malformed-body": () => "Check that what was pasted is complete.",
  "unsupported-media": () => "Send a sound file, or JSON with codes.",
  overloaded: () => "The service is busy. Try again in a moment.",
  "rate-limited": () => "This key or address has used up its share for now. Try again later.",
  "not-ready": () => "The model is being loaded, or the service is stopping. Try again in a moment.",
  "out-of-memory": () => "Send less audio at once, or try again when the device is less busy.",
  "engine-dead": () => "Only a restart of the service helps.",
  deadline: () => "Send less audio at once, or try again when the service is less busy.",
  "slow-client": () => "The upload was too slow. Try a smaller file or a better connection.",
  "reload-failed": () => "The old model still serves. Repair or remove the version that the message names, then reload.",
  network: () => "Check that the service runs and that this computer still reaches it, then try again.",
  microphone: () => "Allow the microphone for this page in the browser, or open a recording instead.",
  "no-microphone": () => "Connect a microphone, or open a recording instead.",
  "insecure-page": () => "Browsers lend the microphone to pages over HTTPS or from this very computer only. Open a recording instead.",
  "browser-cannot-play": () => "The tokens are right all the same. To see the input as well, open it as WAV, FLAC or MP3.",
  "not-tokens": () => "Paste the JSON of an encode answer, lists of codes, Orpheus numbers, or <custom_token_N> text.",
  "stream-ended": () => "Try again; if it happens again, the service's log has the reason.",
  internal: () => "Try again. If it happens again, give the request id to whoever runs the service: its log has the reason.",
};

/**
 * Show a problem inside `place`, or clear it with null.
 *
 * `again`, if given, is what the button "Try again" does.
 */
export function showProblem(place, error, facts, again = null) {
  if (!error) {
    place.replaceChildren();
    return;
  }
  if (!(error instanceof Problem)) {
    console.error(error);
    error = Problem.local("page", "This page failed", String(error?.message ?? error));
  }
  const advice = ADVICE[error.name]?.(facts) ?? "Try again, or reload the page.";
  const actions = element("div", { className: "actions" });
  if (error.name === "unauthorized" || error.name === "forbidden")
    actions.append(button("Enter a key", () => byId("keys-open").click()));
  if (again) actions.append(againButton(error, again));
  place.replaceChildren(
    element(
      "div",
      { className: "trouble" },
      element("strong", { textContent: error.title }),
      element("span", { className: "detail", textContent: error.message }),
      element("span", { textContent: advice }),
      error.requestId ? element("span", { className: "id", textContent: `request ${error.requestId}` }) : null,
      actions.childElementCount ? actions : null,
    ),
  );
}

const button = (words, act) => element("button", { type: "button", textContent: words, onclick: act });

function againButton(error, again) {
  const made = button("Try again", again);
  const until = performance.now() + 1000 * error.retryAfter;
  const count = () => {
    const left = Math.ceil((until - performance.now()) / 1000);
    made.textContent = left > 0 ? `Try again (in ${left} s)` : "Try again";
    if (left > 0 && (made.isConnected || left >= error.retryAfter - 1)) setTimeout(count, 250);
  };
  count();
  return made;
}

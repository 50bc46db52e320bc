// The service from JavaScript, in browsers and in Node: fetch and WebSocket, nothing to install.

/** A problem that the service answered with: its status, and its fields as `problem`. */
export class ProblemError extends Error {
  constructor(problem) {
    super(`${problem.status}: ${problem.detail ?? problem.title}`);
    this.problem = problem;
  }
}

export class SnacClient {
  /**
   * @param {string} url such as http://127.0.0.1:8000
   * @param {string} [key] the service's key, if it wants one
   */
  constructor(url, key) {
    this.url = url.replace(/\/$/, "");
    this.key = key;
  }

  /**
   * The codes of a recording, as the service answers them.
   * @param {Blob | ArrayBuffer | Uint8Array} recording the bytes of an audio file
   * @param {string} [layout] hierarchical, flat, orpheus or mini-omni
   */
  async encode(recording, layout = "hierarchical") {
    const answer = await this.#post(`/v1/encode?layout=${layout}`, recording, {});
    return answer.json();
  }

  /**
   * The audio of what `encode` answered, as the bytes of a file.
   * @param {object} codes
   * @param {string} [type] audio/wav, audio/flac, audio/ogg or audio/pcm
   */
  async decode(codes, type = "audio/wav") {
    const headers = { "Content-Type": "application/json", Accept: type };
    const answer = await this.#post("/v1/decode", JSON.stringify(codes), headers);
    return answer.arrayBuffer();
  }

  /**
   * Decode tokens as they come; yields samples, Float32Array, as soon as they are exact.
   * @param {Iterable | AsyncIterable} tokens numbers or lists, as docs/streaming.md has them
   * @param {string} [layout]
   */
  async *streamDecode(tokens, layout = "hierarchical") {
    const socket = this.#connect(`/v1/stream/decode?layout=${layout}&format=f32le`);
    const results = [];
    let wake = () => {};
    const push = (result) => {
      results.push(result);
      wake();
    };
    socket.onmessage = ({ data }) => {
      if (data instanceof ArrayBuffer) push({ samples: new Float32Array(data) });
      else {
        const said = JSON.parse(data);
        if (said.type === "problem") push({ error: new ProblemError(said.problem) });
        if (said.type === "done") push({ done: true });
      }
    };
    socket.onclose = ({ code }) => push({ error: new Error(`the stream was closed with ${code}`) });
    socket.onopen = async () => {
      try {
        for await (const token of tokens) socket.send(JSON.stringify(token));
        socket.send('{"type": "end"}');
      } catch (error) {
        push({ error });
      }
    };
    try {
      while (true) {
        if (!results.length) await new Promise((resolve) => (wake = resolve));
        const { samples, error, done } = results.shift();
        if (error) throw error;
        if (done) return;
        yield samples;
      }
    } finally {
      socket.close();
    }
  }

  #connect(path) {
    // A browser sets no headers on a WebSocket: the key is a subprotocol.
    const encoded = btoa(this.key ?? "").replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
    const protocols = this.key ? ["snac", `snac.key.${encoded}`] : [];
    const socket = new WebSocket(this.url.replace(/^http/, "ws") + path, protocols);
    socket.binaryType = "arraybuffer";
    return socket;
  }

  async #post(path, body, headers) {
    if (this.key) headers["X-Api-Key"] = this.key;
    const answer = await fetch(this.url + path, { method: "POST", body, headers });
    if (!answer.ok) throw new ProblemError(await answer.json());
    return answer;
  }
}

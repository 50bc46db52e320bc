// The WebSocket protocol, read from the AsyncAPI document.

import { byId, element } from "./dom.js";

const spec = await (await fetch("../asyncapi.json")).json();

const resolve = (reference) => reference.slice(2).split("/").reduce((part, name) => part[name], spec);
const follow = (value) => (value?.$ref ? resolve(value.$ref) : value);

/** JSON on one line where it fits on one. */
function readable(value) {
  const line = JSON.stringify(value).replaceAll(/([:,])(?=["[{\d])/g, "$1 ");
  return line.length <= 90 ? line : JSON.stringify(value, null, 2).replaceAll(/\[\s+([\d,\s]+?)\s+\]/g, (_, list) => `[${list.replaceAll(/\s+/g, " ")}]`);
}

function typeOf(schema) {
  const found = follow(schema);
  if (found.const !== undefined) return JSON.stringify(found.const);
  if (found.enum) return found.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (found.anyOf ?? found.oneOf) return (found.anyOf ?? found.oneOf).map(typeOf).join(" | ");
  if (found.type === "array") return `list of ${typeOf(found.items)}`;
  return found.type ?? "any";
}

function fields(name, schema) {
  const found = follow(schema);
  if (!found.properties) return null;
  const rows = Object.entries(found.properties).map(([field, about]) => {
    const required = found.required?.includes(field);
    const fallback = about.default === undefined ? "–" : JSON.stringify(about.default);
    return element(
      "tr",
      {},
      element("td", { textContent: field }),
      element("td", { textContent: typeOf(about) }),
      element("td", { textContent: required ? "required" : fallback }),
      element("td", { className: "reason", textContent: about.description ?? "" }),
    );
  });
  const heads = ["Field", "Type", "Default", ""].map((words) => words ? element("th", { scope: "col", textContent: words }) : element("td"));
  return element(
    "div",
    { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `Fields of ${name}` },
    element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows)),
  );
}

function message(place, reference) {
  const found = follow(follow(reference));
  const example = found.examples?.[0]?.payload;
  return element(
    "div",
    { className: "message" },
    element("p", { className: "name" }, found.name, element("small", { textContent: found.contentType })),
    element(
      "div",
      {},
      element("p", { textContent: found.summary }),
      example === undefined ? null : element("pre", { className: "code", tabIndex: 0, textContent: readable(example) }),
      fields(`${found.name}, ${place}`, found.payload),
    ),
  );
}

byId("description").textContent = spec.info.description;
const channels = Object.entries(spec.channels).map(([name, channel]) => {
  const part = (action, words) => [
    element("h3", { textContent: words }),
    ...spec.operations[`${name}.${action}`].messages.map((reference) => message(channel.title, reference)),
  ];
  return element(
    "section",
    { className: "channel" },
    element("h2", {}, channel.title, element("code", { textContent: channel.address })),
    ...part("receive", "The client sends"),
    ...part("send", "The service sends"),
  );
});
const closing = element(
  "section",
  { className: "channel" },
  element("h2", { textContent: "Close codes" }),
  ...Object.entries(spec["x-close-codes"]).map(([code, meaning]) =>
    element("div", { className: "message" }, element("p", { className: "name", textContent: code }), element("p", { textContent: meaning })),
  ),
);
byId("channels").replaceChildren(...channels, closing);
document.body.dataset.ready = "true";

// Finding and making elements. Text is always set as text, never as markup.

const LONG = 22;

export const byId = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Fill a <dl> with [term, value, note] triples; long values get room for themselves. */
export function fillFigures(list, figures) {
  list.replaceChildren(
    ...figures
      .filter(([, value]) => value !== null && value !== undefined)
      .map(([term, value, note]) =>
        element(
          "div",
          { className: String(value).length > LONG ? "wide" : "" },
          element("dt", { textContent: term }),
          element("dd", {}, String(value), note ? element("small", { textContent: ` ${note}` }) : null),
        ),
      ),
  );
}

export function download(name, content, type) {
  const blob = content instanceof Blob ? content : new Blob([content], { type });
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** Copy text, and say so on the button for a moment. */
export async function copyFrom(button, text) {
  const words = button.dataset.words ?? button.textContent;
  button.dataset.words = words;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // Browsers have no clipboard for pages that came over plain HTTP from another machine.
    const field = element("textarea", { value: text, className: "hidden" });
    document.body.append(field);
    field.select();
    button.textContent = document.execCommand("copy") ? "Copied" : "Select and copy by hand";
    field.remove();
  }
  setTimeout(() => (button.textContent = words), 1500);
}

export const round = (value, digits = 1) => Number(value).toFixed(digits);

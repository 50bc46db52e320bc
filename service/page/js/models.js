// The models and their states, with reload and roll back for whoever has the admin key.

import { byId, element } from "./dom.js";
import { showProblem } from "./problems.js";
import { listModels, operate } from "./service.js";

export function setUpModels(page) {
  // A list that succeeds takes back only a list's problem: that of a reload keeps its button.
  let listFailed = false;
  const show = async () => {
    try {
      const { models } = await listModels();
      byId("versions").replaceChildren(...models.map(row));
      if (listFailed) showProblem(byId("models-problem"), null);
      listFailed = false;
    } catch (error) {
      listFailed = true;
      showProblem(byId("models-problem"), error, page.facts, show);
    }
  };
  const act = (button, what, said) => async () => {
    const run = async () => {
      button.disabled = true;
      byId("models-said").textContent = "Loading and checking the version …";
      try {
        const model = await operate(what);
        showProblem(byId("models-problem"), null);
        await show();
        await page.refresh();
        byId("models-said").textContent = `${said} ${model.version} is being served.`;
      } catch (error) {
        byId("models-said").textContent = "";
        listFailed = false;
        showProblem(byId("models-problem"), error, page.facts, run);
      }
      button.disabled = false;
    };
    await run();
  };
  byId("reload").onclick = act(byId("reload"), "reload", "Reloaded:");
  byId("rollback").onclick = act(byId("rollback"), "rollback", "Rolled back:");
  byId("refresh").onclick = show;
  return show;
}

function row(model) {
  const cell = (text, className = "") => element("td", { textContent: text ?? "–", className });
  const created = model.created ? model.created.replace("T", " ").slice(0, 19) : null;
  return element(
    "tr",
    {},
    cell(model.version),
    cell(model.state, `state-${model.state}`),
    cell(model.token_space),
    cell(created),
    cell(model.reason ?? "–", "reason"),
  );
}

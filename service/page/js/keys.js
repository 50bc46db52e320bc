// The dialog for keys, which go no further than this page's memory.

import { byId } from "./dom.js";
import { keys } from "./service.js";

export function setUpKeys(changed) {
  const dialog = byId("keys");
  const [api, admin] = [byId("api-key"), byId("admin-key")];
  byId("keys-open").onclick = () => {
    [api.value, admin.value] = [keys.api, keys.admin];
    dialog.showModal();
  };
  const use = (first, second) => {
    [keys.api, keys.admin] = [first.trim(), second.trim()];
    [api.value, admin.value] = ["", ""];
    dialog.close();
    changed();
  };
  byId("keys-form").onsubmit = (event) => {
    event.preventDefault();
    use(api.value, admin.value);
  };
  byId("keys-forget").onclick = () => use("", "");
}

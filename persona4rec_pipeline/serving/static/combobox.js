// A text field with suggestions, as the ARIA practices describe an editable combobox with a list.
//
// Belongs here: keys, the list, what is said of it. Does not belong here: where suggestions come from.
//
// Down and Up walk through the list, Enter takes the marked suggestion or else what was typed, Escape closes the list and then
// empties the field; Alt+Down opens it. The focus stays in the field; `aria-activedescendant` tells which suggestion is marked.

import { isGone } from "./api.js";
import { announce, cut, h, LIMITS, plural, replace } from "./dom.js";

const PAUSE = 120;

/**
 * label: read out, and shown unless `quiet`. suggest: (text, signal) -> [{label, note, group, value}], in the order shown.
 * choose: what happens with a suggestion; type: with what was typed and is none. empty: whether to suggest before anything
 * was typed. nothing: said where there is no suggestion. keep: leave the chosen text in the field.
 */
export function combobox({ id, label, placeholder, quiet = false, suggest, choose, type, empty = false, nothing }) {
  const list = h("div", { class: "options", role: "listbox", id: `${id}-options`, "aria-label": label, hidden: true });
  const note = h("p", { class: "options-note", hidden: true });
  const field = h("input", {
    id,
    type: "text",
    role: "combobox",
    placeholder,
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    enterkeyhint: "go",
    "aria-autocomplete": "list",
    "aria-expanded": "false",
    "aria-controls": `${id}-options`,
  });
  const root = h(
    "div",
    { class: "combobox" },
    h("label", { for: id, class: quiet ? "unseen" : "label" }, label),
    field,
    list,
    note,
  );
  let options = [];
  let marked = -1;
  let request = null;
  let asked = null;
  let due = 0;

  const isOpen = () => field.getAttribute("aria-expanded") === "true";

  function close() {
    clearTimeout(due);
    request?.abort();
    asked = null;
    show([]);
    note.hidden = true;
  }

  function show(found) {
    options = found;
    marked = -1;
    field.removeAttribute("aria-activedescendant");
    const groups = new Map();
    found.forEach((option, place) => {
      const name = option.group ?? "";
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(row(option, place));
    });
    const parts = [...groups].map(([name, rows], number) =>
      name
        ? h(
            "div",
            { role: "group", "aria-labelledby": `${id}-group-${number}` },
            h("div", { class: "options-group", id: `${id}-group-${number}`, role: "presentation" }, name),
            rows,
          )
        : rows,
    );
    replace(list, parts);
    list.hidden = !found.length;
    field.setAttribute("aria-expanded", String(found.length > 0));
  }

  function row(option, place) {
    return h(
      "div",
      {
        role: "option",
        id: `${id}-option-${place}`,
        "aria-selected": "false",
        class: "option",
        on: {
          // The focus stays where it is.
          mousedown: (event) => event.preventDefault(),
          click: () => take(option),
          mousemove: () => mark(place, false),
        },
      },
      h("bdi", { class: "option-label" }, cut(option.label, LIMITS.title)),
      option.note ? h("bdi", { class: "option-note" }, cut(option.note, LIMITS.id)) : null,
    );
  }

  function mark(place, scroll = true) {
    const rows = list.querySelectorAll("[role=option]");
    rows[marked]?.setAttribute("aria-selected", "false");
    marked = place;
    const found = rows[place];
    if (!found) {
      field.removeAttribute("aria-activedescendant");
      return;
    }
    found.setAttribute("aria-selected", "true");
    field.setAttribute("aria-activedescendant", found.id);
    if (scroll) found.scrollIntoView({ block: "nearest" });
  }

  function take(option) {
    field.value = "";
    close();
    choose(option.value);
  }

  async function look() {
    const text = field.value.trim();
    if (document.activeElement !== field || (!text && !empty)) {
      close();
      return;
    }
    if (text === asked && isOpen()) return;
    asked = text;
    request?.abort();
    request = new AbortController();
    try {
      const found = await suggest(text, request.signal);
      if (document.activeElement !== field || text !== field.value.trim()) return;
      show(found);
      note.hidden = found.length > 0;
      note.textContent = found.length ? "" : nothing;
      announce(found.length ? `${plural(found.length, "suggestion")}, walk with the arrow keys` : nothing);
    } catch (error) {
      if (isGone(error)) return;
      show([]);
      note.hidden = false;
      note.textContent = error.message;
      announce(error.message);
    }
  }

  function soon() {
    clearTimeout(due);
    due = setTimeout(look, PAUSE);
  }

  field.addEventListener("input", soon);
  field.addEventListener("focus", () => empty && soon());
  field.addEventListener("click", () => !isOpen() && soon());
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const last = options.length - 1;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!isOpen()) soon();
      else if (event.key === "ArrowDown") mark(marked >= last ? 0 : marked + 1);
      else mark(marked <= 0 ? last : marked - 1);
    } else if (event.key === "Enter") {
      event.preventDefault();
      const text = field.value.trim();
      if (isOpen() && options[marked]) take(options[marked]);
      else if (text && type) {
        field.value = "";
        close();
        type(text);
      } else if (isOpen() && options.length === 1 && text) take(options[0]);
    } else if (event.key === "Escape") {
      if (isOpen() || !note.hidden) close();
      else field.value = "";
    } else if (event.key === "Tab") {
      close();
    }
  });
  return { root, field };
}

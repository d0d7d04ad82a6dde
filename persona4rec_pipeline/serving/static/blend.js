// The effect of the blend: where candidates stood, where they stand now, and how much the personas count.
//
// Belongs here: the slider, the choice of candidates, the drawing of before and after. Does not belong here: requests.

import { cut, h, key, later, LIMITS, plural, replace, s, titleOf, told } from "./dom.js";
import { toItem } from "./route.js";

const PASTED = 200;
// Beyond so many the drawing says nothing; the cards below it say all.
const DRAWN = 40;

/**
 * The panel; `show` brings it to an answer of /v1/rerank. setWeight: called with 0 to 1, or null for as learned. catalogs:
 * gives the names of the catalogues.
 */
export function blendPanel({ setWeight, setCandidates, catalogs }) {
  const slider = h("input", {
    id: "weight",
    type: "range",
    min: "0",
    max: "100",
    step: "5",
    "aria-describedby": "weight-note",
  });
  const value = h("output", { for: "weight", class: "weight-value" });
  const learned = h(
    "button",
    { type: "button", class: "link", on: { click: () => setWeight(null) } },
    "Back to the learned weight",
  );
  const note = h("p", { id: "weight-note", class: "soft" });
  const drawing = h("div", { class: "bump" });
  const field = h("textarea", {
    id: "pasted",
    rows: "4",
    spellcheck: "false",
    placeholder: "B00SMPL014\nbooks/B00SMPL004",
    "aria-describedby": "pasted-note",
  });
  const pastedNote = h(
    "p",
    { id: "pasted-note", class: "soft" },
    "One item id per line, in their own order; with the catalogue in front and a slash if two catalogues share an id.",
  );
  const source = h("p", { class: "soft source" });
  const popular = h(
    "button",
    { type: "button", class: "link", on: { click: () => setCandidates([]) } },
    "Back to the popular items",
  );
  const paste = h(
    "details",
    { class: "more paste" },
    h("summary", {}, "Use another list"),
    h("label", { for: "pasted", class: "label" }, "Candidates"),
    field,
    pastedNote,
    h("button", { type: "button", class: "button", on: { click: usePasted } }, "Reorder these"),
  );

  slider.addEventListener(
    "input",
    later(() => setWeight(Number(slider.value) / 100), 60),
  );
  slider.addEventListener("input", () => say(Number(slider.value) / 100));

  function say(weight) {
    const share = Math.round(weight * 100);
    value.textContent = `${share} % personas`;
    slider.setAttribute("aria-valuetext", `${share} % personas, ${100 - share} % the candidates' own order`);
    slider.style.setProperty("--share", String(weight));
  }

  function usePasted() {
    const given = field.value.trim();
    const lines = given
      .split(given.includes("\n") ? "\n" : ",")
      .map((line) => line.trim())
      .filter(Boolean);
    if (!lines.length) {
      pastedNote.textContent = "Give at least one item id.";
      field.focus();
      return;
    }
    if (lines.length > PASTED) {
      pastedNote.textContent = `That is ${plural(lines.length, "line")}; this page takes ${PASTED} at a time. The API takes more.`;
      field.focus();
      return;
    }
    setCandidates(
      lines.map((line) => {
        const at = line.indexOf("/");
        // An id may hold slashes of its own.
        return at > 0 && catalogs().includes(line.slice(0, at))
          ? { catalog: line.slice(0, at), item_id: line.slice(at + 1) }
          : { catalog: null, item_id: line };
      }),
    );
  }

  const root = h(
    "section",
    { class: "panel blend", "aria-labelledby": "blend-title", hidden: true },
    h("h2", { id: "blend-title" }, "Before and after"),
    source,
    h(
      "div",
      { class: "weight" },
      h("div", { class: "weight-head" }, h("label", { for: "weight" }, "How much the personas count"), value),
      slider,
      h(
        "div",
        { class: "weight-ends", "aria-hidden": "true" },
        h("span", {}, "their own order"),
        h("span", {}, "personas alone"),
      ),
      h("div", { class: "weight-foot" }, note, learned),
    ),
    drawing,
    paste,
  );

  return {
    root,
    show({ answer, weight, isPopular, links }) {
      const hasProfile = answer.weight !== null && answer.weight !== undefined;
      replace(
        source,
        isPopular
          ? `Candidates: the ${plural(answer.candidates.length, "most popular item", "most popular items")}, in the order of their popularity.`
          : [`Candidates: ${plural(answer.candidates.length, "item")} that you gave. `, popular],
      );
      slider.disabled = !hasProfile;
      // While it is being moved, an answer to an earlier place must not move it back.
      if (document.activeElement !== slider || weight === null) {
        const current = hasProfile ? answer.weight : 0;
        slider.value = String(Math.round(current * 100));
        say(current);
      }
      learned.hidden = weight === null || !hasProfile;
      note.textContent = hasProfile
        ? weight === null
          ? "As learned for lists like this one."
          : "Set by you."
        : "Without a profile there is nothing to blend.";
      draw(drawing, answer.candidates, links);
    },
  };
}

/** Two columns of titles with a line from each place before to the place now. */
function draw(root, entries, links) {
  const shown = entries.slice(0, DRAWN);
  if (shown.some((entry) => !entry.candidate_place)) {
    replace(root);
    return;
  }
  // Of a list that is cut, places before are those among the entries shown.
  const before = [...shown].sort((one, other) => one.candidate_place - other.candidate_place);
  const rank = new Map(before.map((entry, at) => [key(entry), at]));
  const height = 10;
  const lines = s(
    "svg",
    {
      class: "bump-lines",
      viewBox: `0 0 100 ${shown.length * height}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    },
    shown.map((entry, at) => {
      const from = (rank.get(key(entry)) + 0.5) * height;
      const to = (at + 0.5) * height;
      const way = from > to ? "risen" : from < to ? "fallen" : "same";
      return s("path", {
        d: `M0 ${from}C50 ${from} 50 ${to} 100 ${to}`,
        class: `bump-line ${way}`,
        "data-key": key(entry),
      });
    }),
  );
  const light = (on) => (event) => {
    const name = event.currentTarget.dataset.key;
    for (const one of root.querySelectorAll("[data-key]")) one.classList.toggle("lit", on && one.dataset.key === name);
    root.classList.toggle("some-lit", on);
  };
  const row = (entry, number, isNow) => {
    const title = told(titleOf(entry), LIMITS.title);
    const moved = entry.candidate_place - (shown.indexOf(entry) + 1);
    const word = moved > 0 ? "risen" : moved < 0 ? "fallen" : "same";
    return h(
      "li",
      {
        class: isNow ? `bump-row ${word}` : "bump-row",
        "data-key": key(entry),
        on: { mouseenter: light(true), mouseleave: light(false), focusin: light(true), focusout: light(false) },
      },
      h("span", { class: "bump-place" }, String(number)),
      isNow && entry.catalog
        ? h("a", { href: toItem(entry, links) }, title)
        : h("span", { class: "bump-title" }, title),
      isNow && moved
        ? h(
            "span",
            { class: `bump-moved ${word}` },
            h("span", { "aria-hidden": "true" }, `${moved > 0 ? "▲" : "▼"}${Math.abs(moved)}`),
            h("span", { class: "unseen" }, `${word} by ${Math.abs(moved)}`),
          )
        : null,
    );
  };
  replace(
    root,
    h(
      "div",
      {},
      h("h3", {}, "Their own order"),
      h(
        "ol",
        { class: "bump-column" },
        before.map((entry) => row(entry, entry.candidate_place, false)),
      ),
    ),
    lines,
    h(
      "div",
      {},
      h("h3", {}, "For this user"),
      h(
        "ol",
        { class: "bump-column" },
        shown.map((entry, at) => row(entry, at + 1, true)),
      ),
    ),
    entries.length > DRAWN ? h("p", { class: "soft" }, `The first ${DRAWN} of ${cut(entries.length, 12)}.`) : null,
  );
}

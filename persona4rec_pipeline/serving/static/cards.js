// What stands for an item in a list, and for a persona.
//
// Belongs here: cards, the comparison of personas, marks of rise and fall. Does not belong here: requests, lists.

import { cut, h, key, LIMITS, plural, s, score, titleOf, told, withoutQuotes } from "./dom.js";
import { toItem } from "./route.js";

export const POLARITIES = {
  appreciative: { name: "Appreciative", note: "what people take to it for" },
  mixed: { name: "Of two minds", note: "what draws people and gives them pause" },
  critical: { name: "Critical", note: "what put people off; it never makes a recommendation" },
};

const SOURCES = {
  llm: "written by a language model from its reviews",
  extractive: "drawn from its reviews",
  summary: "drawn from the item's own description",
};

/** The sign of a polarity: a shape besides its colour. */
export function sign(polarity) {
  const shapes = {
    appreciative: s("circle", { cx: 8, cy: 8, r: 5.5 }),
    mixed: s("path", { d: "M8 1.5 14.5 8 8 14.5 1.5 8z" }),
    critical: s("path", { d: "M1.5 3h13L8 14.5z" }),
  };
  return s(
    "svg",
    { viewBox: "0 0 16 16", class: `sign ${polarity in shapes ? polarity : ""}`, "aria-hidden": "true" },
    shapes[polarity],
  );
}

export function quotations(quotes, limit = quotes.length) {
  const one = (quote) => h("blockquote", { class: "quote", dir: "auto" }, h("p", {}, cut(quote, LIMITS.quote)));
  const rest = quotes.slice(limit);
  return [
    quotes.slice(0, limit).map(one),
    rest.length
      ? h("details", { class: "more" }, h("summary", {}, plural(rest.length, "more quote")), rest.map(one))
      : null,
  ];
}

/**
 * A place in a list and how it came about. place: from 1. before: the place in the order that it is compared with, null for
 * an item that was not in it; undefined: there is none.
 */
export function place(place, before) {
  return h(
    "div",
    { class: "place" },
    h("span", { class: "place-number" }, String(place)),
    before === undefined ? null : movement(place, before),
  );
}

function movement(place, before) {
  if (before === null) return h("span", { class: "moved new" }, "new");
  const by = before - place;
  if (!by)
    return h(
      "span",
      { class: "moved same" },
      h("span", { "aria-hidden": "true" }, "="),
      h("span", { class: "unseen" }, "same place"),
    );
  const word = by > 0 ? "risen" : "fallen";
  return h(
    "span",
    { class: `moved ${word}` },
    h("span", { "aria-hidden": "true" }, `${by > 0 ? "▲" : "▼"} ${Math.abs(by)}`),
    h("span", { class: "unseen" }, `${word} by ${Math.abs(by)}, `),
    h("small", {}, `was ${before}`),
  );
}

/** A card of an entry of a list; `links`: what its link carries on. The part with the class `closeness` waits for `compare`. */
export function card(entry, number, before, links) {
  const quotes = entry.quotes ?? [];
  const link = h("a", { href: toItem(entry, links), class: "card-title" }, told(titleOf(entry), LIMITS.title));
  const known = entry.catalog !== null && !entry.flags?.includes("unknown_item");
  return h(
    "li",
    { class: "card", "data-key": key(entry) },
    place(number, before),
    h(
      "div",
      { class: "card-body" },
      h(
        "div",
        { class: "card-head" },
        h("h3", {}, known ? link : told(titleOf(entry), LIMITS.title)),
        h(
          "p",
          { class: "facts" },
          entry.catalog ? h("span", { class: "tag of-catalog" }, told(entry.catalog, LIMITS.id)) : null,
          entry.title && entry.title !== entry.item_id ? null : h("span", {}, "no title"),
        ),
      ),
      entry.persona_name ? h("p", { class: "persona" }, told(entry.persona_name, LIMITS.name)) : null,
      h("p", { class: "reason", dir: "auto" }, cut(withoutQuotes(entry.why, quotes), LIMITS.reason)),
      quotations(quotes, 2),
    ),
    entry.persona_id === null || entry.persona_id === undefined
      ? null
      : h(
          "div",
          { class: "closeness", "aria-busy": "true" },
          h("p", { class: "skeleton line" }),
          h("p", { class: "skeleton line" }),
          h("p", { class: "skeleton line" }),
        ),
  );
}

/** Winner, runner-up and what speaks against an item, side by side; `found`: an answer of /v1/explain. */
export function comparison(found) {
  const rows = [
    ["Best match", found.winner],
    ["Runner-up", found.runner_up],
    ["Speaks against it", found.nearest_critical],
  ].filter(([, persona]) => persona);
  return [
    h("h4", { class: "closeness-title" }, "How close"),
    h(
      "dl",
      { class: "bars" },
      rows.map(([role, persona], number) => [
        h(
          "dt",
          {},
          h("span", { class: "bar-role" }, role),
          h("span", { class: "bar-name" }, sign(persona.polarity), told(persona.name, LIMITS.name)),
        ),
        h("dd", {}, bar(persona, number === 0), h("span", { class: "bar-number" }, score(persona.score))),
      ]),
    ),
    h("p", { class: "verdict" }, verdict(found)),
  ];
}

function bar(persona, isWinner) {
  const share = Math.min(Math.max(persona.score ?? 0, 0), 1);
  return h("span", {
    class: `bar ${persona.polarity}${isWinner ? " winner" : ""}`,
    "aria-hidden": "true",
    vars: { "--share": share },
  });
}

// Of the numbers as they are shown: their difference is one that a reader can follow.
const between = (one, other) => (Math.round(one.score * 100) - Math.round(other.score * 100)) / 100;

/** The comparison in a sentence. */
function verdict({ winner, runner_up: second, nearest_critical: against }) {
  if (!winner)
    return against ? "Only critical personas: it is recommended to nobody." : "No persona speaks for this item.";
  const sentences = [];
  if (!second) sentences.push("The only persona that speaks for it.");
  else {
    const gap = between(winner, second);
    if (gap < 0.02) sentences.push(`A close call: the runner-up is ${score(gap)} behind.`);
    else if (gap < 0.08) sentences.push(`Ahead of the runner-up by ${score(gap)}.`);
    else sentences.push(`Clearly ahead of the runner-up, by ${score(gap)}.`);
  }
  if (against) {
    const gap = between(winner, against);
    sentences.push(
      gap < 0 ? `Its critics are nearer still, by ${score(-gap)}.` : `Its critics are farther away, by ${score(gap)}.`,
    );
  }
  return sentences.join(" ");
}

/** A persona of an item, as a card of its own. */
export function personaCard(persona, role) {
  const reviews = (persona.evidence_review_ids ?? []).length;
  const facts = [reviews ? `from ${plural(reviews, "review")}` : null, SOURCES[persona.source]]
    .filter(Boolean)
    .join(" · ");
  return h(
    "li",
    { class: `persona-card ${persona.polarity}` },
    role ? h("p", { class: "role" }, role) : null,
    h("h4", {}, sign(persona.polarity), told(persona.name, LIMITS.name)),
    h("p", { class: "reason", dir: "auto" }, cut(withoutQuotes(persona.why, persona.quotes), LIMITS.reason)),
    quotations(persona.quotes, 2),
    persona.description
      ? h(
          "details",
          { class: "more" },
          h("summary", {}, "Who they are"),
          h("p", { dir: "auto" }, cut(withoutQuotes(persona.description, persona.quotes), LIMITS.description)),
        )
      : null,
    facts ? h("p", { class: "facts" }, facts) : null,
  );
}

/** A problem in the place of what it kept from being shown. */
export function failure(problem, again) {
  return h(
    "div",
    { class: "notice wrong", role: "alert" },
    h("h2", {}, problem.title ?? "That did not work"),
    h("p", {}, cut(problem.message, 600)),
    again ? h("button", { class: "button", type: "button", on: { click: again } }, "Try again") : null,
  );
}

/** Where something will stand. */
export function skeletons(count, kind = "card") {
  return Array.from({ length: count }, () =>
    h(
      "li",
      { class: `${kind} waiting`, "aria-hidden": "true" },
      h("div", { class: "skeleton block" }),
      h(
        "div",
        { class: "card-body" },
        h("p", { class: "skeleton line wide" }),
        h("p", { class: "skeleton line" }),
        h("p", { class: "skeleton line" }),
      ),
    ),
  );
}

// Where one begins: choosing a user; and what was found for words that were typed.
//
// Belongs here: these two views. Does not belong here: the search box at the top (`app`).

import * as api from "./api.js";
import { failure } from "./cards.js";
import { combobox } from "./combobox.js";
import { miniature } from "./map_view.js";
import { announce, day, h, LIMITS, plural, replace, titleOf, told } from "./dom.js";
import { go, toItem, toMap, toUser } from "./route.js";

const EXAMPLES = 6;
const DRAWN = 700;
const FOUND = 20;

export function homeView(route, { signal, readiness }) {
  const picker = combobox({
    id: "user",
    label: "Choose or type a user",
    placeholder: "User id",
    empty: true,
    suggest: async (text, of) => (await api.users(text, 12, { signal: of })).map((id) => ({ label: id, value: id })),
    choose: (id) => go(toUser(id)),
    type: (id) => go(toUser(id)),
    nothing: "No user's id begins like this. Enter shows what a stranger is shown.",
  });
  const examples = h("div", { class: "examples" });
  const picture = h("div", { class: "picture" });
  const figures = h("dl", { class: "figures" });
  const element = h(
    "div",
    { class: "home-view" },
    h(
      "section",
      { class: "hero" },
      h("h1", {}, "The right item, and the people who say why."),
      h(
        "p",
        { class: "lead" },
        "Every item is known by the personas of those who reviewed it. Choose a user to see what they would take to next, the persona that speaks for it, and the words it rests on.",
      ),
      picker.root,
      examples,
    ),
    picture,
    figures,
    h(
      "section",
      { class: "ways", "aria-label": "What there is to see" },
      way(
        "Ranked, with reasons",
        "Each place in a list names the persona that won it, its reason, quotes from reviews, and how close the runner-up came.",
      ),
      way(
        "Before and after",
        "Put your own candidates in a user's order, and move the weight between their order and the personas.",
      ),
      way("What if", "Add an item that they might have liked, and see the list change in the blink of an eye."),
    ),
    h(
      "p",
      { class: "soft closing" },
      h("a", { href: toMap() }, "See all personas on a map"),
      ", or look for an item in the search box above.",
    ),
  );

  function way(name, text) {
    return h("div", { class: "way" }, h("h2", {}, name), h("p", {}, text));
  }

  async function showExamples() {
    try {
      const found = await api.users("", EXAMPLES, { signal });
      if (!found.length) {
        replace(examples, h("p", { class: "soft" }, "The index holds no user with a profile yet."));
        return;
      }
      const notes = found.map(() => h("span", { class: "soft" }, h("span", { class: "skeleton line" })));
      replace(
        examples,
        h("p", { class: "soft", id: "examples-title" }, "For example"),
        h(
          "ul",
          { class: "example-list", "aria-labelledby": "examples-title" },
          found.map((id, at) =>
            h("li", {}, h("a", { href: toUser(id), class: "example" }, h("strong", {}, told(id, 22)), notes[at])),
          ),
        ),
      );
      await Promise.all(
        found.map(async (id, at) => {
          const [best] = (await api.recommend(id, { k: 1 }, { signal })).recommendations;
          replace(notes[at], best ? told(best.persona_name ?? titleOf(best), 60) : "");
        }),
      );
    } catch (error) {
      if (!api.isGone(error)) replace(examples, failure(error, showExamples));
    }
  }

  async function showFigures() {
    const found = await readiness();
    if (!found?.catalogs || signal.aborted) return;
    const counts = Object.values(found.catalogs);
    const sum = (name) => counts.reduce((total, one) => total + (one[name] ?? 0), 0);
    const figure = (name, value, note) =>
      h(
        "div",
        {},
        h("dt", {}, name),
        h("dd", {}, typeof value === "number" ? value.toLocaleString("en") : value),
        note ? h("dd", { class: "soft" }, note) : null,
      );
    replace(
      figures,
      figure("Items", sum("items"), `in ${plural(counts.length, "catalogue")}`),
      figure("Personas", sum("personas"), "of their reviewers"),
      typeof found.users === "number" ? figure("Users", found.users, "with a profile") : null,
      figure("Generation", found.generation, found.published_at ? `published ${day(found.published_at)}` : null),
    );
  }

  async function showPicture() {
    // Where there is no room for it, it is not asked for.
    if (!matchMedia("(min-width: 64rem)").matches) return;
    try {
      const { points } = await api.personaMap(null, DRAWN, { signal });
      if (points.length > 2)
        replace(picture, h("a", { href: toMap(), "aria-label": "See all personas on a map" }, miniature(points)));
    } catch (error) {
      if (!api.isGone(error)) picture.remove();
    }
  }

  // A key, where one is required, is asked for by the first of them, and known to the next.
  showExamples().then(showFigures);
  showPicture();
  return { element, title: "Explorer" };
}

export function searchView(route, { signal, titles }) {
  const { words } = route;
  const users = h("section", { class: "panel" }, h("h2", {}, "Users"), h("p", { class: "skeleton line" }));
  const items = h("section", { class: "panel" }, h("h2", {}, "Items"), h("p", { class: "skeleton line" }));
  const element = h(
    "div",
    { class: "search-view" },
    h(
      "header",
      { class: "view-head" },
      h("p", { class: "eyebrow" }, "Search"),
      h("h1", {}, "“", told(words, LIMITS.id), "”"),
    ),
    h("div", { class: "halves" }, items, users),
  );

  async function show() {
    try {
      const [foundItems, foundUsers] = await Promise.all([
        api.items(words, FOUND, { signal }),
        api.users(words, FOUND, { signal }),
      ]);
      for (const item of foundItems) titles.set(JSON.stringify([item.catalog, item.item_id]), titleOf(item));
      replace(
        items,
        h("h2", {}, "Items"),
        foundItems.length
          ? h(
              "ul",
              { class: "plain" },
              foundItems.map((item) =>
                h(
                  "li",
                  {},
                  h("a", { href: toItem(item) }, told(titleOf(item), LIMITS.title)),
                  h("span", { class: "tag of-catalog" }, told(item.catalog, LIMITS.id)),
                ),
              ),
            )
          : h("p", { class: "soft" }, "No item has this in its title."),
      );
      replace(
        users,
        h("h2", {}, "Users"),
        foundUsers.length
          ? h(
              "ul",
              { class: "plain" },
              foundUsers.map((id) => h("li", {}, h("a", { href: toUser(id) }, told(id, LIMITS.id)))),
            )
          : h("p", { class: "soft" }, "No user's id begins like this."),
        foundUsers.includes(words)
          ? null
          : h("p", {}, h("a", { href: toUser(words) }, "See what a stranger of this name is shown")),
      );
      announce(`${plural(foundItems.length, "item")}, ${plural(foundUsers.length, "user")}.`);
    } catch (error) {
      if (api.isGone(error)) return;
      replace(items, failure(error, show));
      replace(users);
    }
  }

  show();
  return { element, title: "Search" };
}

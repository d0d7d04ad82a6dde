// An item: all its personas by polarity, how it fits a user, and items like it.
//
// Belongs here: what is asked for an item and where it goes. Does not belong here: how a persona looks (`cards`).

import * as api from "./api.js";
import { comparison, failure, personaCard, POLARITIES, sign, skeletons } from "./cards.js";
import { combobox } from "./combobox.js";
import { announce, cut, h, key, LIMITS, plural, replace, score, titleOf, told } from "./dom.js";
import { go, toItem, toUser } from "./route.js";

const SIMILAR = 6;

const NO_PROFILE = {
  unknown_user: "The index does not know this user, so there is no profile to compare with.",
  no_positive_history: "This user has nothing in the history that they liked, so there is no profile to compare with.",
};

export function itemView(route, { signal, titles }) {
  const { item, user, liked } = route;
  const heading = h("h1", { dir: "auto" }, cut(titles.get(key(item)) ?? item.item_id, LIMITS.title));
  const facts = h("p", { class: "facts" }, "…");
  const summary = h("p", { class: "summary", dir: "auto" });
  const fit = h("section", { class: "panel fit", "aria-label": "How it fits a user" });
  const groups = h("div", { class: "groups" }, h("ul", { class: "persona-cards" }, skeletons(2, "persona-card")));
  const alike = h("section", { class: "panel" }, h("h2", {}, "Items like it"), h("p", { class: "skeleton line" }));
  const element = h(
    "div",
    { class: "item-view" },
    h(
      "header",
      { class: "view-head" },
      user
        ? h("p", { class: "eyebrow" }, h("a", { href: toUser(user, { liked }) }, "← Back to ", told(user, 40)))
        : h("p", { class: "eyebrow" }, "Item"),
      heading,
      facts,
      summary,
    ),
    h(
      "div",
      { class: "columns turned" },
      h("div", { class: "middle" }, groups),
      h("aside", { class: "side", "aria-label": "Fit and similar items" }, fit, alike),
    ),
  );

  let personas = null;
  // What a persona is to the user, by its id.
  const roles = {};

  function showGroups() {
    if (!personas) return;
    replace(
      groups,
      h("h2", {}, personas.length ? `${plural(personas.length, "persona")} of its reviewers` : "No personas"),
      personas.length
        ? Object.keys(POLARITIES).map(group)
        : h("p", { class: "notice" }, "No review of this item says who it is for, and so it is recommended to nobody."),
    );
  }

  async function showPersonas() {
    try {
      const answer = await api.personas(item, { signal });
      const { title, item_id, catalog, summary: said, train_popularity: popularity, categories } = answer.item;
      titles.set(key(item), titleOf(answer.item));
      heading.textContent = cut(title || item_id, LIMITS.title);
      document.title = `${cut(title || item_id, 60)} · persona4rec`;
      replace(
        facts,
        h("span", { class: "tag of-catalog" }, told(catalog, LIMITS.id)),
        h("span", {}, told(item_id, LIMITS.id)),
        typeof popularity === "number" ? h("span", {}, `liked by ${popularity.toLocaleString("en")}`) : null,
        (categories ?? []).slice(0, 6).map((category) => h("span", { class: "tag" }, told(category, 60))),
      );
      summary.textContent = cut(said, 900);
      personas = answer.personas;
      showGroups();
      announce(`${cut(titleOf(answer.item), 80)}: ${plural(personas.length, "persona")}.`);
    } catch (error) {
      if (api.isGone(error)) return;
      replace(facts);
      replace(groups, failure(error, error.status === 404 ? null : showPersonas));
      fit.hidden = error.status === 404;
      alike.hidden = error.status === 404;
    }
  }

  function group(polarity) {
    const own = personas.filter((persona) => persona.polarity === polarity);
    const { name, note } = POLARITIES[polarity];
    return h(
      "section",
      { class: `group ${polarity}`, "aria-labelledby": `group-${polarity}` },
      h("h3", { id: `group-${polarity}` }, sign(polarity), name, h("span", { class: "count" }, String(own.length))),
      h(
        "p",
        { class: "soft" },
        own.length ? `${note[0].toUpperCase()}${note.slice(1)}.` : "Nobody among its reviewers.",
      ),
      own.length
        ? h(
            "ul",
            { class: "persona-cards" },
            own.map((persona) => personaCard(persona, roles[persona.persona_id])),
          )
        : null,
    );
  }

  async function showFit() {
    if (!user) {
      const picker = combobox({
        id: "fit-user",
        label: "How does it fit a user?",
        placeholder: "User id",
        empty: true,
        suggest: async (text, of) => (await api.users(text, 8, { signal: of })).map((id) => ({ label: id, value: id })),
        choose: (id) => go(toItem(item, { user: id })),
        type: (id) => go(toItem(item, { user: id })),
        nothing: "No user's id begins like this.",
      });
      replace(fit, picker.root);
      return;
    }
    const links = [
      h(
        "a",
        { class: "button", href: toUser(user, { liked: [item, ...liked.filter((one) => key(one) !== key(item))] }) },
        "What if they liked it?",
      ),
      h("a", { href: toItem(item) }, "Without a user"),
    ];
    replace(
      fit,
      h("h2", {}, "How it fits"),
      h("p", { class: "facts" }, told(user, 40)),
      h("p", { class: "skeleton line" }),
      h("p", { class: "skeleton line wide" }),
    );
    try {
      const found = await api.explain(user, item, liked, { signal });
      const compared = found.winner || found.nearest_critical;
      for (const [role, persona] of [
        ["Nearest of the critics", found.nearest_critical],
        ["Runner-up for this user", found.runner_up],
        ["Best match for this user", found.winner],
      ]) {
        if (persona) roles[persona.persona_id] = role;
      }
      showGroups();
      replace(
        fit,
        h("h2", {}, "How it fits"),
        h("p", { class: "facts" }, told(user, 40)),
        compared
          ? h("div", { class: "closeness" }, comparison(found))
          : h("p", { class: "soft" }, NO_PROFILE[found.fallback] ?? "There is nothing to compare."),
        liked.length ? h("p", { class: "soft" }, `With ${plural(liked.length, "item")} of your what-if.`) : null,
        h("div", { class: "row" }, links),
      );
    } catch (error) {
      if (api.isGone(error)) return;
      replace(
        fit,
        h("h2", {}, "How it fits"),
        h("p", { class: "facts" }, told(user, 40)),
        h("p", { class: "soft" }, cut(error.message, 400)),
        h("div", { class: "row" }, links),
      );
    }
  }

  async function showSimilar() {
    try {
      const found = await api.similar(item, SIMILAR, { signal });
      for (const entry of found) titles.set(key(entry), titleOf(entry));
      replace(
        alike,
        h("h2", {}, "Items like it"),
        found.length
          ? h(
              "ol",
              { class: "alike" },
              found.map((entry) =>
                h(
                  "li",
                  {},
                  h("a", { href: toItem(entry, { user, liked }) }, told(titleOf(entry), LIMITS.title)),
                  h(
                    "span",
                    { class: "soft" },
                    entry.persona_name ? ["shares ", told(entry.persona_name, LIMITS.name)] : null,
                  ),
                  h("span", { class: "bar-number", title: "Cosine of their nearest personas" }, score(entry.score)),
                ),
              ),
            )
          : h("p", { class: "soft" }, "Nothing else in the catalogue is like it."),
      );
    } catch (error) {
      if (api.isGone(error)) return;
      replace(alike, h("h2", {}, "Items like it"), h("p", { class: "soft" }, cut(error.message, 400)));
    }
  }

  showPersonas();
  showFit();
  showSimilar();
  return { element, title: cut(titles.get(key(item)) ?? item.item_id, 60) };
}

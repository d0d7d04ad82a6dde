// A user: history, the ranked list with its reasons, a what-if, and candidates in the user's order before and after.
//
// Belongs here: what is asked for a user and where it goes. Does not belong here: cards (`cards`), the panel of the blend (`blend`).

import * as api from "./api.js";
import { blendPanel } from "./blend.js";
import { card, comparison, failure, skeletons } from "./cards.js";
import { combobox } from "./combobox.js";
import { announce, cut, day, h, key, later, LIMITS, mayMove, plural, replace, titleOf, told } from "./dom.js";
import { go, toItem, toMap, toUser } from "./route.js";

const FIRST_K = 10;
const MAX_K = 50;
const CANDIDATES = 20;
const COMPARISONS_AT_A_TIME = 4;
// What-ifs are compared with a list this long: an item from behind its end is new.
const BASELINE_K = 50;

const FALLBACKS = {
  unknown_user:
    "The index does not know this user, so there is no profile to match. These are the items that most people liked.",
  no_positive_history:
    "This user has a history, but nothing in it that they liked, so there is no profile to match. These are the items that most people liked.",
  no_profile: "There is no profile to match. These are the items that most people liked.",
  session: "The index does not know this user. The list follows the items that you added, and nothing else.",
};
const KEPT = {
  unknown_user: "The index does not know this user, so the candidates stay in their own order.",
  no_positive_history:
    "This user has nothing in the history that they liked, so the candidates stay in their own order.",
  no_profile: "There is no profile, so the candidates stay in their own order.",
  session: "The index does not know this user. The order follows the items that you added.",
};

/** The view of `route`, a user's; `update` shows another route of the same user without starting anew. */
export function userView(route, { signal, titles, catalogs }) {
  let shown = route;
  let k = FIRST_K;
  let popular = null;
  let round = 0;
  // Which of the items added takes over the focus of one that was taken away.
  let refocus = null;
  const explained = new Map();
  const userId = route.id;
  const known = (item) => titles.get(key(item)) ?? item.title ?? item.item_id;

  const history = h(
    "div",
    { class: "history" },
    h("p", { class: "skeleton line wide" }),
    h("p", { class: "skeleton line" }),
  );
  const chips = h("ul", { class: "chips", "aria-label": "Items added" });
  const effect = h("p", { class: "effect" });
  const picker = combobox({
    id: "what-if",
    label: "What if they also liked …",
    placeholder: "Title of an item",
    suggest: async (text, of) =>
      (await api.items(text, 8, { signal: of })).map((item) => ({
        label: titleOf(item),
        note: item.catalog,
        value: item,
      })),
    choose: add,
    nothing: "No item has this in its title.",
  });
  const tabs = h("nav", { class: "tabs", "aria-label": "Lists" });
  const banner = h("div", { "aria-live": "polite" });
  const blend = blendPanel({
    setWeight: (weight) => move({ weight }, { quietly: true }),
    setCandidates: (candidates) => move({ candidates }),
    catalogs,
  });
  const heading = h("h2", { id: "list-title" });
  const lead = h("p", { class: "soft lead" });
  const list = h("ol", { class: "cards", "aria-labelledby": "list-title" });
  const under = h("div", { class: "under" });
  const facts = h("p", { class: "facts" }, "…");

  const element = h(
    "div",
    { class: "user-view" },
    h(
      "header",
      { class: "view-head" },
      h("p", { class: "eyebrow" }, "User"),
      h("h1", { class: userId.length > 16 ? "id long" : "id" }, told(userId, LIMITS.id)),
      facts,
    ),
    h(
      "div",
      { class: "columns" },
      h(
        "aside",
        { class: "side", "aria-label": "History and what-if" },
        h("section", { class: "panel what-if" }, h("h2", {}, "What if"), picker.root, chips, effect),
        h("section", { class: "panel" }, h("h2", {}, "What they liked"), history),
      ),
      h("div", { class: "middle" }, tabs, banner, blend.root, h("section", {}, heading, lead, list, under)),
    ),
  );

  // Comparisons are asked for as their cards come into view, a few at a time.
  const waiting = [];
  let running = 0;
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((one) => one.isIntersecting)) {
        watcher.unobserve(entry.target);
        waiting.push(entry.target);
      }
      next();
    },
    { rootMargin: "200px" },
  );
  signal.addEventListener("abort", () => watcher.disconnect());

  function next() {
    while (running < COMPARISONS_AT_A_TIME && waiting.length) {
      const target = waiting.shift();
      if (!target.isConnected) continue;
      running += 1;
      compare(target).finally(() => {
        running -= 1;
        next();
      });
    }
  }

  async function compare(target) {
    const { item, liked } = target.subject;
    const name = JSON.stringify([key(item), liked.map(key)]);
    try {
      if (!explained.has(name)) explained.set(name, await api.explain(userId, item, liked, { signal }));
      replace(target, comparison(explained.get(name)));
    } catch (error) {
      if (api.isGone(error)) return;
      replace(target, h("p", { class: "soft" }, cut(error.message, 300)));
    }
    target.removeAttribute("aria-busy");
  }

  function move(changes, how) {
    go(toUser(userId, { ...shown, ...changes }), how);
  }

  function add(item) {
    titles.set(key(item), titleOf(item));
    if (shown.liked.some((one) => key(one) === key(item))) return;
    move({ liked: [{ catalog: item.catalog, item_id: item.item_id }, ...shown.liked] });
  }

  function remove(item, number) {
    refocus = number;
    move({ liked: shown.liked.filter((one) => key(one) !== key(item)) });
  }

  function showFrame() {
    const links = [
      ["list", "From the whole catalogue"],
      ["reorder", "A list of candidates, reordered"],
    ];
    replace(
      tabs,
      links.map(([mode, name]) =>
        h("a", { href: toUser(userId, { ...shown, mode }), "aria-current": shown.mode === mode ? "page" : null }, name),
      ),
    );
    replace(
      chips,
      shown.liked.map((item, number) =>
        h(
          "li",
          { class: "chip" },
          told(known(item), LIMITS.title),
          h(
            "button",
            { type: "button", on: { click: () => remove(item, number) } },
            h("span", { "aria-hidden": "true" }, "×"),
            h("span", { class: "unseen" }, "Remove ", cut(known(item), LIMITS.title)),
          ),
        ),
      ),
    );
    chips.hidden = !shown.liked.length;
    if (refocus !== null) {
      const left = chips.querySelectorAll("button");
      (left[Math.min(refocus, left.length - 1)] ?? picker.field).focus();
      refocus = null;
    }
    blend.root.hidden = shown.mode !== "reorder";
    if (!shown.liked.length) replace(effect, "Add an item, and see how the list would change.");
  }

  /** Titles of items that came with the address. */
  async function learnTitles() {
    const strange = shown.liked.filter((item) => !titles.has(key(item)));
    await Promise.all(
      strange.map(async (item) => {
        try {
          titles.set(key(item), titleOf((await api.personas(item, { signal })).item));
        } catch (error) {
          if (!api.isGone(error)) titles.set(key(item), item.item_id);
        }
      }),
    );
    if (strange.length && !signal.aborted) showFrame();
  }

  async function showHistory() {
    try {
      const answer = await api.history(userId, { signal });
      const past = answer.history ?? [];
      replace(
        history,
        past.length
          ? timeline(past)
          : h(
              "p",
              { class: "soft" },
              answer.fallback === "unknown_user"
                ? "Nothing is known of this user."
                : "Nothing that counts towards a profile.",
            ),
      );
      replace(
        facts,
        past.length ? `${plural(past.length, "liked item")} · ` : null,
        past.length
          ? h("a", { href: toMap(userId) }, "where they stand on the persona map")
          : "no liked item in the index",
      );
    } catch (error) {
      if (api.isGone(error)) return;
      replace(history, failure(error, showHistory));
      replace(facts, "");
    }
  }

  function timeline(past) {
    const one = (entry) =>
      h(
        "li",
        {},
        entry.title
          ? h("a", { href: toItem(entry, { user: userId, liked: shown.liked }) }, told(entry.title, LIMITS.title))
          : h("span", {}, told(entry.item_id, LIMITS.id), h("span", { class: "soft" }, ", no longer in the catalogue")),
        day(entry.at) ? h("time", { datetime: entry.at }, day(entry.at)) : null,
      );
    const rest = past.slice(5);
    return [
      h("ol", { class: "timeline" }, past.slice(0, 5).map(one)),
      rest.length
        ? h(
            "details",
            { class: "more" },
            h("summary", {}, `${plural(rest.length, "older one")}`),
            h("ol", { class: "timeline" }, rest.map(one)),
          )
        : null,
    ];
  }

  async function showList({ still = false } = {}) {
    const current = (round += 1);
    const { mode, liked } = shown;
    if (!still) {
      replace(list, skeletons(3));
      replace(under);
    }
    list.setAttribute("aria-busy", "true");
    try {
      const found = mode === "reorder" ? await reordered() : await recommended();
      if (current !== round) return;
      draw(found, liked);
    } catch (error) {
      if (api.isGone(error) || current !== round) return;
      replace(list);
      replace(
        banner,
        failure(error, () => showList()),
      );
      replace(under);
    } finally {
      if (current === round) list.removeAttribute("aria-busy");
    }
  }

  async function recommended() {
    const liked = shown.liked;
    const [answer, baseline] = await Promise.all([
      api.recommend(userId, { k, liked }, { signal }),
      liked.length ? api.recommend(userId, { k: BASELINE_K, explain: false }, { signal }) : null,
    ]);
    const places = new Map(baseline?.recommendations.map((entry, at) => [key(entry), at + 1]));
    const entries = answer.recommendations;
    const gone = (baseline?.recommendations ?? [])
      .slice(0, entries.length)
      .filter((entry) => !entries.some((one) => key(one) === key(entry)));
    return {
      answer,
      entries,
      gone,
      before: (entry) => (baseline ? (places.get(key(entry)) ?? null) : undefined),
      fallbacks: FALLBACKS,
      heading: "Recommended",
      lead:
        answer.fallback && answer.fallback !== "session"
          ? null
          : "Everything in the catalogue that they have not seen, the best match first.",
    };
  }

  async function reordered() {
    let candidates = shown.candidates;
    if (!candidates.length) {
      popular ??= (await api.recommend(null, { k: CANDIDATES, explain: false }, { signal })).recommendations;
      candidates = popular;
    }
    const answer = candidates.length
      ? await api.rerank(userId, { candidates, weight: shown.weight, liked: shown.liked }, { signal })
      : { candidates: [], fallback: null, weight: null };
    blend.show({
      answer,
      weight: shown.weight,
      isPopular: !shown.candidates.length,
      links: { user: userId, liked: shown.liked },
    });
    return {
      answer,
      entries: answer.candidates,
      gone: [],
      before: (entry) => entry.candidate_place ?? undefined,
      fallbacks: KEPT,
      heading: "The list and its reasons",
      lead: null,
    };
  }

  function draw(found, liked) {
    const { answer, entries } = found;
    const tops = new Map(
      [...list.querySelectorAll("[data-key]")].map((one) => [one.dataset.key, one.getBoundingClientRect().top]),
    );
    const links = { user: userId, liked };
    replace(
      banner,
      answer.fallback
        ? h(
            "div",
            { class: "notice" },
            h(
              "p",
              {},
              found.fallbacks[answer.fallback] ?? `There is no profile to match (${cut(answer.fallback, 60)}).`,
            ),
          )
        : null,
    );
    heading.textContent = found.heading;
    lead.textContent = found.lead ?? "";
    lead.hidden = !found.lead;
    for (const entry of [...entries, ...found.gone]) titles.set(key(entry), titleOf(entry));
    replace(
      list,
      entries.map((entry, at) => {
        const made = card(entry, at + 1, found.before(entry), links);
        const closeness = made.querySelector(".closeness");
        if (closeness) {
          closeness.subject = { item: entry, liked };
          watcher.observe(closeness);
        }
        return made;
      }),
    );
    slide(tops);
    const more = shown.mode === "list" && entries.length === k && k < MAX_K;
    replace(
      under,
      entries.length
        ? null
        : h(
            "p",
            { class: "notice" },
            shown.mode === "list"
              ? "There is nothing left to recommend: they have seen everything."
              : "There is no candidate to put in order.",
          ),
      found.gone.length
        ? h(
            "p",
            { class: "soft" },
            "Left the list: ",
            found.gone.map((entry, at) => [
              at ? ", " : "",
              h("a", { href: toItem(entry, links) }, told(titleOf(entry), LIMITS.title)),
            ]),
            ".",
          )
        : null,
      more
        ? h(
            "button",
            {
              type: "button",
              class: "button",
              on: {
                click: () => {
                  k = Math.min(k * 2 + 5, MAX_K);
                  showList({ still: true });
                },
              },
            },
            "Show more",
          )
        : null,
    );
    say(found, liked);
  }

  function say(found, liked) {
    const moves = found.entries.map((entry, at) => [found.before(entry), at + 1]);
    const risen = moves.filter(([before, now]) => before && before > now).length;
    const fallen = moves.filter(([before, now]) => before && before < now).length;
    const fresh = moves.filter(([before]) => before === null).length;
    const changes = [
      risen ? `${risen} risen` : null,
      fallen ? `${fallen} fallen` : null,
      fresh ? `${fresh} new` : null,
    ].filter(Boolean);
    const words = changes.length ? changes.join(", ") : "no item changed its place";
    if (liked.length && shown.mode === "list") {
      replace(
        effect,
        h("strong", {}, `${words[0].toUpperCase()}${words.slice(1)}.`),
        " Compared with the list without it.",
      );
    } else if (liked.length) {
      replace(effect, "Counts in the order of the candidates, too.");
    }
    const compared = moves.some(([before]) => before !== undefined);
    announce(`${plural(found.entries.length, "item")}${compared ? `: ${words}` : ""}.`);
  }

  function slide(tops) {
    if (!mayMove() || !tops.size) return;
    for (const one of list.children) {
      const before = tops.get(one.dataset.key);
      const shift = before === undefined ? 0 : before - one.getBoundingClientRect().top;
      if (before === undefined) one.animate([{ opacity: 0 }, { opacity: 1 }], { duration: 400, easing: "ease-out" });
      else if (Math.abs(shift) > 1 && Math.abs(shift) < 4000)
        one.animate([{ transform: `translateY(${shift}px)` }, { transform: "none" }], {
          duration: 450,
          easing: "cubic-bezier(.2,.7,.2,1)",
        });
    }
  }

  const soon = later(() => signal.aborted || showList({ still: true }), 120);
  showFrame();
  learnTitles();
  showHistory();
  showList();

  return {
    element,
    title: cut(userId, 40),
    update(next) {
      if (next.view !== "user" || next.id !== userId) return false;
      const changedMode = next.mode !== shown.mode;
      const onlyWeight = !changedMode && next.weight !== shown.weight;
      shown = next;
      showFrame();
      learnTitles();
      if (onlyWeight) soon();
      else showList({ still: !changedMode });
      return true;
    },
  };
}

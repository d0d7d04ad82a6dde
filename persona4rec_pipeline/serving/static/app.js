// The explorer: which view is shown, and what stays on every view.
//
// Belongs here: changing views, the focus and the place on the page when they change, the search box at the top. Does not
// belong here: what a view shows.

import * as api from "./api.js";
import { failure } from "./cards.js";
import { combobox } from "./combobox.js";
import { cut, day, h, key, LIMITS, replace, titleOf } from "./dom.js";
import { homeView, searchView } from "./home_view.js";
import { itemView } from "./item_view.js";
import { mapView } from "./map_view.js";
import { go, read, toHome, toItem, toSearch, toUser } from "./route.js";
import { userView } from "./user_view.js";

const VIEWS = { home: homeView, user: userView, item: itemView, map: mapView, search: searchView };
// Titles that were seen are kept for views whose address has ids alone.
const TITLES_KEPT = 5000;

const main = document.getElementById("main");
const titles = new Map();
let current = null;
let leave = new AbortController();
let catalogs = [];

/** What is served. Asked again while it is told in part, as it is to those who have not given their key yet. */
async function readiness() {
  const found = await api.readiness();
  if (found?.generation !== undefined) {
    catalogs = Object.keys(found.catalogs ?? {});
    // Where there is only one, its name on every item tells nobody anything.
    document.body.classList.toggle("one-catalog", catalogs.length === 1);
    document.getElementById("generation").textContent = [
      `Generation ${found.generation.toLocaleString("en")}`,
      found.published_at ? `published ${day(found.published_at)}` : "",
    ]
      .filter(Boolean)
      .join(", ");
  }
  return found;
}

// Where a page stood is kept with its entry for the back button: by the card that was topmost in the window, as what stands above
// it may be of another height when it comes back, and by pixels where there is no card. Content comes later than the view is
// shown, so the place is taken as soon as it is there, and held until nothing in the window is still on its way.
history.scrollRestoration = "manual";
let settling = 0;
let scrolled = 0;

function notePlace() {
  clearTimeout(scrolled);
  scrolled = setTimeout(() => {
    if (!settling) history.replaceState({ ...history.state, top: Math.round(scrollY), card: topmost() }, "");
  }, 100);
}
addEventListener("scroll", notePlace);
// What comes late moves the cards below it.
new ResizeObserver(notePlace).observe(main);

/** The first card whose head is in the window, and how far below the window's upper edge it is; null: there is none. */
function topmost() {
  for (const one of main.querySelectorAll(".card[data-key]")) {
    const { top } = one.getBoundingClientRect();
    if (top >= 0) return top < innerHeight ? { key: one.dataset.key, below: Math.round(top) } : null;
  }
  return null;
}

function show() {
  // A scroll that just ended belongs to the view that is being left.
  clearTimeout(scrolled);
  const route = read(location.hash);
  if (current?.update?.(route)) {
    nameTab();
    return;
  }
  const isFirst = current === null;
  leave.abort();
  leave = new AbortController();
  if (titles.size > TITLES_KEPT) titles.clear();
  const context = { signal: leave.signal, titles, readiness, catalogs: () => catalogs };
  current = VIEWS[route.view]?.(route, context) ?? nowhere();
  replace(main, current.element);
  for (const link of document.querySelectorAll(".top-nav a")) {
    const own = route.view === "map" ? "map" : "home";
    if (link.dataset.view === own) link.setAttribute("aria-current", route.view === own ? "page" : "true");
    else link.removeAttribute("aria-current");
  }
  nameTab();
  // Whoever listens is told that the page is another one; whoever looks begins at its top, or where they were before.
  if (!isFirst) {
    const heading = main.querySelector("h1");
    heading?.setAttribute("tabindex", "-1");
    heading?.focus({ preventScroll: true });
  }
  settle(history.state ?? {});
}

function nowhere() {
  const problem = {
    title: "There is no such view",
    message: "The address names no view of this page. Begin with a user.",
  };
  return {
    title: "Not found",
    element: h(
      "div",
      {},
      h("h1", { class: "unseen" }, "Not found"),
      failure(problem),
      h("p", {}, h("a", { href: toHome() }, "Choose a user")),
    ),
  };
}

function nameTab() {
  document.title = current.title === "Explorer" ? "persona4rec explorer" : `${current.title} · persona4rec`;
}

function settle({ top = 0, card = null }) {
  stopSettling();
  scrollTo({ top: 0, behavior: "instant" });
  if (!top) return;
  // A slow service may take that long to bring what stood there.
  const until = performance.now() + 20000;
  settling = setInterval(() => {
    const found = card && [...main.querySelectorAll(".card[data-key]")].find((one) => one.dataset.key === card.key);
    // As far as there is something: what comes into view brings more with it.
    const goal = found ? scrollY + found.getBoundingClientRect().top - card.below : top;
    if (Math.abs(scrollY - goal) >= 1) scrollTo({ top: goal, behavior: "instant" });
    else if (!isUnfinished()) stopSettling();
    if (performance.now() > until) stopSettling();
  }, 50);
}

/** Whether something in the window is still on its way. */
function isUnfinished() {
  return [...main.querySelectorAll("[aria-busy=true], .skeleton")].some((one) => {
    const { top, bottom, height } = one.getBoundingClientRect();
    return height && top < innerHeight && bottom > 0;
  });
}

function stopSettling() {
  clearInterval(settling);
  settling = 0;
}

// Whoever moves by themselves goes where they want to.
for (const event of ["wheel", "touchstart", "keydown", "pointerdown"])
  addEventListener(event, stopSettling, { passive: true });

const search = combobox({
  id: "search-field",
  label: "Find an item or a user",
  placeholder: "Find an item or a user",
  quiet: true,
  suggest: async (text, signal) => {
    const [items, users] = await Promise.all([api.items(text, 6, { signal }), api.users(text, 4, { signal })]);
    for (const item of items) titles.set(key(item), titleOf(item));
    return [
      ...items.map((item) => ({ label: titleOf(item), note: item.catalog, group: "Items", value: { item } })),
      ...users.map((user) => ({ label: user, group: "Users", value: { user } })),
    ];
  },
  choose: ({ item, user }) => go(item ? toItem(item) : toUser(user)),
  type: (text) => go(toSearch(cut(text, LIMITS.id))),
  nothing: "No item has this in its title, and no user's id begins like this.",
});
document.getElementById("search").append(search.root);

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
  main.scrollIntoView();
});

addEventListener("hashchange", show);
show();
readiness();
api.onKey(readiness);

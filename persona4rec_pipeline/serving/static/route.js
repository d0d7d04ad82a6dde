// Where the page is: views and what they show, in the hash of the address.
//
//   #/                                  choose a user
//   #/user/ID?liked=CATALOG/ID          the list of a user; `liked`, repeated: items of a what-if
//   #/user/ID/reorder?weight=0.4&candidate=CATALOG/ID     a list of candidates in the user's order
//   #/item/CATALOG/ID?user=ID&liked=    an item, and how it fits a user
//   #/map?user=ID                       all personas
//   #/search/WORDS                      users and items by name
//
// Belongs here: reading and writing these. Does not belong here: what a view does. Every part is percent-encoded, so that an
// id may hold any character; a slash in the middle of an item parts catalogue and id.

const part = encodeURIComponent;

/** The view that a hash names: {view, id | item | words, mode, liked, weight, candidates, user}; view null: none that there is. */
export function read(hash) {
  try {
    const [path, query = ""] = hash.replace(/^#\/?/, "").split(/\?([^]*)/);
    const [view = "", ...rest] = path.split("/").map(decodeURIComponent);
    const parameters = new URLSearchParams(query);
    const common = { liked: parameters.getAll("liked").map(readItem), user: parameters.get("user") || null };
    if (view === "" && !rest.length) return { view: "home", ...common };
    if (view === "map" && !rest.length) return { view, ...common };
    if (view === "search" && rest.length === 1) return { view, words: rest[0], ...common };
    if (view === "item" && rest.length === 2 && rest[1]) {
      return { view, item: { catalog: rest[0] || null, item_id: rest[1] }, ...common };
    }
    if (view === "user" && rest[0] && (rest.length === 1 || (rest.length === 2 && rest[1] === "reorder"))) {
      const weight = parameters.has("weight") ? Number(parameters.get("weight")) : null;
      return {
        view,
        ...common,
        id: rest[0],
        mode: rest[1] ?? "list",
        weight: weight !== null && weight >= 0 && weight <= 1 ? weight : null,
        candidates: parameters.getAll("candidate").map(readItem),
      };
    }
  } catch (error) {
    // A stray percent sign: an address that was cut or made up.
    if (!(error instanceof URIError)) throw error;
  }
  return { view: null, liked: [], user: null };
}

function readItem(text) {
  const [first, second] = text.split("/").map(decodeURIComponent);
  return second === undefined ? { catalog: null, item_id: first } : { catalog: first, item_id: second };
}

/** An item in a parameter. */
const writeItem = (item) => (item.catalog ? `${part(item.catalog)}/${part(item.item_id)}` : part(item.item_id));

function query(parameters) {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") pairs.append(name, one);
    }
  }
  const text = pairs.toString();
  return text ? `?${text}` : "";
}

export const toHome = () => "#/";
export const toSearch = (words) => `#/search/${part(words)}`;
export const toMap = (user = null) => `#/map${query({ user })}`;

export const toItem = (item, { user = null, liked = [] } = {}) =>
  `#/item/${part(item.catalog ?? "")}/${part(item.item_id)}${query({ user, liked: user === null ? [] : liked.map(writeItem) })}`;

export const toUser = (id, { mode = "list", liked = [], weight = null, candidates = [] } = {}) =>
  `#/user/${part(id)}${mode === "reorder" ? "/reorder" : ""}${query({
    liked: liked.map(writeItem),
    weight: mode === "reorder" ? weight : null,
    candidate: mode === "reorder" ? candidates.map(writeItem) : [],
  })}`;

/** Goes to a view; `quietly` without an entry of its own for the back button. */
export function go(hash, { quietly = false } = {}) {
  if (hash === location.hash) return;
  if (quietly) {
    history.replaceState(history.state, "", hash);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = hash;
  }
}

// The service's JSON API.
//
// Belongs here: requests, the API key, errors, and what answers look like. Does not belong here: elements of a view.

import { h } from "./dom.js";

const KEY = "persona4rec.key";

/** An answer that is an error; `message` says what to mend, in the service's own words. */
class Problem extends Error {
  constructor(status, title, detail) {
    super(detail);
    this.status = status;
    this.title = title;
  }
}

/** Whether a request ended because its view was left. */
export const isGone = (error) => error?.name === "AbortError";

let asking = null;
let keyGiven = () => {};

/** Calls `listener` when a key was given that opened the door. */
export function onKey(listener) {
  keyGiven = listener;
}

/**
 * The JSON of an answer. A 401 asks the person for a key and tries again; the key is kept for this tab alone.
 * Throws Problem, or AbortError when `signal` says so.
 */
async function ask(path, { body, signal } = {}) {
  let isNew = false;
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const response = await request(path, body, key, signal);
    if (response.ok) {
      if (isNew) keyGiven();
      return response.json();
    }
    const problem = await asProblem(response);
    if (response.status !== 401) throw problem;
    // Another request may have been given a new key in the meantime.
    if (sessionStorage.getItem(KEY) !== key) continue;
    asking ??= askForKey(key === null ? "" : problem.message).finally(() => {
      asking = null;
    });
    if (!(await asking)) throw problem;
    isNew = true;
    signal?.throwIfAborted();
  }
}

async function request(path, body, key, signal) {
  const headers = { accept: "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const options = {
    method: body === undefined ? "GET" : "POST",
    headers,
    signal,
    credentials: "omit",
    redirect: "error",
  };
  if (body !== undefined) options.body = JSON.stringify(body);
  try {
    return await fetch(path, options);
  } catch (error) {
    if (isGone(error)) throw error;
    throw new Problem(0, "No answer", "The service does not answer. See whether it is running, then try again.");
  }
}

async function asProblem(response) {
  let document = {};
  try {
    document = await response.json();
  } catch {
    // A proxy in between may answer with a page of its own.
  }
  const wait = response.headers.get("retry-after");
  const detail =
    typeof document.detail === "string" ? document.detail : `The service answered with ${response.status}.`;
  const more = response.status === 429 && wait && !detail.includes(wait) ? ` Try again in ${wait} s.` : "";
  return new Problem(response.status, titles[response.status] ?? "That did not work", detail + more);
}

const titles = {
  401: "A key is needed",
  403: "Not allowed",
  404: "Not found",
  413: "Too much at once",
  422: "That cannot be answered",
  429: "Too many questions",
  503: "Nothing is served yet",
};

/** Opens a dialogue that asks for the key; whether one was given. */
function askForKey(refused) {
  return new Promise((done) => {
    const field = h("input", {
      id: "key",
      type: "password",
      autocomplete: "off",
      spellcheck: "false",
      required: true,
      "aria-describedby": "key-note",
      on: { input: () => field.setCustomValidity("") },
    });
    const note =
      refused ||
      "This service answers only with an API key. It is kept until this tab is closed, and sent to this service alone.";
    let given = false;
    const dialogue = h(
      "dialog",
      { class: "dialogue", "aria-labelledby": "key-title", on: { close: () => end() } },
      h(
        "form",
        {
          on: {
            submit: (event) => {
              event.preventDefault();
              const key = field.value.trim();
              // Nothing else can stand in a header.
              if (!/^[\x21-\x7e]+$/.test(key)) {
                field.setCustomValidity("A key is made of letters, digits and signs, without spaces.");
                field.reportValidity();
                return;
              }
              sessionStorage.setItem(KEY, key);
              given = true;
              dialogue.close();
            },
          },
        },
        h("h2", { id: "key-title" }, refused ? "That key was not accepted" : "API key"),
        h("p", { id: "key-note", class: refused ? "wrong" : "soft", role: refused ? "alert" : null }, note),
        h("label", { for: "key" }, "Key"),
        field,
        h(
          "div",
          { class: "row" },
          h("button", { type: "submit", class: "button main" }, "Continue"),
          h("button", { type: "button", class: "button", on: { click: () => dialogue.close() } }, "Cancel"),
        ),
      ),
    );
    const end = () => {
      dialogue.remove();
      done(given);
    };
    document.body.append(dialogue);
    dialogue.showModal();
  });
}

const part = encodeURIComponent;
const where = (item) => (item.catalog ? `?catalog=${part(item.catalog)}` : "");

/** How an item is named in a request. */
export const asked = (item) => (item.catalog ? { catalog: item.catalog, item_id: item.item_id } : item.item_id);

const sessionOf = (liked) => (liked.length ? { session: liked.map(asked) } : {});

/** What is served: told in full only to those with a key, where one is required; null when nothing is known. */
export async function readiness() {
  const response = await request("readyz", undefined, sessionStorage.getItem(KEY)).catch(() => null);
  return response?.ok ? response.json() : null;
}

export const users = async (prefix, limit, options) =>
  (await ask(`v1/users?prefix=${part(prefix)}&limit=${limit}`, options)).users;

export const items = async (query, limit, options) =>
  (await ask(`v1/items?query=${part(query)}&limit=${limit}`, options)).items;

export const history = (userId, options) => ask(`v1/users/${part(userId)}/history`, options);

/** The best items for a user who also liked `liked`; for nobody (null): the popular ones. */
export const recommend = (userId, { k, liked = [], explain = true }, options) =>
  ask("v1/recommendations", {
    ...options,
    body: {
      ...(userId === null ? {} : { user_id: userId }),
      k,
      explain,
      ...sessionOf(liked),
    },
  });

/** Candidates in the user's order; weight null: as learned. */
export const rerank = (userId, { candidates, weight, liked = [] }, options) =>
  ask("v1/rerank", {
    ...options,
    body: {
      user_id: userId,
      candidates: candidates.map(asked),
      ...(weight === null ? {} : { weight }),
      ...sessionOf(liked),
    },
  });

export const explain = (userId, item, liked, options) =>
  ask("v1/explain", { ...options, body: { user_id: userId, item: asked(item), ...sessionOf(liked) } });

export const personas = (item, options) => ask(`v1/items/${part(item.item_id)}/personas${where(item)}`, options);

export const similar = async (item, k, options) => {
  const answer = await ask(
    `v1/items/${part(item.item_id)}/similar${where(item)}${where(item) ? "&" : "?"}k=${k}`,
    options,
  );
  return answer.similar;
};

/** {points, total, user}: personas, how many there are, and where the user stands (null: nowhere). */
export const personaMap = async (userId, limit, options) => {
  const answer = await ask(`v1/map?limit=${limit}${userId ? `&user_id=${part(userId)}` : ""}`, options);
  return { points: answer.points, total: answer.total, user: answer.user };
};

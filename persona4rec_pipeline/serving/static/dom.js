// Elements and words.
//
// Belongs here: how elements are made, how numbers and texts of strangers are shown. Does not belong here: what is shown.
// Everything that comes from the service is somebody's text: it becomes text nodes, never markup, and is cut to a length.
// A link leads to a view of this page or nowhere, so that no address in such a text can be followed.

const SVG = "http://www.w3.org/2000/svg";

/** Longest texts that are shown, in UTF-16 units. */
export const LIMITS = { id: 120, title: 240, name: 160, reason: 700, quote: 500, description: 1200 };

/**
 * An element. Attributes: `on` holds listeners by event, `vars` custom CSS properties; null, undefined and false leave an
 * attribute out. Children: elements and texts; null, undefined and false are left out.
 */
export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function s(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "vars") {
      for (const [property, number] of Object.entries(value)) element.style.setProperty(property, String(number));
    } else if (name === "href") {
      if (!String(value).startsWith("#/")) throw new Error("A link of this page leads to a view of it.");
      element.setAttribute(name, value);
    } else {
      if (/^on|^style$|^src/i.test(name)) throw new Error(`${name} is not set from here.`);
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** A text cut to so many characters, without half a character at the end. */
export function cut(text, limit) {
  const whole = String(text ?? "");
  if (whole.length <= limit) return whole;
  return `${whole
    .slice(0, limit - 1)
    .replace(/[\uD800-\uDBFF]$/, "")
    .trimEnd()}…`;
}

/** A stranger's text within a sentence of ours: its direction and its marks of direction end where it ends. */
export function told(text, limit) {
  return h("bdi", {}, cut(text, limit));
}

/** What an item is called: its title, or its id where there is none. */
export function titleOf(item) {
  return item.title || item.item_id;
}

export const key = (item) => JSON.stringify([item.catalog ?? null, item.item_id]);

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** A cosine as people read it: two digits. */
export const score = (value) => (typeof value === "number" ? value.toFixed(2) : "–");

/** A day in words, of a time that is UTC if it does not say; nothing for what is no time. */
export function day(text) {
  const time = new Date(/T[\d:.]+$/.test(text) ? `${text}Z` : text);
  if (!text || Number.isNaN(time.getTime())) return "";
  return new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" }).format(
    time,
  );
}

/** Takes the quotes out of a reason or a description that are shown as quotations beside it. */
export function withoutQuotes(text, quotes) {
  const shown = quotes.map((quote) => quote.replace(/…$/, ""));
  let rest = String(text ?? "").trim();
  for (;;) {
    const last = /^([^]*?)\s*“([^”]*)”$/.exec(rest);
    const said = last && last[2].replace(/…$/, "");
    if (!last || !shown.some((quote) => quote.startsWith(said) || said.startsWith(quote))) break;
    rest = last[1];
  }
  return rest.replace(/\s*What they say:$/, "").replace(/:$/, ".");
}

/** Whether things may move. */
export const mayMove = () => !matchMedia("(prefers-reduced-motion: reduce)").matches;

let pending = 0;

/** Says something to those who listen; the same words twice in a row are said twice. */
export function announce(text) {
  const status = document.getElementById("status");
  status.textContent = "";
  clearTimeout(pending);
  pending = setTimeout(() => {
    status.textContent = text;
  }, 80);
}

/** Shows children in the place of those before. */
export function replace(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter(Boolean));
  return element;
}

/** Calls at most once per pause, with the last arguments. */
export function later(call, pause) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...given), pause);
  };
}

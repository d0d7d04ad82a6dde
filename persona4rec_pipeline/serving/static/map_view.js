// All personas in two dimensions, as a drawing and as a table.
//
// Belongs here: drawing, looking around in it, and the same in words. Does not belong here: where the points come from.
//
// The drawing is one path per polarity, so that thousands of points cost as little as a few; what is pointed at is found by
// distance. With the keyboard the arrows go from a persona to the nearest one in that direction, plus and minus zoom, Enter opens the
// item. The table tells the same to those who do not see the drawing.

import * as api from "./api.js";
import { failure, POLARITIES, quotations, sign } from "./cards.js";
import { announce, cut, h, key, later, LIMITS, plural, replace, s, titleOf, told, withoutQuotes } from "./dom.js";
import { go, toItem, toMap, toUser } from "./route.js";

const LIMIT = 2000;
const ROWS = 50;
const REACH = 28;
const ZOOMS = [1, 1.5, 2.25, 3.4, 5, 8];
// The drawing in its own units; it is scaled to the width that there is, and as high as wide where that is little.
const WIDTH = 1000;
const FLAT = 600;
const NARROW = "(max-width: 40rem)";
const MARGIN = 36;

const SHAPES = {
  appreciative: (x, y, r) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`,
  mixed: (x, y, r) => `M${x} ${y - r * 1.2}l${r * 1.2} ${r * 1.2}l${-r * 1.2} ${r * 1.2}l${-r * 1.2} ${-r * 1.2}z`,
  critical: (x, y, r) => `M${x - r * 1.1} ${y - r * 0.8}h${r * 2.2}l${-r * 1.1} ${r * 1.9}z`,
};

export function mapView(route, { signal }) {
  const { user } = route;
  const height = matchMedia(NARROW).matches ? WIDTH : FLAT;
  let points = [];
  let mine = null;
  let hidden = new Set();
  let chosen = null;
  let zoom = 0;
  let centre = { x: WIDTH / 2, y: height / 2 };
  let unit = 1;
  let rows = ROWS;
  const read = new Map();

  const paths = Object.fromEntries(
    Object.keys(POLARITIES).map((polarity) => [polarity, s("path", { class: `points ${polarity}` })]),
  );
  const behind = s("path", { class: "points behind" });
  const ring = s("circle", { class: "ring", r: 0 });
  const star = s("g", { class: "mine" });
  const drawing = s(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${height}`, class: "map-drawing", "aria-hidden": "true" },
    Object.values(paths).reverse(),
    behind,
    star,
    ring,
  );
  const surface = h(
    "div",
    {
      class: "map-surface",
      tabindex: "0",
      role: "application",
      "aria-roledescription": "map",
      "aria-label": "Map of personas. The arrow keys go from persona to persona, Enter opens the item.",
      "aria-describedby": "map-chosen",
    },
    drawing,
  );
  const info = h("div", { class: "map-info", id: "map-chosen" });
  const legend = h("fieldset", { class: "legend" }, h("legend", { class: "unseen" }, "Show"));
  const lead = h("p", { class: "lead" });
  const table = h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Personas of the map" });
  const filter = h("input", {
    id: "table-filter",
    type: "text",
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "Persona or item",
    on: {
      input: () => {
        rows = ROWS;
        showTable();
      },
    },
  });
  const more = h("div", { class: "under" });
  const zoomButton = (sign, name, act) =>
    h(
      "button",
      { type: "button", class: "button square", "aria-label": name, on: { click: act } },
      h("span", { "aria-hidden": "true" }, sign),
    );
  const body = h(
    "div",
    {},
    h(
      "div",
      { class: "map-frame" },
      h(
        "div",
        { class: "map-tools" },
        legend,
        h(
          "div",
          { class: "row tight" },
          zoomButton("+", "Zoom in", () => zoomBy(1)),
          zoomButton("−", "Zoom out", () => zoomBy(-1)),
          zoomButton("⟲", "Show all", () => {
            zoom = 0;
            centre = { x: WIDTH / 2, y: height / 2 };
            draw();
          }),
        ),
      ),
      h("div", { class: "map-halves" }, surface, info),
    ),
    h(
      "details",
      { class: "panel as-table" },
      h("summary", {}, "The same as a table"),
      h("label", { for: "table-filter", class: "label" }, "Only those with"),
      filter,
      table,
      more,
    ),
  );
  const element = h(
    "div",
    { class: "map-view" },
    h(
      "header",
      { class: "view-head" },
      user
        ? h("p", { class: "eyebrow" }, h("a", { href: toUser(user) }, "← Back to ", told(user, 40)))
        : h("p", { class: "eyebrow" }, "All items"),
      h("h1", {}, "A map of personas"),
      lead,
    ),
    h("div", { class: "map-waiting skeleton block" }),
  );

  async function load() {
    try {
      const [found, list] = await Promise.all([
        api.personaMap(user, LIMIT, { signal }),
        user ? api.recommend(user, { k: 10 }, { signal }).catch(() => null) : null,
      ]);
      const answers = list && !list.fallback ? list.recommendations : [];
      const winners = new Set(answers.map((entry) => JSON.stringify([entry.catalog, entry.item_id, entry.persona_id])));
      place(found, winners);
      element.lastElementChild.replaceWith(body);
      showLegend();
      showLead(found);
      showHint(answers);
      draw();
      showTable();
      announce(`${plural(points.length, "persona")} on the map.`);
    } catch (error) {
      if (api.isGone(error)) return;
      element.lastElementChild.replaceWith(
        h(
          "div",
          {},
          failure(error, () => {
            element.lastElementChild.replaceWith(h("div", { class: "map-waiting skeleton block" }));
            load();
          }),
        ),
      );
    }
  }

  /** Positions in the drawing's units; both axes on one scale, as the distances are what counts. */
  function place(found, winners) {
    mine = found.user;
    const all = mine ? [...found.points, mine] : found.points;
    const xs = all.map((point) => point.x);
    const ys = all.map((point) => point.y);
    const [left, right, low, high] = [least(xs), most(xs), least(ys), most(ys)];
    const scale = Math.min((WIDTH - 2 * MARGIN) / (right - left || 1), (height - 2 * MARGIN) / (high - low || 1));
    const put = (point) => ({
      ...point,
      px: WIDTH / 2 + (point.x - (left + right) / 2) * scale,
      py: height / 2 - (point.y - (low + high) / 2) * scale,
    });
    points = found.points.map((point) => ({
      ...put(point),
      behind: winners.has(JSON.stringify([point.catalog, point.item_id, point.persona_id])),
    }));
    mine = mine && put(mine);
  }

  const visible = () => points.filter((point) => !hidden.has(point.polarity));

  /** Where a point is drawn now. */
  function at(point) {
    const z = ZOOMS[zoom];
    return [WIDTH / 2 + (point.px - centre.x) * z, height / 2 + (point.py - centre.y) * z];
  }

  function draw() {
    // A point keeps its size on the screen, whatever the width of the drawing; many points are drawn smaller.
    const box = surface.getBoundingClientRect();
    unit = box.width ? WIDTH / box.width : 1;
    const radius = (points.length > 800 ? 3.6 : points.length > 250 ? 4.6 : 5.6) * unit;
    for (const [polarity, path] of Object.entries(paths)) {
      const own = hidden.has(polarity) ? [] : points.filter((point) => point.polarity === polarity);
      path.setAttribute("d", own.map((point) => SHAPES[polarity](...at(point).map(round), round(radius))).join(""));
    }
    behind.setAttribute(
      "d",
      visible()
        .filter((point) => point.behind)
        .map((point) => SHAPES.appreciative(...at(point).map(round), round(radius * 1.9)))
        .join(""),
    );
    star.replaceChildren();
    if (mine) {
      const [x, y] = at(mine).map(round);
      const name = cut(user, 18);
      // On the side that has room for it; a letter is about this wide.
      const isLeft = x + (17 + name.length * 9) * unit > WIDTH;
      star.append(
        s("path", { class: "star", d: starPath(x, y, 13 * unit) }),
        s(
          "text",
          {
            x: round(x + (isLeft ? -17 : 17) * unit),
            y: round(y + 5 * unit),
            "font-size": round(14 * unit),
            "text-anchor": isLeft ? "end" : "start",
          },
          name,
        ),
      );
    }
    mark();
  }

  function mark() {
    if (!chosen) {
      ring.setAttribute("r", "0");
      return;
    }
    const [x, y] = at(chosen);
    ring.setAttribute("cx", String(round(x)));
    ring.setAttribute("cy", String(round(y)));
    ring.setAttribute("r", String(round(10 * unit)));
  }

  function choose(point, isSaid) {
    if (point === chosen) return;
    chosen = point;
    mark();
    if (!point) return;
    showChosen(point);
    tellMore(point);
    if (isSaid)
      announce(`${cut(point.name, 100)}, ${POLARITIES[point.polarity]?.name ?? ""}, of ${cut(titleOf(point), 100)}`);
  }

  function showChosen(point, persona) {
    const quotes = persona?.quotes ?? [];
    replace(
      info,
      h(
        "p",
        { class: "facts" },
        sign(point.polarity),
        POLARITIES[point.polarity]?.name ?? cut(point.polarity, 40),
        point.behind ? " · behind their list" : "",
      ),
      h("h2", {}, told(point.name, LIMITS.name)),
      h(
        "p",
        {},
        h("span", { class: "soft" }, "of "),
        h("a", { href: toItem(point, { user }) }, told(titleOf(point), LIMITS.title)),
      ),
      persona ? h("p", { class: "reason", dir: "auto" }, cut(withoutQuotes(persona.why, quotes), 300)) : null,
      quotations(quotes.slice(0, 1)),
    );
  }

  // What a persona says is asked for where somebody stays.
  const tellMore = later(async (point) => {
    if (point !== chosen || signal.aborted) return;
    try {
      const name = key(point);
      if (!read.has(name)) read.set(name, (await api.personas(point, { signal })).personas);
      const persona = read.get(name).find((one) => one.persona_id === point.persona_id);
      if (point === chosen && persona) showChosen(point, persona);
    } catch (error) {
      // What is shown is right without it.
      if (!api.isGone(error) && point === chosen) info.append(h("p", { class: "soft" }, cut(error.message, 200)));
    }
  }, 200);

  function showHint(answers) {
    replace(
      info,
      h(
        "p",
        { class: "soft" },
        matchMedia("(hover: none)").matches
          ? "Touch a persona to see it; touch it again to open its item."
          : "Point at a persona, or walk from one to the next with the arrow keys.",
      ),
      answers.length
        ? [
            h("h2", {}, "Behind their list"),
            h(
              "ol",
              { class: "alike" },
              answers
                .slice(0, 5)
                .map((entry) =>
                  h(
                    "li",
                    {},
                    h("a", { href: toItem(entry, { user }) }, told(titleOf(entry), LIMITS.title)),
                    h("span", { class: "soft" }, told(entry.persona_name, LIMITS.name)),
                  ),
                ),
            ),
          ]
        : null,
    );
  }

  function nearest(event) {
    const box = surface.getBoundingClientRect();
    const [x, y] = [
      (event.clientX - box.left) * (WIDTH / box.width),
      (event.clientY - box.top) * (height / box.height),
    ];
    let best = null;
    let least = (REACH * unit) ** 2;
    for (const point of visible()) {
      const [px, py] = at(point);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [best, least] = [point, distance];
    }
    return best;
  }

  function step(dx, dy) {
    const all = visible();
    if (!all.length) return;
    if (!chosen || hidden.has(chosen.polarity)) {
      const start = mine ?? { px: centre.x, py: centre.y };
      choose(
        all.reduce((best, point) => (distance(point, start) < distance(best, start) ? point : best)),
        true,
      );
      return;
    }
    let best = null;
    let least = Infinity;
    for (const point of all) {
      if (point === chosen) continue;
      const along = (point.px - chosen.px) * dx + (point.py - chosen.py) * dy;
      const across = Math.abs((point.px - chosen.px) * dy) + Math.abs((point.py - chosen.py) * dx);
      if (along <= 0) continue;
      const cost = along + 2.5 * across;
      if (cost < least) [best, least] = [point, cost];
    }
    if (!best) return;
    choose(best, true);
    keepInSight(best);
  }

  function keepInSight(point) {
    const [x, y] = at(point);
    if (x > 20 && y > 20 && x < WIDTH - 20 && y < height - 20) return;
    centre = { x: point.px, y: point.py };
    draw();
  }

  function zoomBy(by) {
    const next = Math.min(Math.max(zoom + by, 0), ZOOMS.length - 1);
    if (next === zoom) return;
    zoom = next;
    if (!zoom) centre = { x: WIDTH / 2, y: height / 2 };
    else if (chosen) centre = { x: chosen.px, y: chosen.py };
    draw();
  }

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  surface.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrows[event.key]) step(...arrows[event.key]);
    else if (event.key === "Enter" && chosen) go(toItem(chosen, { user }));
    else if (event.key === "+" || event.key === "=") zoomBy(1);
    else if (event.key === "-") zoomBy(-1);
    else return;
    event.preventDefault();
  });

  // A drag moves the drawing where it is zoomed; a press that does not move opens what is under it.
  let drag = null;
  surface.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    drag = { x: event.clientX, y: event.clientY, centre, moved: false };
  });
  surface.addEventListener("pointermove", (event) => {
    if (drag && event.buttons & 1) {
      const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
      if (Math.hypot(dx, dy) > 5) drag.moved = true;
      if (drag.moved && zoom) {
        centre = { x: drag.centre.x - (dx * unit) / ZOOMS[zoom], y: drag.centre.y - (dy * unit) / ZOOMS[zoom] };
        draw();
      }
      return;
    }
    drag = null;
    const found = nearest(event);
    surface.classList.toggle("over", Boolean(found));
    if (found) choose(found, false);
  });
  surface.addEventListener("click", (event) => {
    const moved = drag?.moved;
    drag = null;
    const found = nearest(event);
    if (moved || !found) return;
    // With a finger the first touch shows, the second opens.
    if (found === chosen || event.pointerType === "mouse") go(toItem(found, { user }));
    else choose(found, true);
  });

  function showLegend() {
    replace(
      legend,
      h("legend", { class: "unseen" }, "Show"),
      Object.entries(POLARITIES).map(([polarity, { name }]) => {
        const count = points.filter((point) => point.polarity === polarity).length;
        return h(
          "label",
          { class: "legend-entry" },
          h("input", {
            type: "checkbox",
            checked: true,
            on: {
              change: (event) => {
                hidden = new Set(hidden);
                if (event.target.checked) hidden.delete(polarity);
                else hidden.add(polarity);
                draw();
                showTable();
              },
            },
          }),
          sign(polarity),
          `${name} `,
          h("span", { class: "count" }, count.toLocaleString("en")),
        );
      }),
      mine
        ? h(
            "span",
            { class: "legend-entry" },
            s(
              "svg",
              { viewBox: "0 0 16 16", class: "sign star", "aria-hidden": "true" },
              s("path", { d: starPath(8, 8, 8) }),
            ),
            "This user",
          )
        : null,
      points.some((point) => point.behind)
        ? h(
            "span",
            { class: "legend-entry" },
            s(
              "svg",
              { viewBox: "0 0 16 16", class: "sign behind", "aria-hidden": "true" },
              s("circle", { cx: 8, cy: 8, r: 6 }),
            ),
            "Behind their list",
          )
        : null,
    );
  }

  function showLead(found) {
    replace(
      lead,
      points.length < found.total
        ? `${points.length.toLocaleString("en")} of ${plural(found.total, "persona")}, evenly taken. `
        : "",
      "Personas that say similar things lie near each other, whatever their item. The two directions have no meaning of their own: they are those in which the personas differ most.",
      user && !mine ? " This user has no profile, and so no place here." : "",
      user ? [" ", h("a", { href: toMap() }, "Without the user"), "."] : "",
    );
  }

  function showTable() {
    const words = filter.value.trim().toLowerCase();
    const found = visible().filter(
      (point) => !words || `${point.name}\n${titleOf(point)}`.toLowerCase().includes(words),
    );
    // The nearest to the user come first, where there is one.
    if (mine) found.sort((one, other) => distance(one, mine) - distance(other, mine));
    replace(
      table,
      h(
        "table",
        {},
        h(
          "caption",
          { class: "unseen" },
          mine ? "Personas, the nearest to this user on the map first" : "Personas of the map",
        ),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "Persona"),
            h("th", { scope: "col" }, "Says"),
            h("th", { scope: "col" }, "Item"),
          ),
        ),
        h(
          "tbody",
          {},
          found
            .slice(0, rows)
            .map((point) =>
              h(
                "tr",
                {},
                h("th", { scope: "row" }, told(point.name, LIMITS.name)),
                h(
                  "td",
                  { class: "says" },
                  sign(point.polarity),
                  POLARITIES[point.polarity]?.name ?? cut(point.polarity, 40),
                ),
                h("td", {}, h("a", { href: toItem(point, { user }) }, told(titleOf(point), LIMITS.title))),
              ),
            ),
        ),
      ),
    );
    replace(
      more,
      h(
        "p",
        { class: "soft", role: "status" },
        found.length ? `${Math.min(rows, found.length)} of ${plural(found.length, "persona")}` : "No persona fits.",
      ),
      found.length > rows
        ? h(
            "button",
            {
              type: "button",
              class: "button",
              on: {
                click: () => {
                  rows += ROWS * 4;
                  showTable();
                },
              },
            },
            "Show more",
          )
        : null,
    );
  }

  const resized = new ResizeObserver(() => body.isConnected && draw());
  resized.observe(surface);
  signal.addEventListener("abort", () => resized.disconnect());
  load();
  return { element, title: "Persona map" };
}

/** A small drawing of personas, to be looked at. */
export function miniature(points) {
  const xs = points.map((point) => point.x);
  const ys = points.map((point) => point.y);
  const [left, right, low, high] = [least(xs), most(xs), least(ys), most(ys)];
  const scale = 360 / Math.max(right - left, high - low, 1e-9);
  const at = (point) => [
    round(200 + (point.x - (left + right) / 2) * scale),
    round(200 - (point.y - (low + high) / 2) * scale),
  ];
  return s(
    "svg",
    { viewBox: "0 0 400 400", class: "miniature", "aria-hidden": "true" },
    Object.keys(SHAPES)
      .reverse()
      .map((polarity) =>
        s("path", {
          class: `points ${polarity}`,
          d: points
            .filter((point) => point.polarity === polarity)
            .map((point) => SHAPES[polarity](...at(point), 4.2))
            .join(""),
        }),
      ),
  );
}

const distance = (one, other) => Math.hypot(one.px - other.px, one.py - other.py);
const round = (value) => Math.round(value * 10) / 10;
const least = (values) => values.reduce((best, value) => Math.min(best, value), Infinity);
const most = (values) => values.reduce((best, value) => Math.max(best, value), -Infinity);

function starPath(x, y, r) {
  const corner = (number) => {
    const reach = number % 2 ? r * 0.45 : r;
    const turn = (Math.PI / 5) * number - Math.PI / 2;
    return `${round(x + reach * Math.cos(turn))} ${round(y + reach * Math.sin(turn))}`;
  };
  return `M${Array.from({ length: 10 }, (_, number) => corner(number)).join("L")}z`;
}

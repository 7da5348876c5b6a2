// Small charts, drawn as SVG. Each says in words what it shows, for those who do not see it.

import { clock, h, s, timeOfDay } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 96;
const LEFT = 4;
const TOP = 16;
const BOTTOM = 16;

const rounded = (number) => Number(number.toFixed(1));

function frame(label, from, to, most, unit, marks) {
  const plot = HEIGHT - TOP - BOTTOM;
  const x = (at) => rounded(LEFT + ((at - from) / (to - from || 1)) * (WIDTH - 2 * LEFT));
  const y = (value) => rounded(TOP + plot - (value / (most || 1)) * plot);
  const clockTime = (at) => timeOfDay(at).slice(0, 5);
  return { x, y, svg: s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label, class: "chart" },
    marks(x, y),
    s("line", { x1: LEFT, x2: WIDTH - LEFT, y1: y(0), y2: y(0), class: "axis" }),
    s("text", { x: LEFT, y: TOP - 6, class: "tick" }, `${most} ${unit}`.trim()),
    s("text", { x: LEFT, y: HEIGHT - 3, class: "tick" }, clockTime(from)),
    s("text", { x: WIDTH - LEFT, y: HEIGHT - 3, class: "tick end" }, clockTime(to))) };
}

/** Runs of points with no gap between them that is longer than `gap` milliseconds. */
function runs(points, gap) {
  const found = [];
  for (const point of points) {
    const last = found.at(-1);
    if (last && point.at - last.at(-1).at <= gap) last.push(point);
    else found.push([point]);
  }
  return found;
}

/** The corners of a line; in steps each value holds until the next. */
function corners(run, x, y, steps) {
  return run.flatMap((point, at) => [
    ...(steps && at > 0 ? [`${x(point.at)},${y(run[at - 1].value)}`] : []), `${x(point.at)},${y(point.value)}`]).join(" ");
}

/**
 * A line over time. `points`: [{at: ms, value}], oldest first. `shade`: [{from, to}] to mark, in ms. `steps`: each value
 * holds until the next.
 */
export function line({ title, points, unit = "", from, to = clock.now(), gap = Infinity, shade = [], steps = false }) {
  const most = Math.max(1, ...points.map((point) => point.value));
  const now = points.at(-1);
  const words = now ? `${title}: now ${rounded(now.value)} ${unit}, at most ${rounded(most)} ${unit}` : `${title}: nothing yet`;
  const { svg } = frame(words, from ?? points[0]?.at ?? to - 1, to, rounded(most), unit, (x, y) => [
    shade.map((part) => s("rect", { x: x(part.from), y: TOP, width: Math.max(1, x(part.to) - x(part.from)),
      height: HEIGHT - TOP - BOTTOM, class: "shade" })),
    runs(points, gap).map((run) => run.length === 1
      ? s("circle", { cx: x(run[0].at), cy: y(run[0].value), r: 2, class: "dot" })
      : s("polyline", { points: corners(run, x, y, steps), class: "line" })),
  ]);
  return figure(title, svg);
}

/** Bars over time, each of parts on top of each other. `points`: [{at, parts: [{value, kind}]}]. */
export function bars({ title, points, unit = "", from, to = clock.now(), step, shade = [] }) {
  const sum = (point) => point.parts.reduce((total, part) => total + part.value, 0);
  const most = Math.max(1, ...points.map(sum));
  const words = `${title}: ${points.reduce((total, point) => total + sum(point), 0)} in all, at most ${most} ${unit}`;
  const { svg } = frame(words, from, to, most, unit, (x, y) => [
    shade.map((part) => s("rect", { x: x(part.from), y: TOP, width: Math.max(1, x(part.to) - x(part.from)),
      height: HEIGHT - TOP - BOTTOM, class: "shade" })),
    points.map((point) => {
      let below = 0;
      return point.parts.filter((part) => part.value > 0).map((part) => {
        const bottom = y(below);
        below += part.value;
        return s("rect", { x: x(point.at), y: y(below), width: Math.max(1, x(point.at + step) - x(point.at) - 1),
          height: Math.max(0, bottom - y(below)), class: `bar ${part.kind}` });
      });
    }),
  ]);
  return figure(title, svg);
}

function figure(title, svg) {
  return h("figure", {}, h("figcaption", {}, title), svg);
}

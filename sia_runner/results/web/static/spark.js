// The course of a run in one line of a table: val of each generation, the incumbent as a line.

import { s } from "./dom.js";
import { fixed } from "./format.js";

const [WIDTH, HEIGHT, EDGE] = [96, 26, 4];

// `course`: [[val or null, accepted], …], the newest last.
export function spark(course) {
  const values = course.map(([value]) => value).filter((value) => value !== null);
  if (!values.length) return "–";
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (at) => EDGE + (at / Math.max(course.length - 1, 1)) * (WIDTH - 2 * EDGE);
  const y = (value) => HEIGHT - EDGE - (high === low ? 0.5 : (value - low) / (high - low)) * (HEIGHT - 2 * EDGE);
  const line = [];
  course.forEach(([value, accepted], at) => {
    if (!accepted || value === null) return;
    line.push(line.length ? `H${x(at)}V${y(value)}` : `M${x(at)} ${y(value)}`);
  });
  if (line.length) line.push(`H${x(course.length - 1)}`);
  const said = course.map(([value, accepted]) => value === null ? "none" : fixed(value) + (accepted ? " accepted" : "")).join(", ");
  return s("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, role: "img", "aria-label": `val by generation: ${said}` },
    s("path", { class: "best", d: line.join("") }),
    course.map(([value, accepted], at) => value === null ? null
      : s("circle", { class: accepted ? "accepted" : "other", cx: x(at), cy: y(value), r: accepted ? 2.6 : 1.8 })));
}

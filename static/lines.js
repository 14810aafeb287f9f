// The lines of an output: only those in sight are parsed, and in the document.

import { $, arrange, el } from './dom.js';

export const MAX_LINES = 100_000; // a twentieth is dropped at once
const MAX_CHARS = 64e6; // of all lines
const PAUSE = 100; // milliseconds between drawings of new lines
const SPARE = 400; // pixels drawn above and below what is in sight
const ROW = 18; // pixels: a guess, until a line is drawn
const PADDING = 20; // pixels, of the box

const box = $('log');
const content = box.appendChild(el('div'));
const rows = new Map(); // line → its element
const stale = new Set(); // lines to make anew
const tops = new Float64Array(MAX_LINES + 2); // pixels, of lines[i]; right up to `placed`
export let lines = []; // {time, text, at: a running number, high: pixels, 0 while unknown, joins: the one before}
export let dropped = 0; // lines, and not the parts that join them
export let joined = 0; // parts among the lines
export let follows = true; // the end
let anchor, below; // else this line stays so far below the upper edge
let make, drawn;
let [chars, sorted, placed, put, width, due, last] = [0, 0, 0, 0, 0, 0, 0];
let moved = 0; // when it was scrolled
let shift = 0; // pixels by which what is drawn is too high up, as to put it right would end the scrolling

/** makeRow(line) returns its element; onDrawn() is called after each drawing. */
export function start(makeRow, onDrawn) {
  [make, drawn] = [makeRow, onDrawn];
  box.addEventListener('scroll', scrolled);
  new ResizeObserver(soon).observe(box);
}

export function clear() {
  [lines, chars, dropped, joined, sorted] = [[], 0, 0, 0, 0];
  renew();
  follow(true);
}

export function add(line) {
  const before = lines.at(-1);
  lines.push(Object.assign(line, { time: line.time ?? before?.time, at: before ? before.at + 1 : 0, high: 0 }));
  grow(line.text.length);
}

/** More of this line came. */
export function extend(line, text) {
  line.text += text;
  renew(line);
  grow(text.length);
}

/** Put these parts of a line in its place; return them, or none where it is not there any more. */
export function split(line, parts) {
  if (!lines.includes(line)) return [];
  const at = index(line);
  const made = parts.map((part, i) => ({ ...line, ...part, joins: i > 0, high: 0 }));
  lines.splice(at, 1, ...made);
  lines.forEach((each, i) => (each.at = line.at - at + i));
  const more = made.length - 1;
  joined += more;
  if (at < sorted) sorted += more;
  placed = Math.min(placed, at);
  if (anchor === line) [anchor] = made;
  grow(made.reduce((sum, { text }) => sum + text.length, -line.text.length));
  return made;
}

function grow(count) {
  chars += count;
  soon();
  if (lines.length <= MAX_LINES && chars <= MAX_CHARS) return;
  let first = 0;
  for (; lines.length - first > MAX_LINES * 0.95 || (chars > MAX_CHARS * 0.95 && lines[first + 1]); first++) {
    chars -= lines[first].text.length;
  }
  const parts = lines.splice(0, first).filter(({ joins }) => joins).length;
  dropped += first - parts;
  joined -= parts;
  [placed, sorted] = [0, Math.max(0, sorted - first)];
  draw();
}

/** Draw this line anew; without one, all of them. */
export function renew(line) {
  for (const one of line ? [line] : lines) one.high = 0;
  for (const one of line ? [line] : rows.keys()) stale.add(one);
  if (!line) moved = 0;
  placed = 0;
  soon();
}

/** Follow the end, or stay. */
export function follow(on) {
  if (!on) hold();
  [follows, moved] = [on, 0];
  soon();
}

/** Bring this line in sight, so many pixels below the upper edge. */
export function show(line, pixels) {
  [follows, anchor, below, moved] = [false, line, pixels, 0];
  soon();
}

export const upper = () => lines[find(put + shift)];

const index = (line) => Math.max(0, line.at - lines[0].at); // of one that was dropped, the first

function hold() {
  place();
  anchor = upper();
  below = anchor && tops[index(anchor)] - put - shift;
}

// Its own scrolling changes nothing.
function scrolled() {
  if (Math.abs(box.scrollTop - put) < 1) return;
  [put, moved] = [box.scrollTop, performance.now()];
  follows = box.scrollHeight - box.clientHeight - put < 4;
  hold();
  draw();
}

export function soon() {
  due ||= setTimeout(draw, Math.max(0, last + PAUSE - performance.now()));
}

export function draw() {
  clearTimeout(due);
  due = 0;
  sort();
  if (box.clientWidth !== width) renew();
  width = box.clientWidth;
  let first = 0;
  for (let tries = 0; tries < 3; tries++) {
    place();
    const top = goal();
    first = fill(find(top - SPARE), find(top + box.clientHeight + SPARE) + 1);
    if (!measure()) break;
  }
  place();
  last = performance.now();
  shift = last - moved < 200 && !follows ? Math.min(tops[first], goal() - box.scrollTop) : 0;
  content.style.height = `${tops[lines.length] - shift}px`;
  content.style.paddingTop = `${tops[first] - shift}px`;
  if (shift) soon();
  else if (Math.abs(box.scrollTop - goal()) >= 1) box.scrollTop = goal();
  put = box.scrollTop;
  drawn();
}

// What several tasks wrote meanwhile comes in no order.
function sort() {
  const fresh = lines.slice(sorted).sort((one, other) => (one.time < other.time ? -1 : one.time > other.time ? 1 : 0));
  fresh.forEach((line, i) => (lines[sorted + i] = Object.assign(line, { at: lines[0].at + sorted + i })));
  sorted = lines.length;
}

function goal() {
  const end = Math.max(0, tops[lines.length] + PADDING - box.clientHeight);
  return follows || !anchor ? end : Math.max(0, Math.min(end, tops[index(anchor)] - below));
}

function place() {
  for (; placed < lines.length; placed++) tops[placed + 1] = tops[placed] + (lines[placed].high || ROW);
}

// Return the index of the line at so many pixels.
function find(pixels) {
  let [from, to] = [0, placed];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (tops[middle + 1] <= pixels) from = middle + 1;
    else to = middle;
  }
  return from;
}

function fill(from, to) {
  const held = getSelection(); // what is selected stays
  const kept = held.isCollapsed ? [] : [...rows].filter(([, row]) => held.containsNode(row, true)).map(([line]) => index(line));
  if (kept.length < 2000) [from, to] = [Math.min(from, ...kept), Math.max(to, ...kept.map((i) => i + 1))];
  const wanted = new Set(lines.slice(from, to));
  for (const [line, row] of rows) {
    if (wanted.has(line) && !stale.has(line)) continue;
    row.remove();
    rows.delete(line);
  }
  stale.clear();
  for (const line of wanted) if (!rows.has(line)) rows.set(line, make(line));
  arrange(content, [...wanted].map((line) => rows.get(line)));
  return from;
}

// Return whether a line has another height than thought.
function measure() {
  const before = placed;
  for (const [line, row] of rows) {
    if (line.high) continue;
    line.high = row.getBoundingClientRect().height;
    if (line.high !== ROW) placed = Math.min(placed, index(line));
  }
  return placed < before;
}

// The output of what is opened: reads, searches and copies it; lines.js draws it.

import { CUT, css, parse, parts, plain } from './ansi.js';
import * as api from './api.js';
import { $, copy, el, mark, say } from './dom.js';
import * as list from './lines.js';
import * as store from './store.js';
import { clock, moment } from './words.js';

const FIRST = 200; // lines of each task that are asked for at first
const MAX_LINE = 4e6; // characters; what is longer becomes several lines
const MAX_PARTS = 2000; // of a line that is searched
const STEP = 30; // milliseconds of work, after which others have their turn
const count = new Intl.NumberFormat().format;

const box = $('log');
const buttons = {}; // by what they do
const sources = new Map(); // task or instance → its number
let of, abort, is, told, tail, fresh;
let chord = false; // after g, a key leads to a view
let pattern, current, searched; // what is searched; the line gone to; the number of the line to search next
let hits = [];

const ACTS = {
  again: () => read(tail),
  earlier: () => read(Math.min(tail * 10, list.MAX_LINES), list.lines[0]),
  previous: () => step(-1),
  next: () => step(1),
  follow: () => list.follow(!list.follows),
  copy: () => copy((box.contains(getSelection().anchorNode) && String(getSelection())) || text()),
  download,
};
const KEYS = {
  '/': () => $('log-search').select(),
  n: ACTS.next,
  N: ACTS.previous,
  f: () => toggle('full'),
  Home: () => list.lines.length && list.show(list.lines[0], 0),
  End: () => list.follow(true),
};

/** opened() tells the id of what is opened. */
export function start(opened) {
  of = opened;
  list.start(row, drawn);
  for (const button of $('output').querySelectorAll('button')) {
    const name = button.dataset.log;
    buttons[name] = button;
    button.addEventListener('click', ACTS[name] ?? (() => toggle(name)));
  }
  $('log-search').addEventListener('input', search);
  $('log-stream').addEventListener('change', () => read());
  $('output').addEventListener('keydown', pressed);
}

export function stop() {
  abort?.abort();
  abort = is = null;
}

/** For what was missing: the link is back, or the service went on. */
export function retry() {
  if (is === 'cut' || is === 'none') read(tail);
}

/** The last lines of each task, and each new one; `seen` is a line to show again. */
export async function read(lines = FIRST, seen = null) {
  stop();
  const mine = (abort = new AbortController());
  [tail, fresh] = [lines, 0];
  sources.clear();
  list.clear();
  search();
  tell('live');
  try {
    await api.lines(of(), { follow: 1, tail, stream: $('log-stream').value }, mine.signal, taker(seen));
    if (mine === abort) tell(...(list.lines.length ? ['ended'] : ['none', 'none']));
  } catch (error) {
    if (mine !== abort || error.name === 'AbortError') return;
    if (error.status === 404) tell('none', 'none here; docker service logs may have it');
    else tell('cut', error.status ? error.message : 'it was cut off');
  }
}

// Takes lines as they come; the parts of a long one are joined.
function taker(seen) {
  const open = new Map(); // stream and source → its line that has no end yet
  return ({ time, stream, node, task, instance, line: text, partial }) => {
    const source = instance ?? task ?? '';
    const before = open.get(stream + source);
    const line = before?.text.length < MAX_LINE && !before.open ? before : { time, stream, node, source, text };
    if (line === before) list.extend(line, text);
    else list.add(line);
    fresh += 1;
    open.set(stream + source, partial && line);
    if (seen && time === seen.time && text === seen.text) list.show(line, box.clientHeight / 2);
    if (sources.has(source) || !time) return;
    sources.set(source, sources.size);
    if (sources.size === 2) list.renew(); // from now on each has its prefix
  };
}

function tell(now, text = '') {
  [is, told] = [now, text];
  box.hidden = now === 'none';
  list.soon();
}

// After each drawing.
function drawn() {
  seek();
  const { lines, follows, dropped } = list;
  const known = lines.length - list.joined;
  const more = known >= tail && tail < list.MAX_LINES;
  let state = told || (lines.length ? 'following' : 'no output yet');
  if (is === 'ended') state = more ? `the last ${count(known)} lines` : 'that is all';
  say($('log-state'), dropped ? `${state}; the first ${count(dropped)} lines were dropped` : state);
  buttons.again.hidden = is === 'live';
  buttons.earlier.hidden = !more;
  if (follows) fresh = 0;
  mark(buttons.follow, 'aria-pressed', follows);
  say(buttons.follow, fresh ? `Follow: ${count(fresh)} new` : 'Follow');
}

function search() {
  const wanted = $('log-search').value.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
  pattern = wanted && new RegExp(`(${wanted})`, 'iu');
  [hits, searched, current] = [[], -Infinity, null];
  list.renew();
  seek();
}

// A part at a time: a hundred thousand lines take a while.
function seek() {
  const { lines } = list;
  const first = lines[0]?.at ?? 0;
  const until = performance.now() + 20;
  let i = Math.max(0, searched - first);
  for (; pattern && i < lines.length && performance.now() < until; i++) {
    if (isHit(lines[i])) hits.push(lines[i]);
  }
  searched = first + i;
  if (hits[0]?.at < first) hits = hits.filter(({ at }) => at >= first);
  const rest = pattern && i < lines.length;
  if (rest) list.soon();
  const nth = hits.indexOf(current) + 1;
  say($('log-found'), pattern && `${nth ? `${count(nth)} of ` : ''}${count(hits.length)}${rest ? '…' : ''}`);
  for (const name of ['previous', 'next']) buttons[name].disabled = !hits.length;
}

async function step(by) {
  if (!hits.length) return;
  const from = current?.at ?? list.upper().at - (by > 0 ? 1 : 0);
  const found = (by > 0 ? hits.find(({ at }) => at > from) : hits.findLast(({ at }) => at < from)) ?? hits.at(by > 0 ? 0 : -1);
  const isShown = found.runs || pattern.test(plain(found.text.slice(0, CUT)));
  const all = isShown ? [found] : await open(found);
  if (current) list.renew(current);
  current = all.find(isHit) ?? all[0];
  if (!current) return;
  list.renew(current);
  list.show(current, box.clientHeight / 3);
}

const isHit = ({ text }) => pattern?.test(plain(text));

/** Show a long line as its parts, and return them: only those in sight are drawn. */
async function open(line) {
  if (line.open) return [];
  line.open = true; // what comes of it later is a line of its own
  list.renew(line);
  const found = [];
  let until = performance.now() + STEP;
  for (const runs of parts(line.text)) {
    if (runs) found.push({ runs, text: runs.map(({ text }) => text).join('') });
    if (performance.now() < until) continue;
    await new Promise((go) => setTimeout(go));
    until = performance.now() + STEP;
  }
  const made = list.split(line, found.length ? found : [{ runs: [], text: '' }]);
  const i = hits.indexOf(line);
  if (i >= 0) {
    const matching = made.filter(isHit);
    hits.splice(i, 1, ...(matching.length ? matching : made.slice(0, 1))); // it may lie across parts
  }
  if (made.length && line.at < searched) searched += made.length - 1;
  return made;
}

function toggle(name) {
  mark(buttons[name], 'aria-pressed', $('output').toggleAttribute(`data-${name}`));
  list.renew();
  list.draw();
}

function pressed(event) {
  const { key, target } = event;
  const second = chord;
  chord = key === 'g';
  const field = target === $('log-search');
  const free = !second && !field && target.tagName !== 'SELECT' && !event.ctrlKey && !event.metaKey && !event.altKey;
  let act = free && KEYS[key];
  if (field && key === 'Enter') act = () => step(event.shiftKey ? -1 : 1);
  if (key === 'Escape') act = field ? unsearch : 'full' in $('output').dataset && KEYS.f;
  if (!act) return;
  event.preventDefault();
  event.stopPropagation();
  act();
}

function unsearch() {
  $('log-search').value = '';
  search();
  box.focus();
}

const text = (times) =>
  list.lines.map((line, i) => `${i && !line.joins ? '\n' : ''}${times && !line.joins ? `${line.time} ` : ''}${plain(line.text)}`).join('') + '\n';

function download() {
  const href = URL.createObjectURL(new Blob([text('times' in $('output').dataset)], { type: 'text/plain' }));
  el('a', { href, download: `${$('detail-name').textContent}.log` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}

function row(line) {
  const { time, stream, source, text, joins } = line;
  const { runs, cut } = line.runs ? line : parse(text);
  const made = el('p', { 'data-stream': stream, 'aria-current': line === current }, ...runs.flatMap(pieces));
  if (time && !joins) {
    mark(made, 'data-time', clock(time));
    if ('times' in $('output').dataset) made.title = [moment(time), time, line.node, source].join('\n');
  }
  if (sources.size > 1 && sources.has(source) && !joins) {
    // The slot, and the beginning of the id: a slot has a new task after each failure.
    const slot = store.find(of())?.tasks.find(({ id }) => id === source)?.slot;
    made.dataset.source = [slot, source.slice(0, 4)].filter(Boolean).join('.');
    made.style.setProperty('--n', sources.get(source));
  }
  if (cut) made.append(el('button', { onclick: () => open(line), disabled: line.open }, `… ${count(text.length)} characters: show all`));
  return made;
}

// A run of one style, cut around what is searched.
function pieces({ text, style }) {
  const parts = pattern ? text.split(pattern) : [text];
  const look = css(style);
  return (parts.length > MAX_PARTS ? [text] : parts).map((part, i) => {
    if (!look && i % 2 === 0) return part;
    const made = el(i % 2 ? 'mark' : 'span', {}, part);
    made.style.cssText = look;
    return made;
  });
}

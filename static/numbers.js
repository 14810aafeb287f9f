// Numbers of the last hour, six hours or day: runs, how long they took and waited, and the memory of nodes.

import * as api from './api.js';
import { chart } from './charts.js';
import { $, arrange, el, mark, say } from './dom.js';
import * as router from './router.js';
import { clock, duration, memory } from './words.js';

const MINUTE = 60_000;
const SPANS = { 1: ['Hour', 1], 6: ['6 hours', 5], 24: ['Day', 15] }; // hours → their name, and the minutes of a point
const OUTCOMES = ['failed', 'stopped', 'complete'];
const QUANTILES = ['p50', 'p95'];
const add = (a, b) => a + b;
const highest = (a, b) => (a === null || b > a ? b : a);
const seconds = (value) => (value < 10 ? `${+value.toPrecision(2)} s` : duration(value));
const times = (title) => chart(title, 'over', QUANTILES.map((each) => [each, each]), seconds);
const runs = chart('Runs that ended', 'stack', [['failed', 'failed'], ['stopped', 'stopping'], ['complete', 'complete']], String);
const [duration_, queued] = ['How long they ran', 'How long they waited'].map(times);
const nodes = new Map(); // host name → its chart
const buttons = Object.entries(SPANS).map(([each, [text]]) => el('button', { 'data-hours': each, onclick: () => pick(each) }, text));
let hours, asked;

export function start() {
  $('spans').append(...buttons);
  $('charts').append(runs.root, duration_.root, queued.root);
}

/** Take over the hours of an address. */
export function enter({ query }) {
  const wanted = SPANS[query.hours] ? query.hours : '1';
  if (wanted !== hours) asked = 0;
  hours = wanted;
  for (const button of buttons) mark(button, 'aria-pressed', button.dataset.hours === hours);
}

/** Ask again when a minute has passed. A drawing comes every few seconds, and none while the page is hidden. */
export function show() {
  if (asked > Date.now() - MINUTE) return;
  asked = Date.now();
  load(hours);
}

/** Drop what this token has read, also what is on its way. */
export function forget() {
  asked = 0;
  $('charts').hidden = $('node-memory').hidden = true;
}

function pick(each) {
  router.refine({ hours: each === '1' ? '' : each });
  enter(router.here());
  show();
}

async function load(of) {
  const mine = asked;
  try {
    const told = await api.get(`stats?minutes=${of * 60}`);
    if (mine === asked) draw(told, SPANS[of][1]);
  } catch (error) {
    if (mine === asked) say($('numbers-note'), error.message);
  }
}

function draw({ start, runs: of, nodes: all }, size) {
  const fold = (values, how) => values.flatMap((_, i) => (i % size ? [] : [values.slice(i, i + size).reduce(how)]));
  const moments = fold(of.started, add).map((_, i) => clock(new Date(Date.parse(start) + i * size * MINUTE)).slice(0, 5));
  const counts = OUTCOMES.map((name) => fold(of[name], add));
  runs.show(counts, moments, OUTCOMES.map((name, i) => `${counts[i].reduce(add)} ${name}`));
  for (const [name, { show }] of [['duration', duration_], ['queued', queued]]) {
    show(QUANTILES.map((each) => fold(of[`${name}_${each}`], highest)), moments, QUANTILES);
  }
  for (const [name, { root }] of nodes) if (!all[name]) nodes.delete(name, root.remove());
  for (const [name, { memory_reserved: values }] of Object.entries(all)) {
    const list = fold(values, highest);
    if (!nodes.has(name)) nodes.set(name, chart(name, 'line', [['reserved']], memory));
    nodes.get(name).show([list], moments, [`${memory(list.findLast((value) => value !== null))} reserved`]);
  }
  arrange($('node-charts'), [...nodes.values()].map(({ root }) => root));
  $('charts').hidden = false;
  $('node-memory').hidden = !nodes.size;
  say($('numbers-note'), size > 1 ? `Each point is ${size} minutes: of runs the sum, of times and memory the highest.` : 'Each point is a minute.');
}

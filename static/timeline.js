// The last changes, the newest first, and one small line of how many there are each minute.

import { $, badge, el, mark, say, svg } from './dom.js';
import * as store from './store.js';
import { clock, moment, why } from './words.js';

const list = $('timeline');
const area = svg('path', { class: 'area' });
const line = svg('path', { class: 'line' });
const spark = svg('svg', { viewBox: `0 0 ${store.MINUTES - 1} 20`, preserveAspectRatio: 'none', role: 'img' }, area, line);
let seen = 0;
let open;

export function start(onOpen) {
  open = onOpen;
  $('spark').append(spark);
}

export function show() {
  const { changes } = store;
  if (!list.children.length || list.firstChild.className || !changes.length) list.replaceChildren();
  list.prepend(...changes.slice(0, store.seen - seen).map(item));
  seen = store.seen;
  while (list.children.length > changes.length) list.lastChild.remove();
  if (!changes.length) list.append(el('li', { class: 'hint' }, 'Nothing has changed yet. What happens shows up here.'));
  draw(store.perMinute());
}

function item(change) {
  const time = el('time', { datetime: change.time, title: moment(change.time) }, clock(change.time));
  return el('li', { 'data-topic': change.topic }, time, badge('', change.is), el('p', {}, ...sentence(change)));
}

function sentence({ topic, id, name, is, reason, code, task }) {
  if (topic === 'gap') return ['Changes were missed here. What you see is up to date.'];
  if (topic === 'node') return ['node ', el('b', {}, name), ` is ${is}`];
  const link = el('button', { class: 'plain', onclick: () => open(id) }, el('bdi', {}, name));
  if (task) {
    const where = task.node ? ` on ${task.node}` : '';
    return [link, ` task ${task.slot ?? ''} ${is}${where}`, task.error ? `: ${task.error}` : ''];
  }
  const exit = code === null || code === undefined ? '' : `, exit ${code}`;
  return [link, ' ', el('b', {}, is), exit, why(reason) && `, ${why(reason)}`];
}

function draw(counts) {
  const top = Math.max(4, ...counts);
  const points = counts.map((count, i) => `${i},${(19 - (18 * count) / top).toFixed(1)}`).join('L');
  mark(line, 'd', `M${points}`);
  mark(area, 'd', `M0,20L${points}L${store.MINUTES - 1},20Z`);
  say($('rate'), counts.at(-1));
  mark(spark, 'aria-label', `${counts.at(-1)} events in the last minute, at most ${Math.max(...counts)} in one`);
}

// The last changes, the newest first, and a line of how many each minute.

import { $, badge, el, mark, nodeShape, say } from './dom.js';
import * as router from './router.js';
import * as store from './store.js';
import { clock, moment, why } from './words.js';

const list = $('timeline');
let seen = 0;

export function show() {
  const { changes } = store;
  if (list.firstChild?.className || !changes.length) list.replaceChildren();
  list.prepend(...changes.slice(0, store.seen - seen).map(item));
  seen = store.seen;
  while (list.children.length > changes.length) list.lastChild.remove();
  if (!changes.length) list.append(el('li', { class: 'hint' }, 'Nothing has changed yet. What happens shows up here.'));
  draw(store.perMinute());
}

function item(change) {
  const { topic, is, time } = change;
  const at = el('time', { datetime: time, title: moment(time) }, clock(time));
  const sign = badge('', topic === 'node' ? nodeShape(is) : is);
  return el('li', { 'data-topic': topic }, at, sign, el('p', {}, ...sentence(change)));
}

function sentence({ topic, id, name, is, reason, code, task }) {
  if (topic === 'gap') return ['Changes were missed here. What you see is up to date.'];
  if (topic === 'node') return ['node ', el('b', {}, name), ` is ${is}`];
  const link = el('a', { class: 'plain', title: name, href: router.href('runs', store.address({ id, name })) }, el('bdi', {}, name));
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
  mark($('spark').firstChild, 'd', `M-1,30L${points}L30,30`); // its ends are out of sight
  say($('rate'), counts.at(-1));
  mark($('spark'), 'aria-label', `${counts.at(-1)} changes in the last minute, at most ${Math.max(...counts)} in one`);
}

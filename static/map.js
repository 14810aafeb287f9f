// The swarm: a column for each node, a box for each task.

import { $, arrange, badge, el, mark, nodeShape, say, shape } from './dom.js';
import * as router from './router.js';
import * as store from './store.js';
import { memory, plural } from './words.js';

const MAX_ENDED = 40; // boxes of failed tasks in a column, and of others that ended; the rest is a number
const FAILED = new Set(['failed', 'rejected', 'orphaned']);
const EXTRA = { waiting: ['Waiting for a node', 'none fits now'], here: ['This engine', 'plain containers'] };
const rank = (node) => (node.leader ? 0 : node.role === 'manager' ? 1 : 2);
let columns = new Map();

export function start() {
  $('map').addEventListener('click', ({ target }) => target.dataset.service && router.go('runs', target.dataset.service));
  $('map').addEventListener('keydown', walk);
  $('fold').addEventListener('click', fold);
  const told = store.STATUSES.with(-1, 'shutdown');
  $('legend').append(...told.map((status) => el('li', {}, badge(status))));
}

export function show() {
  const boxes = gather();
  const nodes = [...store.nodes.values()].sort((a, b) => rank(a) - rank(b) || (a.hostname < b.hostname ? -1 : 1));
  showSum(nodes, boxes);
  const had = columns;
  columns = new Map();
  for (const node of $('map').hidden ? [] : [...nodes, ...others(boxes)]) {
    const column = had.get(node.id) ?? makeColumn(node);
    had.delete(node.id);
    columns.set(node.id, column);
    if (node.hostname) showNode(column, node);
    showBoxes(column, boxes.get(node.id) ?? [], node.state === 'down');
  }
  for (const { root } of had.values()) root.remove();
  arrange($('map'), [...columns.values()].map(({ root }) => root));
}

/** Fold the nodes to a line, or unfold them. */
export function fold() {
  preferences.tab.set('map', $('map').hidden ? 'open' : 'folded');
  show();
}

// One node alone is folded until that is changed.
function showSum(nodes, boxes) {
  const folded = (preferences.tab.get('map') || (nodes.length === 1 ? 'folded' : '')) === 'folded';
  $('map').hidden = $('legend').hidden = folded;
  mark($('fold'), 'aria-expanded', !folded);
  const away = nodes.filter((node) => node.state !== 'ready').length;
  const ready = `, ${away ? `${away} not ready` : 'all ready'}`;
  const parts = nodes.length ? [nodes[1] || !folded ? plural(nodes.length, 'node') + ready : nodes[0].hostname + (away ? ready : '')] : [];
  if (folded) {
    const sum = (of) => memory(nodes.reduce((all, node) => all + of(node), 0));
    const running = [...boxes.values()].flat().filter(([, { state }]) => state === 'running').length;
    parts.push(`${nodes.length ? `${sum((node) => store.reserved(node)[0])} of ${sum((node) => node.memory)} reserved, ` : ''}${running} running`);
  }
  say($('nodes-sum'), parts.join(': '));
}

/** Columns beside the nodes', which a token with limits is not told of: then its tasks say where they are. */
function others(boxes) {
  const ids = store.nodes.size ? Object.keys(EXTRA).filter((id) => boxes.has(id)) : [...boxes.keys()];
  return ids.map((id) => {
    const [title, hint] = EXTRA[id] ?? [boxes.get(id)[0][1].node ?? id];
    return { id, title, hint };
  });
}

/** Node id → [service, task] of what is shown in its column. */
function gather() {
  const boxes = new Map();
  const put = (id, ...box) => (boxes.get(id) ?? boxes.set(id, []).get(id)).push(box);
  for (const service of store.services.values()) {
    if (service.status === 'removed') continue;
    if (service.type === 'container') put('here', service, { id: service.id, state: service.status });
    for (const task of service.tasks) if (task.node_id || store.isActive(task)) put(task.node_id ?? 'waiting', service, task);
  }
  return boxes;
}

function makeColumn({ hostname, title, hint }) {
  const [is, role, numbers, more] = ['is', 'hint', 'numbers', 'hint'].map((name) => el('p', { class: name }));
  const fill = el('div');
  const bar = el('div', { class: 'bar', role: 'meter', 'aria-label': `Memory of ${hostname}` }, fill);
  const list = el('div', { class: 'boxes', role: 'group', 'aria-label': `Tasks: ${hostname ?? title}` });
  numbers.append(el('span'), el('span'), el('span'));
  const name = hostname ? el('a', { class: 'plain', href: router.href('nodes', hostname), title: `Show what is on ${hostname}` }, hostname) : title;
  const root = el('article', { class: 'card machine' }, el('header', {}, el('h3', {}, name), role, is));
  say(role, hint ?? '');
  root.append(...(hostname ? [bar, numbers] : []), list, more);
  return { root, is, role, bar, fill, numbers, list, more, boxes: new Map() };
}

function showNode({ root, is, role, bar, fill, numbers }, node) {
  const [mib, cores] = store.reserved(node);
  const word = node.state === 'ready' && node.availability !== 'active' ? node.availability : node.state;
  if (root.dataset.is !== word) is.replaceChildren(badge(word, nodeShape(word)));
  root.dataset.is = word;
  mark(role, 'title', node.address);
  say(role, `${node.leader ? 'manager, leads' : node.role} · ${node.address ?? ''}`);
  const part = node.memory ? Math.min(1, mib / node.memory) : 0;
  fill.style.width = `${(100 * part).toFixed(1)}%`;
  mark(bar, 'data-full', part > 0.9 ? '' : null);
  const told = [`${memory(mib)} reserved`, `${memory(Math.max(0, node.memory - mib))} free`];
  for (const [name, value] of [['max', node.memory], ['now', Math.round(mib)], ['text', told.join(', ')]]) {
    mark(bar, `aria-value${name}`, value);
  }
  [...told, `${Number(cores.toFixed(2))} of ${node.cpus} cores`].forEach((text, i) => say(numbers.children[i], text));
}

function showBoxes(column, tasks, down) {
  const kinds = [[], [], []]; // failed, active, ended otherwise: failures are seen first
  for (const box of tasks) kinds[FAILED.has(box[1].state) ? 0 : store.isActive(box[1]) ? 1 : 2].push(box);
  for (const ended of [kinds[0], kinds[2]]) {
    ended.sort(([, a], [, b]) => (a.updated_at > b.updated_at ? -1 : 1));
    ended.length = Math.min(ended.length, MAX_ENDED);
  }
  const shown = kinds.flat();
  const had = column.boxes;
  column.boxes = new Map();
  for (const [service, task] of shown) {
    const box = had.get(task.id) ?? el('button', { class: 'box', tabindex: -1, 'data-service': service.id });
    had.delete(task.id);
    column.boxes.set(task.id, box);
    const word = down && task.state === 'running' ? 'unknown' : task.state;
    if (box.word === word) continue;
    box.word = word;
    box.dataset.is = shape(word);
    box.title = `${service.name} ${task.slot ?? ''}: ${word}`;
    mark(box, 'aria-label', box.title);
  }
  for (const box of had.values()) box.remove();
  arrange(column.list, column.boxes.values());
  const first = column.list.firstChild;
  if (first && !column.list.querySelector('[tabindex="0"]')) first.tabIndex = 0;
  const cut = tasks.length - shown.length;
  say(column.more, cut ? `and ${cut} more that have ended` : first ? '' : 'no tasks');
}

// One stop for Tab in each column; the arrows go from box to box.
function walk(event) {
  const to = { ArrowRight: 'nextSibling', ArrowLeft: 'previousSibling' };
  const next = event.target.matches('.box') && event.target[to[event.key]];
  if (!next) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

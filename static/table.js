// The services as a table: searched, filtered, sorted. Only the rows in sight are in the document.

import * as bulk from './bulk.js';
import { $, announce, arrange, badge, el, mark, say } from './dom.js';
import * as router from './router.js';
import * as store from './store.js';
import { age, plural, quote, shortImage, why } from './words.js';

const SPARE = 8; // rows kept above and below those in sight
const NEWEST = 3; // failures that are named above the table
const COLUMNS = [
  ['name', 'Service', (s) => s.name],
  ['state', 'Status', (s) => store.STATUSES.indexOf(s.status)],
  ['running', 'Tasks', (s) => s.replicas.running],
  ['where', 'Node', (s) => place(s)],
  ['age', 'Age', (s) => -Date.parse(s.created_at) || 0],
  ['owner', 'Owner', (s) => s.owner ?? ''],
  ['exit', 'Exit', (s) => s.exit_code ?? -1],
  ['restarts', 'Restarts', (s) => s.restarts ?? 0],
];
const GENERATED = /^(.+)-[a-z]{6}$/; // a name that quartermaster made of the image's
const narrow = matchMedia('(max-width: 800px)');
const head = $('table').tHead.rows[0];
const body = $('table').tBodies[0];
const pad = () => el('tr', { class: 'pad', 'aria-hidden': 'true' }, el('td'));
const [above, below] = [pad(), pad()];
const chips = new Map();
const texts = new WeakMap(); // service → what is searched of it
let rows = new Map(); // service id → its row, of those in the document
let found = [];
let filter, words, node, sort; // `filter` is a status, or 'current': all but what is removed
let at; // the id of the row that the keyboard is on
let run, asked;

/** onRun() opens the form. */
export function start(onRun) {
  run = onRun;
  body.append(above, below);
  bulk.start(show);
  for (const [column, title] of COLUMNS) {
    head.append(el('th', { scope: 'col', class: column }, el('button', { onclick: () => sortBy(column) }, title)));
  }
  for (const status of ['current', ...store.STATUSES]) {
    const chip = el('button', { 'data-filter': status, onclick: () => refine({ status: status === 'current' ? '' : status }) });
    chip.append(status === 'current' ? status : badge(status), el('b'));
    chips.set(status, chip);
  }
  $('filters').prepend(...chips.values());
  $('search').addEventListener('input', () => refine({ q: $('search').value }));
  $('node-filter').addEventListener('click', () => refine({ node: '' }));
  $('empty').lastElementChild.addEventListener('click', () => (isAll() ? run() : clear()));
  body.addEventListener('focusin', ({ target }) => (at = target.closest('tr').shows?.id));
  body.addEventListener('click', clicked);
  for (const name of ['scroll', 'resize']) addEventListener(name, () => (asked ||= requestAnimationFrame(draw)), { passive: true });
}

/** Take over the filters of an address: `status`, `q`, `node`; and its order: `sort`, a column, with - in front descending. */
export function enter({ status, q = '', node: name = '', sort: by = 'age' }) {
  filter = chips.has(status) ? status : 'current';
  for (const [each, chip] of chips) mark(chip, 'aria-pressed', each === filter);
  if ($('search').value !== q) $('search').value = q;
  words = q.toLowerCase().split(/\s+/).filter(Boolean);
  node = name;
  say($('node-filter').firstChild, `node: ${node}`);
  $('node-filter').hidden = !node;
  const column = COLUMNS.find(([each]) => each === by.replace('-', '')) ?? COLUMNS[4];
  sort = [column[0], by.startsWith('-') ? -1 : 1, column[2]];
  for (const th of head.cells) mark(th, 'aria-sort', th.className === sort[0] ? (sort[1] > 0 ? 'ascending' : 'descending') : null);
  show();
  if (store.synced) announce(`${plural(found.length, 'service')} shown`);
}

/** The services that are shown, in their order. */
export const listed = () => found;

export function show() {
  found = select();
  draw(); // first: reading the layout is cheap before anything is written
  const counts = store.counts();
  counts.current = store.services.size - counts.removed;
  for (const [status, chip] of chips) {
    say(chip.lastChild, counts[status]);
    chip.hidden = !counts[status] && status !== 'current' && status !== filter;
  }
  showFailures(counts.failed);
  bulk.show(found, isAll());
  $('empty').hidden = found.length > 0 || !store.synced;
  const texts = ['Nothing is here now', 'Start something here, or with POST /run.', 'Run something…'];
  const none = ['Nothing matches', 'No service has these words and this status.', 'Show all'];
  (isAll() ? texts : none).forEach((text, i) => say($('empty').children[i], text));
}

/** Put the keyboard onto the row `step` further down. */
export function move(step) {
  const index = found.findIndex(({ id }) => id === at);
  const to = Math.max(0, Math.min(found.length - 1, index < 0 ? 0 : index + step));
  if (!found[to]) return;
  at = found[to].id;
  const y = body.getBoundingClientRect().top + to * height();
  const under = Math.max(0, head.lastChild.getBoundingClientRect().bottom) + 4; // the head stays in sight
  if (y < under) scrollBy(0, y - under);
  else if (y + height() > innerHeight - 12) scrollBy(0, y + height() - innerHeight + 12);
  draw();
  rows.get(at).querySelector('a').focus({ preventScroll: true });
}

/** Select the row that the keyboard is on, or no longer. */
export const toggle = () => rows.has(at) && bulk.pick(store.services.get(at), !bulk.selected.has(at));

/** Show all that is current; the keyboard goes to the search. */
export function clear() {
  refine({ q: '', status: '', node: '' });
  $('search').focus();
}

const isAll = () => filter === 'current' && !words.length && !node;
const height = () => (narrow.matches ? 84 : 36);

function refine(query) {
  router.refine(query);
  enter(router.here().query);
}

/** Where a service is: a node's name, how many nodes, or this engine. */
function place(service) {
  if (service.type === 'container') return 'this engine';
  const tasks = service.tasks.filter((task) => task.node);
  const active = tasks.filter(store.isActive);
  const names = new Set((active.length ? active : tasks).map((task) => task.node));
  return names.size > 1 ? plural(names.size, 'node') : ([...names][0] ?? '–');
}

function select() {
  const [, sign, key] = sort;
  const all = [];
  for (const service of store.services.values()) {
    const wanted = filter === 'current' ? service.status !== 'removed' : service.status === filter;
    if (wanted && matches(service)) all.push([key(service), service]);
  }
  all.sort(([a, one], [b, other]) => (a < b ? -sign : a > b ? sign : one.id < other.id ? -1 : 1));
  return all.map(([, service]) => service);
}

function matches(service) {
  if (node && !service.tasks.some((task) => task.node === node)) return false;
  if (!words.length) return true;
  const text = texts.get(service) ?? searched(service);
  return words.every((word) => text.includes(word));
}

function searched(service) {
  const { name, id, image, owner, status, reason, command, labels, tasks } = service;
  const tags = Object.entries(labels).map((pair) => pair.join('='));
  const text = [name, id, image, owner, status, why(reason), command, ...tags, ...tasks.map((task) => task.node)].join('\n').toLowerCase();
  texts.set(service, text);
  return text;
}

function draw() {
  asked = 0;
  const high = height();
  const top = body.getBoundingClientRect().top;
  const first = Math.max(0, Math.min(found.length, Math.floor(-top / high) - SPARE));
  const last = Math.max(first, Math.min(found.length, Math.ceil((innerHeight - top) / high) + SPARE));
  const had = rows;
  rows = new Map();
  for (let i = first; i < last; i++) {
    const service = found[i];
    const row = had.get(service.id) ?? makeRow();
    had.delete(service.id);
    rows.set(service.id, row);
    fillRow(row, service, i);
  }
  for (const row of had.values()) row.remove();
  arrange(body, rows.values(), above);
  stretch(above, first * high);
  stretch(below, (found.length - last) * high);
  mark($('table'), 'aria-rowcount', found.length + 1);
  $('table').hidden = !found.length;
}

function stretch(row, high) {
  row.hidden = !high;
  row.firstChild.style.height = `${high}px`;
}

function makeRow() {
  const row = el('tr', {}, el('td', { class: 'pick' }, bulk.box()), ...COLUMNS.map(([column]) => el('td', { class: column })));
  row.cells[1].append(el('a', { class: 'plain' }, el('bdi')), el('span', { class: 'image' }), el('span', { class: 'tags' }));
  return row;
}

function fillRow(row, service, index) {
  const [pick, name, state, running, where, born, owner, exit, restarts] = row.cells;
  mark(row, 'aria-rowindex', index + 2);
  say(born, age(service.created_at));
  const picked = bulk.selected.has(service.id);
  if (pick.firstChild.checked !== picked) pick.firstChild.checked = picked;
  mark(row, 'data-picked', picked ? '' : null);
  if (row.shows === service) return;
  row.shows = service;
  row.dataset.is = service.status;
  mark(pick.firstChild, 'aria-label', `Select ${service.name}`);
  fillName(name, service);
  state.replaceChildren(badge(service.status), el('span', { class: 'why' }, why(service.reason)));
  state.title = [why(service.reason), service.error].filter(Boolean).join(': ');
  say(running, progress(service));
  say(where, place(service));
  say(owner, service.owner ?? '');
  say(exit, service.exit_code ?? '');
  mark(exit, 'data-bad', service.exit_code ? '' : null);
  const last = service.restarts ? `${service.restarts} ×, last exit ${service.last_exit?.exit_code ?? '?'}` : '';
  say(restarts, last.replace('last ', ''));
  restarts.title = last && `restarted ${last}`;
}

function fillName(cell, service) {
  const [link, image, tags] = cell.children;
  const { name, command, labels } = service;
  const short = shortImage(service.image);
  const call = [short.split('/').pop(), ...(command ?? []).map(quote)].join(' ');
  const made = short.replace(/:[^/]*$/, '').split('/').pop().replace(/[._-]+/g, '-') === name.match(GENERATED)?.[1];
  mark(link, 'href', router.href('runs', store.address(service)));
  say(link.firstChild, name);
  say(image, made ? call : short.split('/').pop());
  tags.replaceChildren(...Object.entries(labels).map((pair) => el('span', {}, pair.join('='))));
  cell.title = [name, short, call, ...[...tags.children].map((tag) => tag.textContent)].join('\n');
}

function progress({ status, replicas: { desired, running, complete } }) {
  const done = status === 'complete' || status === 'failed' || (status === 'removed' && complete);
  return done ? `${complete} of ${desired} done` : status === 'removed' ? '' : `${running} of ${desired} running`;
}

// The newest failures are named where they are seen first: above the list, whatever its order.
function showFailures(count) {
  const failed = count ? [...store.services.values()].filter(({ status }) => status === 'failed') : [];
  failed.sort((a, b) => (a.finished_at > b.finished_at ? -1 : 1)).length = Math.min(count, NEWEST);
  const key = failed.map(({ id, finished_at: end }) => id + age(end)).join() + count;
  if ($('failures').key === key) return;
  $('failures').key = key;
  const newest = failed.map((service) => {
    const link = el('a', { class: 'plain', href: router.href('runs', store.address(service)) }, el('bdi', {}, service.name));
    return el('span', {}, link, ` ${why(service.reason) || `exit ${service.exit_code ?? '?'}`}, ${age(service.finished_at)} ago`);
  });
  const all = el('a', { href: router.href('live', '', { status: 'failed' }) }, badge(`${count} failed`, 'failed'));
  $('failures').replaceChildren(...(count ? [all, ...newest] : ['No failures']));
}

function clicked({ target, shiftKey }) {
  const { shows } = target.closest('tr');
  if (!shows || target.closest('a')) return; // the link leads there by itself
  if (!target.closest('.pick')) router.go('runs', store.address(shows));
  else bulk.pick(shows, target.checked ?? !bulk.selected.has(shows.id), shiftKey);
}

function sortBy(column) {
  const back = sort[0] === column && sort[1] > 0;
  refine({ sort: back ? `-${column}` : column === 'age' ? '' : column });
}

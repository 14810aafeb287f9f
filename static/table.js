// The services as a table: searched, filtered, sorted. Only the rows in sight are in the document.

import { $, announce, arrange, badge, el, mark, say } from './dom.js';
import * as router from './router.js';
import * as store from './store.js';
import { age, plural, shortImage, why } from './words.js';

const SPARE = 8; // rows kept above and below those in sight
const COLUMNS = [
  ['name', 'Service', (s) => s.name],
  ['state', 'Status', (s) => store.STATUSES.indexOf(s.status)],
  ['running', 'Running', (s) => s.replicas.running],
  ['where', 'Node', (s) => place(s)],
  ['age', 'Age', (s) => -Date.parse(s.created_at) || 0],
  ['owner', 'Owner', (s) => s.owner ?? ''],
  ['exit', 'Exit', (s) => s.exit_code ?? -1],
];
const narrow = matchMedia('(max-width: 800px)');
const head = $('table').tHead.rows[0];
const body = $('table').tBodies[0];
const pad = () => el('tr', { class: 'pad', 'aria-hidden': 'true' }, el('td', { colspan: COLUMNS.length }));
const [above, below] = [pad(), pad()];
const chips = new Map();
let rows = new Map(); // service id → its row, of those in the document
let found = [];
let filter = 'current'; // a status, or all but what is removed
let words = [];
let sort = ['age', 1];
let run, asked;

/** onRun() opens the form. */
export function start(onRun) {
  run = onRun;
  body.append(above, below);
  for (const [column, title] of COLUMNS) {
    const button = el('button', { onclick: () => sortBy(column, sort[0] === column ? -sort[1] : 1) }, title);
    head.append(el('th', { scope: 'col', class: column }, button));
  }
  for (const status of ['current', ...store.STATUSES]) {
    const chip = el('button', { 'data-filter': status, onclick: () => pick(status) });
    chip.append(status === 'current' ? status : badge(status), el('b'));
    chips.set(status, chip);
  }
  $('filters').append(...chips.values());
  sortBy(...sort);
  $('search').addEventListener('input', () => {
    router.refine({ q: $('search').value });
    enter(router.here().query);
  });
  $('empty').lastElementChild.addEventListener('click', leaveEmpty);
  for (const name of ['scroll', 'resize']) addEventListener(name, () => (asked ||= requestAnimationFrame(draw)), { passive: true });
}

/** Take over the filters of an address: `status` and `q`. */
export function enter({ status = 'current', q = '' }) {
  filter = chips.has(status) ? status : 'current';
  for (const [each, chip] of chips) mark(chip, 'aria-pressed', each === filter);
  if ($('search').value !== q) $('search').value = q;
  words = q.toLowerCase().split(/\s+/);
  changed();
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
  const [title, text, button] = $('empty').children;
  const all = isAll();
  $('empty').hidden = found.length > 0 || !store.synced;
  say(title, all ? 'Nothing is here now' : 'Nothing matches');
  say(text, all ? 'Start something here, or with POST /run.' : 'No service has these words and this status.');
  say(button, all ? 'Run something…' : 'Show all');
}

const isAll = () => filter === 'current' && !words.join('');

/** Where a service is: a node's name, how many nodes, or this engine. */
function place(service) {
  if (service.type === 'container') return 'this engine';
  const tasks = service.tasks.filter((task) => task.node);
  const active = tasks.filter(store.isActive);
  const names = new Set((active.length ? active : tasks).map((task) => task.node));
  return names.size > 1 ? plural(names.size, 'node') : ([...names][0] ?? '–');
}

function select() {
  const key = COLUMNS.find(([column]) => column === sort[0])[2];
  const found = [];
  for (const service of store.services.values()) {
    const wanted = filter === 'current' ? service.status !== 'removed' : service.status === filter;
    if (wanted && matches(service)) found.push([key(service), service]);
  }
  found.sort(([a, one], [b, other]) => (a < b ? -sort[1] : a > b ? sort[1] : one.id < other.id ? -1 : 1));
  return found.map(([, service]) => service);
}

function matches({ name, id, image, owner, reason, command, labels, tasks }) {
  if (!words.length) return true;
  const tags = Object.entries(labels).map((pair) => pair.join('='));
  const text = [name, id, image, owner, why(reason), command, ...tags, ...tasks.map(({ node }) => node)].join('\n').toLowerCase();
  return words.every((word) => text.includes(word));
}

function draw() {
  asked = 0;
  const height = narrow.matches ? 100 : 56;
  const top = body.getBoundingClientRect().top;
  const first = Math.max(0, Math.min(found.length, Math.floor(-top / height) - SPARE));
  const last = Math.max(first, Math.min(found.length, Math.ceil((innerHeight - top) / height) + SPARE));
  const had = rows;
  rows = new Map();
  for (let i = first; i < last; i++) {
    const service = found[i];
    const row = had.get(service.id) ?? makeRow(service.id);
    had.delete(service.id);
    rows.set(service.id, row);
    fillRow(row, service, i);
  }
  for (const row of had.values()) row.remove();
  arrange(body, rows.values(), above);
  stretch(above, first * height);
  stretch(below, (found.length - last) * height);
  mark($('table'), 'aria-rowcount', found.length + 1);
  $('table').hidden = !found.length;
}

function stretch(row, height) {
  row.hidden = !height;
  row.firstChild.style.height = `${height}px`;
}

function makeRow(id) {
  const row = el('tr', { onclick: () => router.go('runs', store.address(store.services.get(id))) }, ...COLUMNS.map(([column]) => el('td', { class: column })));
  row.firstChild.append(el('a', { class: 'plain' }, el('bdi')), el('span', { class: 'image' }));
  return row;
}

function fillRow(row, service, index) {
  const [name, state, running, where, born, owner, exit] = row.cells;
  mark(row, 'aria-rowindex', index + 2);
  say(born, age(service.created_at));
  if (row.shows === service) return;
  row.shows = service;
  row.dataset.is = service.status;
  mark(name.firstChild, 'href', router.href('runs', store.address(service)));
  say(name.firstChild.firstChild, service.name);
  say(name.lastChild, shortImage(service.image));
  name.title = `${service.name}\n${service.image}`;
  state.replaceChildren(badge(service.status), el('span', { class: 'why' }, why(service.reason)));
  state.title = service.error ?? '';
  say(running, `${service.replicas.running}/${service.replicas.desired}`);
  say(where, place(service));
  say(owner, service.owner ?? '–');
  say(exit, service.exit_code ?? '–');
  mark(exit, 'data-bad', service.exit_code ? '' : null);
}

function sortBy(...by) {
  sort = by;
  for (const th of head.cells) mark(th, 'aria-sort', th.className === by[0] ? (by[1] > 0 ? 'ascending' : 'descending') : null);
  changed();
}

function pick(status) {
  router.refine({ status: status === 'current' ? '' : status });
  enter(router.here().query);
}

// By the user: said to who cannot see the list.
function changed() {
  show();
  if (store.synced) announce(`${plural(found.length, 'service')} shown`);
}

function leaveEmpty() {
  if (isAll()) return run();
  router.refine({ q: '', status: '' });
  enter({});
  $('search').focus();
}

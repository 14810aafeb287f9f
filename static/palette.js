// The command palette: goes to anything by some letters of its name, and does what the buttons do.

import * as api from './api.js';
import { $, el, mark } from './dom.js';
import * as router from './router.js';
import * as store from './store.js';

const MOST = 40; // results; while nothing is typed, of runs
const input = $('palette-input');
const list = $('palette-list');
let commands; // returns [title, action] of what can be done now
let functions = []; // their names
let results = [];
let at = 0;

export function start(actions) {
  commands = actions;
  const index = ({ target }) => [...list.children].indexOf(target.closest('li'));
  input.addEventListener('input', show);
  input.addEventListener('keydown', walk);
  list.addEventListener('click', (event) => choose(index(event)));
  list.addEventListener('mousemove', (event) => point(index(event)));
  $('palette-open').addEventListener('click', open);
}

export function open() {
  input.value = '';
  $('palette').showModal();
  show();
  api.get('functions').then((answer) => (functions = answer.functions.map(({ name }) => name)), () => {}); // this token may not
}

/** Drop what this token has read. */
export const forget = () => (functions = []);

/** How well the letters fit: best together at the beginning, else in their order; -1 where they are not there. */
function fit(name, letters) {
  const text = name.toLowerCase();
  const found = text.indexOf(letters);
  if (found >= 0) return 2000 - found - text.length;
  let [from, gaps] = [-1, 0];
  for (const letter of letters) {
    const next = text.indexOf(letter, from + 1);
    if (next < 0) return -1;
    gaps += next - from - 1;
    from = next;
  }
  return 1000 - gaps - text.length;
}

function items() {
  const go = (kind, name, ...where) => [name, kind, () => router.go(...where)];
  return [
    ...[...$('views').children].map((link) => go('view', link.textContent, link.dataset.view)),
    ...commands().map(([title, action]) => [title, 'action', action]),
    ...[...store.nodes.values()].map(({ hostname }) => go('node', hostname, 'nodes', hostname)),
    ...functions.map((name) => go('function', name, 'functions', name)),
    ...[...store.services.values()].map((run) => go(run.status, run.name, 'runs', store.address(run))),
  ];
}

function show() {
  const letters = input.value.toLowerCase().replace(/\s/g, '');
  const fits = items().map((item) => [fit(item[0], letters), item]).filter(([score]) => score >= 0);
  if (letters) fits.sort(([a], [b]) => b - a);
  results = fits.slice(0, MOST).map(([, item]) => item);
  if (!results.length) results = [[input.value.trim(), 'removed before?', () => router.go('runs', input.value.trim())]];
  const option = ([name, kind], i) => el('li', { role: 'option', id: `palette-${i}` }, el('bdi', {}, name), el('span', { class: 'hint' }, kind));
  list.replaceChildren(...results.map(option));
  point(0);
}

function point(index) {
  const option = list.children[index];
  if (!option) return;
  if (list.children[at]) mark(list.children[at], 'aria-selected', null);
  at = index;
  mark(option, 'aria-selected', true);
  mark(input, 'aria-activedescendant', option.id);
}

function choose(index) {
  if (!results[index]) return;
  $('palette').close();
  results[index][2]();
}

function walk(event) {
  const step = { ArrowDown: 1, ArrowUp: results.length - 1 }[event.key];
  if (event.key === 'Enter') choose(at);
  else if (step) point((at + step) % results.length);
  else return;
  event.preventDefault();
  list.children[at].scrollIntoView({ block: 'nearest' });
}

// The command palette: goes to anything by some letters of its name, and does what the buttons do.

import * as api from './api.js';
import { $, el, mark, say } from './dom.js';
import * as router from './router.js';
import * as store from './store.js';

const MOST = 40; // results
const NEWEST = 8; // runs, while nothing is typed
const input = $('palette-input');
const list = $('palette-list');
let actions; // [[title, action]…]
let functions = [];
let results = [];
let at = 0;

/** `commands()` returns [title, action] of what can be done now. */
export function start(commands) {
  actions = commands;
  input.addEventListener('input', show);
  input.addEventListener('keydown', walk);
  list.addEventListener('click', ({ target }) => choose([...list.children].indexOf(target.closest('li'))));
  list.addEventListener('mousemove', ({ target }) => point([...list.children].indexOf(target.closest('li'))));
  $('palette-open').addEventListener('click', open);
}

export function open() {
  input.value = '';
  $('palette').showModal();
  show();
  const names = (answer) => (functions = answer.functions.map(({ name }) => name));
  api.get('functions').then(names, () => {}).then(() => input.value && show()); // a token may not read them
}

/** How well `word` fits: its letters in order, best together and at the beginning of a word; -1 where they are not there. */
export function fit(text, word) {
  const low = text.toLowerCase();
  const found = low.indexOf(word);
  if (found >= 0) return 1000 - Math.min(found, 500) + (found === 0 || /\W/.test(low[found - 1]) ? 500 : 0) - low.length / 100;
  let [from, gaps] = [-1, 0];
  for (const letter of word) {
    const next = low.indexOf(letter, from + 1);
    if (next < 0) return -1;
    gaps += from < 0 ? 0 : next - from - 1;
    from = next;
  }
  return 400 - Math.min(gaps, 390) - low.length / 100;
}

function items() {
  const go = (kind, name, ...where) => [kind, name, () => router.go(...where)];
  return [
    ...[...document.querySelectorAll('#views a')].map((link) => go('view', link.textContent, link.dataset.view)),
    ...actions().map(([title, action]) => ['action', title, action]),
    ...[...store.nodes.values()].map(({ hostname }) => go('node', hostname, 'nodes', hostname)),
    ...functions.map((name) => go('function', name, 'functions', name)),
    ...[...store.services.values()].reverse().map((run) => go(run.status, run.name, 'runs', store.address(run))),
  ];
}

function show() {
  const typed = input.value.trim().toLowerCase();
  const all = items();
  if (typed) {
    const fits = all.map((item) => [fit(item[1], typed.replace(/\s+/g, '')), item]).filter(([score]) => score >= 0);
    results = fits.sort(([a], [b]) => b - a).slice(0, MOST).map(([, item]) => item);
    if (!results.length) results = [['run', input.value.trim(), () => router.go('runs', input.value.trim())]]; // an old one
  } else {
    const first = all.length - store.services.size;
    results = all.slice(0, first + NEWEST).filter(([kind]) => kind !== 'node' && kind !== 'function');
  }
  const option = ([kind, name], i) => el('li', { role: 'option', id: `palette-${i}` }, el('bdi', {}, name), el('span', { class: 'hint' }, kind));
  list.replaceChildren(...results.map(option));
  say($('palette-count'), `${results.length} results`);
  point(0);
}

function point(index) {
  if (!list.children[index]) return;
  mark(list.children[at] ?? list.children[0], 'aria-selected', null);
  at = index;
  mark(list.children[at], 'aria-selected', true);
  mark(input, 'aria-activedescendant', `palette-${at}`);
}

function choose(index) {
  if (!results[index]) return;
  $('palette').close();
  results[index][2]();
}

function walk(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (event.key === 'Enter') choose(at);
  else if (step) point((at + step + results.length) % results.length);
  else return;
  event.preventDefault();
  list.children[at]?.scrollIntoView({ block: 'nearest' });
}

// The keyboard: one key for what is done often. Keys do nothing while one types.

import * as bulk from './bulk.js';
import * as detail from './detail.js';
import { $, el, main } from './dom.js';
import * as form from './form.js';
import * as palette from './palette.js';
import * as router from './router.js';
import * as table from './table.js';

const GO = { l: 'live', h: 'history', f: 'functions', i: 'invocations', n: 'numbers' };
const CHORD = 1500; // milliseconds between g and the second key
const TYPING = 'input:not([type="checkbox"]), textarea, select, [contenteditable]';
// key → [what it does, how]
const KEYS = {
  'Ctrl K': ['go to a run, a function, a node or a view; do something'],
  j: ['the next row; in an opened run, the next run', () => move(1)],
  k: ['the row above; in an opened run, the run above', () => move(-1)],
  Enter: ['open the row'],
  x: ['select the row; a click with Shift selects a range', () => main().id === 'live' && table.toggle()],
  '/': ['search', () => main().querySelector('[type="search"]')?.focus()],
  n: ['in the output: the next match'],
  N: ['in the output: the match before'],
  f: ['in the output: the whole window'],
  r: ['run something', () => form.open()],
  y: ['copy the link', () => $('share').click()],
  g: [`then ${Object.keys(GO).join(', ')}: go to ${Object.values(GO).join(', ')}`, () => (chord = Date.now())],
  Escape: ['close what is on top, or clear the search', escape],
  '?': ['show these keys', help],
};
let chord = 0;

export function start() {
  addEventListener('keydown', (event) => {
    const { key, target, ctrlKey, metaKey } = event;
    // A dialog has its own keys.
    if (document.body.dataset.page !== 'in' || event.defaultPrevented || event.altKey || document.querySelector('dialog[open]')) return;
    const called = (ctrlKey || metaKey) && key.toLowerCase() === 'k' && !event.shiftKey;
    const typing = target.closest(TYPING) && (key !== 'Escape' || target.id !== 'search');
    if (!called && (ctrlKey || metaKey || typing)) return;
    const view = Date.now() - chord < CHORD && GO[key];
    chord = 0;
    const action = called ? palette.open : view ? () => router.go(view) : Object.hasOwn(KEYS, key) && KEYS[key][1];
    if (!action) return;
    if (key !== 'Escape') event.preventDefault();
    action();
  });
}

export function help() {
  $('keys-list').replaceChildren(...Object.entries(KEYS).flatMap(([key, [does]]) => [el('dt', {}, el('kbd', {}, key)), el('dd', {}, does)]));
  $('keys').showModal();
}

function move(step) {
  if (document.activeElement.closest('#detail')) return detail.step?.(step);
  if (main().id === 'live') return table.move(step);
  const links = [...main().querySelectorAll('tbody tr')].map((row) => row.querySelector('a, button')).filter(Boolean);
  const now = links.findIndex((link) => link.closest('tr').contains(document.activeElement));
  links[Math.max(0, Math.min(links.length - 1, now + step))]?.focus();
}

function escape() {
  if (router.here().run) router.close();
  else if (bulk.selected.size) bulk.select([]);
  else if (main().id === 'live' && $('search').value) table.clear();
  else document.activeElement.blur();
}

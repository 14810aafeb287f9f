// The keyboard: one key for what is done often. Keys do nothing while one types.

import * as bulk from './bulk.js';
import * as detail from './detail.js';
import { $, el } from './dom.js';
import * as form from './form.js';
import * as palette from './palette.js';
import * as router from './router.js';
import * as table from './table.js';

const GO = { l: 'live', h: 'history', f: 'functions', i: 'invocations', n: 'numbers' };
const CHORD = 1500; // milliseconds between g and the second key
// key → [what it does, how]
const KEYS = {
  j: ['the next row; in an opened run, the next run', () => move(1)],
  k: ['the row above; in an opened run, the run above', () => move(-1)],
  Enter: ['open the row'],
  x: ['select the row; a click with Shift selects a range', () => live() && table.toggle()],
  '/': ['search', () => main()?.querySelector('input[type="search"]')?.focus()],
  r: ['run something', () => form.open()],
  y: ['copy the link to what is shown', () => $('share').click()],
  g: [`then ${Object.keys(GO).join(', ')}: go to ${Object.values(GO).join(', ')}`, () => (chord = Date.now())],
  Escape: ['close what is on top, or clear the search', escape],
  '?': ['show these keys', help],
};
let chord = 0;

export function start() {
  addEventListener('keydown', (event) => {
    if (document.body.dataset.page !== 'in' || event.defaultPrevented || event.altKey) return;
    const { key } = event;
    if (event.ctrlKey || event.metaKey) {
      if (key.toLowerCase() !== 'k' || event.shiftKey || !free()) return;
      event.preventDefault();
      return palette.open();
    }
    const typing = event.target.closest('input:not([type="checkbox"]), textarea, select, [contenteditable]');
    if (!free() || (typing && (key !== 'Escape' || typing.id !== 'search'))) return;
    const then = Date.now() - chord < CHORD && GO[key];
    chord = 0;
    const action = then ? () => router.go(then) : Object.hasOwn(KEYS, key) && KEYS[key][1];
    if (!action) return;
    if (key !== 'Escape') event.preventDefault();
    action();
  });
}

export function help() {
  const all = [['Ctrl K', ['go to a run, a function, a node or a view; do something']], ...Object.entries(KEYS)];
  const rows = all.flatMap(([key, [does]]) => [el('dt', {}, el('kbd', {}, key)), el('dd', {}, does)]);
  $('keys-list').replaceChildren(...rows);
  $('keys').showModal();
}

const free = () => !document.querySelector('dialog[open]'); // a dialog has its own keys
const main = () => [...document.querySelectorAll('main')].find((each) => each.checkVisibility());
const live = () => main()?.id === 'live';

function move(step) {
  if (document.activeElement.closest('#detail')) return detail.step?.(step);
  if (live()) return table.move(step);
  const links = [...(main()?.querySelectorAll('tbody tr') ?? [])].map((row) => row.querySelector('a, button')).filter(Boolean);
  const now = links.findIndex((link) => link.closest('tr').contains(document.activeElement));
  links[Math.max(0, Math.min(links.length - 1, now + step))]?.focus();
}

function escape() {
  if (router.here().run) router.close();
  else if (bulk.selected.size) bulk.selectAll(false);
  else if (live() && $('search').value) table.clear();
  else document.activeElement.blur();
}

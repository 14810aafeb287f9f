// The live view: nodes, services, and the timeline of what changes.

import { $, mark } from './dom.js';
import * as map from './map.js';
import * as table from './table.js';
import * as timeline from './timeline.js';

export const { listed } = table;
const parts = document.querySelectorAll('[data-to]');
let node;

/** onRun() opens the form. */
export function start(onRun) {
  table.start(onRun);
  map.start();
  timeline.start();
  for (const button of parts) button.addEventListener('click', () => part(button.dataset.to));
  part('services');
}

/** Take over the filters of an address. */
export function enter({ query }) {
  if (query.node && query.node !== node) part('services');
  node = query.node;
  table.enter(query);
  timeline.enter(query);
}

export function show() {
  for (const each of [table, map, timeline]) each.show();
}

// On a phone the view shows one of its parts.
function part(name) {
  document.body.dataset.part = name;
  for (const button of parts) mark(button, 'aria-pressed', button.dataset.to === name);
}

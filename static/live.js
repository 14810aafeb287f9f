// The live view: nodes, services, and the timeline of what changes. On a phone it shows one of its parts, which has an
// address: `#/`, `#/live/nodes`, `#/live/timeline`.

import { $, mark } from './dom.js';
import * as map from './map.js';
import * as router from './router.js';
import * as store from './store.js';
import * as table from './table.js';
import * as timeline from './timeline.js';

export const { listed } = table;
const FIRST = 'services';
const PARTS = { nodes: map, timeline }; // beside it
const buttons = document.querySelectorAll('[data-to]');

/** onRun() opens the form. */
export function start(onRun) {
  table.start(onRun);
  map.start();
  timeline.start();
  for (const button of buttons) button.addEventListener('click', turn);
  part('');
}

/** Take over the part and the filters of an address. */
export function enter({ name, query }) {
  part(name);
  table.enter(query);
  timeline.enter(query);
  if (store.synced) for (const each of inSight()) each.show();
}

/** Draw the table, which has the order of the runs also where it is not in sight, and what else is in sight. */
export function show() {
  const others = inSight(); // read before anything is written
  table.show();
  for (const each of others) each.show();
}

const inSight = () => Object.keys(PARTS).filter((name) => $(`live-${name}`).checkVisibility()).map((name) => PARTS[name]);
const turn = ({ target: { dataset } }) => router.go('live', dataset.to === FIRST ? '' : dataset.to, router.here().query);

function part(name) {
  const shown = PARTS[name] ? name : FIRST;
  document.body.dataset.part = shown;
  for (const button of buttons) mark(button, 'aria-pressed', button.dataset.to === shown);
}

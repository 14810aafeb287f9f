// The live view: nodes, services, and the timeline of what changes.

import * as map from './map.js';
import * as table from './table.js';
import * as timeline from './timeline.js';

export function start(onRun) {
  table.start(onRun);
  map.start();
}

/** Take over the filters of an address. */
export const enter = ({ query }) => table.enter(query);

export function show() {
  for (const part of [table, map, timeline]) part.show();
}

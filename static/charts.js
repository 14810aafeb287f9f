// Charts of numbers over time. A cursor, moved by the pointer or the arrow keys, tells the values.

import { el, mark, say } from './dom.js';

function svg(tag, attributes, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const name in attributes) mark(node, name, attributes[name]);
  node.append(...children);
  return node;
}

const plot = (...paths) => svg('svg', { preserveAspectRatio: 'none', 'aria-hidden': true }, ...paths);
const scale = (picture, length) => mark(picture, 'viewBox', `0 0 ${length} 1`);

// One is the top; a number without a neighbour is a dot.
const line = (values, top) =>
  values.map((value, i) => (value === null ? '' : `${(values[i - 1] ?? null) === null ? 'M' : 'L'}${i + 0.5} ${1 - value / top}l0 0`)).join('');

const bars = (values, top, floor) =>
  values.map((value, i) => (value ? `M${i + 0.1} ${1 - floor[i] / top}v${-value / top}h.8v${value / top}z` : '')).join('');

/** Return a line of these numbers, null where there is none; `label` tells them to who cannot see it. */
export function sparkline(values, label) {
  const picture = plot(svg('path', { class: 'line', d: line(values, Math.max(...values) || 1) }));
  scale(picture, values.length);
  return el('span', { class: 'sparkline', role: 'img', 'aria-label': label }, picture);
}

/** Draw each list into its path; return the highest value. */
function draw(kind, lists, paths) {
  const floor = lists[0].map((_, i) => (kind === 'stack' ? lists.reduce((all, list) => all + list[i], 0) : 0));
  const most = Math.max(...floor, ...lists.flat());
  lists.forEach((list, i) => {
    if (kind === 'stack') list.forEach((value, at) => (floor[at] -= value)); // the first is on top
    mark(paths[i], 'd', (kind === 'line' ? line : bars)(list, most || 1, floor));
  });
  return most;
}

/**
 * Return {root, show(lists, moments, sums)}: numbers, null where there is none, as a `line`, as bars of a `stack`, or as
 * bars `over` each other, the first in front. `keys` are [name, state]; `sums` are told beside them without the cursor.
 */
export function chart(title, kind, keys, tell) {
  const paths = keys.map(([, is]) => svg('path', { class: kind, 'data-is': is }));
  const texts = keys.map(() => el('span'));
  const cursor = svg('path', { class: 'cursor' });
  const picture = plot(...paths.toReversed(), cursor);
  const here = () => move(+slider.value);
  const slider = el('input', { type: 'range', min: 0, 'aria-label': title, oninput: here, onfocus: here, onblur: () => move() });
  const [moment, top, first, now] = ['', '', '', 'now'].map((text) => el('span', {}, text));
  const area = el('div', { onpointermove: follow, onpointerdown: follow, onpointerleave: () => move() }, top, picture, slider);
  const legend = el('p', { class: 'legend' }, ...keys.map(([, is], i) => el('span', { class: 'status', 'data-is': is }, el('i'), texts[i])), moment);
  const root = el('figure', { class: 'card chart' }, el('h3', {}, title), legend, area, first, now);
  let [lists, moments, sums] = [null, []]; // until `show`

  function follow({ clientX }) {
    const { left, width } = area.getBoundingClientRect();
    slider.value = ((clientX - left) / width) * moments.length - 0.5; // which it rounds, and keeps within its ends
    here();
  }
  function move(at) {
    if (!lists) return;
    const told = (i, to) => `${keys[i][0]} ${lists[i][to] === null ? '–' : tell(lists[i][to])}`;
    mark(cursor, 'd', at === undefined ? '' : `M${at + 0.5} 0V1`);
    texts.forEach((text, i) => say(text, at === undefined ? sums[i] : told(i, at)));
    say(moment, moments[at] ?? '');
    slider.value = at ?? slider.value;
    mark(slider, 'aria-valuetext', [moments[slider.value], ...keys.map((_, i) => told(i, slider.value))].join(', '));
  }
  function show(...given) {
    [lists, moments, sums] = given;
    const most = draw(kind, lists, paths);
    scale(picture, moments.length);
    say(top, most ? tell(most) : 'nothing in this time');
    say(first, moments[0]);
    slider.max = moments.length - 1;
    if (area.matches(':hover, :focus-within')) return here();
    slider.value = slider.max;
    move();
  }
  return { root, show };
}

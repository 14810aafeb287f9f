// The edge of the run's panel: dragged, or moved by the arrow keys; the tab keeps the width.

import { $, mark } from './dom.js';

const LEAST = 360; // pixels, of the panel and of what is beside it
const STEPS = { ArrowLeft: 40, ArrowRight: -40 };
const edge = $('detail-size');

export function start() {
  edge.addEventListener('pointerdown', ({ pointerId }) => edge.setPointerCapture(pointerId));
  edge.addEventListener('pointermove', ({ pointerId, clientX }) => edge.hasPointerCapture(pointerId) && resize(innerWidth - clientX));
  edge.addEventListener('keydown', ({ key }) => STEPS[key] && resize(edge.parentElement.offsetWidth + STEPS[key]));
  resize(Number(preferences.tab.get('panel')) || 640, true);
}

function resize(wanted, isFirst) {
  const width = Math.round(Math.max(LEAST, Math.min(wanted, innerWidth - LEAST)));
  document.documentElement.style.setProperty('--panel', `${width}px`);
  mark(edge, 'aria-valuenow', width);
  if (!isFirst) preferences.tab.set('panel', width);
}

// The edge of the run's panel: dragged, or moved by the arrow keys; the tab keeps the width.

import { $, mark } from './dom.js';

const KEPT = 'quartermaster.panel'; // pixels, in sessionStorage
const LEAST = 360; // pixels, of the panel and of what is beside it
const STEPS = { ArrowLeft: 40, ArrowRight: -40 };
const edge = $('detail-size');

export function start() {
  edge.addEventListener('pointerdown', ({ pointerId }) => edge.setPointerCapture(pointerId));
  edge.addEventListener('pointermove', ({ pointerId, clientX }) => edge.hasPointerCapture(pointerId) && resize(innerWidth - clientX));
  edge.addEventListener('keydown', ({ key }) => STEPS[key] && resize(edge.parentElement.offsetWidth + STEPS[key]));
  resize(Number(sessionStorage.getItem(KEPT)) || 640, !sessionStorage.getItem(KEPT));
}

function resize(wanted, isFirst) {
  const width = Math.round(Math.max(LEAST, Math.min(wanted, innerWidth - LEAST)));
  document.documentElement.style.setProperty('--panel', `${width}px`);
  mark(edge, 'aria-valuenow', width);
  if (!isFirst) sessionStorage.setItem(KEPT, width);
}

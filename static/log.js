// The output of what is opened: its last lines, then each new one.

import * as api from './api.js';
import { $, el, say } from './dom.js';

const TAIL = 200; // asked for
const MAX_LINES = 1000; // kept
const ANSI = /\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\))/g;

const box = $('log');
let of, abort, is, drawing;
let waiting = [];

/** opened() tells the id of what is opened. */
export function start(opened) {
  of = opened;
  $('log-again').addEventListener('click', read);
}

export async function read() {
  stop();
  const mine = (abort = new AbortController());
  box.replaceChildren();
  tell('live', 'following');
  try {
    await api.follow(of(), TAIL, mine.signal, take);
    if (mine !== abort) return;
    const count = box.childElementCount + waiting.length;
    if (!count) tell('none', 'none');
    else tell('ended', count < TAIL ? 'that is all' : `the last ${count} lines`);
  } catch (error) {
    if (mine !== abort || error.name === 'AbortError') return;
    if (error.status === 404) tell('none', 'none here; docker service logs may have it');
    else tell('cut', error.status ? error.message : 'it was cut off');
  }
}

export function stop() {
  abort?.abort();
  abort = is = null;
  waiting = [];
}

/** For what was missing: the link is back, or the service went on. */
export function retry() {
  if (is === 'cut' || is === 'none') read();
}

function tell(now, text) {
  is = now;
  say($('log-state'), text);
  $('log-again').hidden = now === 'live';
  box.hidden = now === 'none';
}

function take(line) {
  waiting.push(line);
  if (waiting.length > MAX_LINES) waiting.shift();
  drawing ||= requestAnimationFrame(draw);
}

function draw() {
  drawing = 0;
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  box.append(...waiting.map(({ stream, line }) => el('p', { 'data-stream': stream }, line.replace(ANSI, ''))));
  waiting = [];
  while (box.childElementCount > MAX_LINES) box.firstChild.remove();
  if (atEnd) box.scrollTop = box.scrollHeight;
}

// How current the page is: the badge, and the banner while it is not.

import { $, mark, say, shape } from './dom.js';
import * as store from './store.js';
import * as stream from './stream.js';
import { clock } from './words.js';

let link = { is: 'off' };
let heard = ''; // when the last frame came
let timer;

export function start() {
  $('try-now').addEventListener('click', stream.hurry);
  show();
}

export const hear = () => (heard = new Date().toISOString());

/** Take what the stream says of its connection: {is, detail, wait}. */
export function linked(now) {
  link = { ...now, next: now.wait && Date.now() + now.wait };
  if (now.is === 'off') heard = '';
  show();
}

export function show() {
  const is = link.is === 'live' && store.stale ? 'stale' : link.is;
  const since = clock(store.stale ?? heard);
  const words = { live: 'Live', stale: `Stale since ${since}`, reconnecting: `Reconnecting${since && ` since ${since}`}`, refused: 'Wrong token' };
  mark($('link'), 'data-link', is);
  mark($('link'), 'data-is', shape(is));
  say($('link').lastChild, words[is] ?? (is === 'off' ? 'Not connected' : 'Connecting…'));
  const away = store.synced && is !== 'live';
  mark(document.body, 'data-away', away ? '' : null);
  $('away').hidden = !away;
  clearTimeout(timer);
  if (!away) return;
  const [said, next, now] = $('away').children;
  const seconds = Math.ceil((link.next - Date.now()) / 1000);
  say(said, `Not live since ${since}. ${is === 'stale' ? 'The engine or the journal is away.' : (link.detail ?? '')}`);
  say(next, is === 'stale' ? '' : seconds > 0 ? `Next try in ${seconds} s.` : 'Trying…');
  now.hidden = is === 'stale';
  now.disabled = !(seconds > 0);
  if (link.next) timer = setTimeout(show, 1000);
}

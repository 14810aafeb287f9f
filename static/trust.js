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
  const [is, text] = words();
  mark($('link'), 'data-link', is);
  mark($('link'), 'data-is', shape(is));
  say($('link').lastChild, text);
  const away = store.synced && is !== 'live';
  mark(document.body, 'data-away', away ? '' : null);
  $('away').hidden = !away;
  clearTimeout(timer);
  if (!away) return;
  const [, said, next, now] = $('away').children;
  const reason = is === 'stale' ? 'The engine or the journal is away.' : (link.detail ?? '');
  say(said, `Not live since ${clock(store.stale ?? heard)}. ${reason.replace(/[^.]$/, '$&.')}`);
  const seconds = Math.ceil((link.next - Date.now()) / 1000);
  say(next, is === 'stale' ? '' : seconds > 0 ? `Next try in ${seconds} s.` : 'Trying…');
  now.disabled = !(seconds > 0);
  now.hidden = is === 'stale';
  if (link.next) timer = setTimeout(show, 1000);
}

function words() {
  if (link.is === 'live' && store.stale) return ['stale', `Stale since ${clock(store.stale)}`];
  const since = heard ? ` since ${clock(heard)}` : '…';
  const said = { live: 'Live', connecting: 'Connecting…', reconnecting: `Reconnecting${since}`, refused: 'Wrong token', off: 'Not connected' };
  return [link.is, said[link.is]];
}

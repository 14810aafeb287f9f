// The page: who is here, what the link is, and when it is drawn.

import * as api from './api.js';
import * as detail from './detail.js';
import { $, el, mark, say, shape } from './dom.js';
import * as form from './form.js';
import * as live from './live.js';
import * as log from './log.js';
import * as router from './router.js';
import * as store from './store.js';
import * as stream from './stream.js';
import { clock, duration, why } from './words.js';

const KEPT = 'quartermaster.token'; // of the tab: sessionStorage
const BETWEEN = 300; // milliseconds between drawings; the first change is drawn at once
const TICK = 5000; // ages and rates move without an event

// The views, by the first part of their address: what the navigation calls each, and its module. A module has
// enter({name, query}), called when the address changes; show(), called at each drawing; and it may have leave().
const VIEWS = { live: ['Live', live] };
const all = (selector) => document.querySelectorAll(selector);
let link = { is: 'off' };
let heard = '';
let drawn = 0;
let due = 0;
let view; // the name of the present one

function take(frame) {
  heard = new Date().toISOString();
  const first = !store.synced;
  store.take(frame);
  if (first && store.synced) routed();
  if (frame.type === 'gap') notice(`Changes were missed (${why(frame.reason)}). What you see is up to date.`);
  draw();
}

function draw() {
  if (due) return;
  const wait = drawn + BETWEEN - performance.now();
  const ask = () => requestAnimationFrame(paint);
  due = wait > 0 ? setTimeout(ask, wait) : ask();
}

function paint() {
  due = 0;
  drawn = performance.now();
  showLink();
  if (!store.synced) return;
  VIEWS[view][1].show();
  detail.show();
  document.title = `${store.counts().running} running · quartermaster`;
}

function linked(now) {
  link = now;
  if (now.is === 'live') {
    sessionStorage.setItem(KEPT, api.held());
    enter(true);
    log.retry();
  }
  if (now.is === 'refused') leave(now, `Wrong token: ${now.detail}`);
  if (now.wait) say($('login-error'), words()[2]);
  showLink();
}

function showLink() {
  const [is, text, title] = words();
  mark($('link'), 'data-link', is);
  mark($('link'), 'data-is', shape(is));
  mark($('link'), 'title', title);
  say($('link').lastChild, text);
}

function words() {
  const seen = heard ? ` What you see is from ${clock(heard)}.` : '';
  const next = link.wait ? ` Next try in ${duration(link.wait / 1000 + 1)}.` : '';
  if (link.is === 'live' && store.stale) {
    return ['stale', `Stale since ${clock(store.stale)}`, 'The engine or the journal is away.'];
  }
  const said = {
    live: ['Live'],
    connecting: ['Connecting…'],
    reconnecting: [`Reconnecting${heard ? ` since ${clock(heard)}` : '…'}`, `${link.detail || 'The connection was lost'}.${seen}${next}`],
    refused: ['Wrong token'],
    off: ['Not connected'],
  };
  return [link.is, ...said[link.is]];
}

function notice(text) {
  $('notice').hidden = !text;
  say($('notice').firstChild, text);
}

function enter(inside) {
  document.body.dataset.page = inside ? 'in' : 'login';
  if (!inside) $('token').focus();
  showLink();
}

function connect(token) {
  api.hold(token);
  say($('login-error'), '');
  stream.open(token);
}

function leave(as = { is: 'off' }, text = '') {
  stream.close();
  sessionStorage.removeItem(KEPT);
  for (const dialog of all('dialog[open]')) dialog.close();
  store.forget();
  detail.open('');
  api.hold('');
  [link, heard] = [as, ''];
  notice('');
  document.title = 'quartermaster';
  say($('login-error'), text);
  enter(false);
}

const clicked = (node, action) => node.addEventListener('click', action);

function start() {
  stream.start(take, linked);
  detail.start();
  form.start((id) => router.go('runs', id));
  live.start(form.open);
  for (const [name, [title]] of Object.entries(VIEWS)) {
    $('views').append(el('a', { href: router.href(name), 'data-view': name }, title));
  }
  $('login').addEventListener('submit', (event) => {
    event.preventDefault();
    const token = $('token').value.trim();
    $('login').reset();
    if (token) connect(token);
  });
  clicked($('leave'), () => leave());
  clicked($('notice').lastChild, () => notice(''));
  for (const button of all('[data-close]')) clicked(button, () => button.closest('dialog').close());
  for (const button of all('[data-to]')) clicked(button, () => part(button.dataset.to));
  addEventListener('keydown', (event) => {
    if (event.key !== '/' || event.ctrlKey || event.metaKey || event.target.closest('input, textarea, select, dialog')) return;
    event.preventDefault();
    $('search').focus();
  });
  part('services');
  router.start(routed);
  setInterval(draw, TICK);
  const kept = sessionStorage.getItem(KEPT);
  enter(kept);
  if (kept) connect(kept);
}

function routed() {
  if (!store.synced) return; // the first snapshot calls again
  const route = router.here();
  if (route.view !== view) VIEWS[view]?.[1].leave?.();
  view = VIEWS[route.view] ? route.view : 'live';
  for (const name of Object.keys(VIEWS)) $(name).hidden = name !== view;
  for (const link of $('views').children) mark(link, 'aria-current', link.dataset.view === view ? 'page' : null);
  VIEWS[view][1].enter(route);
  detail.open(route.run);
  draw();
}

// On a phone the live view shows one of its parts.
function part(name) {
  document.body.dataset.part = name;
  for (const button of all('[data-to]')) mark(button, 'aria-pressed', button.dataset.to === name);
  draw();
}

start();

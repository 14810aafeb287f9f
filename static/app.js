// The page: who is here, which view is shown, and when it is drawn.

import * as api from './api.js';
import * as detail from './detail.js';
import { $, copy, el, main, mark, notice, say } from './dom.js';
import * as form from './form.js';
import * as functions from './functions.js';
import * as history from './history.js';
import * as invocations from './invocations.js';
import * as keys from './keys.js';
import * as live from './live.js';
import * as log from './log.js';
import * as numbers from './numbers.js';
import * as palette from './palette.js';
import * as router from './router.js';
import * as store from './store.js';
import * as stream from './stream.js';
import * as trust from './trust.js';
import { why } from './words.js';

const BETWEEN = 400; // milliseconds between drawings, at least; the first change is drawn at once
const REST = 20; // times as long as a drawing takes, with layout and paint: a twentieth of a core
const LONGEST = 1000; // but no more milliseconds
const TICK = 5000; // ages and rates move without an event

// The views, by the first part of their address: what the navigation calls each, and its module. A module has
// enter({name, query}), called when the address changes; show(), called at each drawing; it may have start(),
// forget(), called when one signs out, and listed(): the runs in the order in which it shows them.
const VIEWS = {
  live: ['Live', live],
  history: ['History', history.view],
  functions: ['Functions', functions.view],
  invocations: ['Invocations', invocations.view],
  numbers: ['Numbers', numbers],
};
const all = (selector) => document.querySelectorAll(selector);
let drawn = 0;
let between = BETWEEN;
let due = 0;
let view; // the name of the present one
let remember = false; // the token, on this device

function take(frame) {
  trust.hear();
  const first = !store.synced;
  store.take(frame);
  if (first && store.synced) routed();
  if (frame.type === 'gap') notice(`Changes were missed (${why(frame.reason)}). What you see is up to date.`);
  draw();
}

function draw() {
  if (due) return;
  const wait = drawn + between - performance.now();
  const ask = () => requestAnimationFrame(paint);
  due = wait > 0 ? setTimeout(ask, wait) : ask();
}

function paint() {
  due = 0;
  drawn = performance.now();
  setTimeout(() => (between = Math.min(LONGEST, Math.max(BETWEEN, REST * (performance.now() - drawn)))));
  trust.show();
  if (!store.synced) return;
  VIEWS[view][1].show();
  detail.show();
  document.title = `${title()} · quartermaster`;
}

function title() {
  const { run, name } = router.here();
  const opened = run && store.find(run);
  if (run) return opened ? `${opened.name}: ${opened.status}` : run;
  const { running, failed } = store.counts();
  if (view === 'live') return `${running} running${failed ? `, ${failed} failed` : ''}`;
  return [name, VIEWS[view][0]].filter(Boolean).join(' · ');
}

function linked(now) {
  trust.linked(now);
  if (now.is === 'live') {
    preferences.tab.set('token', api.held());
    if (remember) preferences.device.set('token', api.held());
    enter(true);
    log.retry();
  }
  if (now.is === 'refused') leave(now, `Wrong token: ${now.detail}`);
  if (now.wait) say($('login-error'), `${now.detail || 'The connection was lost'}. Trying again…`);
}

function enter(inside) {
  document.body.dataset.page = inside ? 'in' : 'login';
  if (!inside) $('token').focus();
}

function connect(token) {
  api.hold(token);
  say($('login-error'), '');
  stream.open(token);
}

function leave(as = { is: 'off' }, text = '') {
  stream.close();
  preferences.tab.set('token', '');
  preferences.device.set('token', '');
  for (const dialog of all('dialog[open]')) dialog.close();
  store.forget();
  palette.forget();
  for (const [, module] of Object.values(VIEWS)) module.forget?.();
  mark(document.body, 'data-run', null);
  detail.open('');
  api.hold('');
  trust.linked(as);
  notice('');
  document.title = 'quartermaster';
  say($('login-error'), text);
  enter(false);
}

const clicked = (node, action) => node.addEventListener('click', action);

async function share() {
  await copy(location.href);
  say($('share'), 'Copied');
  setTimeout(() => say($('share'), 'Copy link'), 2000);
}

function start() {
  stream.start(take, linked);
  trust.start();
  detail.start(() => VIEWS[view][1].listed?.() ?? []);
  form.start(detail.begin);
  for (const [name, [title, module]] of Object.entries(VIEWS)) {
    module.start?.(form.open);
    $('views').append(el('a', { href: router.href(name), 'data-view': name }, title));
  }
  $('login').addEventListener('submit', (event) => {
    event.preventDefault();
    const token = $('token').value.trim();
    remember = $('remember').checked;
    $('login').reset();
    if (token) connect(token);
  });
  clicked($('leave'), () => leave());
  clicked($('share'), share);
  clicked($('skip'), skip);
  clicked($('notice').lastChild, () => notice(''));
  choose(preferences.device.get('theme'));
  $('theme').addEventListener('change', () => choose($('theme').value));
  for (const button of all('[data-close]')) clicked(button, () => button.closest('dialog').close());
  keys.start();
  palette.start(commands);
  router.start(routed);
  setInterval(draw, TICK);
  const kept = preferences.tab.get('token') || preferences.device.get('token');
  enter(kept);
  if (kept) connect(kept);
}

/** What the palette can do now: [title, action]. */
function commands() {
  const press = (id) => [$(id).textContent, () => $(id).click()];
  const themes = ['', 'light', 'dark'].map((name) => [`Theme: ${name || 'system'}`, () => choose(name)]);
  const stop = $('stop').checkVisibility() ? [[`${$('stop').textContent} ${$('detail-name').textContent}`, () => $('stop').click()]] : [];
  return [press('run-open'), ...stop, press('share'), ...themes, ['Keys', keys.help], press('leave')];
}

function choose(theme) {
  preferences.device.set('theme', theme);
  document.documentElement.dataset.theme = theme;
  $('theme').value = theme;
}

function skip(event) {
  event.preventDefault(); // its address would be a view's
  main().tabIndex = -1;
  main().focus();
}

function routed() {
  if (!store.synced) return; // the first snapshot calls again
  const route = router.here();
  view = VIEWS[route.view] ? route.view : 'live';
  for (const name of Object.keys(VIEWS)) $(name).hidden = name !== view;
  for (const link of $('views').children) mark(link, 'aria-current', link.dataset.view === view ? 'page' : null);
  VIEWS[view][1].enter(route);
  mark(document.body, 'data-run', route.run ? '' : null);
  detail.open(route.run);
  draw();
}

start();

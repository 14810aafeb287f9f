// Addresses of views, filters and runs: `#/history?status=failed`, `#/runs/NAME`.

export const VIEWS = ['live', 'history', 'functions', 'invocations', 'numbers'];
const FIRST = { view: 'live', name: '', query: {} };
let base = FIRST; // the view; a run is opened beside it
let run = '';
let changed;

/** onChange() is called when the address has changed. */
export function start(onChange) {
  changed = onChange;
  addEventListener('hashchange', read);
  read();
}

/** Return {view, name, query} of the view and, beside it, `run`: the name or id of the opened run, or ''. */
export const here = () => ({ ...base, run });

/** Return the address of a view, of something in it, or of a run: href('runs', 'web'). Empty values are left out. */
export function href(view, name = '', query = {}) {
  const told = Object.entries(query).filter(([, value]) => value);
  const path = [view === FIRST.view && !name ? '' : view, name].filter(Boolean).map(encodeURIComponent).join('/');
  return `#/${path}${told.length ? `?${new URLSearchParams(told)}` : ''}`;
}

export const go = (...where) => (location.hash = href(...where));

/** The same in place of the present address: Back does not lead to that one. */
export function swap(...where) {
  history.replaceState(null, '', href(...where));
  read();
}

/** Close the run: back to the view beside it. */
export const close = () => run && go(base.view, base.name, base.query);

/** Change some of the view's filters, in place: Back does not step through each letter of a search. */
export function refine(query) {
  base = { ...base, query: { ...base.query, ...query } };
  if (!run) history.replaceState(null, '', href(base.view, base.name, base.query));
}

function read() {
  const [path, search] = location.hash.replace(/^#\/?/, '').split('?');
  const [view, name = ''] = path.split('/').map(decode);
  run = view === 'runs' ? name : '';
  const query = Object.fromEntries(new URLSearchParams(search));
  if (view === 'nodes') base = { ...FIRST, query: { ...query, node: name } };
  else if (VIEWS.includes(view)) base = { view, name, query };
  else if (!run) base = { ...FIRST, query };
  changed();
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// Pure: a line of output as a terminal shows it, as runs of text of one style.

export const CUT = 8192; // characters of a line, as written, that are shown at first, and of its parts
const MANY = 1000; // runs of a part, each of which is an element

// CSI. OSC, DCS, SOS, PM and APC: one without an end loses only its beginning, so that no text is hidden. Other
// escapes. Controls, and what changes the direction of text.
const SPECIAL =
  /(?:\x1b\[|\x9b)([0-?]*)([ -/]*)([@-~]?)|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])(?:[^\x07\x18\x1a\x1b\x80-\x9f]*(?:\x1b\\|[\x07\x18\x1a\x9c]))?|\x1b[ -/]*[0-~]?|[\0-\x08\n-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]/g;
const MOVES = /[\r\b]|(?:\x1b\[|\x9b)[0-?]*[DGK]/;

// A search for CRs up to the end would begin anew at each CR of a long row of them.
function trimmed(line) {
  let end = line.length;
  while (line[end - 1] === '\r') end -= 1;
  return line.slice(0, end);
}

/** Return {runs: [{text, style}], cut}; `cut`: this is only the line's beginning, or a progress bar's end. */
export function parse(line) {
  const raw = trimmed(line);
  if (raw.length <= CUT) return { runs: runs(raw), cut: false };
  const end = raw.slice(-CUT);
  const at = end.indexOf('\r');
  return { runs: runs(at < 0 ? raw.slice(0, CUT) : end.slice(at)), cut: true };
}

/** Return the text alone; of a line over CUT also what was overwritten, and no controls. */
export function plain(line) {
  const raw = trimmed(line);
  if (raw.length > CUT) return raw.replace(SPECIAL, '');
  if (!MOVES.test(raw)) return raw.replace(SPECIAL, symbol);
  return runs(raw).map(({ text }) => text).join('');
}

function runs(raw) {
  const screen = { cells: [], moves: MOVES.test(raw) };
  Array.from(reading(raw, screen));
  return take(screen);
}

/** Read a whole line bit by bit: yields a part of it, at most twice CUT characters and MANY runs; null after other bits. */
export function* parts(line) {
  const raw = trimmed(line);
  const screen = { cells: [], size: 0, moves: MOVES.test(raw) };
  for (const _ of reading(raw, screen)) {
    yield !screen.moves && (screen.size >= CUT || screen.cells.length >= MANY) ? take(screen) : null;
  }
  while (screen.cells.length) yield take(screen, MANY);
}

function take(screen, count = screen.cells.length) {
  screen.size = 0; // characters since then
  return joined(screen.cells.splice(0, count)).filter(({ text }) => text);
}

// Fills the screen's cells: [character, style], by column; where nothing moves, [text, style]. Yields after each bit.
function* reading(raw, screen) {
  const { moves } = screen;
  let [at, done, style] = [0, 0, {}];
  const write = (text) => {
    for (const part of moves ? text : [text]) screen.cells[moves ? at++ : screen.cells.length] = [part, style];
    screen.size += text.length;
  };
  function* until(end) {
    while (done < end) {
      const to = Math.min(end, done + CUT + /[\ud800-\udbff]/.test(raw[done + CUT - 1]));
      yield write(raw.slice(done, to));
      done = to;
    }
  }
  for (const match of raw.matchAll(SPECIAL)) {
    const { cells } = screen;
    const [all, values, between, final] = match;
    yield* until(match.index);
    done = match.index + all.length;
    const count = parseInt(values) || 1;
    if (all === '\r') at = 0;
    else if (all === '\b') at = Math.max(0, at - 1);
    else if (!final || between) write(symbol(all));
    else if (final === 'D') at = Math.max(0, at - count);
    else if (final === 'G') at = Math.min(count - 1, cells.length);
    else if (final === 'K' && values === '1') cells.fill(undefined, 0, at);
    else if (final === 'K') cells.length = values ? 0 : Math.min(at, cells.length);
    else if (final === 'm' && /^[\d:;]*$/.test(values)) style = sgr(style, values);
    yield;
  }
  yield* until(raw.length);
}

const BLANK = [' ', {}];

function joined(cells) {
  const found = [];
  for (const [char, style] of Array.from(cells, (cell) => cell ?? BLANK)) {
    if (found.at(-1)?.style === style) found.at(-1).text += char;
    else found.push({ text: char, style });
  }
  return found;
}

// A sequence is nothing; a control is its picture; a change of direction is told.
function symbol(all) {
  const code = all.charCodeAt(0);
  if (code > 0x2000) return `<U+${code.toString(16).toUpperCase()}>`;
  if (all.length > 1 || code === 0x1b || code > 0x7f) return '';
  return code === 0x7f ? '␡' : String.fromCharCode(0x2400 + code);
}

// SGR by its codes, and by their tens where a colour follows. A style is {bold: true, fg: a CSS colour, …}.
const ON = { 1: 'bold', 2: 'faint', 3: 'italic', 4: 'under', 7: 'inverse', 9: 'strike', 21: 'under' };
const OFF = { 22: 'bold faint', 23: 'italic', 24: 'under', 27: 'inverse', 29: 'strike', 39: 'fg', 49: 'bg' };
const WHERE = { 3: 'fg', 4: 'bg', 5: 'line', 9: 'fg', 10: 'bg' };
const COLOURS = '000 c33 196 a70 26c b3b 089 ccc 666 f44 2c8 ee4 38e d6d 2bd fff'.split(' ');

function sgr({ ...style }, text) {
  const codes = text.split(';').map((code) => code.split(':').map(Number));
  while (codes.length) {
    const [code, ...own] = codes.shift();
    const [where, unit] = [WHERE[Math.floor(code / 10)], code % 10];
    if (!code) style = {};
    else if (ON[code]) style[ON[code]] = own[0] !== 0;
    else if (OFF[code]) for (const name of OFF[code].split(' ')) delete style[name];
    else if (where && unit < 8) style[where] = `#${COLOURS[unit + (code < 90 ? 0 : 8)]}`;
    else if (where && unit === 8) {
      const [kind, ...rest] = own.length ? own : codes.splice(0, { 2: 4, 5: 2 }[codes[0]] ?? 0).flat();
      style[where] = kind === 5 ? palette(rest[0]) : `rgb(${rest.slice(rest.length > 3 ? 1 : 0).slice(0, 3)})`;
    }
  }
  return style;
}

function palette(number) {
  if (number < 16) return `#${COLOURS[number]}`;
  const cube = [36, 6, 1].map((unit) => [0, 95, 135, 175, 215, 255][Math.floor((number - 16) / unit) % 6]);
  return `rgb(${number > 231 ? Array(3).fill(number * 10 - 2312) : cube})`;
}

/** Return the CSS of a style, readable in light and in dark; '' for plain text. */
export function css({ fg, bg, bold, faint, italic, under, inverse, strike }) {
  if (inverse) [fg, bg] = [bg, fg ?? 'var(--ink)'];
  const tone = (lightness) => `lch(from ${fg} ${lightness} c h)`;
  return [
    bg ? `background:${bg};color:lab(from ${bg} clamp(0, (49.5 - l) * 9999, 100) 0 0)` : fg && `color:light-dark(${tone('min(l, 42)')},${tone('max(l, 60)')})`,
    bold && 'font-weight:700',
    faint && 'opacity:.75',
    italic && 'font-style:italic',
    (under || strike) && `text-decoration:${under ? 'underline' : ''} ${strike ? 'line-through' : ''}`,
  ].filter(Boolean).join(';');
}

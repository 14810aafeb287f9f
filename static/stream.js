// The websocket on /events: says who we are, resumes from the cursor, backs off.

const FIRST_WAIT = 500; // milliseconds
const LONGEST_WAIT = 15_000;
const SILENCE = 40_000; // after which a link is dead: heartbeats come every 15 s
const MALFORMED = 4400;
const BAD_TOKEN = [4401, 4403];

let onFrame, onLink;
let token, cursor, tries, socket, timer, watchdog;

/** links gets {is, detail, wait}: connecting, live, reconnecting (in `wait` ms) or refused. */
export function start(frames, links) {
  [onFrame, onLink] = [frames, links];
  addEventListener('online', hurry);
  document.addEventListener('visibilitychange', () => document.hidden || hurry());
}

export function open(withToken) {
  close();
  [token, cursor, tries] = [withToken, '', 0];
  connect();
}

export function close() {
  clearTimeout(timer);
  clearTimeout(watchdog);
  timer = 0;
  if (socket) {
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }
  socket = null;
}

/** Try now, where the next try was to come later. */
export function hurry() {
  if (!timer) return;
  clearTimeout(timer);
  connect();
}

function connect() {
  timer = 0;
  const url = new URL('events', document.baseURI);
  url.protocol = url.protocol.replace('http', 'ws');
  if (cursor) url.searchParams.set('since', cursor);
  onLink({ is: tries ? 'reconnecting' : 'connecting' });
  let detail = '';
  socket = new WebSocket(url);
  socket.onopen = () => socket.send(JSON.stringify({ type: 'auth', token }));
  socket.onclose = ({ code, reason }) => closed(code, detail || reason);
  socket.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    if (frame.type === 'error') detail = frame.detail;
    else take(frame);
  };
  watch();
}

function take(frame) {
  watch();
  if (frame.resumed) {
    // Another quartermaster tells the changes that it has seen. Its containers come with a snapshot alone.
    close();
    cursor = '';
    connect();
  } else if (frame.type === 'hello') {
    tries = 0;
    onLink({ is: 'live' });
  } else {
    cursor = frame.cursor ?? cursor;
  }
  onFrame(frame);
}

// A cable that was pulled closes no socket: silence does.
function watch() {
  clearTimeout(watchdog);
  watchdog = setTimeout(() => closed(1006, 'Nothing was heard for too long'), SILENCE);
}

function closed(code, detail) {
  close();
  if (BAD_TOKEN.includes(code)) return onLink({ is: 'refused', detail });
  if (code === MALFORMED) cursor = '';
  const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** tries++) * (0.75 + Math.random() / 2);
  timer = setTimeout(connect, wait);
  onLink({ is: 'reconnecting', detail, wait });
}

// Pure: why a run is as it is, in one line, and how long it took. Its words are those of docs/api.md's reasons.

import { memory, plural, shortImage, span } from './words.js';

// What Docker, containerd and runc put in front of what tells something.
const WRAPPER = new RegExp(
  '^(task: non-zero exit \\(\\d+\\)|dockerexec|Error response from daemon|rpc error|code = \\w+ desc =|' +
    'starting container failed|failed to create (shim )?task( for container)?|(OCI runtime|runc) [\\w ]+ failed|' +
    'unable to start container process|error during container init|starting container process caused|\\w+\\.go:\\d+|' +
    'error mounting "[^"]*" to rootfs at "[^"]*"|invalid mount config for type "\\w+")(:? |$)',
);
const EXEC = /^exec: "((?:[^"\\]|\\.)*)": .*(not found|no such file|permission denied)/;
const SIGNALS = { 132: 'SIGILL', 134: 'SIGABRT', 135: 'SIGBUS', 136: 'SIGFPE', 139: 'SIGSEGV', 143: 'SIGTERM' };
const SHELL = { 126: ' (in a shell: not executable)', 127: ' (in a shell: command not found)' };
const FAULTS = ['timeout', 'oom', 'unhealthy', 'image_not_found', 'registry_auth', 'rejected', 'node_down', 'orphaned'];
const coded = (text, code) => text + (code ? ` (exit code ${code})` : '');
const stopped = ({ status }) => (status === 'stopping' ? 'Stopping' : 'Stopped');
const full = ({ memory: limit, exit_code: code }) => coded(`Out of memory${limit ? ` at ${memory(limit)}` : ''}`, code);
const SAYS = {
  exit: exited,
  rejected: ({ error }) => short(error) || 'The engine refused it',
  timeout: (run) => `${stopped(run)} after its timeout${run.timeout ? ` of ${span(run.timeout)}` : ''}${killed(run)}`,
  oom: full,
  stopped: (run) => stopped(run) + killed(run),
  unhealthy: ({ exit_code: code }) => coded('Its health check failed', code),
  unschedulable: waiting,
  image_not_found: ({ image }) => `Image not found: ${shortImage(image)}`,
  registry_auth: ({ image }) => `The registry refused access to ${shortImage(image)}`,
  node_down: ({ tasks }) => ['Its node', tasks.find(({ node }) => node)?.node, 'is down'].filter(Boolean).join(' '),
  orphaned: () => 'Its node was gone for too long',
  idle: () => 'Ended, because it was not needed',
  update: () => 'Ended, because its version is not the newest',
};

/** Return why a run, as the API shows it, failed, waits or was ended; '' if there is nothing to tell. */
export function reason(run) {
  const text = SAYS[run.reason]?.(run) ?? short(run.error);
  const { desired, failed } = run.replicas;
  return text && desired > 1 && failed ? `${text}; ${failed} of ${plural(desired, 'task')} failed` : text;
}

/** Whether that is a failure, also of a run that was removed since. */
export const isBad = ({ status, reason: why, exit_code: code }) =>
  status === 'failed' || (status === 'removed' && (FAULTS.includes(why) || (why === 'exit' && code > 0)));

/** Return the last useful part of an engine's error; '' for one that tells an exit code alone. */
export function short(error) {
  let text = (error ?? '').replace(/(: unknown)+$/, '');
  while (WRAPPER.test(text)) text = text.replace(WRAPPER, '');
  const [, program, why] = text.match(EXEC) ?? [];
  if (program) return `${why === 'permission denied' ? 'Not executable' : 'Command not found'}: ${program}`;
  return text.replace(/^[a-z]+(?= )/, (word) => word[0].toUpperCase() + word.slice(1));
}

/** 'Restarted 12 ×, last exit 1'; '' for a run that was not. */
export function restarted({ restarts, last_exit: last }) {
  const how = Number.isInteger(last?.exit_code) ? `last exit ${last.exit_code}` : short(last?.error);
  return restarts ? `Restarted ${restarts} ×${how && `, ${how}`}` : '';
}

/** 'waited 0.3 s, ran 4.2 s'; `now` is in milliseconds, for a run that goes on. */
export function spent({ status, created_at, started_at, finished_at, removed_at }, now) {
  const [made, began, ended] = [created_at, started_at, finished_at ?? removed_at].map((time) => time && Date.parse(time));
  const between = (from, to) => span(Math.max(0, to - from) / 1000);
  if (!made) return '';
  if (!began) return ended ? `took ${between(made, ended)}` : `waiting for ${between(made, now)}`;
  const ran = between(began, ended ?? now);
  const active = ['pending', 'preparing'].includes(status) ? `started ${ran} ago` : `running for ${ran}`;
  return `waited ${between(made, began)}, ${ended ? `ran ${ran}` : active}`;
}

function exited(run) {
  const { error, exit_code: code, memory: limit, status } = run;
  const told = short(error);
  if (/\boom|out of memory/i.test(told)) return full(run);
  if (told) return coded(told, code);
  if (code === 137) return coded('Killed', code) + (limit ? `, perhaps out of memory at ${memory(limit)}` : '');
  if (SIGNALS[code]) return coded(`Ended by ${SIGNALS[code]}`, code);
  if (code) return `Exited with ${code}${SHELL[code] ?? ''}`;
  return code === null && status === 'failed' ? 'Failed without an exit code' : '';
}

// SIGKILL comes when the grace period is over.
function killed({ exit_code: code, spec }) {
  if (code === 137) return `; killed after ${span(spec?.stop_grace_period ?? 10)}`;
  return code && code !== 143 ? `; exit code ${code}` : '';
}

function waiting({ error, memory: mib, cpus, spec }) {
  const [, which = ''] = error?.match(/^[^(]*\((.*)\)/) ?? [];
  const constrained = which.includes('constraints not satisfied');
  if (which.includes('insufficient resources')) {
    const more = Object.entries(spec?.generic_resources ?? {}).map(([name, count]) => `${count} ${name}`);
    const wanted = [mib && memory(mib), cpus && plural(cpus, 'core'), ...more].filter(Boolean).join(' and ');
    return `Waiting: no node ${constrained ? 'that meets its constraints ' : ''}has ${wanted || 'enough'} free`;
  }
  if (constrained) return `Waiting: no node meets ${spec?.constraints?.join(', ') ?? 'its constraints'}`;
  return `Waiting: no suitable node${which && ` (${which})`}`;
}
